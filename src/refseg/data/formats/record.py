"""What every format is read into: one record a reference, and how a reader tells about rows that are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from refseg.errors import DataError
from refseg.inputs.read import MAX_PIXELS, BinaryFile

__all__ = [
    "LARGEST",
    "Problem",
    "Record",
    "Report",
    "Source",
    "each",
    "read_json",
    "refuse",
    "safe_name",
    "shown",
    "take",
    "take_size",
    "texts",
]

LONGEST_NAME, LONGEST_PATH = 255, 1024
"""Bytes of one name in a path, and of all of it; file systems refuse longer ones with an error of their own."""
LARGEST = 2**63 - 1
"""The largest whole number that means anything here; Python's own know no bounds."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One reference as a format tells it: whose image, which words, which region. Nothing of it is loaded yet."""

    id: str
    """Unique within the set."""
    image_id: str
    file: str
    """Of the image, relative to one of the folders of images; or a name that `Source.image` knows."""
    size: tuple[int, int] | None = None
    """Height and width in pixels, where the format tells them."""
    split: str
    expressions: tuple[str, ...]
    expression_ids: tuple[str, ...]
    parts: tuple[Mapping[str, Any], ...]
    """The region, painted in this order (see `regions`); empty where the words fit nothing."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    row: str
    """Where it stands in its file, for messages: `row 17`."""
    table: str = ""
    """That file; readers fill it in where a set has several."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A row that is wrong, and what is wrong with it."""

    file: str
    row: str
    kind: str
    """A word for tables: `row`, `duplicate`, `image`, `mask`, `words`, `split`."""
    message: str

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.file, self.row, self.message) if part)
        return " ".join(text.splitlines())  # names of files and ids may hold ends of lines


Report: TypeAlias = Callable[[Problem], None]
"""What a reader calls for a row that is wrong, before it goes on with the next."""


def refuse(problem: Problem) -> None:
    """Stop at the first problem: the report for those who need all rows.

    Raises:
        DataError: always.
    """
    raise DataError(str(problem))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set on disk, found but not read."""

    format: str
    folder: Path
    """What file names in the data are relative to."""
    files: tuple[Path, ...]
    """All that has to be read to know the references; when one changes, the index is made anew."""
    read: Callable[[Report], Iterator[Record]]
    """Yields the records of all splits."""
    image_folders: tuple[str, ...] = ("",)
    """Where images may lie under the folder, the likeliest first."""
    in_split: Callable[[str, str], bool] = str.__eq__
    """Whether a record's split (first) belongs to the split that is asked for (second)."""
    image: Callable[[str], BinaryFile] | None = None
    """Opens the image that a record's `file` names, where images lie inside the data's own files."""


def each(
    file: Path, rows: Iterable[Any], build: Callable[[Any], Record], report: Report, noun: str = "row"
) -> Iterator[Record]:
    """Build a record of each row, and report those that cannot be built."""
    for number, row in enumerate(rows, 1):
        try:
            record = build((f"{noun} {number}", row))
        except DataError as error:
            report(Problem(file=str(file), row=f"{noun} {number}", kind="row", message=str(error)))
        else:
            yield replace(record, table=str(file))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        DataError: it is missing, unreadable, or not whole.
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
        DataError: the row is not an object, the field is missing and has no default, or it is of another type; or it
            is a whole number beyond any use.
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
        DataError: they are missing, or no image can be of that size.
    """
    height, width = take(row, "height", int), take(row, "width", int)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise DataError(f"no image can be of {width} x {height} pixels")
    return height, width


def texts(value: Any, name: str) -> tuple[str, ...]:
    """Return a text, or a list of texts, as a tuple.

    Raises:
        DataError: it is neither, or empty.
    """
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
    if not found or not all(isinstance(one, str) for one in found):
        raise DataError(f"field {name!r} must be a text or a list of texts, got {shown(value)}")
    if not all(one.strip() for one in found):
        raise DataError(f"field {name!r} holds an expression without words")
    return found


def safe_name(name: Any) -> str:
    """Return a file name of the data, which must not lead out of its folder.

    Raises:
        DataError: it does, or it is not a name.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"expected a file name, got {shown(name)}")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
        raise DataError(f"file name {shown(name)} leads out of the data's folder")
    if not path.parts:
        raise DataError(f"expected a file name, got {shown(name)}")
    if max(map(_length, path.parts)) > LONGEST_NAME or _length(str(path)) > LONGEST_PATH:
        raise DataError(f"file name {shown(name)} is too long")
    return str(path)


def _length(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))


def shown(value: Any) -> str:
    """Return a value, or what it is, in the few characters that a message has for it."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else f"{value[:37]}...")
    if isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):  # Python refuses to write out numbers of thousands of digits
        return str(value) if -LARGEST <= value <= LARGEST else "a number that is too large"
    kinds = {list: "a list", tuple: "a list", dict: "an object"}
    return next((text for kind, text in kinds.items() if isinstance(value, kind)), type(value).__name__)
