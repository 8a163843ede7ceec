"""Operations on masks: run lengths, overlap, dilation, connected components and boxes."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from pycocotools import mask as coco

from refseg.errors import DataError

__all__ = [
    "MAX_PIXELS",
    "agreement",
    "bounding_box",
    "check_mask_size",
    "check_rle",
    "decode_rle",
    "dilate",
    "encode_rle",
    "intersection_and_union",
    "iou",
    "iou_of_boxes",
    "joined",
    "near_border",
    "outline",
    "parts",
    "polygon_mask",
    "polygons",
    "rings",
]

MAX_PIXELS = 100_000_000
"""Width times height; larger masks and images are an error before they are decoded."""
MAX_DIGITS = 8
"""Characters of one number in compressed run lengths: up to 2**39, more than any mask has pixels."""


def check_mask_size(found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Check that a mask is as large as its image; both are (height, width).

    Raises:
        DataError: it is not.
    """
    if found == size:
        return
    message = f"the mask is {found[1]} x {found[0]}, its image {size[1]} x {size[0]}"
    if found == size[::-1]:
        message += "; if the photo has an EXIF orientation, turn the mask as viewers turn the photo"
    raise DataError(message)


# ── run lengths ──────────────────────────────────────────────────────────────────────────────────────────────────────


def encode_rle(mask: Bool[ndarray, "H W"]) -> dict[str, Any]:
    """Return a mask as COCO's compressed run lengths: `{"size": [height, width], "counts": text}`."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")}


def decode_rle(rle: Any, *, size: tuple[int, int] | None = None) -> Bool[ndarray, "H W"]:
    """Return the mask of COCO's run lengths, compressed (text) or not (a list).

    Args:
        rle: `{"size": [height, width], "counts": ...}`; it may come from an untrusted file.
        size: the expected height and width, pixels; None: any up to `MAX_PIXELS`.

    Raises:
        DataError: the run lengths are malformed, do not add up to their size, or are of another size than expected.
    """
    height, width, runs = _checked(rle, size)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def check_rle(rle: Any, *, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Return run lengths that `decode_rle` accepts, without other fields; the mask is not decoded.

    Raises:
        DataError: as `decode_rle`.
    """
    height, width, _ = _checked(rle, size)
    return {"size": [height, width], "counts": rle["counts"]}


def _checked(rle: Any, size: tuple[int, int] | None) -> tuple[int, int, Int64[ndarray, "N"]]:
    """Return height, width and the lengths of runs, column by column, of background and foreground in turn."""
    sides = rle.get("size") if isinstance(rle, Mapping) else None
    if not (isinstance(sides, list | tuple) and len(sides) == 2 and all(type(side) is int for side in sides)):
        raise DataError('run lengths must be {"size": [height, width], "counts": ...}')
    height, width = sides
    if size is not None:
        check_mask_size((height, width), size)
    elif not (0 < height <= MAX_PIXELS and 0 < width <= MAX_PIXELS and height * width <= MAX_PIXELS):
        raise DataError("the run lengths have an impossible size")
    counts, pixels = rle.get("counts"), height * width
    if isinstance(counts, str):
        runs = _decompressed(counts)
    elif not isinstance(counts, list):
        raise DataError(f"the counts of run lengths must be a text or a list, got {type(counts).__name__}")
    elif all(type(run) is int and 0 <= run <= pixels for run in counts):
        runs = np.array(counts, dtype=np.int64)
    else:
        raise DataError("the counts of run lengths must be integers from 0 to the number of pixels")
    # A difference has at most 40 bits: a sum of them that overflows 64 bits passes through values that are errors here.
    if not ((runs >= 0) & (runs <= pixels)).all() or runs.sum() != pixels:
        raise DataError(f"the run lengths do not add up to the {pixels} pixels of {width} x {height}")
    return height, width, runs


def _decompressed(text: str) -> Int64[ndarray, "N"]:
    """Return the runs of compressed run lengths.

    A number is written in digits of five bits, the lowest first, each as one character from "0" on, with a sixth bit
    where another digit follows; the highest bit is the sign. From the fourth run on it is the difference to the run
    before the last. pycocotools is not used: it leaves pixels that no run covers uninitialised.
    """
    digits = np.frombuffer(text.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int64) - 48
    if not ((digits >= 0) & (digits < 64)).all():
        raise DataError("the run lengths hold a character that is not a digit of theirs")
    last = digits & 32 == 0
    ends = np.flatnonzero(last)
    if len(digits) and not last[-1]:
        raise DataError("the run lengths are cut off")
    starts = np.append(0, ends + 1)[: len(ends)]
    lengths = ends - starts + 1
    if (lengths > MAX_DIGITS).any():
        raise DataError("the run lengths hold a number that is too large")
    if not len(ends):
        return ends
    shifts = 5 * (np.arange(len(digits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((digits & 31) << shifts, starts)
    runs -= (digits[ends] >> 4 & 1) << 5 * lengths
    for start in (1, 2):
        runs[start::2] = runs[start::2].cumsum()
    return np.asarray(runs)


def polygon_mask(polygons: Sequence[Sequence[float]], *, size: tuple[int, int]) -> Bool[ndarray, "H W"]:
    """Return the pixels inside any of some polygons, as COCO's tools rasterise them.

    Args:
        polygons: each x, y, x, y... in pixels, of three corners or more.
        size: the height and width of the mask.
    """
    if not polygons:
        return np.zeros(size, dtype=bool)
    merged = coco.merge(coco.frPyObjects([list(one) for one in polygons], *size))
    return decode_rle({"size": list(merged["size"]), "counts": merged["counts"].decode("ascii")})


STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))
"""Rows and columns from one corner of a pixel to the next: right, down, left, up."""


def polygons(mask: Bool[ndarray, "H W"]) -> list[list[int]]:
    """Return the outer borders of a mask's connected components (4 neighbours) as COCO's polygons; holes are filled.

    They run along the edges of pixels, so that `polygon_mask` returns a mask without holes exactly.

    Returns:
        Each x, y, x, y... in pixels, clockwise, a corner wherever the border turns.
    """
    return [outer for outer, *_ in rings(mask)]


def rings(mask: Bool[ndarray, "H W"]) -> list[list[list[int]]]:
    """Return all borders of each connected component (4 neighbours) of a mask: the outer one, then those of its holes.

    Returns:
        For each component its borders, each x, y, x, y... in pixels along the edges of pixels, a corner wherever it
        turns; the outer one runs clockwise, those of holes the other way.
    """
    left, top, right, bottom = bounding_box(mask) or (0, 0, 0, 0)
    part = mask[top:bottom, left:right]
    height, width = part.shape
    padded = np.pad(part, 1)
    edges: list[tuple[int, int, int]] = []  # (row, column, direction) of each edge that has the mask on its right
    for direction, (row, column) in enumerate(STEPS):
        beside = padded[
            1 - column : 1 - column + height, 1 + row : 1 + row + width
        ]  # the pixel on the left of the edge
        rows, columns = np.nonzero(part & ~beside)
        rows, columns = rows + top + (direction in (2, 3)), columns + left + (direction in (1, 2))
        edges += zip(rows.tolist(), columns.tolist(), [direction] * len(rows), strict=True)
    known = set(edges)
    ring_of: dict[tuple[int, int, int], int] = {}
    found, areas = list[list[int]](), list[int]()
    for start in edges:
        if start in ring_of:
            continue
        corners: list[int] = []
        area, edge = 0, start
        while edge not in ring_of:
            ring_of[edge] = len(found)
            down, across = STEPS[edge[2]]
            row, column = edge[0] + down, edge[1] + across
            area += column * down - row * across
            # Where two pixels touch at a corner, the border stays with the pixel that it follows: it turns right.
            turns = ((row, column, (edge[2] + turn) % 4) for turn in (1, 0, 3))
            following = next(turn for turn in turns if turn in known)
            if following[2] != edge[2]:
                corners += [column, row]
            edge = following
        found.append(corners)
        areas.append(area)
    components = {number: [found[number]] for number, area in enumerate(areas) if area > 0}
    outer_of = {number: number for number in components}
    # Left of the first pixel of a hole in reading order is the mask, which ends there at another border of the same
    # component: the outer one, or that of a hole which comes earlier in this order.
    first_pixels = [
        (*min(zip(found[number][1::2], found[number][::2], strict=True)), number)
        for number, area in enumerate(areas)
        if area < 0
    ]
    for row, column, number in sorted(first_pixels):
        outside = np.flatnonzero(~mask[row, :column])
        first = int(outside[-1]) + 1 if len(outside) else 0
        outer_of[number] = outer_of[ring_of[row + 1, first, 3]]
        components[outer_of[number]].append(found[number])
    return list(components.values())


def joined(borders: Sequence[Sequence[int]]) -> list[int]:
    """Return one polygon that encloses by the even-odd rule what several borders enclose together.

    From each border a line leads to the nearest corner of those before it and back again: it encloses nothing, so that
    `polygon_mask` returns the mask of `rings` exactly, with its holes.

    Args:
        borders: each x, y, x, y...; at least one.
    """
    path = np.reshape(borders[0], (-1, 2))
    for border in borders[1:]:
        ring = np.reshape(border, (-1, 2))
        distances = ((path[:, None] - ring[None]) ** 2).sum(axis=2)
        here, there = divmod(int(distances.argmin()), len(ring))
        path = np.concatenate([path[: here + 1], ring[there:], ring[: there + 1], path[here:]])
    return [int(value) for value in path.flat]


# ── two masks ────────────────────────────────────────────────────────────────────────────────────────────────────────


def intersection_and_union(one: Bool[ndarray, "H W"], other: Bool[ndarray, "H W"]) -> tuple[int, int]:
    """Return the pixels that two masks share, and the pixels that at least one of them has."""
    both = int(np.count_nonzero(one & other))
    return both, int(np.count_nonzero(one)) + int(np.count_nonzero(other)) - both


def iou(one: Bool[ndarray, "H W"], other: Bool[ndarray, "H W"]) -> float:
    """Return the intersection over union of two masks, 0 where both are empty."""
    intersection, union = intersection_and_union(one, other)
    return intersection / union if union else 0.0


def agreement(masks: Iterable[Bool[ndarray, "H W"]], others: Iterable[Bool[ndarray, "H W"]]) -> float:
    """Return the mean intersection over union of masks with others; of two empty masks it is 1."""
    pairs = [intersection_and_union(one, other) for one, other in zip(masks, others, strict=True)]
    return statistics.fmean(both / either if either else 1.0 for both, either in pairs)


# ── shape ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def bounding_box(mask: Bool[ndarray, "H W"]) -> tuple[int, int, int, int] | None:
    """Return the smallest box (x0, y0, x1, y1) around a mask, pixels, x1 and y1 exclusive; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def iou_of_boxes(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the intersection over union of two boxes (x0, y0, x1, y1); 1 for equal boxes of no size."""
    shared = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    shared *= max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    union = sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)) - shared
    return float(shared / union) if union > 0 else float([*first] == [*second])


def dilate(mask: Bool[ndarray, "H W"], radius: int) -> Bool[ndarray, "H W"]:
    """Return the mask dilated by a square of 2 radius + 1 pixels."""
    for _ in range(2):  # along one axis, then along the other
        sums = np.pad(mask, ((radius + 1, radius), (0, 0))).cumsum(axis=0, dtype=np.int32)
        mask = (sums[2 * radius + 1 :] > sums[: len(sums) - 2 * radius - 1]).T
    return mask


def outline(mask: Bool[ndarray, "H W"], thickness: int) -> Bool[ndarray, "H W"]:
    """Return the pixels outside a mask within `thickness` pixels of it, diagonal steps counting 1."""
    around: ndarray = dilate(mask, thickness) & ~mask
    return around


def near_border(mask: Bool[ndarray, "H W"], radius: int) -> Bool[ndarray, "H W"]:
    """Return the pixels on both sides of a mask's border within `radius` pixels of it, diagonal steps counting 1.

    The edge of the image is not a border.
    """
    near: ndarray = dilate(mask, radius) & dilate(~mask, radius)
    return near


def parts(mask: Bool[ndarray, "H W"]) -> list[int]:
    """Return the number of pixels of each connected component of a mask (8 neighbours), the largest first."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    leader = list(range(len(rows)))

    def first(run: int) -> int:
        while leader[run] != run:
            leader[run] = leader[leader[run]]
            run = leader[run]
        return run

    above = 0  # the first run of the row above that may still touch
    for run in range(len(rows)):
        while above < run and (
            rows[above] < rows[run] - 1 or (rows[above] == rows[run] - 1 and ends[above] < starts[run])
        ):
            above += 1
        touching = above
        while touching < run and rows[touching] == rows[run] - 1 and starts[touching] <= ends[run]:
            leader[first(run)] = first(touching)
            touching += 1
    sizes = np.bincount([first(run) for run in range(len(rows))], weights=ends - starts, minlength=1)
    return sorted((int(size) for size in sizes if size), reverse=True)
