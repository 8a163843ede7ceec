"""A linter for data sets: finds faulty rows, images, masks and expressions before a model is trained on them."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from tqdm import tqdm

from refseg.data.catalogue import DATA_SETS, GENERATED, find
from refseg.data.formats.record import Problem, Record, Source
from refseg.data.formats.regions import Overlap, Part
from refseg.data.index import encodable
from refseg.data.media import Media
from refseg.errors import DataError, ImageError, counted
from refseg.inputs.clip_bpe import WORD_LENGTH, Tokenizer
from refseg.inputs.read import read_image, read_size
from refseg.masks import check_mask_size
from refseg.writers.table import Table, aligned

__all__ = ["KINDS", "SKIPPED", "Finding", "Severity", "check", "table"]

Severity: TypeAlias = Literal["error", "warning"]
"""An error keeps a row from being used or makes a number wrong; a warning may be intended."""

KINDS: MappingProxyType[str, Severity] = MappingProxyType(
    {
        "file": "error",
        "row": "error",
        "duplicate": "error",
        "missing": "error",
        "image": "error",
        "mask": "error",
        "empty": "error",
        "blank": "error",
        "note": "warning",
        "repeated": "warning",
        "name": "warning",
        "full": "warning",
        "grey": "warning",
        "ambiguous": "warning",
        "split": "warning",
        "partial": "warning",
        "limit": "warning",
        "odd": "warning",
        "count": "warning",
    }
)
"""The kinds of findings, in the order in which they are listed."""
SKIPPED = frozenset({"row", "duplicate", "blank", "repeated"})
"""Kinds whose rows, or expressions, are skipped when the data are opened; other errors stop whatever loads the row."""
FULL = 0.98
"""Fraction of the image that a mask covers from which on it is reported."""
ODD = frozenset("\ufffd\ufeff\u200b")
"""Invisible characters that remain when texts are decoded, joined or copied."""
SHOWN = 60
"""Characters of an expression in a message."""


@dataclass(frozen=True, kw_only=True)
class Finding(Problem):
    """A problem and its severity."""

    severity: Severity


def check(
    data: Source | str,
    root: str | os.PathLike[str] | None = None,
    *,
    split: str = "all",
    images: str | os.PathLike[str] | None = None,
    text_field: str = "sent",
    overlap: Overlap = "union",
    word_length: int = WORD_LENGTH,
    quick: bool = False,
    progress: bool = False,
    seen: Counter[str] | None = None,
) -> list[Finding]:
    """Return the faults of a data set, in the order in which they were found.

    Args:
        data: a data set, or its name without a split (see `open_data`).
        root: the folder that holds the public sets.
        split: the split to check; rows that cannot be read and whose split is not known are reported too, and notes.
        images: the folder of the images, if they are not with the data.
        text_field: `sent` or `raw`, for REFER's files.
        overlap: how a pixel counts that several polygons of one annotation cover.
        word_length: tokens that the model reads of an expression, start and end included.
        quick: read only the headers of images and masks, and paint no masks.
        progress: whether to show a progress bar once it takes long.
        seen: receives the number of `images`, `references` and `expressions` that were checked.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: it cannot be read at all, or it has no such split.
        ConfigError: word_length is out of range.
    """
    if data in GENERATED:
        raise DataError(f"{data} is generated and has no files: there is nothing to check")
    source = data if isinstance(data, Source) else find(data, root, text_field=text_field)
    media = Media(source, images=None if images is None else Path(images), overlap=overlap)
    checker = _Checker(source, media, Tokenizer(word_length), quick)
    wanted = checker.read(split)
    by_image: dict[str, list[Record]] = {}
    for record in wanted:
        by_image.setdefault(record.file, []).append(record)
    for file, records in tqdm(by_image.items(), unit="image", delay=2, disable=not progress):
        checker.look_at(file, records)
    checker.compare_splits()
    if isinstance(data, str) and data in DATA_SETS:
        checker.count(wanted, {one: n for one, n in DATA_SETS[data].references.items() if split in ("all", one)})
    if seen is not None:
        expressions = sum(len(record.expressions) for record in wanted)
        seen.update(images=len(by_image), references=len(wanted), expressions=expressions)
    return checker.findings


class _Checker:
    """Goes through a data set and collects its faults."""

    def __init__(self, source: Source, media: Media, tokenizer: Tokenizer, quick: bool) -> None:
        self.source, self.media, self.tokenizer, self.quick = source, media, tokenizer, quick
        self.findings: list[Finding] = []
        self.first: dict[str, dict[str, Record]] = {}
        """By image, then by split: the first record of it."""
        self.grey: set[str] = set()
        """Messages on grey masks, of which each is reported once, however many rows name the mask."""
        self.wanted: set[str] = set()
        """The splits that are checked."""

    def _report(self, record: Record, kind: str, message: str) -> None:
        self._add(record.table or str(self.source.files[0]), record.row, kind, message)

    def _add(self, file: str, row: str, kind: str, message: str) -> None:
        severity = KINDS.get(kind, "error")
        self.findings.append(Finding(file=file, row=row, kind=kind, message=message, severity=severity))

    # ── rows ──

    def read(self, split: str) -> list[Record]:
        """Return the records of a split that can be used, and report its rows that cannot."""
        wanted: list[Record] = []
        rows: dict[str, str] = {}
        """Where references stand, by id."""
        expressions: dict[str, str] = {}
        """The same by the ids of their expressions."""
        splits: set[str] = set()

        def is_wanted(name: str) -> bool:
            return split == "all" or self.source.in_split(name, split)

        def report(problem: Problem) -> None:
            if problem.split:
                splits.add(problem.split)
            if not problem.split or is_wanted(problem.split):
                self._add(problem.file, problem.row, problem.kind, problem.message)

        for record in self.source.read(report):
            splits.add(record.split)
            chosen = is_wanted(record.split)
            if not encodable(record):
                if chosen:
                    self._report(record, "row", "holds half a character (a lone surrogate), which cannot be written")
                continue
            self.first.setdefault(record.image_id, {}).setdefault(record.split, record)
            if not chosen:
                continue
            self.wanted.add(record.split)
            if record.id in rows:
                self._report(record, "duplicate", f"the id {record.id!r} is that of {rows[record.id]} too")
                continue
            for one in record.expression_ids:
                if one in expressions:
                    message = f"the id {one!r} of an expression is one of {expressions[one]} too"
                    self._report(record, "duplicate", message)
                expressions.setdefault(one, _where(record))
            rows[record.id] = _where(record)
            for message in record.warnings:
                self._report(record, "partial", message)
            wanted.append(record)
        if not splits and not self.findings:
            raise DataError(f"{self.source.files[0]}: holds no references")
        if splits and not any(map(is_wanted, splits)):
            known = "".join(f"{one}, " for one in sorted(splits - {"all"})) or "none, "
            raise DataError(f"{self.source.files[0]}: has no split {split!r}; it has {known}or take all")
        return wanted

    # ── images ──

    def look_at(self, file: str, records: Sequence[Record]) -> None:
        """Check an image and all of its records."""
        size = self._image(file, records)
        regions: dict[str, tuple[str, Record]] = {}
        """Of the image, by expression."""
        for record in records:
            region = self._region(record, record.size or size)
            self._expressions(record)
            if region is None:
                continue
            for expression in record.expressions:
                other, earlier = regions.setdefault(" ".join(expression.lower().split()), (region, record))
                if other != region:
                    message = f"{_short(expression)} refers to another region of {file} in {_place(earlier)}"
                    self._report(record, "ambiguous", message)

    def _image(self, file: str, records: Sequence[Record]) -> tuple[int, int] | None:
        """Return the size of an image, (height, width), if it can be read."""
        sizes = {record.size: record for record in reversed(records) if record.size is not None}
        try:
            source = self.media.find_image(file) if self.source.image is None else self.source.image(file)
        except DataError as error:
            needed = counted(len(records), "reference needs", "references need")
            self._report(records[0], "missing", f"{error}; {needed} it")
        else:
            if isinstance(source, Path) and not self.media.image_endings:
                self._check_name(records[0], file, source)
            try:
                size = read_size(source) if self.quick else read_image(source).size[::-1]
            except ImageError as error:
                self._report(records[0], "image", f"image {file}: {error}")
            else:
                for given, record in sizes.items():
                    if given != size:
                        self._report(record, "image", f"{file} is {_by(size)}, but the data say {_by(given)}")
                return size
        if len(sizes) > 1:
            known = " and ".join(f"{_by(given)} ({_place(record)})" for given, record in reversed(sizes.items()))
            self._report(records[0], "image", f"{file} has several sizes in the data: {known}")
        return None

    # ── masks ──

    def _region(self, record: Record, size: tuple[int, int] | None) -> str | None:
        """Check a mask and return text that is equal for equal masks; None if the mask cannot be read."""
        if not record.parts:
            return ""
        if size is None:  # the image cannot be read, which is reported already
            return None
        grey: list[str] = []
        try:
            if self.quick:
                for part in record.parts:
                    self._check_size(record, part, size)
                return json.dumps(record.parts, sort_keys=True)
            for part in record.parts:
                if "file" in part:
                    self._check_name(record, part["file"], self.media.find_mask(part["file"], record.file))
            target = self.media.paint(record.parts, *size, image=record.file, warnings=grey).target
        except (DataError, ImageError) as error:
            self._report(record, "mask", str(error))
            return None
        for message in grey:
            if message not in self.grey:
                self.grey.add(message)
                self._report(record, "grey", message)
        if not target.any():
            self._report(record, "empty", "the mask is empty, but the reference has a target")
        elif (share := float(target.mean())) >= FULL:
            self._report(record, "full", f"the mask covers {share:.1%} of the image; is it inverted?")
        return hashlib.sha256(np.packbits(target).tobytes()).hexdigest()

    def _check_size(self, record: Record, part: Part, size: tuple[int, int]) -> None:
        found = size
        if "rle" in part:
            found = (part["rle"]["size"][0], part["rle"]["size"][1])
        elif "file" in part:
            found = read_size(self.media.find_mask(part["file"], record.file))
        check_mask_size(found, size)

    def _check_name(self, record: Record, written: str, found: Path) -> None:
        """Report a file whose name is only found by its other spelling."""
        name = PurePosixPath(written).name
        if found.name == name:
            return
        same = unicodedata.normalize("NFC", found.name) == unicodedata.normalize("NFC", name)
        stored = "with its accents in another Unicode form" if same else f"as {found.name}"
        self._report(record, "name", f"{written} is stored {stored}; other programs may not find it")

    # ── expressions ──

    def _expressions(self, record: Record) -> None:
        cut = self.tokenizer(record.expressions).truncated
        for expression, truncated in zip(record.expressions, cut, strict=True):
            if odd := [character for character in expression if _is_odd(character)]:
                code = f"U+{ord(odd[0]):04X}"
                self._report(
                    record, "odd", f"{_short(expression)} holds the character {code}, which no expression needs"
                )
            if not any(character.isalpha() for character in expression):
                self._report(record, "odd", f"{_short(expression)} holds no letters")
            if truncated:
                count = len(self.tokenizer.encode(expression))
                limit = self.tokenizer.word_length
                self._report(record, "limit", f"{_short(expression)} has {count} tokens; all after {limit} are cut off")

    # ── splits ──

    def compare_splits(self) -> None:
        """Report images that are in two splits: with the same id, and in a folder of one's own with the same bytes."""
        for image_id, by_split in self.first.items():
            one, *others = by_split.values()
            for other in others:
                if self.wanted & {one.split, other.split}:
                    self._report(other, "split", f"image {image_id} is in {other.split} and in {_where(one)}")
        if self.source.format == "folder":
            self._compare_files()

    def _compare_files(self) -> None:
        """Report copies of an image in two splits. Only files of the same length need to be read for that."""
        records = [record for by_split in self.first.values() for record in by_split.values()]
        if len({record.split for record in records}) < 2:
            return
        paths: list[tuple[Record, Path]] = []
        for record in records:
            with suppress(DataError):  # a missing image is reported already
                paths.append((record, self.media.find_image(record.file)))
        lengths = Counter(_length(path) for _, path in paths)
        copies: dict[str, list[Record]] = {}
        for record, path in paths:
            if lengths[_length(path)] > 1 and (digest := _digest(path)):
                copies.setdefault(digest, []).append(record)
        for same in copies.values():
            for number, record in enumerate(same):
                for other in same[:number]:
                    others = {record.split, other.split}
                    if len(others) == 2 and record.image_id != other.image_id and self.wanted & others:
                        message = f"image {record.file} of {record.split} is, byte for byte, {other.file} of"
                        self._report(record, "split", f"{message} {_where(other)}")
                        break

    def count(self, wanted: Iterable[Record], published: dict[str, int]) -> None:
        """Compare the number of references of each split with the published one."""
        splits = Counter(record.split for record in wanted)
        for split, expected in published.items():
            found = sum(number for name, number in splits.items() if self.source.in_split(name, split))
            if found != expected:
                message = f"has {found:,} references, {expected:,} were published: scores cannot be compared"
                self._add(str(self.source.files[0]), split, "count", message)


def table(findings: Iterable[Finding], *, most: int = 20, folder: Path | None = None) -> str:
    """Return findings as lines of text, the worst first, kind by kind.

    Args:
        findings: from `check`.
        most: lines of each kind; the rest is counted.
        folder: the folder that file names are shown relative to.
    """
    kinds: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    lines: list[tuple[str, ...]] = []
    for kind, found in sorted(kinds.items(), key=lambda one: [other.severity for other in one[1][:1]]):
        for one in found[:most]:
            place = ": ".join(part for part in (_relative(one.file, folder), one.row) if part)
            lines.append((one.severity, kind, place, " ".join(one.message.split())))
        if len(found) > most:
            lines.append((found[0].severity, kind, "...", f"and {len(found) - most:,} more"))
    return aligned(Table(columns=(), rows=tuple(lines)))


def _relative(file: str, folder: Path | None) -> str:
    if folder is not None and Path(file).is_relative_to(folder):
        return str(Path(file).relative_to(folder))
    return file


def _place(record: Record) -> str:
    return record.row or record.id


def _where(record: Record) -> str:
    return f"{record.split} ({_place(record)})"


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _short(expression: str) -> str:
    return repr(expression if len(expression) <= SHOWN else expression[: SHOWN - 3] + "...")


def _is_odd(character: str) -> bool:
    """Return whether a character is a control, of private use, or not assigned."""
    return character in ODD or unicodedata.category(character) in ("Cc", "Co", "Cn")


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    """Return a hash of a file; empty where it cannot be read, which is reported already."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
