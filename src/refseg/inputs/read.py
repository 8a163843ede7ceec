"""Reads an image from a path, an open file, bytes, a PIL image or an array, and a mask from a path."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias, cast, runtime_checkable

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from refseg.errors import ImageError, ImageSizeError, one_line
from refseg.masks import MAX_PIXELS

__all__ = [
    "BinaryFile",
    "ImageSource",
    "image_suffixes",
    "read_image",
    "read_mask",
    "read_size",
]


@runtime_checkable
class BinaryFile(Protocol):
    """An object that bytes are read from: an open file, `io.BytesIO`, an upload."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes, or all remaining bytes if it is negative."""


ImageSource: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | ndarray | BinaryFile
"""The types that are accepted as an image; bytes are the content of an image file."""

# Image formats only. Pillow also reads PostScript, which it passes to another program.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
HALF = 128
"""Half of the brightness of a channel of 8 bits."""
ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""
UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes an image upright, by EXIF orientation; without an entry none is needed."""
PLAIN = ("1", "L", "LA", "La", "RGB", "RGBA", "RGBa", "RGBX", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
"""The modes in which a pixel is black if all of its channels are 0."""
SIDEWAYS = (
    Image.Transpose.TRANSPOSE,
    Image.Transpose.ROTATE_270,
    Image.Transpose.TRANSVERSE,
    Image.Transpose.ROTATE_90,
)
"""The operations that exchange height and width."""


def read_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Return an image upright, as 8-bit RGB.

    Grey images become RGB with equal channels; 16-bit values are scaled to 8 bits, 32-bit integers and floats as in
    `_to_8_bits`. Transparent pixels are blended with white. Colour profiles are ignored, as in the training images. Of
    several frames the first is used. The EXIF orientation is applied.

    Args:
        source: a path, a binary file, the bytes of one, a PIL image, or an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4) of uint8, of uint16, of floats in 0..1, or of bool, where True is white.
        max_pixels: the largest width times height that is accepted, against files that fill the memory; it does not
            apply to arrays, which are in memory already.

    Returns:
        A new PIL image of mode RGB; no file stays open.

    Raises:
        ImageError: the image is missing, unreadable, broken or larger than `max_pixels`.
    """
    if isinstance(source, ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_pil(source, "the given image", max_pixels)
    if isinstance(source, str | os.PathLike):
        name = repr(os.fsdecode(source))
        with _open(source, name) as file:
            return _from_file(file, name, max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_file(BytesIO(source), "the given data", max_pixels)
    if isinstance(source, BinaryFile):
        return _from_file(source, "the given file", max_pixels)
    raise ImageError(
        f"an image cannot come as {type(source).__name__}; give a path, a binary file, the bytes of one, a PIL image "
        "or an array (height, width, 3)"
    )


def image_suffixes() -> frozenset[str]:
    """Return the endings of the names of the files that `read_image` reads, such as `.jpg`."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in FORMATS)


def read_mask(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS, warnings: list[str] | None = None
) -> Bool[ndarray, "H W"]:
    """Return a mask that is True where a mask image is not black; in a palette image, where the colour is not black.

    Smoothed edges and lossy compression turn black and white to grey: in an image of 8 bits a channel that has values
    of half the brightness or more and others between black and its brightest, the mask is where it has half or more.
    The image is neither scaled nor rotated, and its EXIF orientation and transparency are ignored.

    Args:
        path: of the image.
        max_pixels: the largest width times height that is accepted.
        warnings: is given a message if the mask is grey in this way.

    Raises:
        ImageError: the file is missing, unreadable, broken or larger than `max_pixels`, or it uses several entries of
            its palette and all of them are black.
    """
    name = repr(os.fsdecode(path))
    with _open(path, name) as file:
        image = _recognise(file, name, max_pixels)
        try:
            values = np.asarray(image)
            if image.mode not in PLAIN:
                image.info.pop("transparency", None)  # Pillow warns about some of its forms
                colours = np.asarray(image.convert("RGB"))
            else:
                colours = values[..., :-1] if image.mode.endswith(("A", "a")) else values
        except Exception as error:
            raise ImageError(f"{name} is broken ({one_line(error)}); fetch or write it again") from error
    brightness = colours.max(axis=2) if colours.ndim == 3 else colours
    mask = np.asarray(brightness != 0)
    if image.mode != "P" and brightness.dtype == np.uint8:
        brightest = brightness.max()
        if brightest >= HALF and (mask & (brightness != brightest)).any():
            mask = np.asarray(brightness >= HALF)
            if warnings is not None:
                warnings.append(f"{name} has grey between black and white: the mask is where it is at least {HALF}")
    if image.mode == "P" and not mask.any() and values.min() < values.max():
        raise ImageError(f"{name} has a palette in which everything is black; save it as a grey image")
    return mask


def read_size(source: str | os.PathLike[str] | BinaryFile) -> tuple[int, int]:
    """Return the height and width of the image that `read_image` would return, if possible without decoding it.

    A PNG without an orientation before its pixels is decoded, because the orientation may follow them.

    Raises:
        ImageError: the file is missing, is not an image, or is too large.
    """
    if isinstance(source, BinaryFile):
        return _size_of(source, "the given file")
    name = repr(os.fsdecode(source))
    with _open(source, name) as file:
        return _size_of(file, name)


def _size_of(file: BinaryFile, name: str) -> tuple[int, int]:
    image = _recognise(file, name, MAX_PIXELS)
    width, height = image.size
    if isinstance(image, TiffImageFile):  # some Pillow versions return the rotated size and keep the orientation
        width, height = int(image.tag_v2[IMAGEWIDTH]), int(image.tag_v2[IMAGELENGTH])
    sideways = UPRIGHT.get(_orientation(image)) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def _open(path: str | os.PathLike[str], name: str) -> BufferedReader:
    if not os.fspath(path):
        raise ImageError("the path of the image is empty; name a file")
    try:
        return Path(path).open("rb")
    except FileNotFoundError:
        raise ImageError(f"there is no file {name}; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{name} is a folder; name an image in it") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read; check its permissions") from None
    except (OSError, ValueError) as error:  # such as a name that is too long or contains NUL
        raise ImageError(f"{name} cannot be opened ({one_line(error)}); check the path") from error


def _from_array(array: ndarray) -> Image.Image:
    flat = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not flat or not array.size:
        raise ImageError(f"an array of shape {array.shape} is no image; give (height, width, 3), or a list of arrays")
    pixels = np.ascontiguousarray(_array_to_8_bits(array))
    return _to_rgb(Image.fromarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels))


def _array_to_8_bits(array: ndarray) -> ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array * np.uint8(255)
    if array.dtype == np.uint16:
        return _16_to_8_bits(array)
    if array.dtype.kind == "f":
        if not (array.min() >= 0 and array.max() <= 1):  # so written, NaN is refused too
            raise ImageError(
                f"an array of {array.dtype} must have values in 0..1; divide it by 255, or give it as uint8"
            )
        return np.rint(array * np.float32(255)).astype(np.uint8)
    raise ImageError(f"an array of {array.dtype} is no image; give uint8, uint16, bool, or floats in 0..1")


def _from_file(file: BinaryFile, name: str, max_pixels: int) -> Image.Image:
    return _from_pil(_recognise(file, name, max_pixels), name, max_pixels)


def _recognise(file: BinaryFile, name: str, max_pixels: int) -> Image.Image:
    """Return an image whose format and size have been read and checked; its pixels are not decoded yet."""
    try:
        with _quiet_pillow(max_pixels):
            image = Image.open(cast("IO[bytes]", file), formats=FORMATS)
        wrong = image.format == "BMP" and image.mode == "1" and _bits_of_bmp(image) != 1
    except Image.DecompressionBombError as error:
        raise ImageSizeError(f"{name} is too large ({one_line(error)}); scale it down or raise max_pixels") from error
    except (UnidentifiedImageError, KeyError):  # KeyError: Pillow was built without one of the formats
        if _is_empty(file):
            raise ImageError(f"{name} is empty (0 bytes); fetch or write it again") from None
        raise ImageError(f"{name} is not an image, or not of a kind that is read here; give {_kinds()}") from None
    except Exception as error:  # decoders raise many kinds of errors for broken data
        raise ImageError(f"{name} cannot be read ({one_line(error)}); give {_kinds()}") from error
    if wrong:
        raise ImageError(f"{name} is a BMP of 8 bits with a palette of black and white, which is not read; use PNG")
    _check_size(image.width, image.height, name, max_pixels)
    return image


def _bits_of_bmp(image: Image.Image) -> int:
    """Return the bits per pixel in the header. Pillow treats every BMP with a black and white palette as 1 bit."""
    header = cast("Any", image).fp
    header.seek(14)
    header.seek(24 if header.read(1) == b"\x0c" else 28)
    return int.from_bytes(header.read(2), "little")


def _is_empty(file: BinaryFile) -> bool:
    try:
        return cast("IO[bytes]", file).seek(0, os.SEEK_END) == 0
    except (OSError, AttributeError):  # the stream cannot seek
        return False


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(image.width, image.height, name, max_pixels)
    try:
        image.load()
        turn = UPRIGHT.get(_orientation(image))
        rgb = _to_rgb(image)
    except Exception as error:
        raise ImageError(f"{name} is broken ({one_line(error)}); fetch or write it again") from error
    rgb.info.clear()  # the orientation is applied, and must not be applied again if the result is read
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> object:
    """Return the EXIF orientation. In a PNG it may follow the pixels, so the image must be decoded before."""
    try:
        with _quiet_pillow():
            return image.getexif().get(ORIENTATION)
    except Exception:  # an image with broken EXIF data is still usable
        return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Return a new RGB image of the same size."""
    if image.mode.startswith("I;16"):
        return Image.fromarray(_16_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        seen = image.convert("RGBA")
        white = Image.new("RGBA", seen.size, "white")
        white.alpha_composite(seen)
        return white.convert("RGB")
    return image.convert("RGB")


def _16_to_8_bits(values: ndarray) -> ndarray:
    return np.asarray((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _to_8_bits(values: ndarray) -> ndarray:
    """Return grey values 0..255 of numbers whose range is not known.

    It is guessed: if all values lie in 0..1 they are scaled by 255, in 0..255 they are kept, in 0..65535 they are
    scaled as 16 bits; otherwise minimum and maximum become 0 and 255. Values that are not finite count as 0.
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
        raise ImageSizeError(
            f"{name} is too large: {width}x{height} are {width * height:,} pixels, the limit is {max_pixels:,}; "
            "scale it down or raise max_pixels"
        )


_quiet = threading.Lock()


@contextmanager
def _quiet_pillow(max_pixels: int = 0) -> Iterator[None]:
    """Suppress Pillow's warnings about large images and unusual metadata; the size is checked explicitly.

    Pillow's own limit, which cannot be passed to it, is raised to `max_pixels` where it is lower.

    Warning filters are global to the process, and the lock keeps threads from restoring them in the wrong order. Images
    are decoded outside of it, because decoding is slow.
    """
    with _quiet, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        limit = Image.MAX_IMAGE_PIXELS
        if limit is not None and max_pixels > limit:
            Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _kinds() -> str:
    return "JPEG, PNG, WebP, GIF, BMP, TIFF or another common kind"
