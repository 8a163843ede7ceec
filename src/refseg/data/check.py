"""A linter for data sets: what is wrong with rows, images, masks and words, told before a model learns it."""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

import numpy as np
from tqdm import tqdm

from refseg.data.catalogue import DATA_SETS, find
from refseg.data.formats.record import Problem, Record, Source
from refseg.data.formats.regions import Overlap, Part, paint
from refseg.errors import DataError, ExpressionError, ImageError
from refseg.inputs.clip_bpe import WORD_LENGTH, Tokenizer, check_expression
from refseg.inputs.read import BinaryFile, read_image, read_size

__all__ = ["KINDS", "Finding", "Severity", "check", "table"]

Severity: TypeAlias = Literal["error", "warning"]
"""An error keeps the data from being used or makes a number wrong; a warning may be meant."""

KINDS: MappingProxyType[str, Severity] = MappingProxyType(
    {
        "row": "error",
        "duplicate": "error",
        "missing": "error",
        "image": "error",
        "mask": "error",
        "empty": "error",
        "blank": "error",
        "full": "warning",
        "lossy": "warning",
        "ambiguous": "warning",
        "split": "warning",
        "limit": "warning",
        "odd": "warning",
        "count": "warning",
    }
)
"""What can be found, in the order in which it is told."""
FULL = 0.98
"""Share of the image from which on a mask is said to cover it."""
LOSSY = (".jpg", ".jpeg", ".webp")
"""Kinds of file whose compression leaves pixels of a mask that are nearly 0, and so are taken as meant."""
ODD = frozenset("\ufffd\ufeff\u200b")
"""Characters of no sign that are left behind when texts are decoded, joined or copied."""
SHOWN = 60


@dataclass(frozen=True, kw_only=True)
class Finding(Problem):
    """A problem, and how bad it is."""

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
    """Return all that is wrong with a data set, in the order in which it was met.

    Args:
        data: a data set, or its name without a split (see `open_data`).
        root: the folder that holds the public sets.
        split: which split to look at; rows that cannot be read are told whatever split they are of.
        images: where the images are, if they are not with the data.
        text_field: `sent` or `raw`, for REFER's files.
        overlap: what pixels are that several polygons of one annotation cover.
        word_length: tokens that the model reads of an expression, start and end included.
        quick: read only the headers of images and masks, and draw no masks.
        progress: whether to show a bar once it takes long.
        seen: is given the number of `images`, `references` and `expressions` that were looked at.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: it cannot be read at all, or it has no such split.
        ConfigError: word_length is out of range.
    """
    if data == "shapes":
        raise DataError("shapes is generated and has no files: there is nothing to check")
    source = data if isinstance(data, Source) else find(data, root, text_field=text_field)
    checker = _Checker(source, None if images is None else Path(images), overlap, Tokenizer(word_length), quick)
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
    """Collects what is wrong while a data set is gone through."""

    def __init__(
        self, source: Source, images: Path | None, overlap: Overlap, tokenizer: Tokenizer, quick: bool
    ) -> None:
        self.source, self.overlap, self.tokenizer, self.quick = source, overlap, tokenizer, quick
        self.root = source.folder if images is None else images
        self.places = source.image_folders if images is None else ("", *source.image_folders)
        self.findings: list[Finding] = []
        self.first: dict[str, dict[str, Record]] = {}
        """By image, then by split: the first record of it."""
        self.wanted: set[str] = set()
        """The splits that are looked at."""

    def tell(self, problem: Problem) -> None:
        """Take what a reader reports."""
        self._add(problem.file, problem.row, problem.kind, problem.message)

    def _tell(self, record: Record, kind: str, message: str) -> None:
        self._add(record.table or str(self.source.files[0]), record.row, kind, message)

    def _add(self, file: str, row: str, kind: str, message: str) -> None:
        severity = KINDS.get(kind, "error")
        self.findings.append(Finding(file=file, row=row, kind=kind, message=message, severity=severity))

    # ── rows ──

    def read(self, split: str) -> list[Record]:
        """Return the records of a split."""
        wanted: list[Record] = []
        rows: dict[str, str] = {}
        said: dict[str, str] = {}
        splits: set[str] = set()
        for record in self.source.read(self.tell):
            splits.add(record.split)
            chosen = split == "all" or self.source.in_split(record.split, split)
            if not _is_whole(record):
                if chosen:
                    self._tell(record, "row", "holds half a character (a lone surrogate), which cannot be written")
                continue
            same = [f"the id {record.id!r} is that of {rows[record.id]} too"] if record.id in rows else []
            if not same:  # if it is, those of the expressions may well be made from it
                known = [one for one in record.expression_ids if one in said]
                same = [f"the id {one!r} of an expression is one of {said[one]} too" for one in known]
            rows.setdefault(record.id, _where(record))
            said.update(dict.fromkeys(record.expression_ids, _where(record)))
            for message in same if chosen else ():
                self._tell(record, "duplicate", message)
            self.first.setdefault(record.image_id, {}).setdefault(record.split, record)
            if chosen:
                self.wanted.add(record.split)
                wanted.append(record)
        if not splits and not self.findings:
            raise DataError(f"{self.source.files[0]}: holds no references")
        if splits and not wanted:
            there = ", ".join(sorted(splits))
            raise DataError(f"{self.source.files[0]}: has no split {split!r}; it has {there}, or take all")
        return wanted

    # ── images ──

    def look_at(self, file: str, records: Sequence[Record]) -> None:
        """Check an image and all that is said of it."""
        size = self._image(file, records)
        meant: dict[str, tuple[str, Record]] = {}
        for record in records:
            region = self._region(record, record.size or size)
            self._words(record)
            if region is None:
                continue
            for expression in record.expressions:
                other, earlier = meant.setdefault(" ".join(expression.lower().split()), (region, record))
                if other != region:
                    message = f"{_short(expression)} means another region of {file} in {_place(earlier)}"
                    self._tell(record, "ambiguous", message)

    def _image(self, file: str, records: Sequence[Record]) -> tuple[int, int] | None:
        """Return the size of an image, if it can be read."""
        sizes = {record.size: record for record in reversed(records) if record.size is not None}
        try:
            size = self._size(file)
        except ImageError as error:
            self._tell(records[0], "image", f"image {file}: {error}")
        except DataError as error:
            count = f"{len(records)} references need it" if len(records) > 1 else "a reference needs it"
            self._tell(records[0], "missing", f"image {file} is not there, and {count}; {error}")
        else:
            for said, record in sizes.items():
                if said != size:
                    self._tell(record, "image", f"{file} is {_by(size)}, but the data say {_by(said)}")
            return size
        if len(sizes) > 1:
            told = " and ".join(f"{_by(said)} ({_place(record)})" for said, record in reversed(sizes.items()))
            self._tell(records[0], "image", f"{file} is said to be of several sizes: {told}")
        return None

    def _size(self, file: str) -> tuple[int, int]:
        """Return height and width of an image that can be decoded, or, in a hurry, recognised."""
        place: Path | BinaryFile | None
        place = self._find(file) if self.source.image is None else self.source.image(file)
        if place is None:
            raise DataError(f"looked in {', '.join(str(self.root / place) for place in self.places[:3])}")
        return read_size(place) if self.quick else read_image(place).size[::-1]

    def _find(self, file: str) -> Path | None:
        for place in self.places:
            path = self.root / place / file
            if os.path.isfile(path):  # unlike Path.is_file, false where it may not be asked
                # Images of one set lie in one place: the next is looked for there first.
                self.places = (place, *(other for other in self.places if other != place))
                return path
        return None

    # ── masks ──

    def _region(self, record: Record, size: tuple[int, int] | None) -> str | None:
        """Check a mask and return what tells whether two are the same; None if it cannot be known."""
        if not record.parts:
            return ""
        if size is None:  # the image cannot be read, which is told already
            return None
        for part in record.parts:
            if Path(part.get("file", "")).suffix.lower() in LOSSY:
                self._tell(record, "lossy", f"the mask {part['file']} is of a lossy kind, which blurs it; use PNG")
        try:
            if self.quick:
                for part in record.parts:
                    self._check_size(part, size)
                return json.dumps(record.parts, sort_keys=True)
            meant = paint(record.parts, *size, folder=self.source.folder, overlap=self.overlap).meant
        except (DataError, ImageError) as error:
            self._tell(record, "mask", str(error))
            return None
        if not meant.any():
            self._tell(record, "empty", "the mask is empty, yet the reference is said to mean something")
        elif (share := float(meant.mean())) >= FULL:
            self._tell(record, "full", f"the mask covers {share:.1%} of the image; is it the wrong way round?")
        return hashlib.sha256(np.packbits(meant).tobytes()).hexdigest()

    def _check_size(self, part: Part, size: tuple[int, int]) -> None:
        found = size
        if "rle" in part:
            found = (part["rle"]["size"][0], part["rle"]["size"][1])
        elif "file" in part:
            found = read_size(self.source.folder / part["file"])
        if found != size:
            raise DataError(f"the mask is {_by(found)}, its image {_by(size)}")

    # ── words ──

    def _words(self, record: Record) -> None:
        cut = self.tokenizer(record.expressions).truncated
        for expression, truncated in zip(record.expressions, cut, strict=True):
            try:
                check_expression(expression)
            except ExpressionError:
                self._tell(record, "blank", f"the expression {_short(expression)} holds no words")
                continue
            if odd := [character for character in expression if _is_odd(character)]:
                code = f"U+{ord(odd[0]):04X}"
                self._tell(record, "odd", f"{_short(expression)} holds the character {code}, which no text needs")
            if not any(character.isalpha() for character in expression):
                self._tell(record, "odd", f"{_short(expression)} holds no letters")
            if truncated:
                count = len(self.tokenizer.encode(expression))
                limit = self.tokenizer.word_length
                self._tell(record, "limit", f"{_short(expression)} is of {count} tokens; all after {limit} is cut off")

    # ── splits ──

    def compare_splits(self) -> None:
        """Look for images that are in two splits: by their ids, and in a folder of one's own also by their bytes."""
        for image_id, by_split in self.first.items():
            one, *others = by_split.values()
            for other in others:
                if self.wanted & {one.split, other.split}:
                    self._tell(other, "split", f"image {image_id} is in {other.split} and in {_where(one)}")
        if self.source.format == "folder":
            self._compare_files()

    def _compare_files(self) -> None:
        """A copy under another name is the same image. Only files of the same length need to be read for that."""
        records = [record for by_split in self.first.values() for record in by_split.values()]
        if len({record.split for record in records}) < 2:
            return
        paths = [(record, path) for record in records if (path := self._find(record.file)) is not None]
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
                        self._tell(record, "split", f"{message} {_where(other)}")
                        break

    def count(self, wanted: Iterable[Record], published: dict[str, int]) -> None:
        """Compare the number of references with those that were published, by split."""
        splits = Counter(record.split for record in wanted)
        for split, expected in published.items():
            found = sum(number for name, number in splits.items() if self.source.in_split(name, split))
            if found != expected:
                message = f"has {found:,} references, {expected:,} were published: scores cannot be compared"
                self._add(str(self.source.files[0]), split, "count", message)


def table(findings: Iterable[Finding], *, most: int = 20, folder: Path | None = None) -> str:
    """Return findings as lines of text, the worst first, kind by kind.

    Args:
        findings: what `check` found.
        most: lines of each kind; the rest is counted.
        folder: what the names of files are told relative to.
    """
    kinds: dict[str, list[Finding]] = {kind: [] for kind in KINDS}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    lines: list[tuple[str, str, str, str]] = []
    for kind, found in sorted(kinds.items(), key=lambda one: [other.severity for other in one[1][:1]]):
        for one in found[:most]:
            place = ": ".join(part for part in (_relative(one.file, folder), one.row) if part)
            lines.append((one.severity, kind, place, " ".join(one.message.split())))
        if len(found) > most:
            lines.append((found[0].severity, kind, "...", f"and {len(found) - most:,} more"))
    widths = [max((len(line[column]) for line in lines), default=0) for column in range(3)]
    return "".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]) + "\n"
        for line in lines
    )


def _relative(file: str, folder: Path | None) -> str:
    if folder is not None and Path(file).is_relative_to(folder):
        return str(Path(file).relative_to(folder))
    return file


def _is_whole(record: Record) -> bool:
    try:
        "".join((record.id, record.image_id, record.file, *record.expressions, *record.expression_ids)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _place(record: Record) -> str:
    return record.row or record.id


def _where(record: Record) -> str:
    return f"{record.split} ({_place(record)})"


def _by(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"


def _short(expression: str) -> str:
    return repr(expression if len(expression) <= SHOWN else expression[: SHOWN - 3] + "...")


def _is_odd(character: str) -> bool:
    """Whether a character is a control, of private use, or of none that is known."""
    return character in ODD or unicodedata.category(character) in ("Cc", "Co", "Cn")


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _digest(path: Path) -> str:
    """Return a hash of a file, or nothing where it cannot be read, which is told already."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
