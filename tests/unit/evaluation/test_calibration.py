"""Fitting a calibration: scores equal the IoU to expect, and rejections stay within their share."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.errors import DataError
from refseg.evaluation.calibration import fit, rejection_threshold
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.reliability import measure_reliability


def outcomes(confidences, ious, present=None):
    """Masks of a thousand pixels each; the IoU of expressions without a target is not used."""
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
            predicted_pixels=1000,
            target_pixels=1000,
            image_pixels=9000,
            score=float(confidence),
            empty=False,
        )
        for number, (confidence, iou, there) in enumerate(zip(confidences, ious, present, strict=True))
    ]


def calibration_error(scores, ious):
    return measure_reliability(scores, ious).error


def test_calibrated_scores_equal_the_iou():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.3, 1, 4000)
    ious = np.clip(confidences**3 + rng.normal(0, 0.1, 4000), 0, 1)  # overconfident
    calibration = fit(outcomes(confidences[:2000], ious[:2000]))
    scores = np.array([calibration.score(confidence) for confidence in confidences[2000:]])
    assert calibration_error(confidences[2000:], ious[2000:]) > 0.15
    assert calibration_error(scores, ious[2000:]) < 0.02
    assert calibration.reject_below == 0


def test_the_score_never_falls_when_the_confidence_rises():
    rng = np.random.default_rng(1)
    calibration = fit(outcomes(rng.random(500), rng.random(500)))  # confidences without information
    scores = [calibration.score(confidence) for confidence in np.linspace(0, 1, 50)]
    assert scores == sorted(scores)
    assert max(scores) - min(scores) < 0.25


def test_expressions_that_fit_nothing_have_an_iou_of_zero():
    confidences = np.full(200, 0.9)
    ious = np.ones(200)
    calibration = fit(outcomes(confidences, ious, np.arange(200) % 4 > 0))
    assert calibration.knots == ((pytest.approx(0.9), pytest.approx(0.75)),)


@pytest.mark.parametrize("rejections", [0.0, 0.05, 0.5])
def test_no_more_is_rejected_than_the_share(rejections):
    rng = np.random.default_rng(2)
    confidences = np.where(np.arange(1000) % 5 > 0, rng.uniform(0.4, 1, 1000), rng.uniform(0, 0.6, 1000))
    present = np.arange(1000) % 5 > 0
    calibration = fit(outcomes(confidences, confidences, present), rejections=rejections)
    rejected = confidences < calibration.reject_below
    assert rejected[present].mean() == pytest.approx(rejections, abs=0.002)
    assert rejected[present].mean() <= rejections
    if rejections == 0.05:
        assert rejected[~present].mean() > 0.6


def test_too_little_data_is_an_error():
    with pytest.raises(DataError, match="100 expressions"):
        fit(outcomes([0.1, 0.2, 0.3], [0, 0, 0]))
    with pytest.raises(DataError, match="empty"):
        fit(outcomes(np.zeros(200), np.zeros(200)))
    with pytest.raises(DataError, match="target"):
        rejection_threshold(np.ones(3), np.zeros(3, dtype=bool), 0.05)
