"""An image becomes the square of pixels that a model sees; what the model finds goes back to the image's own size.

Both ways the image is only scaled and shifted along its axes, so a warp is two passes of four taps, one an axis. That
is exact, does a quarter of a two-dimensional warp's work, and touches only the rows and columns that are looked at.

The reference warps with OpenCV 4, which rounds positions to 1/32 of a pixel. At a sharp edge that alone moves a value
by several grey levels, so it is done here too: with it the images are the same.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile
from torch import Tensor
from torch.nn import functional

from refseg.errors import ConfigError, ImageError

__all__ = [
    "MAX_PIXELS",
    "MEAN",
    "STD",
    "BinaryFile",
    "Frame",
    "ImageSource",
    "letterbox",
    "read_image",
    "read_mask",
    "read_size",
]


@runtime_checkable
class BinaryFile(Protocol):
    """Anything with bytes to read: an open file, `io.BytesIO`, an upload."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, or all that are left."""


ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | ndarray | BinaryFile
"""What an image may come as."""

MAX_PIXELS = 100_000_000
"""Width times height; a larger image is refused before it is decoded."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of CLIP's training images, RGB in 0..1."""
STD = (0.26862954, 0.26130258, 0.27577711)

# Kinds that are only images. Pillow knows more, among them PostScript, which it would hand to another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
ORIENTATION = 0x0112  # the EXIF tag
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
BLOCK = 4096  # rows or columns computed at a time, which bounds the memory for images that are extremely long


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return the image upright, as 8-bit RGB, whatever it comes as.

    Grey values become grey colours; 16 bits are scaled to 8, and numbers of a wider range as `_to_8_bits` says;
    transparency shows white; colour profiles are ignored, as in the training images; of several frames the first is
    taken; the orientation that a camera noted in EXIF is applied.

    Args:
        source: a path, a binary file, a PIL image, or a uint8 array (H, W, 3), (H, W, 4) or (H, W).
        max_pixels: the largest width times height that is accepted. Pillow's own limit, 179 million, stays in force.

    Returns:
        A new PIL image of mode RGB; it holds no file open.

    Raises:
        ImageError: there is no such image, it cannot be read, it is broken or larger than max_pixels.
    """
    if isinstance(source, ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the given image", max_pixels)
    if isinstance(source, str | os.PathLike):
        name = repr(os.fsdecode(source))
        with _open(source, name) as file:
            return _from_file(file, name, max_pixels)
    if isinstance(source, BinaryFile):
        return _from_file(source, "the given file", max_pixels)
    raise ImageError(
        f"an image cannot come as {type(source).__name__}; "
        "give a path, a binary file, a PIL image or a uint8 array (height, width, 3)"
    )


def read_mask(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Bool[ndarray, "H W"]:
    """Return where an image of a mask is not 0 (of colours: not black; of a palette: not its first entry).

    Nothing is scaled or turned: a mask is of the same pixels as its image, or it is wrong. Transparency is ignored.

    Raises:
        ImageError: there is no such image, it cannot be read, it is broken or larger than max_pixels.
    """
    name = repr(os.fsdecode(path))
    with _open(path, name) as file:
        image = _recognise(file, name)
        _check_size(image.width, image.height, name, max_pixels)
        try:
            values = np.asarray(image)
        except Exception as error:
            raise ImageError(f"{name} is broken ({_one_line(error)}); fetch or write it again") from error
    if values.ndim == 3:
        colours = values[..., :-1] if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") else values
        values = np.asarray(colours.any(axis=2))
    mask: Bool[ndarray, "H W"] = values != 0
    return mask


def read_size(source: str | os.PathLike[str] | BinaryFile) -> tuple[int, int]:
    """Return height and width of an image as `read_image` will give it, if possible without decoding it.

    A PNG may say after its pixels how it is turned, so that one which has not said it before is decoded.

    Raises:
        ImageError: there is no such image, or it is none.
    """
    if isinstance(source, BinaryFile):
        return _size_of(source, "the given file")
    name = repr(os.fsdecode(source))
    with _open(source, name) as file:
        return _size_of(file, name)


def _size_of(file: BinaryFile, name: str) -> tuple[int, int]:
    image = _recognise(file, name)
    _check_size(image.width, image.height, name, MAX_PIXELS)
    width, height = image.size
    if isinstance(image, TiffImageFile):  # some versions of Pillow tell the size turned, and still the orientation
        width, height = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
    on_its_side = UPRIGHT.get(_orientation(image)) in SIDEWAYS
    return (width, height) if on_its_side else (height, width)


def _open(path: str | os.PathLike[str], name: str) -> BufferedReader:
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise ImageError(f"there is no file {name}; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder; name an image in it") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read; check its permissions") from None
    except (OSError, ValueError) as error:  # too long a name, one with a NUL in it
        raise ImageError(f"{name} cannot be opened ({_one_line(error)}); check the path") from error


def _from_array(array: ndarray, max_pixels: int) -> Image.Image:
    flat = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not flat or not array.size:
        raise ImageError(
            f"an array of {array.dtype} and shape {array.shape} is no image; give uint8 of shape (height, width, 3)"
        )
    _check_size(array.shape[1], array.shape[0], "the given array", max_pixels)
    return _from_pil(Image.fromarray(np.ascontiguousarray(array)), "the given array", max_pixels)


def _from_file(file: BinaryFile, name: str, max_pixels: int) -> Image.Image:
    return _from_pil(_recognise(file, name), name, max_pixels)


def _recognise(file: BinaryFile, name: str) -> Image.Image:
    """An image whose kind and size are known, but which is not decoded yet."""
    try:
        with _quiet_pillow():
            return Image.open(cast("IO[bytes]", file), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large ({_one_line(error)}); scale it down") from error
    except (UnidentifiedImageError, KeyError):  # KeyError: this Pillow does not know one of the kinds
        if _is_empty(file):
            raise ImageError(f"{name} is empty (0 bytes); fetch or write it again") from None
        raise ImageError(f"{name} is not an image, or not of a kind that is read here; give {_kinds()}") from None
    except Exception as error:  # decoders raise whatever broken data lead them to
        raise ImageError(f"{name} cannot be read ({_one_line(error)}); give {_kinds()}") from error


def _is_empty(file: BinaryFile) -> bool:
    try:
        return cast("IO[bytes]", file).seek(0, os.SEEK_END) == 0
    except (OSError, AttributeError):  # a stream that cannot seek
        return False


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image.width, image.height, name, max_pixels)
    try:
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image)
    except Exception as error:
        raise ImageError(f"{name} is broken ({_one_line(error)}); fetch or write it again") from error
    rgb.info.clear()  # the orientation is spent: who reads the result again must not turn it again
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> object:
    """What EXIF says; asked for after decoding, as PNG may say it after the pixels."""
    try:
        with _quiet_pillow():
            return image.getexif().get(ORIENTATION)
    except Exception:  # broken EXIF is no reason to refuse a good image
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image of the same size."""
    if image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((deep + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        white.alpha_composite(seen)
        return white.convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: ndarray) -> ndarray:
    """Grey values 0..255 of numbers whose range nothing states, so that it is guessed.

    Fractions in 0..1 are scaled by 255, numbers in 0..255 are taken as they are, numbers in 0..65535 are scaled as
    16 bits, and any others are stretched from their least to their greatest. What is not finite counts as 0.
    """
    values = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 65_535:
        values = (values - low) * (255 / (high - low))
    elif high > 255:
        values = values / 257
    elif high <= 1:
        values = values * 255
    return np.rint(values).astype(np.uint8)


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if not width or not height:
        raise ImageError(f"{name} has no pixels ({width}x{height}); give an image of at least 1x1")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is too large: {width}x{height} are {width * height:,} pixels, the limit is {max_pixels:,}; "
            "scale it down or raise max_pixels"
        )


_quiet = threading.Lock()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Keep Pillow's warnings (of large images, of odd metadata) to ourselves: our limit is checked explicitly.

    Python's filters belong to the whole process. Under the lock our own threads put them back in order; decoding, which
    takes the time, is done outside.
    """
    with _quiet, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _kinds() -> str:
    return "JPEG, PNG, WebP, GIF, BMP, TIFF or another common kind"


# ── there and back ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Frame:
    """How an image of height x width pixels lies in the square of a model: scaled to fit, centred, with a border.

    Source: CRIS letterboxes and evaluates so; its code, dataset.py and engine.py.
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
        """Pixels of the square to a pixel of the image."""
        return min(self.size / self.height, self.size / self.width)

    def restore(self, maps: Float[Tensor, "B 1 s s"]) -> Float[Tensor, "B {self.height} {self.width}"]:
        """Take maps of the square back to the image's own size, (B, H, W), as the reference does to evaluate.

        Maps of another side than `size` are enlarged to it (bicubic, corners aligned), then warped (bicubic, zero
        outside). Both are linear along each axis, so they are multiplied out into one small matrix an axis. Bicubic
        interpolation overshoots at edges: probabilities in 0..1 give values from about -0.3 to 1.3. They are returned
        so, as the reference leaves them; who shows them as probabilities clamps.

        Args:
            maps: probabilities (the reference's order: sigmoid first), or anything else that may be interpolated.

        Returns:
            float32 on the device of the maps, computed in float32 also under autocast.

        Source: CRIS evaluates so; its code, engine.py.
        """
        with torch.autocast(maps.device.type, enabled=False):
            values = maps[:, 0].float()
            side = values.shape[-1]
            # The matrix of the enlargement is what the enlargement makes of the identity.
            enlarge = torch.eye(side)
            if side != self.size:
                enlarge = functional.interpolate(
                    enlarge[None, None], size=(self.size, side), mode="bicubic", align_corners=True
                )[0, 0]
            restored = values.new_empty(len(values), self.height, self.width)
            for top in range(0, self.height, BLOCK):
                rows = self._square_rows(range(top, min(top + BLOCK, self.height)))
                strip = rows.apply(enlarge).to(values.device) @ values
                for left in range(0, self.width, BLOCK):
                    columns = self._square_columns(range(left, min(left + BLOCK, self.width)))
                    block = strip @ columns.apply(enlarge).to(values.device).T
                    restored[:, top : top + BLOCK, left : left + BLOCK] = block
        return restored

    def letterbox_mask(
        self, mask: Bool[ndarray, "{self.height} {self.width}"] | Float[ndarray, "{self.height} {self.width}"]
    ) -> Float[Tensor, "{self.size} {self.size}"]:
        """Lay a mask, (H, W) in 0..1, into the square as the image lies there: linear, zero outside, soft edges.

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
        return _warp(values[..., None], self._image_rows(_linear), self._image_columns(_linear))[0]

    # OpenCV gets the transform from three points in float32 and looks up, for each pixel of the result, where in the
    # input it comes from, in 1/1024 and then in 1/32 of a pixel. It rounds the two terms of x one by one, those of y
    # together. All of this shows in its results, and nothing of it matters otherwise.

    def _forward(self, length: int) -> tuple[float, float]:
        """Slope and offset that take a position on one axis of the image, `length` pixels long, to the square."""
        new = length * self.scale
        border = (self.size - new) / 2
        start, end = float(np.float32(border)), float(np.float32(new + border))
        return (end - start) / length or self.scale, start  # of an image so narrow that float32 loses it: its scale

    def _image_rows(self, kernel: _Kernel) -> _Taps:
        """Where in the image the rows of the square come from."""
        slope, start = self._forward(self.height)
        at = np.rint((np.arange(self.size) / slope - start / slope) * 1024)
        return _Taps.look_up(at, self.height, kernel)

    def _image_columns(self, kernel: _Kernel) -> _Taps:
        slope, start = self._forward(self.width)
        at = np.rint(np.arange(self.size) / slope * 1024) + np.rint(-start / slope * 1024)
        return _Taps.look_up(at, self.width, kernel)

    def _square_rows(self, rows: range) -> _Taps:
        """Where in the square some rows of the image come from."""
        slope, start = self._forward(self.height)
        return _Taps.look_up(np.rint((np.array(rows) * slope + start) * 1024), self.size, _cubic)

    def _square_columns(self, columns: range) -> _Taps:
        slope, start = self._forward(self.width)
        at = np.rint(np.array(columns) * slope * 1024) + np.rint(start * 1024)
        return _Taps.look_up(at, self.size, _cubic)


def letterbox(image: Image.Image, size: int) -> tuple[Float[Tensor, "3 {size} {size}"], Frame]:
    """Scale an image to fit a square of size x size pixels, centre it, and normalise it as CLIP does.

    The border has the colour that normalises to zero, up to the rounding to 8 bits. It takes part in the interpolation:
    the outermost pixels of the image blend into it.

    Args:
        image: of mode RGB, as `read_image` returns it.
        size: side of the square, pixels.

    Returns:
        The pixels (float32; 8-bit values / 255, less the mean, over the standard deviation) and the frame that takes
        maps of the square back.

    Raises:
        ImageError: the image is not RGB.
        ConfigError: size is less than 1.

    Source: CRIS's input, `cv2.warpAffine(INTER_cubic)`; its code, dataset.py.
    """
    if image.mode != "RGB":
        raise ImageError(f"an image of mode {image.mode} cannot be letterboxed; let read_image make it RGB")
    frame = Frame(image.height, image.width, size)
    # OpenCV sets the border in the image's 8 bits.
    border = torch.tensor(MEAN).mul(255).round()
    square = _warp(np.asarray(image), frame._image_rows(_cubic), frame._image_columns(_cubic), border)
    square = square.add_(0.5).floor_().clamp_(0, 255)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return square.div_(255).sub_(mean).div_(std), frame


# ── one axis of a warp ───────────────────────────────────────────────────────────────────────────────────────────────

_Kernel: TypeAlias = Callable[[ndarray], list[ndarray]]
"""The weights of the pixels around a position, from the position's fraction of a pixel, 0..1."""


def _linear(part: ndarray) -> list[ndarray]:
    return [1 - part, part]


def _cubic(part: ndarray) -> list[ndarray]:
    """Keys' cubic convolution with a = -0.75, as OpenCV and PyTorch have it."""
    a = -0.75

    def near(d: ndarray) -> ndarray:  # 0 <= d <= 1
        return np.asarray(((a + 2) * d - (a + 3)) * d * d + 1)

    def far(d: ndarray) -> ndarray:  # 1 <= d <= 2
        return np.asarray(((a * d - 5 * a) * d + 8 * a) * d - 4 * a)

    return [far(1 + part), near(part), near(1 - part), far(2 - part)]


@dataclass(frozen=True, eq=False)
class _Taps:
    """Which pixels of an axis make up each of n output pixels, and by which weight."""

    index: Int64[Tensor, "k n"]
    weight: Float[Tensor, "k n"]
    """Zero for what lies outside the input; its index is then any that exists."""

    @classmethod
    def look_up(cls, at: Float[ndarray, "n"], length: int, kernel: _Kernel) -> _Taps:
        """The taps at positions in 1/1024 of a pixel of an input axis of so many pixels."""
        steps = (at.astype(np.int64) + 16) >> 5  # to the nearest 1/32
        weight = np.stack(kernel((steps & 31) / 32))
        index = (steps >> 5) + np.arange(len(weight))[:, None] - (len(weight) // 2 - 1)
        inside = (index >= 0) & (index < length)
        return cls(torch.from_numpy(np.where(inside, index, 0)), torch.from_numpy(weight * inside).float())

    def apply(self, values: Shaped[Tensor, "length m"]) -> Float[Tensor, "n m"]:
        """Interpolate along the first axis."""
        result = torch.zeros(self.index.shape[1], values.shape[1])
        for index, weight in zip(self.index, self.weight, strict=True):
            result.addcmul_(values.index_select(0, index).float(), weight[:, None])
        return result

    def only(self, wanted: Bool[Tensor, "n"]) -> _Taps:
        """These taps for some of the output pixels."""
        return _Taps(self.index[:, wanted], self.weight[:, wanted])

    def narrow(self, values: Shaped[ndarray, "..."], axis: int) -> tuple[_Taps, Shaped[ndarray, "..."]]:
        """A copy of the values without what no tap looks at along this axis, and the taps for it."""
        needed, index = torch.unique(self.index, return_inverse=True)
        return _Taps(index, self.weight), values.take(needed.numpy(), axis=axis)


def _warp(
    image: Shaped[ndarray, "H W C"], rows: _Taps, columns: _Taps, border: Float[Tensor, "C"] | None = None
) -> Float[Tensor, "C S S"]:
    """Interpolate along one axis, then along the other; what lies outside the image has the border's colour, or 0."""
    within = rows.weight.any(dim=0)  # the square's other rows are border and nothing else
    rows, image = rows.only(within).narrow(image, axis=0)
    if image.shape[1] > BLOCK:  # not worth it for others; of these, whole rows would take much memory
        columns, image = columns.narrow(image, axis=1)
    width, channels = image.shape[1:]
    border = torch.zeros(channels) if border is None else border
    lines = rows.apply(torch.from_numpy(image).view(len(image), width * channels))
    # Seen from the border's colour, everything outside is zero and needs no tap.
    lines.view(len(lines), width, channels).sub_(border * rows.weight.sum(dim=0)[:, None, None])
    # Both passes gather whole lines of memory: the second runs on the transposed image.
    inner = columns.apply(lines.view(len(lines), width, channels).permute(1, 2, 0).reshape(width, -1))
    size = len(within)
    square = torch.zeros(channels, size, size)
    square[:, within] = inner.view(size, channels, -1).permute(1, 2, 0)
    return square.add_(border[:, None, None])
