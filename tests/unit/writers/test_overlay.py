"""Overlays and panels: masks are tinted and outlined, the rest is dimmed or untouched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refseg.writers.overlay import CAPTION, COLOUR, DIM, TINT, fitted, overlay, panels, shrunk


@pytest.fixture
def mask():
    mask = np.zeros((64, 96), dtype=bool)
    mask[20:40, 30:60] = True
    return mask


def changed(image, photo_pixels):
    return (np.asarray(image) != photo_pixels).any(axis=-1)


def test_outside_is_untouched_without_dimming(photo_pixels, mask):
    shown = changed(overlay(Image.fromarray(photo_pixels), mask, dim=False), photo_pixels)
    around = np.zeros_like(mask)
    around[19:41, 29:61] = True
    assert not shown[~around].any()
    assert shown[mask].all()


def test_inside_is_tinted_and_outside_dimmed(photo_pixels, mask):
    shown = np.asarray(overlay(Image.fromarray(photo_pixels), mask)).astype(int)
    inside = photo_pixels[25, 35] * (1 - TINT) + np.array(COLOUR) * TINT
    assert np.abs(shown[25, 35] - inside).max() <= 1
    assert np.abs(shown[5, 5] - photo_pixels[5, 5] * DIM).max() <= 1


def test_a_line_of_one_pixel_runs_around_the_mask(photo_pixels, mask):
    shown = np.asarray(overlay(Image.fromarray(photo_pixels), mask))
    line = (shown == COLOUR).all(axis=-1)
    expected = np.zeros_like(mask)
    expected[19:41, 29:61] = True
    assert (line == (expected & ~mask)).all()


def test_the_line_is_thicker_on_larger_images():
    mask = np.zeros((30, 2000), dtype=bool)
    mask[10:20, 100:200] = True
    line = (np.asarray(overlay(Image.new("RGB", (2000, 30)), mask)) == COLOUR).all(axis=-1)
    assert line[:, 150].sum() == 10
    assert line[15].sum() == 10
    assert line[5:25, 95:205].sum() == 20 * 110 - 10 * 100


@pytest.mark.parametrize("value", [False, True])
def test_nothing_and_everything(photo_pixels, value):
    image = overlay(Image.fromarray(photo_pixels), np.full((64, 96), value))
    assert image.size == (96, 64)
    assert not (np.asarray(image) == COLOUR).all(axis=-1).any()


def test_a_mask_is_shrunk_to_what_half_of_it_covers():
    mask = np.zeros((4, 8), dtype=bool)
    mask[:, :3] = True
    assert shrunk(mask, (4, 2)).tolist() == [[True, True, False, False]] * 2
    thin = np.zeros((40, 40), dtype=bool)
    thin[3, 3] = True
    assert shrunk(thin, (2, 2)).tolist() == [[True, False], [False, False]], "the smallest mask is visible"
    assert shrunk(mask, (8, 4)) is mask


def test_only_longer_images_are_scaled():
    assert fitted(Image.new("RGB", (400, 200)), 100).size == (100, 50)
    assert fitted(Image.new("RGB", (40, 20)), 100).size == (40, 20)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1)])
def test_odd_sizes(size):
    mask = np.zeros(size[::-1], dtype=bool)
    mask[0, 0] = True
    assert overlay(Image.new("RGB", size), mask).size == size


def test_the_image_given_stays_as_it_was(photo_pixels, mask):
    image = Image.fromarray(photo_pixels)
    overlay(image, mask)
    assert (np.asarray(image) == photo_pixels).all()


@pytest.mark.parametrize(("count", "columns", "grid"), [(1, 3, (1, 1)), (3, 3, (3, 1)), (4, 3, (3, 2)), (4, 2, (2, 2))])
def test_panels_stand_in_a_grid(photo_pixels, count, columns, grid):
    sheet = panels([(Image.fromarray(photo_pixels), "words")] * count, columns=columns, width=48)
    assert sheet.size == (grid[0] * (48 + 8) + 8, grid[1] * (32 + CAPTION + 8) + 8)


def test_panels_hold_the_images_and_their_words(photo_pixels):
    sheet = np.asarray(panels([(Image.fromarray(photo_pixels), "杯子 the cup")], width=96))
    assert (sheet[8:72, 8:104] == photo_pixels).all()
    assert (sheet[72 : 72 + CAPTION] < 100).any()
    assert (sheet[:8] == 255).all()


def test_images_of_different_shape_share_a_width():
    sheet = panels([(Image.new("RGB", (10, 20)), "tall"), (Image.new("RGB", (40, 10)), "wide")], width=20)
    assert sheet.size == (2 * 28 + 8, 40 + CAPTION + 16)
