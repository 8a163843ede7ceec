"""ReasonSeg: beside each image a JSON file in LabelMe's manner, with questions, and shapes that answer them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.record import Problem, Record, Report, Source, take, texts
from refseg.data.formats.regions import Part, check_part, flat_polygons
from refseg.errors import DataError

__all__ = ["reasonseg"]

SPLITS = ("train", "val", "test")
IMAGES = (".jpg", ".jpeg", ".png")


def reasonseg(root: Path) -> Source:
    """Find ReasonSeg: folders `train`, `val` and `test` of images, each with a JSON file of its name.

    Raises:
        DataError: it is not there.
    """
    files = tuple(path for split in SPLITS for path in sorted((root / split).glob("*.json")))
    if not files:
        raise DataError(f"{root}: no folders train, val or test with images and JSON files there")
    return Source(format="reasonseg", folder=root, files=files, read=partial(_read, root, files))


def _read(root: Path, files: tuple[Path, ...], report: Report) -> Iterator[Record]:
    for file in files:
        try:
            record = _record(root, file)
        except DataError as error:
            report(Problem(file=str(file), row="", kind="row", message=str(error)))
        else:
            yield record


def _record(root: Path, file: Path) -> Record:
    try:
        written = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    try:
        row = json.loads(_decoded(written))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON, perhaps cut off: {error}") from None
    image = next((file.with_suffix(end) for end in IMAGES if file.with_suffix(end).exists()), file.with_suffix(".jpg"))
    id = f"{file.parent.name}/{file.stem}"
    expressions = texts(take(row, "text", (str, list)), "text")
    return Record(
        id=id,
        image_id=id,
        file=str(image.relative_to(root)),
        split=file.parent.name,
        expressions=expressions,
        expression_ids=tuple(f"{id}/{number}" for number in range(len(expressions))),
        parts=_parts(take(row, "shapes", list)),
        attributes={"sentence": bool(row.get("is_sentence", False))},
        row="",
        table=str(file),
    )


def _decoded(written: bytes) -> str:
    """Some of the distributed files are not UTF-8 but of Windows' western code page."""
    try:
        return written.decode("utf-8-sig")
    except UnicodeDecodeError:
        return written.decode("cp1252", errors="replace")


def _parts(shapes: list[Any]) -> tuple[Part, ...]:
    """Return the shapes in the order in which they are painted: the largest first, so that small ones stay seen.

    LISA paints with OpenCV, which also covers the outline itself; here it is COCO's rasteriser: at the border the masks
    differ by half a pixel.
    """
    found: list[tuple[float, Part]] = []
    for number, shape in enumerate(shapes, 1):
        label = take(shape, "label", str).lower()
        if "flag" in label:
            continue
        try:
            (polygon,) = flat_polygons([take(shape, "points", list)])
            if len(polygon) < 6:
                continue
            part = check_part({"polygons": [polygon], "ignored": "ignore" in label})
        except DataError as error:
            raise DataError(f"shape {number}: {error}") from None
        found.append((_area(polygon), part))
    found.sort(key=lambda one: -one[0])
    return tuple(part for _, part in found)


def _area(polygon: list[Any]) -> float:
    """Return the area of a polygon, by the shoelace formula."""
    xs, ys = polygon[::2], polygon[1::2]
    twice: float = sum(x * b - a * y for x, y, a, b in zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True))
    return abs(twice) / 2
