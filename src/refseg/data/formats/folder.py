"""Your own data: a folder with images, masks, and one table that says which words mean which mask.

```
my-data/
  data.csv         image,mask,text,split      (or data.jsonl, a JSON object a line)
  images/          a.jpg ...                  any names, any kind of image
  masks/           a-cup.png ...              as large as the image; what is not 0 is meant
```

A row of the table has

- `image` and `mask`: file names, relative to the folder or to `images` and `masks`. A row whose cell for the mask is
  empty says that the words fit nothing in the image. In JSON lines `rle` (COCO's) or `polygons`
  (`[[x, y, x, y, ...], ...]`) may be given in place of `mask`, or none of them;
- `text`: the words; in JSON lines also a list of several that mean the same;
- `split`, if there are several, and `id`, if you want your own.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.record import Problem, Record, Report, Source, safe_name, shown, take, texts
from refseg.data.formats.regions import Part, check_part
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
        read=partial(_read, root, tables[0]),
        image_folders=("", "images"),
    )


def _read(root: Path, table: Path, report: Report) -> Iterator[Record]:
    rows = _csv(table, report) if table.suffix == ".csv" else _json_lines(table, report)
    for place, row in rows:
        try:
            record = _record(place, row, root)
        except DataError as error:
            report(Problem(file=str(table), row=place, kind="row", message=str(error)))
        else:
            yield record


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
    reader = csv.DictReader(io.StringIO(_text_of(table), newline=""), strict=True, skipinitialspace=True)
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        if not {"image", "mask", "text"} <= set(names):
            columns = ", ".join(map(shown, names)) or "none"
            raise DataError(f"{table}: line 1: columns must be image, mask, text and perhaps split, id; got {columns}")
        if len(set(names)) < len(names):
            raise DataError(f"{table}: line 1: there are two columns of the same name")
        reader.fieldnames = names
        for row in reader:
            place = f"line {reader.line_num}"
            if None in row or None in row.values():
                message = f"has not as many cells as there are columns ({len(names)}); quote text with commas"
                report(Problem(file=str(table), row=place, kind="row", message=message))
                continue
            yield place, {name: value for name, value in row.items() if value}
    except csv.Error as error:
        # The reader knows where the last good row ended.
        raise DataError(f"{table}: line {reader.line_num + 1}: not a table of commas: {error}") from None


def _json_lines(table: Path, report: Report) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(_text_of(table).split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            report(Problem(file=str(table), row=f"line {number}", kind="row", message=f"not valid JSON: {error}"))


def _record(place: str, row: Any, root: Path) -> Record:
    image = safe_name(take(row, "image", str))
    unknown = [name for name in row if name not in FIELDS]
    attributes = {name: row[name] for name in unknown if isinstance(row[name], str | int | bool)}
    expressions = texts(take(row, "text", (str, list)), "text")
    id = str(take(row, "id", (str, int), place.removeprefix("line ")))
    return Record(
        id=id,
        image_id=image,
        file=image,
        split=take(row, "split", str, NO_SPLIT),
        expressions=expressions,
        expression_ids=tuple(f"{id}/{number}" for number in range(len(expressions))),
        parts=_parts(row, root),
        attributes=attributes,
        row=place,
    )


def _parts(row: Any, root: Path) -> tuple[Part, ...]:
    given = [name for name in ("mask", "rle", "polygons") if row.get(name) not in (None, "", [])]
    if len(given) > 1:
        raise DataError(f"has {' and '.join(given)}; give one of them")
    if not given:
        return ()
    (kind,) = given
    if kind == "mask":
        name = safe_name(take(row, "mask", str))
        # In `masks` first: a mask may be called as its image is, and the image may lie beside the table.
        places = (f"masks/{name}", name)
        likely = places[name.startswith("masks/")]
        return ({"file": next((place for place in places if os.path.isfile(root / place)), likely)},)
    return (check_part({kind: row[kind]}),)
