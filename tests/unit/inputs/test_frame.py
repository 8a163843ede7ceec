"""Letterboxing and restoring equal OpenCV's warps, recorded in opencv_warps.npz."""

from __future__ import annotations

import runpy
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refseg.errors import ConfigError, ImageError
from refseg.inputs.frame import Frame, letterbox, pad, squash

DATA = Path(__file__).parents[2] / "data"
RECORDER = runpy.run_path(str(DATA / "record_opencv.py"))
image_array, region, probabilities, sample = (RECORDER[name] for name in ("image", "region", "probabilities", "sample"))
CASES = pytest.mark.parametrize(("height", "width", "side", "keep"), RECORDER["CASES"])
MEAN, STD = RECORDER["MEAN"], (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def recorded():
    with np.load(DATA / "opencv_warps.npz") as file:
        return dict(file)


def boxed(image, size):
    return letterbox(image, size, mean=MEAN, std=STD)


def levels(pixels):
    """The 8-bit values (S, S, 3) of normalised pixels."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (MEAN, STD))
    return ((pixels * std + mean) * 255).transpose(1, 2, 0)


def random_map(height, width):
    return np.random.default_rng(0).random((height, width), dtype=np.float32)


# ── against OpenCV ──


@CASES
def test_letterbox_equals_opencv(recorded, height, width, side, keep):
    pixels, frame = boxed(Image.fromarray(image_array(height, width)), side)
    assert frame == Frame(height, width, side)
    assert pixels.dtype == np.float32
    assert pixels.shape == (3, side, side)
    difference = np.abs(levels(pixels)[::keep, ::keep] - recorded[f"{height}x{width}_{side}_image"])
    assert difference.max() < 1.001
    assert difference.mean() < 0.01


@CASES
def test_restore_equals_opencv(recorded, height, width, side, keep):
    restored = Frame(height, width, side).restore(probabilities(side))
    assert restored.dtype == np.float32
    assert restored.shape == (height, width)
    assert np.abs(sample(restored) - recorded[f"{height}x{width}_{side}_map"]).max() < 2e-6


@CASES
def test_a_letterboxed_mask_equals_opencv(recorded, height, width, side, keep):
    square = Frame(height, width, side).place_mask(region(height, width))
    assert square.dtype == np.float32
    assert square.shape == (side, side)
    difference = square[::keep, ::keep] - recorded[f"{height}x{width}_{side}_mask"] / np.float32(255)
    assert np.abs(difference).max() < 0.501 / 255 + 1e-6  # OpenCV rounds to 1/255


# ── restoring ──


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (13, 13), (104, 104), (500, 500), (26, 13)])
def test_restore_enlarges_scores_to_the_square_first(shape):
    frame, scores = Frame(90, 120, 416), random_map(*shape)
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(scores)[None, None], size=(416, 416), mode="bicubic", align_corners=True
    )
    assert np.allclose(frame.restore(scores), frame.restore(enlarged[0, 0].numpy()), atol=1e-5)


def test_restore_in_blocks_equals_restore(monkeypatch):
    frame, scores = Frame(70, 110, 64), random_map(16, 16)
    whole = frame.restore(scores)
    monkeypatch.setattr("refseg.inputs.frame.BLOCK_PIXELS", 500)
    blocks = list(frame.restore_blocks(scores))
    assert len(blocks) > 10
    assert [rows.start for rows, _ in blocks[1:]] == [rows.stop for rows, _ in blocks[:-1]]
    assert np.allclose(np.concatenate([block for _, block in blocks]), whole, atol=1e-6)


def test_a_narrowed_warp_equals_a_whole_one(monkeypatch):
    image = Image.fromarray(image_array(70, 110))
    whole = boxed(image, 64)[0]
    monkeypatch.setattr("refseg.inputs.frame.BLOCK", 32)
    assert np.allclose(boxed(image, 64)[0], whole, atol=1e-6)


def test_scores_of_float64_are_restored_as_float32():
    scores = random_map(8, 8)
    restored = Frame(30, 20, 32).restore(scores.astype(np.float64))
    assert restored.dtype == np.float32
    assert np.array_equal(restored, Frame(30, 20, 32).restore(scores))


def test_restore_overshoots_as_bicubic_interpolation_does():
    scores = np.zeros((16, 16), np.float32)
    scores[:, 8:] = 1
    restored = Frame(200, 200, 64).restore(scores)
    assert restored.min() < -0.01
    assert restored.max() > 1.01


@given(height=st.integers(1, 300), width=st.integers(1, 300), size=st.sampled_from([32, 64, 96]))
@settings(max_examples=40, deadline=None)
def test_a_smooth_map_survives_letterboxing_and_restoring(height, width, size):
    y, x = np.mgrid[:height, :width]
    smooth = (0.5 + 0.25 * x / width - 0.25 * y / height).astype(np.float32)
    frame = Frame(height, width, size)
    restored = frame.restore(frame.place_mask(smooth))
    assert restored.shape == smooth.shape
    edge = int(np.ceil(3 / frame.scale)) + 3  # the outermost pixels blend into the border
    inner = np.s_[edge : height - edge, edge : width - edge]
    assert np.abs(restored[inner] - smooth[inner]).max(initial=0) < 0.02


# ── letterboxing ──


@given(height=st.integers(1, 400), width=st.integers(1, 400), size=st.integers(1, 100), colour=st.integers(0, 255))
@settings(max_examples=40, deadline=None)
def test_an_image_of_one_colour_stays_within_the_range_of_colours(height, width, size, colour):
    pixels, frame = boxed(Image.new("RGB", (width, height), (colour,) * 3), size)
    values = levels(pixels)
    assert -0.01 <= values.min() <= values.max() <= 255.01
    assert frame.scale == pytest.approx(min(size / height, size / width))
    assert np.abs(values - np.rint(values)).max() < 0.01  # rounded to 8 bits, as OpenCV does


def test_the_border_is_nearly_zero():
    pixels, _ = boxed(Image.new("RGB", (100, 20), "red"), 64)
    assert np.abs(pixels[:, 0]).max() < 0.01


def test_mean_and_std_normalise():
    image = Image.fromarray(image_array(20, 30))
    plain, _ = letterbox(image, 32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert 0 <= plain.min() < plain.max() <= 1
    shifted, _ = letterbox(image, 32, mean=(0.0, 0.0, 0.0), std=(0.5, 0.25, 2.0))
    assert np.allclose(shifted * np.array([0.5, 0.25, 2.0], np.float32)[:, None, None], plain, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000)])
def test_extreme_shapes(size):
    pixels, frame = boxed(Image.new("RGB", size, "red"), 416)
    assert np.isfinite(pixels).all()
    assert frame.restore(random_map(104, 104)).shape == (size[1], size[0])


@pytest.mark.parametrize(("height", "width"), [(1200, 9000), (9000, 1200)])
def test_a_large_image_is_letterboxed_in_little_memory(height, width):
    image = Image.new("RGB", (width, height), "red")
    tracemalloc.start()
    pixels, _ = boxed(image, 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2.6 * height * width * 3  # the image's own bytes, as Pillow hands them over, and little more
    assert np.abs(levels(pixels)[32, 32] - (255, 0, 0)).max() < 0.01


# ── errors ──


@pytest.mark.usefixtures("unchecked")
def test_masks_of_another_size_or_type_are_errors():
    frame, mask = Frame(30, 40, 32), region(30, 40)
    assert np.array_equal(frame.place_mask(mask), frame.place_mask(mask.astype(np.float32)))
    for wrong in (mask.T, mask.astype(np.uint8)):
        with pytest.raises(ImageError, match=r"\(30, 40\)"):
            frame.place_mask(wrong)


def test_images_of_another_mode_and_impossible_sizes_are_errors():
    with pytest.raises(ImageError, match="read_image"):
        boxed(Image.new("L", (4, 4)), 32)
    for numbers in ((0, 4, 32), (4, 0, 32), (4, 4, 0)):
        with pytest.raises(ConfigError, match="1 or more"):
            Frame(*numbers)


# ── the other fits ──


@pytest.mark.parametrize("fit", ["pad-cubic", "pad-antialiased", "squash"])
@pytest.mark.parametrize(("height", "width"), [(45, 60), (80, 37), (64, 64), (1, 200)])
def test_what_is_placed_in_a_square_returns_from_it(fit, height, width):
    frame = Frame(height, width, 64, fit)
    half = np.zeros((height, width), bool)
    half[:, : width // 2] = True
    restored = frame.restore(frame.place_mask(half))
    assert restored.shape == (height, width)
    wrong = (restored > 0.5) != half
    assert wrong.mean() <= 2 / width
    box = np.array([0.1 * width, 0.2 * height, 0.7 * width, height])
    np.testing.assert_allclose(frame.to_image(frame.to_square(box)), box, atol=1e-4)


def test_boxes_of_a_letterbox():
    frame = Frame(45, 60, 64)
    np.testing.assert_allclose(frame.to_square(np.array([0.0, 0, 60, 45])), [0, 8, 64, 56])
    np.testing.assert_allclose(frame.to_image(np.array([-5.0, 0, 32, 64])), [0, 0, 30, 45])


@pytest.mark.parametrize(("fit", "border"), [("pad-cubic", 127.5), ("pad-antialiased", 128)])
def test_a_padded_image_lies_on_grey(fit, border):
    image = Image.fromarray(image_array(45, 60))
    pixels = pad(image, 60, fit) * 255
    assert np.abs(pixels[:, :7] - border).max() < 1e-4
    np.testing.assert_allclose(pixels[:, 7:52].transpose(1, 2, 0), np.asarray(image), atol=1e-4)


def test_a_squashed_image_has_the_means_of_areas():
    levels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    means = levels.reshape(2, 2, 2, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(squash(Image.fromarray(levels), 2).transpose(1, 2, 0) * 255, np.floor(means + 0.5))
