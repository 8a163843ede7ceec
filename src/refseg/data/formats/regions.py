"""Regions as data sets write them (polygons, run lengths, files) to masks.

A region is painted part by part, each a JSON object of one of these kinds:

- `{"polygons": [[x, y, x, y, ...], ...]}`, in pixels;
- `{"rle": {"size": [height, width], "counts": ...}}`, COCO's run lengths, compressed (text) or not (a list);
- `{"file": "masks/1.png"}`, where a pixel that is not 0 is meant.

A part with `"ignored": true` covers pixels that are to count neither for nor against a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from pycocotools import mask as coco

from refseg.data.formats.record import LARGEST, shown
from refseg.errors import DataError
from refseg.inputs.read import MAX_PIXELS, read_mask

__all__ = ["Overlap", "Painted", "Part", "check_part", "coco_parts", "decode", "encode", "flat_polygons", "paint"]

Overlap: TypeAlias = Literal["union", "lavt"]
"""What a pixel is that several polygons of one annotation cover: meant (`union`), or background (LAVT's code)."""
Part: TypeAlias = Mapping[str, Any]
"""One part of a region, as above."""
FURTHEST = 10
"""Sides of the image that a polygon may reach beyond it; the rasteriser's memory grows with the distance."""


def coco_parts(segmentation: Any, size: tuple[int, int] | None = None) -> tuple[Part, ...]:
    """Return COCO's `segmentation` field as parts; also a list of run lengths, as REFER's files have it.

    Polygons of fewer than three points are dropped, as COCO does.

    Raises:
        DataError: it is of no kind that COCO or REFER knows, or does not fit an image of the size, (height, width).
    """
    if isinstance(segmentation, dict):
        segmentation = [segmentation]
    if not isinstance(segmentation, list):
        raise DataError(f"segmentation must be polygons or run lengths, got {shown(segmentation)}")
    if segmentation and isinstance(segmentation[0], dict):
        return tuple(check_part({"rle": one}, size) for one in segmentation)
    polygons = [polygon for polygon in segmentation if not isinstance(polygon, list) or len(polygon) >= 6]
    return (check_part({"polygons": polygons}, size),)


def check_part(part: Part, size: tuple[int, int] | None = None) -> Part:
    """Return a part that is well-formed, with only what is needed to draw it.

    Args:
        part: as above.
        size: height and width of its image, if they are known.

    Raises:
        DataError: it is not well-formed, or of another size than its image. Files are not looked at.
    """
    ignored = {"ignored": True} if part.get("ignored") else {}
    if "polygons" in part:
        polygons = part["polygons"]
        if not isinstance(polygons, list):
            raise DataError("polygons must be a list of lists of numbers")
        reach = FURTHEST * (max(size) if size else MAX_PIXELS)
        for polygon in polygons:
            _check_polygon(polygon, reach)
        return {"polygons": polygons, **ignored}
    if "rle" in part:
        rle = part["rle"]
        sides = rle.get("size") if isinstance(rle, dict) else None
        if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides)):
            raise DataError('run lengths must be {"size": [height, width], "counts": ...}')
        height, width = sides
        if not (min(height, width) > 0 and height * width <= MAX_PIXELS):
            raise DataError(f"run lengths of an impossible size, {shown(height)} x {shown(width)}")
        if size is not None and size != (height, width):
            raise DataError(f"the mask is {width} x {height}, its image {size[1]} x {size[0]}")
        counts = rle.get("counts")
        _runs(counts, height, width)
        return {"rle": {"size": [height, width], "counts": counts}, **ignored}
    if not isinstance(part.get("file"), str):
        raise DataError("a region must have polygons, rle or file")
    return {"file": part["file"], **ignored}


def _check_polygon(polygon: Any, reach: int) -> None:
    if not isinstance(polygon, list) or not all(type(value) in (int, float) for value in polygon):
        raise DataError("a polygon must be a flat list of numbers: x, y, x, y, ...")
    if len(polygon) % 2 or len(polygon) < 6:
        raise DataError(f"a polygon must have three points or more, two numbers each, got {len(polygon)} numbers")
    if not all(-reach <= value <= reach for value in polygon):
        if not all(-LARGEST <= value <= LARGEST for value in polygon):
            raise DataError("a polygon has a coordinate that is not finite, or beyond all bounds")
        raise DataError(f"a polygon reaches more than {reach} pixels beyond its image")


class Painted(NamedTuple):
    """A region as masks, which share no pixel."""

    meant: Bool[ndarray, "H W"]
    ignored: Bool[ndarray, "H W"]


def paint(
    parts: Iterable[Part],
    height: int,
    width: int,
    *,
    folder: Path | None = None,
    overlap: Overlap = "union",
) -> Painted:
    """Return the masks of a region: of what is meant, and of what is ignored. Later parts cover earlier ones.

    Args:
        parts: the region.
        height: of its image, pixels.
        width: of its image, pixels.
        folder: what files are relative to.
        overlap: what pixels are that several polygons of a part cover.

    Raises:
        DataError: a part is not well-formed, of another size than the image, or its file cannot be read.
    """
    painted = Painted(np.zeros((height, width), dtype=bool), np.zeros((height, width), dtype=bool))
    for given in parts:
        part = check_part(given, (height, width))
        if "polygons" in part:
            covered = _draw_polygons(part["polygons"], height, width, overlap)
        elif "rle" in part:
            covered = decode(part["rle"], height, width)
        else:
            covered = _read(Path(folder or "", part["file"]), height, width)
        over, under = painted[:: -1 if part.get("ignored") else 1]
        over |= covered
        under &= ~covered
    return painted


def _read(file: Path, height: int, width: int) -> Bool[ndarray, "H W"]:
    mask = read_mask(file)
    if mask.shape != (height, width):
        raise DataError(f"{file}: the mask is {mask.shape[1]} x {mask.shape[0]}, its image {width} x {height}")
    return mask


def _draw_polygons(polygons: list[Any], height: int, width: int, overlap: Overlap) -> Bool[ndarray, "H W"]:
    if not polygons:
        return np.zeros((height, width), dtype=bool)
    # As run lengths, and never all of them as pixels: of thousands of polygons that would be all memory there is.
    drawn = coco.frPyObjects(polygons, height, width)
    if overlap == "union":
        return _pixels(coco.merge(drawn))
    once = np.zeros((height, width), dtype=bool)
    again = np.zeros((height, width), dtype=bool)
    for one in drawn:
        covered = _pixels(one)
        again |= once & covered
        once |= covered
    return once & ~again


def _pixels(drawn: dict[str, Any]) -> Bool[ndarray, "H W"]:
    height, width = drawn["size"]
    return decode({"size": (height, width), "counts": drawn["counts"].decode("ascii")}, height, width)


def decode(rle: Mapping[str, Any], height: int, width: int) -> Bool[ndarray, "{height} {width}"]:
    """Return the mask of COCO's run lengths, compressed or not.

    Raises:
        DataError: they are broken, or of another size.
    """
    if tuple(rle["size"]) != (height, width):
        raise DataError(f"the mask is {rle['size'][1]} x {rle['size'][0]}, its image {width} x {height}")
    runs = _runs(rle["counts"], height, width)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def _runs(counts: Any, height: int, width: int) -> list[int]:
    """Return the lengths of runs, column by column, of background and foreground in turn."""
    if not isinstance(counts, str | list):
        raise DataError(f"the counts of run lengths must be a text or a list, got {shown(counts)}")
    runs = counts if isinstance(counts, list) else _decompressed(counts)
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != height * width:
        raise DataError(f"the run lengths do not add up to the {height * width} pixels of {width} x {height}")
    return runs


def _decompressed(text: str) -> list[int]:
    """Return the runs of compressed run lengths: base 32, six bits a character from "0" on, the lowest first.

    A run, from the fourth on, is told as the difference to the one before the last. Read here and not by pycocotools,
    because that fills pixels which no run covers with what happens to lie in memory.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        digit = ord(character) - 48
        if not 0 <= digit < 64 or shift > 35:
            raise DataError("the run lengths are broken")
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    if shift:
        raise DataError("the run lengths are cut off")
    return runs


def encode(mask: Bool[ndarray, "H W"]) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths, with counts as text."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def flat_polygons(points: Sequence[Any]) -> list[list[Any]]:
    """Return polygons of points, [[[x, y], ...], ...], as flat ones, [[x, y, ...], ...], whose numbers are unchecked.

    Raises:
        DataError: they are not that.
    """
    polygons = []
    for polygon in points:
        if not isinstance(polygon, list) or not all(isinstance(point, list) and len(point) == 2 for point in polygon):
            raise DataError("a polygon must be a list of points [x, y]")
        polygons.append([value for point in polygon for value in point])
    return polygons
