"""How an image lies in the square that a model sees, and how scores of that square return to the image's own size.

In both directions the image is only scaled and shifted along its axes, so a warp is one pass along each axis with at
most four source pixels per output pixel. The result equals that of a two-dimensional warp.

The reference warps with OpenCV 4, which rounds source positions to 1/32 of a pixel. At a sharp edge this rounding alone
changes a value by several grey levels, so it is reproduced here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

import numpy as np
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from PIL import Image

from refseg.errors import ConfigError, ImageError
from refseg.inputs.taps import Kernel, Taps, area, area_enlarged, cubic, linear, nearest, resized

__all__ = ["Fit", "Frame", "letterbox", "pad", "squash"]

Fit: TypeAlias = Literal["letterbox", "pad-cubic", "pad-antialiased", "squash"]
"""How an image is placed in a square.

`letterbox`: scaled to fit and centred to a fraction of a pixel, by one warp (CRIS). `pad-cubic` and `pad-antialiased`:
resized to fit to whole pixels, and centred on grey. The first interpolates as OpenCV's `INTER_CUBIC` does, masks too
(VLT); the second as Pillow's bicubic filter, which averages where it shrinks, masks to the nearest pixel (MCN).
`squash`: both sides are resized to that of the square, by the mean over areas, masks to the nearest pixel (EFN).
"""

GREY: Mapping[str, float] = MappingProxyType({"pad-cubic": 127.5, "pad-antialiased": 128})
"""The grey level of the border around a padded image."""
BLOCK_PIXELS = 2**20
"""Pixels restored at a time: bounds the memory beside the result."""
BLOCK = 4096
"""Columns above which only those that are needed are copied; bounds the memory for extremely long images."""


@dataclass(frozen=True)
class Frame:
    """The place of an image of height x width pixels in the square of a model.

    Source: CRIS letterboxes and evaluates this way; its code, dataset.py and engine.py. The other fits are those of
    the code of MCN, VLT and EFN.
    """

    height: int
    """Of the image, pixels."""
    width: int
    size: int
    """Side of the square, pixels."""
    fit: Fit = "letterbox"
    """How the image is placed."""

    def __post_init__(self) -> None:
        if self.fit not in get_args(Fit):
            raise ConfigError(f"fit must be one of {', '.join(get_args(Fit))}, got {self.fit!r}")
        if min(self.height, self.width, self.size) < 1:
            raise ConfigError(
                f"an image of {self.width}x{self.height} cannot lie in a square of {self.size}; all must be 1 or more"
            )

    @property
    def scale(self) -> float:
        """Pixels of the square for one pixel of the image."""
        return min(self.size / self.height, self.size / self.width)

    def within(self, side: int) -> Frame:
        """Return the frame of the image scaled down to a longer side of `side` pixels, if it is longer."""
        share = min(1.0, side / max(self.height, self.width))
        return replace(self, height=max(1, round(self.height * share)), width=max(1, round(self.width * share)))

    def extent(self, axis: Literal["rows", "columns"]) -> tuple[int, int]:
        """Return where the image starts in the square and how long it is there, in whole pixels; not of a letterbox."""
        if self.fit == "squash":
            return 0, self.size
        length = max(1, int((self.height if axis == "rows" else self.width) * self.scale))
        return (self.size - length) // 2, length

    def to_square(self, box: Float[ndarray, "*n 4"]) -> Float[ndarray, "*n 4"]:
        """Return boxes (x0, y0, x1, y1) of the image in pixels of the square."""
        scale, start = self._box_warp()
        return np.asarray(box * scale + start)

    def to_image(self, box: Float[ndarray, "*n 4"]) -> Float[ndarray, "*n 4"]:
        """Return boxes (x0, y0, x1, y1) of the square in pixels of the image, cut at its edges."""
        scale, start = self._box_warp()
        return np.asarray(np.clip((box - start) / scale, 0, [self.width, self.height, self.width, self.height]))

    def _box_warp(self) -> tuple[Float[ndarray, "4"], Float[ndarray, "4"]]:
        if self.fit == "letterbox":
            starts = [(self.size - length * self.scale) / 2 for length in (self.width, self.height)]
        else:
            starts = [self.extent("columns")[0], self.extent("rows")[0]]
        sides = self.size / np.array([self.width, self.height])
        return np.tile(sides if self.fit == "squash" else np.full(2, self.scale), 2), np.tile(
            np.array(starts, float), 2
        )

    def restore(self, scores: Float[ndarray, "h w"]) -> Float[ndarray, "{self.height} {self.width}"]:
        """Return scores of the square at the image's own size, as the reference does for evaluation.

        Scores of another side than `size` are enlarged to it (bicubic, corners aligned), then warped (bicubic, zero
        outside). Both steps are linear along each axis, so they are multiplied into one small matrix for each axis.
        Bicubic interpolation overshoots at edges: values of 0..1 may come out between about -0.3 and 1.3.
        The fits other than `letterbox` interpolate linearly: to the side of the square, then, without the border, to
        the size of the image.

        Source: CRIS; its code, engine.py. MCN and VLT; their code for evaluation.
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

    def enlarge(self, scores: Float[ndarray, "h w"]) -> Float[ndarray, "{self.size} {self.size}"]:
        """Return scores of the square, one for each of its pixels, interpolated as `restore` does first."""
        height, width = scores.shape
        if self.fit == "letterbox":
            return np.asarray(_enlargement(height, self.size) @ scores @ _enlargement(width, self.size).T)
        rows, columns = resized(height, self.size, linear), resized(width, self.size, linear)
        return columns.apply(rows.apply(scores).T).T

    def place_mask(
        self, mask: Bool[ndarray, "{self.height} {self.width}"] | Float[ndarray, "{self.height} {self.width}"]
    ) -> Float[ndarray, "{self.size} {self.size}"]:
        """Return a mask, (H, W) in 0..1, placed in the square as the image is, zero outside.

        A letterbox interpolates linearly, `pad-cubic` cubically, and both have soft edges. The other fits take the
        nearest pixel.

        Raises:
            ImageError: the mask is of another size than the image, or neither bool nor float.

        Source: the training targets of CRIS, VLT, MCN and EFN; their code. (CRIS and VLT round to 1/255, here it is
        not.)
        """
        if mask.shape != (self.height, self.width) or mask.dtype.kind not in "bf":
            raise ImageError(
                f"a mask of {mask.dtype} and shape {mask.shape} does not fit the image; "
                f"give bool, or float in 0..1, of shape {(self.height, self.width)}"
            )
        values = mask.view(np.uint8) if mask.dtype == bool else mask
        if self.fit == "letterbox":
            return np.asarray(_warp(values[..., None], self._image_rows(linear), self._image_columns(linear))[0])
        (top, height), (left, width) = self.extent("rows"), self.extent("columns")
        if self.fit == "pad-cubic":
            rows, columns = resized(self.height, height, cubic), resized(self.width, width, cubic)
        else:
            middle = self.fit == "pad-antialiased"
            rows, columns = nearest(self.height, height, middle=middle), nearest(self.width, width, middle=middle)
        square = np.zeros((self.size, self.size), np.float32)
        square[top : top + height, left : left + width] = columns.apply(rows.apply(values).T).T
        return np.clip(square, 0, 1, out=square)

    # OpenCV computes the transform from three points in float32, then looks up the source position of each output pixel
    # in 1/1024 and then in 1/32 of a pixel. It rounds the two terms of x separately and those of y together.

    def _forward(self, length: int) -> tuple[float, float]:
        """Slope and offset from a position on one axis of the image, `length` pixels long, to the square."""
        new = length * self.scale
        border = (self.size - new) / 2
        start, end = float(np.float32(border)), float(np.float32(new + border))
        return (end - start) / length or self.scale, start  # float32 loses extremely narrow images: their scale

    def _image_rows(self, kernel: Kernel) -> Taps:
        """The rows of the image that make up each row of the square."""
        slope, start = self._forward(self.height)
        at = np.rint((np.arange(self.size) / slope - start / slope) * 1024)
        return Taps.look_up(at, self.height, kernel)

    def _image_columns(self, kernel: Kernel) -> Taps:
        slope, start = self._forward(self.width)
        at = np.rint(np.arange(self.size) / slope * 1024) + np.rint(-start / slope * 1024)
        return Taps.look_up(at, self.width, kernel)

    def _square_rows(self, rows: range) -> Taps:
        """The rows of the square that make up some rows of the image."""
        slope, start = self._forward(self.height)
        return Taps.look_up(np.rint((np.array(rows) * slope + start) * 1024), self.size, cubic)

    def _square_columns(self, columns: range) -> Taps:
        slope, start = self._forward(self.width)
        at = np.rint(np.array(columns) * slope * 1024) + np.rint(start * 1024)
        return Taps.look_up(at, self.size, cubic)


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
    square = _warp(np.asarray(image), frame._image_rows(cubic), frame._image_columns(cubic), border)
    np.floor(square + np.float32(0.5), out=square)
    np.clip(square, 0, 255, out=square)
    square /= np.float32(255)
    square -= np.array(mean, np.float32)[:, None, None]
    square /= np.array(std, np.float32)[:, None, None]
    return square, frame


def pad(image: Image.Image, size: int, fit: Literal["pad-cubic", "pad-antialiased"]) -> Float[ndarray, "3 S S"]:
    """Resize an RGB image to fit a square to whole pixels, and centre it on grey (see `Fit`).

    Returns:
        The pixels, 0..1, float32.

    Source: MCN and VLT; their code for inputs. OpenCV rounds to grey levels in fixed point: a value may differ by one.
    """
    frame = Frame(image.height, image.width, size, fit)
    (top, height), (left, width) = frame.extent("rows"), frame.extent("columns")
    square = np.full((3, size, size), GREY[fit], np.float32)
    if fit == "pad-antialiased":
        inner = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    else:
        inner = _resize(image, resized(frame.height, height, cubic), resized(frame.width, width, cubic))
    square[:, top : top + height, left : left + width] = inner
    return square / np.float32(255)


def squash(image: Image.Image, size: int) -> Float[ndarray, "3 S S"]:
    """Resize both sides of an RGB image to those of a square, as OpenCV's `INTER_AREA` does (see `Fit`).

    Returns:
        The pixels, 0..1, float32.

    Source: EFN; its code for inputs. OpenCV rounds to grey levels in fixed point: a value may differ by one.
    """
    shrinks = min(image.height, image.width) >= size
    rows, columns = ((area if shrinks else area_enlarged)(length, size) for length in (image.height, image.width))
    return _resize(image, rows, columns) / np.float32(255)


def _resize(image: Image.Image, rows: Taps, columns: Taps) -> Float[ndarray, "3 h w"]:
    """Return the grey levels of an image resized along both axes."""
    lines = rows.apply(np.asarray(image).reshape(image.height, -1))
    turned = lines.reshape(-1, image.width, 3).transpose(1, 2, 0)
    levels = columns.apply(turned.reshape(image.width, -1)).reshape(-1, *turned.shape[1:])
    return np.clip(np.floor(levels + 0.5), 0, 255).transpose(1, 2, 0)


# ── one axis of a warp ───────────────────────────────────────────────────────────────────────────────────────────────


@lru_cache(maxsize=16)
def _enlargement(side: int, size: int) -> Float[ndarray, "size side"]:
    """The matrix that enlarges `side` values to `size`, bicubic with aligned corners."""
    at = np.arange(size, dtype=np.float32) * np.float32((side - 1) / max(size - 1, 1))
    first = np.floor(at).astype(np.int64)
    matrix = np.zeros((size, side), np.float32)
    for offset, weight in enumerate(cubic(at - first.astype(np.float32)), start=-1):
        np.add.at(matrix, (np.arange(size), np.clip(first + offset, 0, side - 1)), weight)
    matrix.flags.writeable = False  # shared by all callers
    return matrix


@lru_cache(maxsize=64)
def _restoration(frame: Frame, side: int, axis: Literal["rows", "columns"], places: range) -> Taps:
    """The cells of a map of scores that make up some rows or columns of the image: enlargement and warp in one."""
    if frame.fit == "letterbox":
        warp = frame._square_rows(places) if axis == "rows" else frame._square_columns(places)
        matrix = warp.apply(_enlargement(side, frame.size))
    else:
        start, length = frame.extent(axis)
        enlarged = resized(side, frame.size, linear, range(start, start + length)).apply(np.eye(side, dtype=np.float32))
        whole = frame.height if axis == "rows" else frame.width
        matrix = resized(length, whole, linear, places).apply(enlarged)
    # The cells of an output pixel lie together: a window as wide as the widest.
    used = matrix != 0
    first = used.argmax(axis=1)
    last = side - 1 - used[:, ::-1].argmax(axis=1)
    index = first + np.arange(int((last - first)[used.any(axis=1)].max(initial=0)) + 1)[:, None]
    weight = np.where(index < side, matrix[np.arange(len(matrix)), np.minimum(index, side - 1)], 0)
    return Taps(np.minimum(index, side - 1), weight.astype(np.float32))


def _warp(
    image: Shaped[ndarray, "H W C"], rows: Taps, columns: Taps, border: Float[ndarray, "C"] | None = None
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
