"""A folder of one's own data: images, masks, and one table that assigns expressions to masks.

```
my-data/
  data.csv         image,mask,text,split      (or data.jsonl, one JSON object per line)
  images/          a.jpg ...                  any names, any kind of image
  masks/           a-cup.png ...              as large as the image; every pixel that is not black is the target
```

The columns of a CSV file are separated by commas, semicolons or tabs, whichever its first line has; spreadsheets may
write `sep=;` before it. Spaces around cells, rows without any content and the case of the columns' names do not matter.

A row of the table has

- `image` and `mask`: file names, relative to the folder or to `images` and `masks`. An empty cell for the mask says
  that nothing in the image fits the expression. In JSON lines `rle` (COCO's) or `polygons` (`[[x, y, x, y, ...], ...]`
  or `[[[x, y], [x, y], ...], ...]`) may be given in place of `mask`, or none of them;
- `text`: the expression; in JSON lines also a list of several expressions for the same target, each a text or an
  object with `text` and what else is known of the expression, such as `style` and `form`;
- `ignored`, optional and in JSON lines only: run lengths of pixels that are left out of training and of every count;
- `split` and `id`, both optional. `Train`, `Validation` and the like are `train` and `val`.

A row that repeats an earlier one is skipped. What was assumed to read a table is reported as notes.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from refseg.data.formats.record import (
    Problem,
    Record,
    Report,
    Source,
    build_records,
    note,
    safe_name,
    shown,
    split_of,
    take,
    texts,
)
from refseg.data.formats.regions import Part, check_part, polygons
from refseg.data.formats.separated import SEPARATORS, separated
from refseg.errors import DataError, counted

__all__ = ["TABLES", "folder", "json_lines"]

TABLES = ("data.jsonl", "data.csv")
NO_SPLIT = "all"
FIELDS = ("image", "mask", "rle", "polygons", "ignored", "text", "split", "id")
SPLITS = {"training": "train", "valid": "val", "validation": "val", "testing": "test"}
"""Other names of splits, in lower case."""
LOSSY = (".jpg", ".jpeg", ".webp")
"""Endings of mask files whose compression may change black and white to grey."""


def folder(root: Path) -> Source:
    """Find a folder of one's own data.

    Raises:
        DataError: it has no table, or two.
    """
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if len(tables) != 1:
        found = "both; remove one" if tables else "neither"
        raise DataError(f"{root}: expected one table, data.csv or data.jsonl, and found {found}")
    return Source(
        format="folder",
        folder=root,
        files=(tables[0],),
        read=partial(_read, tables[0]),
        image_folders=("", "images"),
        in_split=lambda split, asked: split == _split_name(asked),
        # `masks` comes first: a mask may have the name of its image, and the image may lie beside the table.
        mask_folders=("masks", ""),
    )


def _read(table: Path, report: Report) -> Iterator[Record]:
    rows = _csv(table, report) if table.suffix == ".csv" else json_lines(table, report)
    seen = _Seen()
    once = _once(table, seen.watch(rows), report)
    yield from build_records(table, once, partial(_record, table.parent), report, split=_split_of)
    for message in seen.notes():
        report(note(table, message))


class _Seen:
    """What was met in a table that is read by an assumption."""

    def __init__(self) -> None:
        self.splits: Counter[str] = Counter()
        """Rows by the name of their split, as it was written."""
        self.lossy = 0

    def watch(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        for row in rows:
            if isinstance(row.values, dict):
                split, mask = row.values.get("split", ""), row.values.get("mask", "")
                self.splits[split if isinstance(split, str) else ""] += 1
                self.lossy += isinstance(mask, str) and mask.lower().endswith(LOSSY)
            yield row

    def notes(self) -> Iterator[str]:
        """Yield lines on the whole table."""
        if renamed := sorted(split for split in self.splits if split and split != _split_name(split)):
            yield "splits are read as " + ", ".join(f"{_split_name(split)} (written {split!r})" for split in renamed)
        if (blank := self.splits[""]) and len(self.splits) > 1:
            yield f"{counted(blank, 'row')} without a split, while others have one: in the split all only"
        if self.lossy:
            count = counted(self.lossy, "mask has", "masks have")
            yield f"{count} lossy compression: pixels of at least half the brightness are the target; PNG is exact"


class _Row(NamedTuple):
    place: str
    values: Any
    written: Hashable
    """Equal for rows that repeat each other."""


def _once(table: Path, rows: Iterable[_Row], report: Report) -> Iterator[tuple[str, Any]]:
    """Yield places and values of rows; a row that repeats an earlier one is reported instead."""
    first: dict[Hashable, str] = {}
    for row in rows:
        earlier = first.setdefault(row.written, row.place)
        if earlier == row.place:
            yield row.place, row.values
        else:
            message, split = f"repeats {earlier}", _split_of(row.values)
            report(Problem(file=str(table), row=row.place, kind="repeated", message=message, split=split))


def _split_of(row: Any) -> str:
    return _split_name(split_of(row, default=NO_SPLIT))


def _split_name(written: str) -> str:
    """Return the name of a split: train, val or test, where it is another way to write them, or as it was written."""
    name = written.strip().lower()
    name = SPLITS.get(name, name)
    return name if name in ("train", "val", "test") else written.strip()


def _text_of(table: Path) -> str:
    try:
        written = table.read_bytes()
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from None
    try:
        return written.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = written[: error.start].count(b"\n") + 1
        raise DataError(f"{table}: line {line}: not UTF-8; save the table as UTF-8") from None


def _csv(table: Path, report: Report) -> Iterator[_Row]:
    text, found, before = separated(_text_of(table), {"image", "text"}.issubset)
    separator = found or ","
    kind = f"a table of {SEPARATORS[separator]}"
    # People write a space after a comma, also before text in quotes, which would then not count as quotes.
    lines = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True, delimiter=separator)
    names: list[str] | None = None
    while True:
        start = before + lines.line_num + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            if names is None or before + lines.line_num > start:  # an open quote hides rows that may be good
                raise DataError(f"{table}: line {start}: not {kind}: {error}") from None
            report(_problem(table, f"line {start}", f"not a row of {kind}: {error}"))
            continue
        if cells is not None:
            cells = _without_blanks([cell.strip() for cell in cells], 0 if names is None else len(names))
        line = before + lines.line_num
        if names is None:
            if cells or cells is None:
                names = _columns(table, line or 1, cells)
        elif cells is None:
            return
        elif any(cells) and len(cells) != len(names):
            of = SEPARATORS[separator]
            message = f"has not as many cells as there are columns ({len(names)}); quote text with {of}"
            report(_problem(table, f"line {line}", message))
        elif any(cells):
            # An empty cell is no value; that of the text is a blank expression.
            row = {name: cell for name, cell in zip(names, cells, strict=True) if cell or name == "text"}
            yield _Row(f"line {line}", {"id": line} | row, tuple(cells))


def _without_blanks(cells: list[str], least: int) -> list[str]:
    """Return cells without blank ones at the end, which spreadsheets add; at least so many are kept."""
    while len(cells) > least and not cells[-1]:
        cells = cells[:-1]
    return cells


def _columns(table: Path, line: int, cells: list[str] | None) -> list[str]:
    """Return the names of columns of a first line."""
    names = [name.lower() if name.lower() in FIELDS else name for name in cells or ()]
    if not {"image", "mask", "text"} <= set(names):
        columns = ", ".join(map(shown, names)) or "none"
        raise DataError(
            f"{table}: line {line}: columns must be image, mask, text and perhaps split, id; got {columns}; separate "
            "them with commas, semicolons or tabs"
        )
    if len(set(names)) < len(names):
        raise DataError(f"{table}: line {line}: there are two columns of the same name")
    return names


def _problem(table: Path, place: str, message: str) -> Problem:
    return Problem(file=str(table), row=place, kind="row", message=message)


def json_lines(table: Path, report: Report) -> Iterator[_Row]:
    """Yield the value of each line of a table with its place; a line without an `id` gets its number as one.

    Raises:
        DataError: the table cannot be read, or is not UTF-8.
    """
    for number, line in enumerate(_text_of(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            report(_problem(table, f"line {number}", f"not valid JSON: {error}"))
        else:
            yield _Row(f"line {number}", {"id": number} | row if isinstance(row, dict) else row, line.strip())


def _record(folder: Path, row: Any) -> Record:
    image = _name(folder, take(row, "image", str))
    given = take(row, "text", (str, list))
    known = [one if isinstance(one, dict) else {"text": one} for one in (given if isinstance(given, list) else [given])]
    expressions = texts([one.get("text") for one in known], "text")
    about = [_attributes(one, ("text",)) for one in known]
    id = str(take(row, "id", (str, int)))
    warnings: list[str] = []
    return Record(
        id=id,
        image_id=image,
        file=image,
        split=_split_name(take(row, "split", str, NO_SPLIT)) or NO_SPLIT,
        expressions=expressions,
        expression_ids=tuple(f"{id}/{number}" for number in range(len(expressions))),
        expression_attributes=tuple(about) if any(about) else (),
        parts=_parts(folder, row, warnings),
        attributes=_attributes(row, FIELDS),
        warnings=tuple(warnings),
    )


def _attributes(row: dict[str, Any], fields: tuple[str, ...]) -> dict[str, str | int | bool]:
    """Return what else a row, or an expression, says of itself."""
    return {name: value for name, value in row.items() if name not in fields and isinstance(value, str | int | bool)}


def _name(folder: Path, written: str) -> str:
    """Return the name of a file within the folder, of which an absolute path may be given.

    Raises:
        DataError: it leads out of the folder, or is no name.
    """
    name = written.strip().replace("\\", "/")
    for start in (folder.absolute(), folder.resolve()):
        name = name.removeprefix(f"{start.as_posix()}/")
    return safe_name(name)


def _parts(folder: Path, row: Any, warnings: list[str]) -> tuple[Part, ...]:
    given = [name for name in ("mask", "rle", "polygons") if row.get(name) not in (None, "", [])]
    if len(given) > 1:
        raise DataError(f"has {' and '.join(given)}; give one of them")
    if not given:
        return ()
    (kind,) = given
    ignored = (check_part({"rle": row["ignored"], "ignored": True}),) if row.get("ignored") else ()
    if kind == "mask":
        return {"file": _name(folder, take(row, "mask", str))}, *ignored
    target = check_part({"rle": row["rle"]}) if kind == "rle" else polygons(row["polygons"], warnings=warnings)
    return target, *ignored
