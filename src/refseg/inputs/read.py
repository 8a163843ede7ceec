"""Reads an image from a path, an open file, a PIL image or an array, and a mask from a path."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from refseg.errors import ImageError
from refseg.masks import MAX_PIXELS

__all__ = [
    "BinaryFile",
    "ImageSource",
    "read_image",
    "read_mask",
    "read_size",
]


@runtime_checkable
class BinaryFile(Protocol):
    """An object from which bytes are read: an open file, `io.BytesIO`, an upload."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; all remaining ones where it is negative."""


ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | ndarray | BinaryFile
"""The types that are accepted as an image."""

# Image formats only. Pillow reads others too, among them PostScript, which it passes to another program.
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
PLAIN = ("1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""Modes in which 0 in all channels is black."""
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image upright, as 8-bit RGB.

    Grey values become grey colours; 16 bits are scaled to 8, and numbers of a wider range as in `_to_8_bits`;
    transparent pixels are blended with white; colour profiles are ignored, as in the training images; of several
    frames the first is used; the orientation in EXIF is applied.

    Args:
        source: a path, a binary file, a PIL image, or a uint8 array (H, W, 3), (H, W, 4) or (H, W).
        max_pixels: the largest width times height that is accepted. Pillow's own limit of 179 million applies too.

    Returns:
        A new PIL image of mode RGB; no file stays open.

    Raises:
        ImageError: the image is missing, cannot be read, is broken or larger than max_pixels.
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
    """Return the pixels of an image that are not black; of a palette image, those whose colour is not black.

    Nothing is scaled or rotated: a mask has the same pixels as its image. Transparency is ignored.

    Raises:
        ImageError: the file is missing, cannot be read, is broken or larger than max_pixels, or its palette makes
            everything black.
    """
    name = repr(os.fsdecode(path))
    with _open(path, name) as file:
        image = _recognise(file, name)
        _check_size(image.width, image.height, name, max_pixels)
        try:
            values = np.asarray(image)
            if image.mode not in PLAIN:
                image.info.pop("transparency", None)  # Pillow warns of some kinds of it
                colours = np.asarray(image.convert("RGB"))
            else:
                colours = values[..., :-1] if image.mode.endswith(("A", "a")) else values
        except Exception as error:
            raise ImageError(f"{name} is broken ({_one_line(error)}); fetch or write it again") from error
    mask = np.asarray(colours.any(axis=2) if colours.ndim == 3 else colours != 0)
    if image.mode == "P" and not mask.any() and values.min() < values.max():
        raise ImageError(f"{name} has a palette in which everything is black; save it as a grey image")
    return mask


def read_size(source: str | os.PathLike[str] | BinaryFile) -> tuple[int, int]:
    """Return height and width of an image as `read_image` returns it, if possible without decoding it.

    A PNG is decoded if it has no orientation before its pixels, since it may have one after them.

    Raises:
        ImageError: the file is missing, is not an image, or is too large.
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
    if isinstance(image, TiffImageFile):  # some versions of Pillow give the rotated size, and still the orientation
        width, height = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
    sideways = UPRIGHT.get(_orientation(image)) in SIDEWAYS
    return (width, height) if sideways else (height, width)


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
    """Return an image whose format and size are known, but which is not decoded yet."""
    try:
        with _quiet_pillow():
            image = Image.open(cast("IO[bytes]", file), formats=FORMATS)
        wrong = image.format == "BMP" and image.mode == "1" and _bits_of_bmp(image) != 1
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} is too large ({_one_line(error)}); scale it down") from error
    except (UnidentifiedImageError, KeyError):  # KeyError: this Pillow does not know one of the formats
        if _is_empty(file):
            raise ImageError(f"{name} is empty (0 bytes); fetch or write it again") from None
        raise ImageError(f"{name} is not an image, or not of a kind that is read here; give {_kinds()}") from None
    except Exception as error:  # on broken data decoders raise all kinds of errors
        raise ImageError(f"{name} cannot be read ({_one_line(error)}); give {_kinds()}") from error
    if wrong:
        raise ImageError(f"{name} is a BMP of 8 bits with a palette of black and white, which is not read; use PNG")
    return image


def _bits_of_bmp(image: Image.Image) -> int:
    """Return the bits of a pixel. Pillow takes any BMP with a palette of black and white for one of 1 bit."""
    header = cast("Any", image).fp
    header.seek(14)
    header.seek(24 if header.read(1) == b"\x0c" else 28)
    return int.from_bytes(header.read(2), "little")


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
    rgb.info.clear()  # the orientation is applied: reading the result again must not apply it again
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> object:
    """Return the orientation in EXIF. In a PNG it may come after the pixels, so call this after decoding."""
    try:
        with _quiet_pillow():
            return image.getexif().get(ORIENTATION)
    except Exception:  # broken EXIF is no reason to refuse a good image
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a new RGB image of the same size."""
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
    """Return grey values 0..255 of numbers whose range is unknown and guessed.

    Fractions in 0..1 are scaled by 255, numbers in 0..255 are kept, numbers in 0..65535 are scaled as 16 bits, and any
    others are stretched from the smallest to the largest. Numbers that are not finite count as 0.
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
    """Suppress Pillow's warnings of large images and odd metadata; the size is checked explicitly.

    Python's filters belong to the whole process: the lock keeps threads from restoring them in the wrong order.
    Decoding, which takes the time, is done outside of it.
    """
    with _quiet, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _kinds() -> str:
    return "JPEG, PNG, WebP, GIF, BMP, TIFF or another common kind"
