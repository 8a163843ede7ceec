"""Metrics, against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.evaluation.metrics import THRESHOLDS, SegmentationMetrics, overlap


def square(top, left, side, size=10):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


NOTHING = np.zeros((10, 10), dtype=bool)


def test_overlap_by_hand():
    assert overlap(square(0, 0, 4), square(2, 2, 4)) == (4, 28)
    assert overlap(square(0, 0, 4), square(0, 0, 4)) == (16, 16)
    assert overlap(NOTHING, square(0, 0, 4)) == (0, 16)
    assert overlap(NOTHING, NOTHING) == (0, 0)


def test_the_iou_of_each_expression():
    metrics = SegmentationMetrics()
    assert metrics.update(square(0, 0, 4), square(2, 2, 4)) == 4 / 28
    assert metrics.update(square(1, 1, 3), square(1, 1, 3)) == 1
    assert metrics.update(NOTHING, square(0, 0, 2)) == 0
    assert metrics.update(square(0, 0, 2), NOTHING) == 0
    assert metrics.update(NOTHING, NOTHING) == 0
    assert metrics.update(NOTHING, None) is None


def test_mean_and_overall_iou_differ():
    metrics = SegmentationMetrics()
    metrics.update(square(0, 0, 8), square(0, 0, 8))  # 64 of 64
    metrics.update(square(0, 0, 1), square(5, 5, 1))  # 0 of 2
    computed = metrics.compute()
    assert computed["mean_iou"] == 0.5
    assert computed["overall_iou"] == 64 / 66
    assert computed["n"] == 2


def test_precision_counts_what_reaches_a_threshold():
    metrics = SegmentationMetrics()
    for width in (5, 6, 7, 8, 9, 10):  # IoU 0.5, 0.6 ... 1.0
        prediction = np.zeros((10, 10), dtype=bool)
        prediction[:, :width] = True
        metrics.update(prediction, ~NOTHING)
    assert THRESHOLDS == (0.5, 0.6, 0.7, 0.8, 0.9)
    assert metrics.compute()["precision"] == {
        "0.5": 1.0,
        "0.6": pytest.approx(5 / 6),
        "0.7": pytest.approx(4 / 6),
        "0.8": pytest.approx(3 / 6),
        "0.9": pytest.approx(2 / 6),
    }


def test_absence_is_counted_apart():
    metrics = SegmentationMetrics()
    metrics.update(square(0, 0, 4), square(0, 0, 4))
    metrics.update(NOTHING, square(0, 0, 4))
    metrics.update(NOTHING, None)
    metrics.update(NOTHING, None)
    metrics.update(square(0, 0, 1), None)
    computed = metrics.compute()
    assert (computed["n"], computed["n_absent"]) == (2, 3)
    assert computed["n_acc"] == pytest.approx(2 / 3)
    assert computed["t_acc"] == 0.5
    assert computed["mean_iou"] == 0.5
    assert computed["overall_iou"] == 0.5


def test_nothing_counted_is_nothing_said():
    computed = SegmentationMetrics().compute()
    assert (computed["n"], computed["n_absent"]) == (0, 0)
    assert computed["precision"] == dict.fromkeys(("0.5", "0.6", "0.7", "0.8", "0.9"))
    assert [computed[name] for name in ("mean_iou", "overall_iou", "n_acc", "t_acc")] == [None] * 4


def test_only_absent_expressions():
    metrics = SegmentationMetrics()
    metrics.update(NOTHING, None)
    assert metrics.compute()["n_acc"] == 1
    assert metrics.compute()["mean_iou"] is None
