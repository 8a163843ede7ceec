"""Reliability diagrams and the calibration error, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.errors import DataError
from refseg.evaluation.reliability import measure_reliability


def test_the_error_by_hand():
    # Bin 0.2..0.3: scores 0.2 and 0.28, mean 0.24; IoUs 0 and 0.4, mean 0.2. Bin 0.9..1: score 1, IoU 0.5.
    found = measure_reliability(np.array([0.2, 1.0, 0.28]), np.array([0.0, 0.5, 0.4]))
    assert found.error == pytest.approx((2 * 0.04 + 1 * 0.5) / 3)
    assert [one.n for one in found.bins] == [0, 0, 2, 0, 0, 0, 0, 0, 0, 1]
    assert (found.bins[2].score, found.bins[2].iou) == (pytest.approx(0.24), pytest.approx(0.2))
    assert (found.bins[0].score, found.bins[0].iou) == (None, None)
    assert [(one.low, one.high) for one in found.bins][::9] == [(0.0, 0.1), (0.9, 1.0)]


def test_right_on_average_is_calibrated():
    found = measure_reliability(np.full(4, 0.75), np.array([1.0, 1.0, 1.0, 0.0]))
    assert found.error == pytest.approx(0)


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan"), float("inf")])
def test_scores_out_of_range_are_an_error(score):
    with pytest.raises(DataError):
        measure_reliability(np.array([0.5, score]), np.array([0.5, 0.5]))


def test_no_scores_are_an_error():
    with pytest.raises(DataError):
        measure_reliability(np.array([]), np.array([]))
