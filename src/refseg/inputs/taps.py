"""Interpolation along one axis: which input values make up each output value, and with which weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray

__all__ = ["CUBIC_A", "Kernel", "Taps", "area", "area_enlarged", "cubic", "linear", "nearest", "resized"]

CUBIC_A = -0.75
"""Keys' parameter of cubic convolution, as OpenCV and PyTorch use it."""

Kernel: TypeAlias = Callable[[ndarray], list[ndarray]]
"""The weights of the pixels around a position, from the position's fraction of a pixel, 0..1."""


def linear(part: ndarray) -> list[ndarray]:
    """Return the weights of linear interpolation."""
    return [1 - part, part]


def cubic(part: ndarray) -> list[ndarray]:
    """Return the weights of Keys' cubic convolution."""
    a = part.dtype.type(CUBIC_A)

    def near(d: ndarray) -> ndarray:  # 0 <= d <= 1
        return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1)

    def far(d: ndarray) -> ndarray:  # 1 <= d <= 2
        return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a)

    return [far(1 + part), near(part), near(1 - part), far(2 - part)]


@dataclass(frozen=True, eq=False)
class Taps:
    """The input pixels that make up each of n output pixels of an axis, with their weights."""

    index: Int64[ndarray, "k n"]
    weight: Float[ndarray, "k n"]
    """Zero for what lies outside the input; its index is then any valid one."""

    @classmethod
    def look_up(cls, at: Float[ndarray, "n"], length: int, kernel: Kernel) -> Taps:
        """The taps at positions in 1/1024 of a pixel of an input axis of `length` pixels."""
        steps = (at.astype(np.int64) + 16) >> 5  # to the nearest 1/32
        weight = np.stack(kernel((steps & 31) / 32))
        index = (steps >> 5) + np.arange(len(weight))[:, None] - (len(weight) // 2 - 1)
        inside = (index >= 0) & (index < length)
        return cls(np.where(inside, index, 0), (weight * inside).astype(np.float32))

    def apply(self, values: Shaped[ndarray, "length m"]) -> Float[ndarray, "n m"]:
        """Interpolate along the first axis."""
        result = np.zeros((self.index.shape[1], values.shape[1]), np.float32)
        for index, weight in zip(self.index, self.weight, strict=True):
            part = values[index].astype(np.float32, copy=False)
            part *= weight[:, None]
            result += part
        return result

    def only(self, wanted: Bool[ndarray, "n"]) -> Taps:
        """These taps for some of the output pixels."""
        return Taps(self.index[:, wanted], self.weight[:, wanted])

    def narrow(self, values: Shaped[ndarray, "..."], axis: int) -> tuple[Taps, Shaped[ndarray, "..."]]:
        """A copy of the values without what no tap reads along this axis, and the taps for it."""
        needed, index = np.unique(self.index, return_inverse=True)
        return Taps(index.reshape(self.index.shape), self.weight), values.take(needed, axis=axis)


def resized(length: int, new: int, kernel: Kernel, places: range | None = None) -> Taps:
    """Return the taps that resize an axis of `length` values to `new`, or to some places of the `new`.

    Both axes have the same outer edges: value i of n covers i/n to (i + 1)/n. Beyond an edge, the outermost value is
    repeated, as OpenCV and PyTorch (without aligned corners) do.
    """
    at = (np.arange(new)[slice(None) if places is None else places] + 0.5) * (length / new) - 0.5
    first = np.floor(at).astype(np.int64)
    weight = np.stack(kernel(at - first))
    index = first + np.arange(len(weight))[:, None] - (len(weight) // 2 - 1)
    return Taps(np.clip(index, 0, length - 1), weight.astype(np.float32))


def nearest(length: int, new: int, *, middle: bool) -> Taps:
    """Return the taps that give each of `new` values one of `length`: that which its middle, or its start, lies in.

    Pillow takes the middle, OpenCV the start.
    """
    index = ((np.arange(new) + 0.5 * middle) * (length / new)).astype(np.int64)
    return Taps(index[None], np.ones((1, new), np.float32))


def area(length: int, new: int) -> Taps:
    """Return the taps that give each of at most `length` values the mean of the part of the axis that it covers."""
    ends = np.arange(new + 1) * (length / new)
    first = np.floor(ends[:-1]).astype(np.int64)
    index = first + np.arange(int(np.ceil(length / new)) + 1)[:, None]
    covered = np.minimum(index + 1, ends[1:]) - np.maximum(index, ends[:-1])
    weight = np.maximum(covered, 0) * (new / length)
    return Taps(np.minimum(index, length - 1), weight.astype(np.float32))


def area_enlarged(length: int, new: int) -> Taps:
    """Return the taps of OpenCV's `INTER_AREA` for an image of which one side or both are enlarged.

    A new value is that of the value that it lies in, and is interpolated linearly where it lies in two.
    """
    inverse = new / length
    first = np.floor(np.arange(new) / inverse).astype(np.int64)
    part = np.arange(1, new + 1) - (first + 1) * inverse
    part = np.where(part <= 0, 0, part - np.floor(part))
    index = np.minimum(np.stack([first, first + 1]), length - 1)
    return Taps(index, np.stack([1 - part, part]).astype(np.float32))
