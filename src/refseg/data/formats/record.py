"""The record that every format is read into, and how a reader reports rows that cannot be used."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from refseg.errors import DataError, ExpressionError
from refseg.inputs.clip_bpe import check_expression
from refseg.inputs.read import BinaryFile
from refseg.masks import MAX_PIXELS

__all__ = [
    "LARGEST",
    "NOTE",
    "UNREADABLE",
    "Problem",
    "Record",
    "Report",
    "Source",
    "build_records",
    "first_problem",
    "note",
    "numbered",
    "read_files",
    "read_json",
    "safe_name",
    "shown",
    "split_of",
    "take",
    "take_size",
    "texts",
]

LONGEST_NAME, LONGEST_PATH = 255, 1024
"""Bytes of one name in a path, and of a path; file systems raise an error of their own for longer ones."""
LARGEST = 2**63 - 1
"""The largest integer that is accepted; Python's own are unbounded, those of databases and arrays are not."""
NOTE = "note"
"""The kind of a problem that leaves nothing out: an assumption by which unusual data are read."""
UNREADABLE = "file"
"""The kind of a problem that concerns the whole file of a split, which then cannot be used."""
DRIVE = re.compile("[A-Za-z]:")
"""The beginning of an absolute path in Windows."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One reference as a format gives it: an image, expressions and a region. No image or mask is loaded yet."""

    id: str
    """Unique within the set."""
    image_id: str
    file: str
    """Of the image, relative to one of the folders of images; or a name that `Source.image` opens."""
    size: tuple[int, int] | None = None
    """Height and width in pixels, where the format has them."""
    split: str
    expressions: tuple[str, ...]
    expression_ids: tuple[str, ...]
    expression_attributes: tuple[Mapping[str, str | int | bool], ...] = ()
    """What is known of each expression; empty where nothing is."""
    parts: tuple[Mapping[str, Any], ...]
    """The region, painted in this order (see `regions`); empty where nothing fits the expressions."""
    target_object: int | None = None
    """The index of the target among `objects`; None where it is not one of them, or several."""
    objects: tuple[tuple[Mapping[str, Any], ...], ...] = ()
    """The regions of all objects of the image, where the format knows them; the same in each record of an image."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    """What was left out of a row that can be used otherwise, such as polygons of two points."""
    row: str = ""
    """The place in its file, for messages: `row 17`."""
    table: str = ""
    """The path of that file."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A row, or an expression of one, that cannot be used and is left out, with the reason; or a note."""

    file: str
    row: str
    kind: str
    """A word for overviews: `row`, `duplicate`, `image`...; or `NOTE`, or `UNREADABLE`."""
    message: str
    split: str = ""
    """The split that the row belongs to, where it can be read."""

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.file, self.row, self.message) if part)
        return " ".join(text.splitlines())  # names of files and ids may hold ends of lines


Report: TypeAlias = Callable[[Problem], None]
"""Called by a reader for each row that cannot be used; the reader then goes on with the next row."""


def first_problem(problems: Sequence[Problem]) -> str:
    """Return the end of a message that names the first of some problems; nothing if there is none."""
    return f"; the first problem: {problems[0]}" if problems else ""


def note(file: Path, message: str) -> Problem:
    """Return a note on a file, for `Report`."""
    return Problem(file=str(file), row="", kind=NOTE, message=message)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set on disk whose files were found but not read."""

    format: str
    folder: Path
    """File names in the data are relative to it."""
    files: tuple[Path, ...]
    """All files that hold references; when one changes, the index is made anew."""
    read: Callable[[Report], Iterator[Record]]
    """Yields the records of all splits. Raises DataError if a file of several splits cannot be read."""
    image_folders: tuple[str, ...] = ("",)
    """Where images may lie under the folder, the likeliest first. Looked up when an image is loaded."""
    image_endings: tuple[str, ...] = ()
    """Endings that an image's file may have in place of the one in its record."""
    mask_folders: tuple[str, ...] = ("",)
    """Where mask files may lie under the folder, the likeliest first. Looked up when a mask is loaded."""
    in_split: Callable[[str, str], bool] = str.__eq__
    """Whether a record's split (first) belongs to the requested split (second)."""
    image: Callable[[str], BinaryFile] | None = None
    """Opens the image that a record's `file` names, where images lie inside the data's own files."""


def numbered(rows: Iterable[Any], noun: str = "row") -> Iterator[tuple[str, Any]]:
    """Yield each row with its place, counted from 1: `row 17`."""
    for number, row in enumerate(rows, 1):
        yield f"{noun} {number}", row


def build_records(
    file: Path,
    rows: Iterable[tuple[str, Any]],
    build: Callable[[Any], Record],
    report: Report,
    *,
    split: str | Callable[[Any], str],
) -> Iterator[Record]:
    """Yield a record of each row, and report the rows of which none can be built, and blank expressions.

    Args:
        file: the rows' file, for messages.
        rows: each with its place.
        build: returns the record of a row, without its place, or raises DataError.
        report: called for each row that cannot be used.
        split: of all rows, or a function of a row that returns it, and `""` where it cannot be read.
    """
    for place, row in rows:
        try:
            record = replace(build(row), row=place, table=str(file))
        except DataError as error:
            known = split if isinstance(split, str) else split(row)
            report(Problem(file=str(file), row=place, kind="row", message=str(error), split=known))
        else:
            yield from _without_blanks(record, report)


def _without_blanks(record: Record, report: Report) -> Iterator[Record]:
    """Yield a record without its blank expressions, which are reported; nothing if all are blank."""
    blank = [number for number, text in enumerate(record.expressions) if _is_blank(text)]
    if not blank:
        yield record
        return
    for number in blank:
        which = "the expression" if len(record.expressions) == 1 else f"expression {number + 1}"
        message = f"{which} is blank: {shown(record.expressions[number])}"
        report(Problem(file=record.table, row=record.row, kind="blank", message=message, split=record.split))
    kept = [number for number in range(len(record.expressions)) if number not in blank]
    if kept:
        yield replace(
            record,
            expressions=tuple(record.expressions[number] for number in kept),
            expression_ids=tuple(record.expression_ids[number] for number in kept),
            expression_attributes=tuple(record.expression_attributes[number] for number in kept)
            if record.expression_attributes
            else (),
        )


def _is_blank(text: str) -> bool:
    if text.isascii() and text.isprintable() and "&" not in text:  # the tokenizer's cleaning is slow
        return not text.strip()
    try:
        check_expression(text)
    except ExpressionError:
        return True
    return False


def read_files(
    files: Iterable[tuple[str, Path]], read: Callable[[str, Path], Iterator[Record]], report: Report
) -> Iterator[Record]:
    """Yield the records of all files; one that cannot be read to its end is reported, and the next is read.

    Args:
        files: each with its split.
        read: yields the records of a file; raises DataError where it cannot be read.
        report: called for each file that cannot be read, with the kind `UNREADABLE`.
    """
    for split, file in files:
        try:
            yield from read(split, file)
        except DataError as error:
            message = str(error).removeprefix(f"{file}: ")
            report(Problem(file=str(file), row="", kind=UNREADABLE, message=message, split=split))


def split_of(row: Any, default: str = "") -> str:
    """Return the split that a row names, the default where it names none, `""` where it cannot be read."""
    split = row.get("split", default) if isinstance(row, dict) else ""
    return split if isinstance(split, str) else ""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing, unreadable or incomplete.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON, perhaps cut off: {error}") from None


def take(row: Any, name: str, kind: type[Any] | tuple[type[Any], ...], default: Any = ...) -> Any:
    """Return a field of a row.

    Raises:
        DataError: the row is not an object, the field is missing and has no default, it is of another type, or it is
            an integer beyond `LARGEST`.
    """
    if not isinstance(row, dict):
        raise DataError(f"expected an object with a field {name!r}, got {shown(row)}")
    if name not in row:
        if default is ...:
            raise DataError(f"has no field {name!r}")
        return default
    value = row[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("nothing" if one is type(None) else one.__name__ for one in kinds)
        raise DataError(f"field {name!r} must be {wanted}, got {shown(value)}")
    if isinstance(value, int) and not -LARGEST <= value <= LARGEST:
        raise DataError(f"field {name!r} is {shown(value)}")
    return value


def take_size(row: Any) -> tuple[int, int]:
    """Return the `height` and `width` of an image.

    Raises:
        DataError: one is missing or not an integer, or no image can be of that size.
    """
    height, width = take(row, "height", int), take(row, "width", int)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise DataError(f"no image can be of {width} x {height} pixels")
    return height, width


def texts(value: Any, name: str) -> tuple[str, ...]:
    """Return an expression, or a list of expressions, as a tuple.

    Raises:
        DataError: it is neither, or it is empty. Blank expressions are left out by `build_records`.
    """
    if isinstance(value, list | tuple) and not value:
        raise DataError(f"field {name!r} is empty: there is no expression")
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not found or not all(isinstance(one, str) for one in found):
        raise DataError(f"field {name!r} must be a text or a list of texts, got {shown(value)}")
    return found


def safe_name(name: Any) -> str:
    """Return a file name of the data as a relative path with forward slashes.

    Raises:
        DataError: it is not a file name, it is an absolute path (also Windows'), or it contains `..`.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"expected a file name, got {shown(name)}")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or DRIVE.match(str(path)):
        raise DataError(f"file name {shown(name)} leads out of the data's folder; write its path within that folder")
    if not path.parts:
        raise DataError(f"expected a file name, got {shown(name)}")
    if max(map(_length, path.parts)) > LONGEST_NAME or _length(str(path)) > LONGEST_PATH:
        raise DataError(f"file name {shown(name)} is too long")
    return str(path)


def _length(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


def shown(value: Any) -> str:
    """Return a value, or the name of its type, in the few characters that a message has room for."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:37]}...")
    if isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):  # Python raises for numbers of thousands of digits
        return str(value) if -LARGEST <= value <= LARGEST else "a number that is too large"
    kinds = {list: "a list", tuple: "a list", dict: "an object"}
    return next((text for kind, text in kinds.items() if isinstance(value, kind)), type(value).__name__)
