"""Metrics of masks in a video: against the definition of DAVIS, computed pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from refseg.evaluation.video import contour_accuracy, flicker, moved, region_similarity


def by_definition(predicted, target):
    """F with the matching of DAVIS: both contours dilated by a disc."""
    radius = math.ceil(0.008 * math.hypot(*predicted.shape))
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = rows**2 + columns**2 <= radius**2

    def contour(mask):
        found = np.zeros_like(mask)
        height, width = mask.shape
        for row in range(height):
            for column in range(width):
                around = mask[row : row + 2, column : column + 2]
                found[row, column] = around.any() != around.all()
        return found

    one, other = contour(predicted), contour(target)
    precision = (one & binary_dilation(other, disc)).sum() / one.sum()
    recall = (other & binary_dilation(one, disc)).sum() / other.sum()
    return 2 * precision * recall / (precision + recall)


def square(top, left, side, size=(60, 80)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize("seed", range(3))
def test_the_contour_accuracy_is_that_of_davis(seed):
    rng = np.random.default_rng(seed)
    predicted, target = (square(*rng.integers(20, 24, 2), rng.integers(15, 22)) for _ in range(2))
    predicted ^= rng.random(predicted.shape) < 0.002
    assert contour_accuracy(predicted, target) == pytest.approx(by_definition(predicted, target), abs=1e-12)


def test_contours_match_within_the_tolerance():
    target = square(20, 20, 20)
    assert contour_accuracy(target, target) == region_similarity(target, target) == 1
    assert contour_accuracy(square(20, 21, 20), target) == 1, "a pixel is 0.8 % of the diagonal, rounded up"
    assert contour_accuracy(square(20, 24, 20), target) < 0.7
    assert contour_accuracy(square(0, 60, 10), target) == region_similarity(square(0, 60, 10), target) == 0


def test_nothing_found_where_nothing_fits_is_right():
    nothing, something = np.zeros((60, 80), bool), square(20, 20, 20)
    assert contour_accuracy(nothing, nothing) == region_similarity(nothing, nothing) == 1
    assert contour_accuracy(nothing, something) == contour_accuracy(something, nothing) == 0
    assert region_similarity(nothing, something) == 0


def test_flicker_is_what_the_motion_does_not_explain():
    before = square(20, 20, 20)
    assert np.array_equal(moved(before, 5, -3), square(17, 25, 20))
    assert flicker(before, square(17, 25, 20), 5, -3) == 0
    assert flicker(before, square(20, 20, 10), 0, 0) == pytest.approx(0.75)
    assert not moved(before, 80, 0).any()
