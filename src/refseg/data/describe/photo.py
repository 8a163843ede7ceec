"""An annotated photo: its objects with what can be measured of their masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from refseg.data.describe.colours import Shares, colour_shares, has_colours
from refseg.masks import bounding_box, decode_rle, dilate

__all__ = ["COMPONENTS", "KINDS", "Photo", "Thing", "things_of"]

KINDS = ("instance", "component", "merged", "region", "crowd")
"""What a mask is of: one object; a connected part of all objects of a name, usually one of them; touching objects of a
name; a surface, a substance or clothing; many objects, of which others may have masks of their own."""
COMPONENTS = ("none", "lone", "all")
"""Which masks of kind `component` may be taken for one object: none, those that are the only one of their name, all."""
NEAR = 0.02
"""Masks closer than this fraction of the longer side touch: borders between objects are left out of some masks."""
GAP, LARGE_PART = 0.08, 0.25
"""Fractions of the photo's width, and of the mask's pixels: a wider gap between larger parts may be one between two
objects."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Thing:
    """An annotated object, or region, of a photo. Lengths are fractions of the photo's width or height."""

    name: str
    kind: str
    rle: Mapping[str, Any]
    single: bool
    """Whether the mask is of exactly one object."""
    mask: Bool[ndarray, "H W"]
    box: tuple[int, int, int, int]
    """In pixels."""

    @cached_property
    def area(self) -> float:
        """The fraction of the photo's pixels."""
        return float(np.count_nonzero(self.crop)) / self.mask.size

    @cached_property
    def crop(self) -> Bool[ndarray, "h w"]:
        """The mask within its box."""
        x0, y0, x1, y1 = self.box
        return self.mask[y0:y1, x0:x1]

    @cached_property
    def span(self) -> tuple[float, float, float, float]:
        """The box: left, top, right, bottom."""
        height, width = self.mask.shape
        x0, y0, x1, y1 = self.box
        return x0 / width, y0 / height, x1 / width, y1 / height

    @property
    def width(self) -> float:
        """The width of the box."""
        return self.span[2] - self.span[0]

    @property
    def height(self) -> float:
        """The height of the box."""
        return self.span[3] - self.span[1]

    @property
    def x(self) -> float:
        """The middle of the box from the left."""
        return (self.span[0] + self.span[2]) / 2

    @property
    def y(self) -> float:
        """The middle of the box from the top."""
        return (self.span[1] + self.span[3]) / 2

    @cached_property
    def centroid(self) -> tuple[float, float]:
        """The mean of its pixels, from the left and from the top."""
        height, width = self.mask.shape
        x0, y0, _, _ = self.box
        columns, rows = self.crop.sum(axis=0), self.crop.sum(axis=1)
        count = columns.sum()
        x = float((columns * np.arange(len(columns))).sum() / count) + x0 + 0.5
        y = float((rows * np.arange(len(rows))).sum() / count) + y0 + 0.5
        return x / width, y / height

    @cached_property
    def cut(self) -> bool:
        """Whether it may continue beyond the edge of the photo."""
        height, width = self.mask.shape
        x0, y0, x1, y1 = self.box
        return x0 <= 1 or y0 <= 1 or x1 >= width - 1 or y1 >= height - 1

    @cached_property
    def length(self) -> float:
        """The longer side of the box in pixels."""
        x0, y0, x1, y1 = self.box
        return max(x1 - x0, y1 - y0)

    def touches(self, other: Thing) -> bool:
        """Return whether the two masks are as good as touching."""
        radius = math.ceil(NEAR * max(self.mask.shape))
        x0, y0 = (max(one, two) - radius for one, two in zip(self.box[:2], other.box[:2], strict=True))
        x1, y1 = (min(one, two) + radius for one, two in zip(self.box[2:], other.box[2:], strict=True))
        if x0 >= x1 or y0 >= y1:
            return False
        window = slice(max(0, y0), y1), slice(max(0, x0), x1)
        return bool((dilate(self.mask[window], radius) & other.mask[window]).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """A photo with all that is annotated in it."""

    things: tuple[Thing, ...]
    labelled: frozenset[str] = frozenset()
    """Names that are labelled wherever they occur, so that their absence is known."""
    hidden: bool = False
    """Whether something is there that has no name: then no absence is known."""
    read: Callable[[], UInt8[ndarray, "H W 3"]]
    """Returns the pixels. Called at most once, and only if a colour is asked for."""
    _shares: dict[int, Shares] = field(default_factory=dict)

    @cached_property
    def pixels(self) -> UInt8[ndarray, "H W 3"] | None:
        """The pixels; None where the photo is black and white."""
        pixels = self.read()
        return pixels if has_colours(pixels) else None

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of all its things."""
        return frozenset(thing.name for thing in self.things)

    def shares(self, index: int) -> Shares | None:
        """Return the colours of a thing (see `colours.colour_shares`); None where the photo is black and white."""
        if self.pixels is None:
            return None
        if index not in self._shares:
            thing = self.things[index]
            x0, y0, x1, y1 = thing.box
            # Without its border, where its colour mixes with that of what is behind it.
            core = thing.crop & ~dilate(~thing.crop, 1)
            self._shares[index] = colour_shares(self.pixels[y0:y1, x0:x1][core if core.any() else thing.crop])
        return self._shares[index]


def _scattered(crop: Bool[ndarray, "h w"], width: int) -> bool:
    """Return whether a mask has a wide gap between two parts that are both large: it may show two objects."""
    columns = crop.sum(axis=0)
    filled = np.flatnonzero(columns)
    gaps = np.diff(filled)
    before = columns.cumsum()[filled[:-1]] / columns.sum()
    return bool(((gaps > GAP * width) & (before > LARGE_PART) & (before < 1 - LARGE_PART)).any())


def things_of(
    annotated: Sequence[tuple[str, str, Mapping[str, Any]]], size: tuple[int, int], *, components: str = "lone"
) -> tuple[Thing, ...]:
    """Return the things of a photo; empty masks are left out.

    Args:
        annotated: name, kind and run lengths of each.
        size: height and width of the photo, pixels.
        components: which masks of kind `component` are taken for one object: `none`, `lone` (those that are the only
            one of their name) or `all`.

    Raises:
        DataError: run lengths are malformed or of another size.
    """
    parts = [name for name, kind, _ in annotated if kind in ("component", "merged")]
    found = []
    for name, kind, rle in annotated:
        mask = decode_rle(rle, size=size)
        box = bounding_box(mask)
        if box is None:
            continue
        trusted = components == "all" or (components == "lone" and parts.count(name) == 1)
        single = kind == "instance" or (kind == "component" and trusted)
        x0, y0, x1, y1 = box
        single = single and not _scattered(mask[y0:y1, x0:x1], size[1])
        found.append(Thing(name=name, kind=kind, rle=rle, single=single, mask=mask, box=box))
    return tuple(found)
