"""Calibration: scores become the IoUs that they promise, and rejections cost what they may."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.errors import DataError
from refseg.evaluation.calibration import expected_calibration_error, fit, rejection_threshold
from refseg.evaluation.metrics import Outcome


def outcomes(confidences, ious, present=None):
    """Masks of a thousand pixels each; where nothing is meant the IoU is left out of account."""
    present = [True] * len(confidences) if present is None else present
    return [
        Outcome(
            id=str(number),
            reference=str(number),
            image=str(number),
            expression="cup",
            present=bool(there),
            intersection=round(1000 * iou),
            union=1000,
            found=1000,
            meant=1000,
            pixels=9000,
            score=float(confidence),
            empty=False,
        )
        for number, (confidence, iou, there) in enumerate(zip(confidences, ious, present, strict=True))
    ]


def test_the_error_by_hand():
    scores, ious = np.array([0.05, 0.05, 0.95, 1.0]), np.array([0.0, 0.3, 0.8, 0.9])
    assert expected_calibration_error(scores, ious) == pytest.approx((2 * 0.1 + 2 * 0.125) / 4)
    assert expected_calibration_error(ious, ious) == 0


def test_calibrated_scores_are_the_ious_that_they_promise():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.3, 1, 4000)
    ious = np.clip(confidences**3 + rng.normal(0, 0.1, 4000), 0, 1)  # far too sure of itself
    calibration = fit(outcomes(confidences[:2000], ious[:2000]))
    scores = np.array([calibration.score(confidence) for confidence in confidences[2000:]])
    assert expected_calibration_error(confidences[2000:], ious[2000:]) > 0.15
    assert expected_calibration_error(scores, ious[2000:]) < 0.02
    assert calibration.reject_below == 0


def test_the_score_never_falls_when_the_belief_rises():
    rng = np.random.default_rng(1)
    calibration = fit(outcomes(rng.random(500), rng.random(500)))  # confidences that mean nothing
    scores = [calibration.score(confidence) for confidence in np.linspace(0, 1, 50)]
    assert scores == sorted(scores)
    assert max(scores) - min(scores) < 0.25


def test_what_fits_nothing_counts_as_no_overlap():
    confidences = np.full(200, 0.9)
    ious = np.ones(200)
    calibration = fit(outcomes(confidences, ious, np.arange(200) % 4 > 0))
    assert calibration.knots == ((pytest.approx(0.9), pytest.approx(0.75)),)


@pytest.mark.parametrize("rejections", [0.0, 0.05, 0.5])
def test_no_more_is_refused_than_may_be(rejections):
    rng = np.random.default_rng(2)
    confidences = np.where(np.arange(1000) % 5 > 0, rng.uniform(0.4, 1, 1000), rng.uniform(0, 0.6, 1000))
    present = np.arange(1000) % 5 > 0
    calibration = fit(outcomes(confidences, confidences, present), rejections=rejections)
    refused = confidences < calibration.reject_below
    assert refused[present].mean() == pytest.approx(rejections, abs=0.002)
    assert refused[present].mean() <= rejections
    if rejections == 0.05:
        assert refused[~present].mean() > 0.6


def test_too_little_is_refused():
    with pytest.raises(DataError, match="needs 100 expressions or more, got 3"):
        fit(outcomes([0.1, 0.2, 0.3], [0, 0, 0]))
    with pytest.raises(DataError, match="finds nothing at all"):
        fit(outcomes(np.zeros(200), np.zeros(200)))
    with pytest.raises(DataError, match="no expression means something"):
        rejection_threshold(np.ones(3), np.zeros(3, dtype=bool), 0.05)
