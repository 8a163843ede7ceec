"""Regions as data sets store them (polygons, run lengths, mask files), and painting them as masks.

A region is painted part by part, each a JSON object of one of these kinds:

- `{"polygons": [[x, y, x, y, ...], ...]}`, in pixels;
- `{"rle": {"size": [height, width], "counts": ...}}`, COCO's run lengths, compressed (text) or not (a list);
- `{"file": "masks/1.png"}`, an image in which every pixel that is not black belongs to the region (see `read_mask`).

Pixels of a part with `"ignored": true` are left out of training and of every count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from pycocotools import mask as coco

from refseg.data.formats.record import LARGEST, shown
from refseg.errors import DataError
from refseg.inputs.read import read_mask
from refseg.masks import MAX_PIXELS, check_mask_size, check_rle, decode_rle, polygon_mask

__all__ = ["Overlap", "Painted", "Part", "check_part", "coco_parts", "flat_polygons", "is_number", "paint", "polygons"]

Overlap: TypeAlias = Literal["union", "lavt"]
"""How a pixel counts that several polygons of one annotation cover: target (`union`), or background (LAVT's code)."""
Part: TypeAlias = Mapping[str, Any]
"""One part of a region, as above."""
FURTHEST = 10
"""Sides of the image that a polygon may reach beyond it; the rasteriser's memory grows with the distance."""


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def coco_parts(
    segmentation: Any, size: tuple[int, int] | None = None, warnings: list[str] | None = None
) -> tuple[Part, ...]:
    """Return COCO's `segmentation` field, or a list of run lengths, as REFER's files have it, as parts.

    Args:
        segmentation: as read from JSON.
        size: height and width of the image, if they are known.
        warnings: is given a message where some polygons are left out.

    Raises:
        DataError: it is of no kind that COCO or REFER knows, holds no polygon that can be used, or does not fit an
            image of the size.
    """
    if isinstance(segmentation, dict):
        segmentation = [segmentation]
    if not isinstance(segmentation, list):
        raise DataError(f"segmentation must be polygons or run lengths, got {shown(segmentation)}")
    if segmentation and isinstance(segmentation[0], dict):
        return tuple(check_part({"rle": one}, size) for one in segmentation)
    return (polygons(segmentation, size, warnings),)


def polygons(
    value: Any, size: tuple[int, int] | None = None, warnings: list[str] | None = None, *, ignored: bool = False
) -> Part:
    """Return polygons, as any data set writes them (see `flat_polygons`), as a part.

    Polygons of fewer than three points have no area and are left out.

    Args:
        value: as read from JSON.
        size: height and width of the image, if they are known.
        warnings: is given a message where some polygons are left out.
        ignored: whether the part's pixels are ignored.

    Raises:
        DataError: the polygons are malformed, or all of them have fewer than three points.
    """
    found = flat_polygons(value)
    usable = [polygon for polygon in found if len(polygon) >= 6]
    if not usable:
        what = "boxes [x, y, width, height] and lines are not masks" if any(map(len, found)) else "it is empty"
        raise DataError(f"has no polygon of three points or more: {what}")
    if warnings is not None and len(usable) < len(found):
        warnings.append(f"{len(found) - len(usable)} of {len(found)} polygons have fewer than three points")
    return check_part({"polygons": usable, "ignored": ignored}, size)


def flat_polygons(value: Any) -> list[list[Any]]:
    """Return polygons as flat lists x, y, x, y, ...; their coordinates are not checked.

    Args:
        value: a polygon, flat or a list of points [x, y]; a list of polygons; or a list of such lists.

    Raises:
        DataError: it is nested otherwise, or holds something that is not a number.
    """
    return _flattened(value, deeper=2)


def _flattened(value: Any, deeper: int) -> list[list[Any]]:
    if isinstance(value, list):
        if all(map(is_number, value)):
            return [value]
        if all(isinstance(point, list) and len(point) == 2 and all(map(is_number, point)) for point in value):
            return [[number for point in value for number in point]]
        if deeper:
            return [polygon for one in value for polygon in _flattened(one, deeper - 1)]
    raise DataError(
        f"a polygon must be a flat list of numbers x, y, ... or a list of points [x, y], got {shown(value)}"
    )


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number; it may be infinite or not a number (NaN)."""
    return type(value) in (int, float)


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_part(part: Part, size: tuple[int, int] | None = None) -> Part:
    """Return a part that is well-formed, with only the fields that are needed to paint it.

    Args:
        part: as above.
        size: height and width of its image, if they are known.

    Raises:
        DataError: it is malformed, or of another size than its image. Mask files are not opened.
    """
    ignored = {"ignored": True} if part.get("ignored") else {}
    if "polygons" in part:
        if not isinstance(part["polygons"], list):
            raise DataError("polygons must be a list of lists of numbers")
        reach = FURTHEST * (max(size) if size else MAX_PIXELS)
        for polygon in part["polygons"]:
            _check_polygon(polygon, reach)
        return {"polygons": part["polygons"], **ignored}
    if "rle" in part:
        return {"rle": check_rle(part["rle"], size=size), **ignored}
    if not isinstance(part.get("file"), str):
        raise DataError("a region must have polygons, rle or file")
    return {"file": part["file"], **ignored}


def _check_polygon(polygon: Any, reach: int) -> None:
    if not isinstance(polygon, list) or not all(map(is_number, polygon)):
        raise DataError("a polygon must be a flat list of numbers: x, y, x, y, ...")
    if len(polygon) % 2 or len(polygon) < 6:
        raise DataError(f"a polygon must have three points or more, two numbers each, got {len(polygon)} numbers")
    if not all(-reach <= value <= reach for value in polygon):
        if not all(-LARGEST <= value <= LARGEST for value in polygon):
            raise DataError("a polygon has a coordinate that is not finite, or too large")
        raise DataError(f"a polygon reaches more than {reach} pixels beyond its image")


# ── painting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Painted(NamedTuple):
    """A region as masks that share no pixel."""

    target: Bool[ndarray, "H W"]
    ignored: Bool[ndarray, "H W"]


def paint(
    parts: Iterable[Part],
    height: int,
    width: int,
    *,
    folder: Path | None = None,
    overlap: Overlap = "union",
    warnings: list[str] | None = None,
) -> Painted:
    """Return the masks of a region: the target, and the ignored pixels. Later parts cover earlier ones.

    Args:
        parts: the region.
        height: of its image, pixels.
        width: of its image, pixels.
        folder: mask files are relative to it.
        overlap: how a pixel counts that several polygons of one part cover.
        warnings: is given a message for each mask file that is not black and white (see `read_mask`).

    Raises:
        DataError: a part is malformed or of another size than the image.
        ImageError: a mask file is missing or cannot be read.
    """
    painted = Painted(np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool))
    for given in parts:
        part = check_part(given, (height, width))
        if "polygons" in part:
            covered = _paint_polygons(part["polygons"], height, width, overlap)
        elif "rle" in part:
            covered = decode_rle(part["rle"], size=(height, width))
        else:
            covered = _read(Path(folder or "", part["file"]), (height, width), warnings)
        over, under = painted[:: -1 if part.get("ignored") else 1]
        over |= covered
        under &= ~covered
    return painted


def _read(file: Path, size: tuple[int, int], warnings: list[str] | None) -> Bool[ndarray, "H W"]:
    mask = read_mask(file, warnings=warnings)
    try:
        check_mask_size(mask.shape, size)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None
    return mask


def _paint_polygons(polygons: list[Any], height: int, width: int, overlap: Overlap) -> Bool[ndarray, "H W"]:
    if overlap == "union" or not polygons:
        return polygon_mask(polygons, size=(height, width))
    # As run lengths, one polygon after the other as pixels: pixels of thousands of polygons would fill the memory.
    rles = coco.frPyObjects(polygons, height, width)
    once = np.zeros((height, width), dtype=bool)
    again = np.zeros((height, width), dtype=bool)
    for one in rles:
        covered = _pixels(one)
        again |= once & covered
        once |= covered
    return once & ~again


def _pixels(rle: dict[str, Any]) -> Bool[ndarray, "H W"]:
    return decode_rle({"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")})
