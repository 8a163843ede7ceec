"""A folder of one's own data: images, masks, and one table that assigns expressions to masks.

```
my-data/
  data.csv         image,mask,text,split      (or data.jsonl, one JSON object per line)
  images/          a.jpg ...                  any names, any kind of image
  masks/           a-cup.png ...              as large as the image; every pixel that is not black is the target
```

A row of the table has

- `image` and `mask`: file names, relative to the folder or to `images` and `masks`. An empty cell for the mask says
  that nothing in the image fits the expression. In JSON lines `rle` (COCO's) or `polygons` (`[[x, y, x, y, ...], ...]`
  or `[[[x, y], [x, y], ...], ...]`) may be given in place of `mask`, or none of them;
- `text`: the expression; in JSON lines also a list of several expressions for the same target;
- `split` and `id`, both optional.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.record import (
    Problem,
    Record,
    Report,
    Source,
    build_records,
    safe_name,
    shown,
    split_of,
    take,
    texts,
)
from refseg.data.formats.regions import Part, check_part, polygons
from refseg.errors import DataError

__all__ = ["TABLES", "folder"]

TABLES = ("data.jsonl", "data.csv")
NO_SPLIT = "all"
FIELDS = ("image", "mask", "rle", "polygons", "text", "split", "id")


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
        # `masks` comes first: a mask may have the name of its image, and the image may lie beside the table.
        mask_folders=("masks", ""),
    )


def _read(table: Path, report: Report) -> Iterator[Record]:
    rows = _csv(table, report) if table.suffix == ".csv" else _json_lines(table, report)
    yield from build_records(table, rows, _record, report, split=partial(split_of, default=NO_SPLIT))


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


def _csv(table: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    # People write a space after a comma, also before text in quotes, which would then not count as quotes.
    lines = csv.reader(io.StringIO(_text_of(table), newline=""), strict=True, skipinitialspace=True)
    names: list[str] | None = None
    while True:
        before = lines.line_num
        try:
            cells = next(lines, None)
        except csv.Error as error:
            if names is None or lines.line_num > before + 1:  # a quote that is not closed hides rows that may be good
                raise DataError(f"{table}: line {before + 1}: not a table of commas: {error}") from None
            report(_problem(table, f"line {before + 1}", f"not a row of a table of commas: {error}"))
            continue
        if names is None:
            names = _columns(table, cells)
        elif cells is None:
            return
        elif cells and len(cells) != len(names):
            message = f"has not as many cells as there are columns ({len(names)}); quote text with commas"
            report(_problem(table, f"line {lines.line_num}", message))
        elif cells:
            row = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
            yield f"line {lines.line_num}", {"id": lines.line_num} | row


def _columns(table: Path, cells: list[str] | None) -> list[str]:
    """Return the names of columns of a first line."""
    names = [name.strip() for name in cells or ()]
    if not {"image", "mask", "text"} <= set(names):
        columns = ", ".join(map(shown, names)) or "none"
        raise DataError(f"{table}: line 1: columns must be image, mask, text and perhaps split, id; got {columns}")
    if len(set(names)) < len(names):
        raise DataError(f"{table}: line 1: there are two columns of the same name")
    return names


def _problem(table: Path, place: str, message: str) -> Problem:
    return Problem(file=str(table), row=place, kind="row", message=message)


def _json_lines(table: Path, report: Report) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_text_of(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            report(_problem(table, f"line {number}", f"not valid JSON: {error}"))
        else:
            yield f"line {number}", {"id": number} | row if isinstance(row, dict) else row


def _record(row: Any) -> Record:
    image = safe_name(take(row, "image", str))
    unknown = [name for name in row if name not in FIELDS]
    attributes = {name: row[name] for name in unknown if isinstance(row[name], str | int | bool)}
    expressions = texts(take(row, "text", (str, list)), "text")
    id = str(take(row, "id", (str, int)))
    warnings: list[str] = []
    return Record(
        id=id,
        image_id=image,
        file=image,
        split=take(row, "split", str, NO_SPLIT),
        expressions=expressions,
        expression_ids=tuple(f"{id}/{number}" for number in range(len(expressions))),
        parts=_parts(row, warnings),
        attributes=attributes,
        warnings=tuple(warnings),
    )


def _parts(row: Any, warnings: list[str]) -> tuple[Part, ...]:
    given = [name for name in ("mask", "rle", "polygons") if row.get(name) not in (None, "", [])]
    if len(given) > 1:
        raise DataError(f"has {' and '.join(given)}; give one of them")
    if not given:
        return ()
    (kind,) = given
    if kind == "mask":
        return ({"file": safe_name(take(row, "mask", str))},)
    return (check_part({"rle": row["rle"]}) if kind == "rle" else polygons(row["polygons"], warnings=warnings),)
