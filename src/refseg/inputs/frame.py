"""How an image lies in the square that a model sees, and how scores of that square return to the image's own size.

In both directions the image is only scaled and shifted along its axes, so a warp is one pass along each axis with at
most four source pixels per output pixel. The result equals that of a two-dimensional warp.

The reference warps with OpenCV 4, which rounds source positions to 1/32 of a pixel. At a sharp edge this rounding alone
changes a value by several grey levels, so it is reproduced here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray
from PIL import Image

from refseg.errors import ConfigError, ImageError

__all__ = ["Frame", "letterbox"]

BLOCK_PIXELS = 2**20
"""Pixels restored at a time: bounds the memory beside the result."""
BLOCK = 4096
"""Columns above which only those that are needed are copied; bounds the memory for extremely long images."""
CUBIC_A = -0.75
"""Keys' parameter of cubic convolution, as OpenCV and PyTorch use it."""


@dataclass(frozen=True)
class Frame:
    """The place of an image of height x width pixels in the square of a model: scaled to fit, centred, with a border.

    Source: CRIS letterboxes and evaluates this way; its code, dataset.py and engine.py.
    """

    height: int
    """Of the image, pixels."""
    width: int
    size: int
    """Side of the square, pixels."""

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.size) < 1:
            raise ConfigError(
                f"an image of {self.width}x{self.height} cannot lie in a square of {self.size}; all must be 1 or more"
            )

    @property
    def scale(self) -> float:
        """Pixels of the square for one pixel of the image."""
        return min(self.size / self.height, self.size / self.width)

    def restore(self, scores: Float[ndarray, "h w"]) -> Float[ndarray, "{self.height} {self.width}"]:
        """Return scores of the square at the image's own size, as the reference does for evaluation.

        Scores of another side than `size` are enlarged to it (bicubic, corners aligned), then warped (bicubic, zero
        outside). Both steps are linear along each axis, so they are multiplied into one small matrix for each axis.
        Bicubic interpolation overshoots at edges: values of 0..1 may come out between about -0.3 and 1.3.

        Source: CRIS; its code, engine.py.
        """
        restored = np.empty((self.height, self.width), np.float32)
        for rows, block in self.restore_blocks(scores):
            restored[rows] = block
        return restored

    def restore_blocks(self, scores: Float[ndarray, "h w"]) -> Iterator[tuple[slice, Float[ndarray, "rows width"]]]:
        """Yield the rows of `restore` from top to bottom, about a million pixels at a time, each with its place.

        No matrix product is used: the threads of numpy's would compete with those of the library that computes the
        model, which takes several times as long.
        """
        values = np.ascontiguousarray(scores, dtype=np.float32)
        height, width = values.shape
        step = max(1, BLOCK_PIXELS // self.width)
        chunks = [range(left, min(left + BLOCK, self.width)) for left in range(0, self.width, BLOCK)]
        # Few rows of full width are made into many; where such rows would take much memory, the other way round.
        wide = _restoration(self, width, "columns", chunks[0]).apply(values.T).T.copy() if len(chunks) == 1 else None
        for top in range(0, self.height, step):
            rows = range(top, min(top + step, self.height))
            taps = _restoration(self, height, "rows", rows)
            if wide is not None:
                yield slice(rows.start, rows.stop), taps.apply(wide)
                continue
            turned = taps.apply(values).T.copy()
            parts = [_restoration(self, width, "columns", chunk).apply(turned).T for chunk in chunks]
            yield slice(rows.start, rows.stop), np.concatenate(parts, axis=1)

    def letterbox_mask(
        self, mask: Bool[ndarray, "{self.height} {self.width}"] | Float[ndarray, "{self.height} {self.width}"]
    ) -> Float[ndarray, "{self.size} {self.size}"]:
        """Return a mask, (H, W) in 0..1, placed in the square as the image is: bilinear, zero outside, soft edges.

        Raises:
            ImageError: the mask is of another size than the image, or neither bool nor float.

        Source: the training target of CRIS; its code, dataset.py. (There it is rounded to 1/255, here it is not.)
        """
        if mask.shape != (self.height, self.width) or mask.dtype.kind not in "bf":
            raise ImageError(
                f"a mask of {mask.dtype} and shape {mask.shape} does not fit the image; "
                f"give bool, or float in 0..1, of shape {(self.height, self.width)}"
            )
        values = mask.view(np.uint8) if mask.dtype == bool else mask
        return np.asarray(_warp(values[..., None], self._image_rows(_linear), self._image_columns(_linear))[0])

    # OpenCV computes the transform from three points in float32, then looks up the source position of each output pixel
    # in 1/1024 and then in 1/32 of a pixel. It rounds the two terms of x separately and those of y together.

    def _forward(self, length: int) -> tuple[float, float]:
        """Slope and offset from a position on one axis of the image, `length` pixels long, to the square."""
        new = length * self.scale
        border = (self.size - new) / 2
        start, end = float(np.float32(border)), float(np.float32(new + border))
        return (end - start) / length or self.scale, start  # float32 loses extremely narrow images: their scale

    def _image_rows(self, kernel: _Kernel) -> _Taps:
        """The rows of the image that make up each row of the square."""
        slope, start = self._forward(self.height)
        at = np.rint((np.arange(self.size) / slope - start / slope) * 1024)
        return _Taps.look_up(at, self.height, kernel)

    def _image_columns(self, kernel: _Kernel) -> _Taps:
        slope, start = self._forward(self.width)
        at = np.rint(np.arange(self.size) / slope * 1024) + np.rint(-start / slope * 1024)
        return _Taps.look_up(at, self.width, kernel)

    def _square_rows(self, rows: range) -> _Taps:
        """The rows of the square that make up some rows of the image."""
        slope, start = self._forward(self.height)
        return _Taps.look_up(np.rint((np.array(rows) * slope + start) * 1024), self.size, _cubic)

    def _square_columns(self, columns: range) -> _Taps:
        slope, start = self._forward(self.width)
        at = np.rint(np.array(columns) * slope * 1024) + np.rint(start * 1024)
        return _Taps.look_up(at, self.size, _cubic)


def letterbox(
    image: Image.Image, size: int, *, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> tuple[Float[ndarray, "3 {size} {size}"], Frame]:
    """Scale an image to fit a square of size x size pixels, centre it, and normalise it.

    The border has the colour that normalises to zero, up to the rounding to 8 bits. It takes part in the interpolation:
    the outermost pixels of the image blend into it.

    Args:
        image: of mode RGB, as `read_image` returns it.
        size: side of the square, pixels.
        mean: of each channel, subtracted from values in 0..1.
        std: of each channel, a divisor.

    Returns:
        The pixels, float32, and the frame that restores scores of the square.

    Raises:
        ImageError: the image is not RGB.
        ConfigError: size is less than 1.

    Source: CRIS's input, `cv2.warpAffine(INTER_CUBIC)`; its code, dataset.py.
    """
    if image.mode != "RGB":
        raise ImageError(f"an image of mode {image.mode} cannot be letterboxed; let read_image make it RGB")
    frame = Frame(image.height, image.width, size)
    # OpenCV sets the border in the image's 8 bits.
    border = np.rint(np.array(mean, np.float32) * 255)
    square = _warp(np.asarray(image), frame._image_rows(_cubic), frame._image_columns(_cubic), border)
    np.floor(square + np.float32(0.5), out=square)
    np.clip(square, 0, 255, out=square)
    square /= np.float32(255)
    square -= np.array(mean, np.float32)[:, None, None]
    square /= np.array(std, np.float32)[:, None, None]
    return square, frame


# ── one axis of a warp ───────────────────────────────────────────────────────────────────────────────────────────────

_Kernel: TypeAlias = Callable[[ndarray], list[ndarray]]
"""The weights of the pixels around a position, from the position's fraction of a pixel, 0..1."""


def _linear(part: ndarray) -> list[ndarray]:
    return [1 - part, part]


def _cubic(part: ndarray) -> list[ndarray]:
    """Keys' cubic convolution."""
    a = part.dtype.type(CUBIC_A)

    def near(d: ndarray) -> ndarray:  # 0 <= d <= 1
        return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1)

    def far(d: ndarray) -> ndarray:  # 1 <= d <= 2
        return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a)

    return [far(1 + part), near(part), near(1 - part), far(2 - part)]


@lru_cache(maxsize=16)
def _enlargement(side: int, size: int) -> Float[ndarray, "size side"]:
    """The matrix that enlarges `side` values to `size`, bicubic with aligned corners."""
    at = np.arange(size, dtype=np.float32) * np.float32((side - 1) / max(size - 1, 1))
    first = np.floor(at).astype(np.int64)
    matrix = np.zeros((size, side), np.float32)
    for offset, weight in enumerate(_cubic(at - first.astype(np.float32)), start=-1):
        np.add.at(matrix, (np.arange(size), np.clip(first + offset, 0, side - 1)), weight)
    matrix.flags.writeable = False  # shared by all callers
    return matrix


@lru_cache(maxsize=64)
def _restoration(frame: Frame, side: int, axis: Literal["rows", "columns"], places: range) -> _Taps:
    """The cells of a map of scores that make up some rows or columns of the image: enlargement and warp in one."""
    warp = frame._square_rows(places) if axis == "rows" else frame._square_columns(places)
    matrix = warp.apply(_enlargement(side, frame.size))
    # The cells of an output pixel lie together: a window as wide as the widest.
    used = matrix != 0
    first = used.argmax(axis=1)
    last = side - 1 - used[:, ::-1].argmax(axis=1)
    index = first + np.arange(int((last - first)[used.any(axis=1)].max(initial=0)) + 1)[:, None]
    weight = np.where(index < side, matrix[np.arange(len(matrix)), np.minimum(index, side - 1)], 0)
    return _Taps(np.minimum(index, side - 1), weight.astype(np.float32))


@dataclass(frozen=True, eq=False)
class _Taps:
    """The input pixels that make up each of n output pixels of an axis, with their weights."""

    index: Int64[ndarray, "k n"]
    weight: Float[ndarray, "k n"]
    """Zero for what lies outside the input; its index is then any valid one."""

    @classmethod
    def look_up(cls, at: Float[ndarray, "n"], length: int, kernel: _Kernel) -> _Taps:
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

    def only(self, wanted: Bool[ndarray, "n"]) -> _Taps:
        """These taps for some of the output pixels."""
        return _Taps(self.index[:, wanted], self.weight[:, wanted])

    def narrow(self, values: Shaped[ndarray, "..."], axis: int) -> tuple[_Taps, Shaped[ndarray, "..."]]:
        """A copy of the values without what no tap reads along this axis, and the taps for it."""
        needed, index = np.unique(self.index, return_inverse=True)
        return _Taps(index.reshape(self.index.shape), self.weight), values.take(needed, axis=axis)


def _warp(
    image: Shaped[ndarray, "H W C"], rows: _Taps, columns: _Taps, border: Float[ndarray, "C"] | None = None
) -> Float[ndarray, "C S S"]:
    """Interpolate along one axis, then along the other; what lies outside the image has the border's colour, or 0."""
    within = np.asarray(rows.weight.any(axis=0))  # the other rows of the square are border and nothing else
    rows, image = rows.only(within).narrow(image, axis=0)
    if image.shape[1] > BLOCK:  # whole rows of such images would take much memory; of others they take little
        columns, image = columns.narrow(image, axis=1)
    width, channels = image.shape[1:]
    border = np.zeros(channels, np.float32) if border is None else border
    lines = rows.apply(image.reshape(len(image), width * channels))
    # Relative to the border's colour, everything outside is zero and needs no tap.
    coloured = lines.reshape(len(lines), width, channels)
    coloured -= border * rows.weight.sum(axis=0)[:, None, None]
    # Both passes gather whole lines of memory: the second runs on the transposed image.
    turned = np.ascontiguousarray(coloured.transpose(1, 2, 0)).reshape(width, -1)
    inner = columns.apply(turned)
    size = len(within)
    square = np.zeros((channels, size, size), np.float32)
    square[:, within] = inner.reshape(size, channels, -1).transpose(1, 2, 0)
    square += border[:, None, None]
    return square
