"""Metrics of masks in a video: region similarity, contour accuracy, and flicker."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg.masks import intersection_and_union

__all__ = ["contour_accuracy", "flicker", "moved", "region_similarity"]

TOLERANCE = 0.008
"""The distance at which contours still match, in diagonals of the image."""


def region_similarity(predicted: Bool[ndarray, "H W"], target: Bool[ndarray, "H W"]) -> float:
    """Return J, the intersection over union of two masks; 1 where both are empty.

    Source: DAVIS (Perazzi et al., CVPR 2016), section 5; its code for empty masks.
    """
    intersection, union = intersection_and_union(predicted, target)
    return intersection / union if union else 1.0


def contour_accuracy(predicted: Bool[ndarray, "H W"], target: Bool[ndarray, "H W"]) -> float:
    """Return F, the harmonic mean of precision and recall of the contour pixels; 1 where both masks are empty.

    A pixel of one contour is matched if the other contour is within 0.008 diagonals of the image, rounded up to pixels.

    Source: DAVIS (Perazzi et al., CVPR 2016), section 5, which matches by dilating.
    """
    radius = math.ceil(TOLERANCE * math.hypot(*predicted.shape))
    one, other = _contour(predicted), _contour(target)
    if not (one.any() and other.any()):
        return float(one.any() == other.any())
    precision = np.count_nonzero(one & _within(other, radius)) / np.count_nonzero(one)
    recall = np.count_nonzero(other & _within(one, radius)) / np.count_nonzero(other)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def flicker(before: Bool[ndarray, "H W"], mask: Bool[ndarray, "H W"], right: int, down: int) -> float:
    """Return how much a mask changes from one frame to the next beyond the object's true motion, 0..1.

    It is 1 - J of the mask and the one before, moved as the object has. True masks have a flicker too: objects
    turn, are covered, and leave the image.

    Args:
        before: the mask in the frame before.
        mask: in this one.
        right: the object's motion, whole pixels.
        down: the same.
    """
    return 1 - region_similarity(moved(before, right, down), mask)


def moved(mask: Bool[ndarray, "H W"], right: int, down: int) -> Bool[ndarray, "H W"]:
    """Return a mask moved by whole pixels; what leaves the image is lost."""
    height, width = mask.shape
    rows, columns = np.arange(height) - down, np.arange(width) - right
    seen = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    return np.asarray(mask[rows.clip(0, height - 1)][:, columns.clip(0, width - 1)] & seen)


def _contour(mask: Bool[ndarray, "H W"]) -> Bool[ndarray, "H W"]:
    """Return the pixels that differ from the right, the lower or the lower right one; the edge of the image is none."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    neighbours = (padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:])
    return np.asarray(np.logical_or.reduce([mask ^ other for other in neighbours]))


def _within(mask: Bool[ndarray, "H W"], radius: int) -> Bool[ndarray, "H W"]:
    """Return the pixels within a distance of a mask."""
    height, width = mask.shape
    padded = np.pad(mask, radius)
    found = np.zeros_like(mask)
    for down in range(-radius, radius + 1):
        reach = math.isqrt(radius**2 - down**2)
        sums = padded[radius + down : radius + down + height].cumsum(axis=1, dtype=np.int32)
        sums = np.pad(sums, ((0, 0), (1, 0)))
        first = np.arange(width) + radius - reach
        found |= sums[:, first + 2 * reach + 1] > sums[:, first]
    return found
