"""ReasonSeg: for each image a JSON file in LabelMe's form, with questions, and shapes that answer them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.record import LARGEST, Record, Report, Source, build_records, shown, take, texts
from refseg.data.formats.regions import Part, check_part, is_number
from refseg.errors import DataError

__all__ = ["reasonseg", "shape_polygon"]

SPLITS = ("train", "val", "test")
IMAGES = (".jpg", ".jpeg", ".png")
CIRCLE = 180
"""Corners of the polygon that stands for a circle; its area is 0.02 % too small."""


def reasonseg(root: Path) -> Source:
    """Find ReasonSeg: folders `train`, `val` and `test` of images, each with a JSON file of the same name.

    Raises:
        DataError: there are no such files.
    """
    files = tuple(path for split in SPLITS for path in sorted((root / split).glob("*.json")))
    if not files:
        raise DataError(f"{root}: no folders train, val or test with images and JSON files there")
    return Source(format="reasonseg", folder=root, files=files, read=partial(_read, root, files), image_endings=IMAGES)


def _read(root: Path, files: tuple[Path, ...], report: Report) -> Iterator[Record]:
    for file in files:
        yield from build_records(file, [("", file)], partial(_record, root), report, split=file.parent.name)


def _record(root: Path, file: Path) -> Record:
    try:
        written = file.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    try:
        row = json.loads(_decoded(written))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON, perhaps cut off: {error}") from None
    id = f"{file.parent.name}/{file.stem}"
    expressions = texts(take(row, "text", (str, list)), "text")
    warnings: list[str] = []
    return Record(
        id=id,
        image_id=id,
        file=str(file.with_suffix(IMAGES[0]).relative_to(root)),
        split=file.parent.name,
        expressions=expressions,
        expression_ids=tuple(f"{id}/{number}" for number in range(len(expressions))),
        parts=_parts(take(row, "shapes", list), warnings),
        attributes={"sentence": bool(row.get("is_sentence", False))},
        warnings=tuple(warnings),
    )


def _decoded(written: bytes) -> str:
    """Return the text of a file; some of the distributed ones are not UTF-8 but Windows' western code page."""
    try:
        return written.decode("utf-8-sig")
    except UnicodeDecodeError:
        return written.decode("cp1252", errors="replace")


def _parts(shapes: list[Any], warnings: list[str]) -> tuple[Part, ...]:
    """Return the shapes in the order in which they are painted: the largest first, so that small ones stay visible.

    LISA paints with OpenCV, which also covers the outline itself; here COCO's rasteriser is used: at the border the
    masks differ by half a pixel.

    Raises:
        DataError: a shape is malformed or of a kind without an area, or no target has an area.
    """
    found: list[tuple[float, Part]] = []
    flat = []
    for number, shape in enumerate(shapes, 1):
        label = take(shape, "label", str).lower()
        if "flag" in label:
            continue
        try:
            polygon = shape_polygon(shape)
            if len(polygon) < 6:
                flat.append(number)
                continue
            part = check_part({"polygons": [polygon], "ignored": "ignore" in label})
        except DataError as error:
            raise DataError(f"shape {number}: {error}") from None
        found.append((_area(polygon), part))
    if flat and all(part.get("ignored") for _, part in found):
        raise DataError(f"shape {flat[0]}: has fewer than three points, and no other target has an area")
    warnings += [f"shape {number} has fewer than three points" for number in flat]
    found.sort(key=lambda one: -one[0])
    return tuple(part for _, part in found)


def shape_polygon(shape: Any) -> list[Any]:
    """Return a shape of LabelMe as a flat polygon.

    Raises:
        DataError: it is malformed or of a kind without an area.
    """
    points = take(shape, "points", list)
    kind = take(shape, "shape_type", (str, type(None)), None) or "polygon"
    if not all(isinstance(point, list) and len(point) == 2 and all(map(_in_range, point)) for point in points):
        raise DataError("field 'points' must be a list of points [x, y], two finite numbers each")
    if kind == "polygon" or (kind == "rectangle" and len(points) == 4):
        return [number for point in points for number in point]
    if kind not in ("rectangle", "circle"):
        raise DataError(f"shape_type {shown(kind)} is not read; polygon, rectangle and circle are")
    if len(points) != 2:
        raise DataError(f"a {kind} must have two points, got {len(points)}")
    (x0, y0), (x1, y1) = points
    if kind == "rectangle":
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    radius = math.hypot(x1 - x0, y1 - y0)  # from the centre to a point of the edge
    angles = (2 * math.pi * step / CIRCLE for step in range(CIRCLE))
    return [number for angle in angles for number in (x0 + radius * math.cos(angle), y0 + radius * math.sin(angle))]


def _in_range(value: Any) -> bool:
    return is_number(value) and -LARGEST <= value <= LARGEST


def _area(polygon: list[Any]) -> float:
    """Return the area of a polygon, by the shoelace formula."""
    xs, ys = polygon[::2], polygon[1::2]
    twice: float = sum(x * b - a * y for x, y, a, b in zip(xs, ys, [*xs[1:], xs[0]], [*ys[1:], ys[0]], strict=True))
    return abs(twice) / 2
