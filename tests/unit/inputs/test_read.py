"""Any image or mask is read, or is an error of one line."""

import contextlib
import gc
import io
import runpy
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refseg.errors import ImageError
from refseg.inputs.read import image_suffixes, read_image, read_mask, read_size
from refseg.masks import MAX_PIXELS

photo_pixels = runpy.run_path(str(Path(__file__).parents[2] / "data" / "record_opencv.py"))["image"]


def rows_of(image):
    return np.asarray(image).tolist()


# ── reading ──


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo_pixels(30, 40)).save(path)
    return path


def test_every_way_to_hand_in_a_image(photo):
    array = photo_pixels(30, 40)
    with Image.open(photo) as opened, photo.open("rb") as file:
        content = photo.read_bytes()
        encoded = (content, bytearray(content), memoryview(content), io.BytesIO(content))
        for source in (photo, str(photo), opened, file, *encoded, array, array[:, ::-1][:, ::-1]):
            image = read_image(source)
            assert type(image) is Image.Image
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), array)


def test_a_stream_that_cannot_seek(photo):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.rest = io.BytesIO(photo.read_bytes())

        def readable(self):
            return True

        def readinto(self, buffer):
            return self.rest.readinto(buffer)

    assert read_image(Pipe()).size == (40, 30)


def test_arrays_of_grey_and_with_alpha():
    grey = photo_pixels(5, 6)[..., 0]
    assert np.array_equal(np.asarray(read_image(grey)), np.repeat(grey[..., None], 3, axis=2))
    assert rows_of(read_image(np.array([[[255, 0, 0, 0], [255, 0, 0, 255]]], np.uint8))) == [[[255] * 3, [255, 0, 0]]]


@pytest.mark.parametrize(
    ("array", "grey"),
    [
        (np.array([[0, 77, 255]], np.uint8), [0, 77, 255]),
        (np.array([[0, 51 * 257, 65_535]], np.uint16), [0, 51, 255]),
        (np.array([[0, 0.2, 1]], np.float16), [0, 51, 255]),
        (np.array([[0, 0.2, 1]], np.float32), [0, 51, 255]),
        (np.array([[0, 0.2, 1]], np.float64), [0, 51, 255]),
        (np.array([[False, False, True]]), [0, 0, 255]),
    ],
)
def test_arrays_of_every_type_and_number_of_channels(array, grey):
    expected = [[[value] * 3 for value in grey]]
    for channels in (array, array[..., None], np.stack([array] * 3, axis=2)):
        assert rows_of(read_image(channels)) == expected
    top = True if array.dtype == bool else array.max()
    opaque = np.stack([array, array, array, np.full_like(array, top)], axis=2)
    assert rows_of(read_image(opaque)) == expected


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (3, 4, 4, 4), (0, 4, 3), (4, 0)])
def test_arrays_that_are_no_image(shape):
    with pytest.raises(ImageError, match="height, width, 3"):
        read_image(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("kind", [np.int64, np.int8, complex, object, "U3"])
def test_arrays_of_another_type(kind):
    with pytest.raises(ImageError, match="uint8"):
        read_image(np.zeros((4, 4, 3), kind))


@pytest.mark.parametrize("value", [-0.01, 1.01, 255, np.nan, np.inf])
def test_floats_whose_range_is_not_0_to_1(value):
    pixels = np.zeros((4, 4, 3), np.float32)
    pixels[2, 2, 2] = value
    with pytest.raises(ImageError, match=r"0\.\.1"):
        read_image(pixels)


@pytest.mark.parametrize(
    ("mode", "value", "colour"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 255), (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I", 200, (200, 200, 200)),
        ("I", 200 * 257, (200, 200, 200)),
        ("F", 0.2, (51, 51, 51)),
        ("F", 51.4, (51, 51, 51)),
        ("F", float("nan"), (0, 0, 0)),
        ("I;16", 51 * 257, (51, 51, 51)),
        ("I;16", 100, (0, 0, 0)),
        ("I;16B", 51 * 257, (51, 51, 51)),
        ("HSV", (0, 0, 77), (77, 77, 77)),
    ],
)
def test_every_mode_becomes_rgb(mode, value, colour):
    image = read_image(Image.new(mode, (3, 2), value))
    assert image.mode == "RGB"
    assert rows_of(image) == [[list(colour)] * 3] * 2


def test_numbers_of_unknown_range_are_stretched():
    image = Image.fromarray(np.array([[-100, 2, 100]], np.int32))
    assert rows_of(read_image(image)) == [[[0] * 3, [130] * 3, [255] * 3]]


def test_16_bit_png_is_scaled_not_clipped(tmp_path):
    deep = np.array([[0, 257, 128 * 257, 40_000, 65_535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.asarray(read_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 1, 128, 156, 255]


@pytest.mark.parametrize("transparency", [0, bytes([0, 128, 255])])
def test_palette_with_transparency(tmp_path, transparency):
    image = Image.new("P", (3, 1))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "palette.png", transparency=transparency)
    seen = rows_of(read_image(tmp_path / "palette.png"))[0]
    assert seen[0] == [255, 255, 255]
    assert seen[2] == [0, 0, 200]
    assert seen[1] == ([0, 200, 0] if transparency == 0 else [127, 227, 127])


def test_palette_without_transparency_and_gif_takes_the_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour).quantize() for colour in ("red", "blue")]
    for name in ("frames.gif", "frames.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert rows_of(read_image(tmp_path / name))[0][0] == [255, 0, 0]


def test_cmyk_jpeg_of_adobe(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red, green, blue = rows_of(read_image(tmp_path / "print.jpg"))[0][0]
    assert red > 245
    assert max(green, blue) < 10


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_applied_once(tmp_path, orientation, kind):
    upright = Image.fromarray(np.kron(np.array([[0, 80, 160], [250, 200, 120]], np.uint8), np.ones((16, 16), np.uint8)))
    to_stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),  # the camera was turned: a viewer turns the stored photo_pixels clockwise
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    stored = Image.fromarray(np.ascontiguousarray(to_stored(np.asarray(upright))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.convert("RGB").save(tmp_path / f"turned.{kind}", exif=exif, **({"lossless": True} if kind == "webp" else {}))
    for source in (tmp_path / f"turned.{kind}", read_image(tmp_path / f"turned.{kind}")):
        image = read_image(source)
        assert image.size == upright.size
        assert np.abs(np.asarray(image)[..., 0].astype(int) - np.asarray(upright)).max() < 12


def test_a_given_image_stays_as_it_is():
    image = Image.new("RGB", (4, 2))
    exif = image.getexif()
    exif[0x0112] = 6
    image.info["exif"] = exif.tobytes()
    assert read_image(image).size == (2, 4)
    assert image.size == (4, 2)
    assert "exif" in image.info


def test_broken_exif_does_not_matter(tmp_path):
    Image.fromarray(photo_pixels(8, 9)).save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x09nonsense")
    assert read_image(tmp_path / "odd.jpg").size == (9, 8)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
def test_extreme_shapes(tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "extreme.png")
    image = read_image(tmp_path / "extreme.png")
    assert image.size == size


def png_of(width, height):
    """A PNG that claims a size and holds nearly nothing."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_001, 10_000), (13_000, 13_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_an_error_before_it_is_decoded(tmp_path, size):
    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    with pytest.raises(ImageError, match=r"bomb\.png' is too large") as caught:
        read_image(tmp_path / "bomb.png")
    assert "\n" not in str(caught.value)


def test_a_image_that_pillow_would_warn_of_is_read_in_silence(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    filters = list(warnings.filters)
    assert read_image(file).size == (40, 30)
    assert list(warnings.filters) == filters
    assert MAX_PIXELS == 100_000_000


def test_the_limit_holds_for_every_source_but_arrays(photo):
    assert read_image(photo_pixels(30, 40), max_pixels=1).size == (40, 30)
    for source in (photo, photo.read_bytes(), Image.new("RGB", (40, 30)), io.BytesIO(photo.read_bytes())):
        with pytest.raises(ImageError, match="40x30 are 1,200 pixels, the limit is 1,199"):
            read_image(source, max_pixels=1199)
        assert read_image(source, max_pixels=1200).size == (40, 30)


def test_a_limit_above_that_of_pillow(monkeypatch, photo):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="raise max_pixels"):
        read_image(photo, max_pixels=500)
    assert read_image(photo, max_pixels=1200).size == (40, 30)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_names_of_image_files():
    assert {".jpg", ".jpeg", ".png", ".webp", ".tif"} <= image_suffixes()
    assert not {".ico", ".txt", ".eps", ""} & image_suffixes()


def jpeg(size=(400, 300)):
    file = io.BytesIO()
    Image.fromarray(photo_pixels(size[1], size[0])).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.jpg", None, "there is no file"),
        ("text.jpg", b"this is not an image\n" * 9, "not an image"),
        ("empty.jpg", b"", r"empty \(0 bytes\)"),
        ("cut.jpg", jpeg()[:5000], "broken.*truncated"),
        ("head.jpg", jpeg()[:20], "broken|not an image|cannot be read"),
        ("nothing.png", png_of(5, 5), "broken"),
        ("line\nbreak.jpg", None, r"there is no file '.*line\\nbreak"),
        ("drawing.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
        ("x" * 300, None, "cannot be opened"),
        ("a\0b", None, "cannot be opened|there is no file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_one_line(tmp_path, name, content, says):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=says) as caught:
        read_image(path)
    message = str(caught.value)
    assert repr(str(path)) in message
    assert "; " in message  # the remedy
    assert "\n" not in message
    if content is not None:
        with pytest.raises(ImageError, match="the given file"):
            read_image(io.BytesIO(content))


def test_a_folder_and_a_forbidden_file(tmp_path, photo, monkeypatch):
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path)

    def forbid(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(ImageError, match="may not be read; check its permissions"):
        read_image(photo)


@pytest.mark.parametrize("source", [None, 3, b"bytes", [[1]], {"x.png"}, io.StringIO("text"), "", Path()])
@pytest.mark.usefixtures("unchecked")
def test_what_is_no_image_is_an_error(source):
    with pytest.raises(ImageError):
        read_image(source)


@pytest.mark.parametrize("content", [jpeg(), jpeg()[:5000], b"", b"text" * 9])
def test_no_file_stays_open(tmp_path, content):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with contextlib.suppress(ImageError):
        read_image(path)
    gc.collect()  # an open file would warn here, and warnings are errors
    assert not [link for link in Path("/proc/self/fd").glob("*") if link.resolve() == path]


@given(
    content=st.binary(max_size=300),
    start=st.sampled_from([b"", jpeg((20, 20))[:300], png_of(9, 9), b"GIF89a", b"II*\0"]),
)
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_an_error(content, start):
    try:
        image = read_image(io.BytesIO(start + content), max_pixels=10_000)
    except ImageError as error:
        message = str(error)
    else:
        message = ""
        assert image.mode == "RGB"
    assert "\n" not in message


def test_threads_leave_the_warning_filters_alone(photo):
    filters = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_image, [photo] * 200))
    assert list(warnings.filters) == filters


# ── masks and sizes ──


def truth():
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:4, 2:5] = True
    return mask


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_grey_between_black_and_white_is_in_the_mask_from_half_on(tmp_path, kind):
    """Smoothed edges, and what JPEG makes of sharp ones; labels below half are not brightness."""
    smooth = Image.fromarray(np.kron(truth(), np.ones((8, 8))).astype(np.uint8) * 255).resize((28, 20))
    smooth.save(tmp_path / f"m.{kind}", quality=70)
    warnings = []
    mask = read_mask(tmp_path / f"m.{kind}", warnings=warnings)
    assert np.array_equal(mask, np.kron(truth(), np.ones((4, 4))) > 0)
    assert len(warnings) == 1
    labels = np.zeros((5, 7), dtype=np.uint8)
    labels[1:3, 2:5], labels[3, 2:5] = 1, 2
    Image.fromarray(labels).save(tmp_path / "m.png")
    warnings.clear()
    assert np.array_equal(read_mask(tmp_path / "m.png", warnings=warnings), truth())
    assert not warnings


@pytest.mark.parametrize("value", [1, 2, 127, 254, 255])
def test_what_is_not_0_is_in_the_mask(tmp_path, value):
    Image.fromarray((truth() * value).astype(np.uint8)).save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), truth())
    assert np.array_equal(read_mask(str(tmp_path / "m.png")), truth())


@pytest.mark.parametrize(
    ("mode", "background", "foreground"),
    [
        ("1", 0, 1),
        ("L", 0, 9),
        ("I;16", 0, 256),
        ("RGB", (0, 0, 0), (0, 0, 1)),
        ("RGBA", (0, 0, 0, 255), (0, 1, 0, 0)),  # transparency is ignored
        ("LA", (0, 255), (1, 0)),
        ("RGBA", (0, 0, 0, 9), (0, 0, 1, 9)),
    ],
)
def test_masks_of_every_mode(tmp_path, mode, background, foreground):
    image = Image.new(mode, (7, 5), background)
    for y, x in np.argwhere(truth()).tolist():
        image.putpixel((x, y), foreground)
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), truth())


@pytest.mark.parametrize("kind", ["png", "gif", "tiff"])
@pytest.mark.parametrize(
    ("palette", "background", "foreground"),
    [
        ([0, 0, 0, 255, 255, 255], 0, 1),
        ([255, 255, 255, 0, 0, 0], 1, 0),  # the first entry is white
        ([0, 0, 0, 0, 0, 1], 0, 1),
        ([9, 0, 0, 200, 200, 200, 0, 0, 0, 1, 1, 1], 2, 0),
    ],
)
def test_the_colour_decides_in_a_mask_with_a_palette(tmp_path, kind, palette, background, foreground):
    image = Image.fromarray(np.where(truth(), foreground, background).astype(np.uint8)).convert("P")
    image.putpalette(palette)
    image.save(tmp_path / f"m.{kind}")
    assert np.array_equal(read_mask(tmp_path / f"m.{kind}"), truth())


def test_a_bmp_that_pillow_decodes_wrongly_is_an_error(tmp_path):
    """One of 8 bits whose palette is black and white; those of 1 bit and of other palettes are read."""
    image = Image.fromarray(truth().astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "m.bmp")
    for read in (read_mask, read_image):
        with pytest.raises(ImageError, match="BMP"):
            read(tmp_path / "m.bmp")
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "m.bmp")
    assert np.array_equal(read_mask(tmp_path / "m.bmp"), truth())
    Image.fromarray(truth()).save(tmp_path / "m.bmp")
    assert np.array_equal(read_mask(tmp_path / "m.bmp"), truth())


def test_labels_of_several_colours_are_all_in_the_mask(tmp_path):
    labels = truth().astype(np.uint8) * 15
    labels[2, 3] = 7
    image = Image.fromarray(labels).convert("P")
    image.putpalette([0, 0, 0, *[128, 64, 0] * 20])
    image.save(tmp_path / "m.png")
    assert np.array_equal(read_mask(tmp_path / "m.png"), truth())


@pytest.mark.parametrize("transparency", [0, 1, bytes([0, 255]), bytes([255, 0])])
def test_transparency_of_a_palette_is_ignored(tmp_path, transparency):
    image = Image.fromarray(truth().astype(np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.save(tmp_path / "m.png", transparency=transparency)
    assert np.array_equal(read_mask(tmp_path / "m.png"), truth())


def test_a_palette_in_which_everything_is_black_is_an_error(tmp_path):
    image = Image.fromarray(truth().astype(np.uint8)).convert("P")
    image.putpalette([0] * 6)
    image.save(tmp_path / "m.png")
    with pytest.raises(ImageError, match="palette"):
        read_mask(tmp_path / "m.png")
    image = Image.fromarray(np.zeros((5, 7), np.uint8)).convert("P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(tmp_path / "empty.png")
    assert not read_mask(tmp_path / "empty.png").any()


def test_a_mask_of_printing_colours_counts_where_it_is_not_black(tmp_path):
    inks = np.full((5, 7, 4), (0, 0, 0, 255), np.uint8)
    inks[truth()] = 0  # no ink: white
    Image.fromarray(inks, "CMYK").save(tmp_path / "m.tiff")
    assert np.array_equal(read_mask(tmp_path / "m.tiff"), truth())


def test_a_mask_of_colour_counts_where_it_is_not_black(tmp_path):
    colours = np.zeros((5, 7, 3), dtype=np.uint8)
    colours[1:4, 2:5, 1] = 200
    Image.fromarray(colours).save(tmp_path / "m.bmp")
    assert np.array_equal(read_mask(tmp_path / "m.bmp"), truth())


def test_a_mask_of_fractions(tmp_path):
    Image.fromarray(truth().astype(np.float32) / 8).save(tmp_path / "m.tiff")
    assert np.array_equal(read_mask(tmp_path / "m.tiff"), truth())


def turned(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(truth().astype(np.uint8) * 255).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tiff"])
def test_a_size_is_that_of_the_image_as_it_is_read(tmp_path, orientation, kind):
    path = turned(tmp_path / f"m.{kind}", orientation)
    width, height = read_image(path).size
    assert read_size(path) == read_size(str(path)) == read_size(io.BytesIO(path.read_bytes())) == (height, width)
    assert (height, width) == ((5, 7) if orientation < 5 else (7, 5))


def test_a_mask_is_not_turned(tmp_path):
    assert np.array_equal(read_mask(turned(tmp_path / "m.png", 6)), truth())


def test_a_size_is_told_without_the_pixels(tmp_path):
    content = jpeg((400, 300))
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    assert read_size(tmp_path / "cut.jpg") == (300, 400)
    with pytest.raises(ImageError, match="is broken"):
        read_mask(tmp_path / "cut.jpg")


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "is empty"), (b"<html>", "is not an image"), (png_of(60_000, 60_000), "too large")],
)
def test_what_is_no_mask_is_an_error_by_name(tmp_path, content, says):
    path = tmp_path / "m.png"
    path.write_bytes(content)
    for read in (read_mask, read_size):
        with pytest.raises(ImageError, match=rf"m\.png'.*{says}"):
            read(path)
    with pytest.raises(ImageError, match=rf"the given file.*{says}"):
        read_size(io.BytesIO(content))
    for read in (read_mask, read_size):
        with pytest.raises(ImageError, match="there is no file"):
            read(tmp_path / "missing.png")
        with pytest.raises(ImageError, match="is a folder"):
            read(tmp_path)


def test_the_limit_holds_for_masks(tmp_path):
    Image.fromarray(truth().astype(np.uint8)).save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", max_pixels=35).shape == (5, 7)
    with pytest.raises(ImageError, match="too large"):
        read_mask(tmp_path / "m.png", max_pixels=34)
