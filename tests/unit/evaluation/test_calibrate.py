"""Calibrating any segmenter: a new decision is measured, and nothing is changed."""

from __future__ import annotations

import pytest

from refseg.errors import ConfigError, DataError
from refseg.evaluation.calibrate import calibrate
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.metrics import summarise
from refseg.values import Calibration, Decision


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Lets a few images be enough."""
    monkeypatch.setattr("refseg.evaluation.calibration.MIN_EXPRESSIONS", 20)
    monkeypatch.setattr("refseg.evaluation.calibration.GROUP_SIZE", 4)


def test_the_decision_is_measured_and_the_segmenter_is_not_changed(by_colour, squares):
    segmenter, data = by_colour(), squares(16)
    calibrated = calibrate(segmenter, data, rejections=0.0)
    assert segmenter.decision == Decision(threshold=0.35)
    assert (calibrated.decision.threshold, calibrated.decision.relative_threshold) == (0.35, None)
    measured = calibrated.measured
    assert (measured["data"], measured["digest"]) == ("squares:val", data.digest())
    assert (measured["images"], measured["expressions"], measured["rejections"]) == (16, 64, 0.0)
    error = measured["on_the_other_half"]["expected_calibration_error"]
    assert error["after"] < 0.01 < error["before"]
    # The mask of the first row alone, for what fits nothing, has a low confidence and is rejected.
    assert measured["on_the_other_half"]["n_acc"] == {"before": 0.0, "after": 1.0}
    assert measured["on_the_other_half"]["t_acc"] == {"before": 1.0, "after": 1.0}
    assert "thresholds" not in measured


def test_a_calibration_that_it_has_is_not_used(by_colour, squares):
    data = squares(16)
    first = calibrate(by_colour(), data)
    again = calibrate(by_colour(first.decision), data)
    assert again == first


def test_thresholds_are_chosen_first(by_colour, squares):
    data = squares(16)
    calibrated = calibrate(by_colour(), data, thresholds=True)
    chosen = calibrated.measured["thresholds"]
    assert calibrated.decision.threshold == chosen["threshold"] == 0.45  # above the first row's 0.42
    assert chosen["mean_iou"]["0.45"] > chosen["mean_iou"]["0.35"]
    after = summarise(evaluate(by_colour(calibrated.decision), data))
    assert after["mean_iou"] == pytest.approx(chosen["mean_iou"]["0.45"])
    assert after["mean_iou"] > summarise(evaluate(by_colour(), data))["mean_iou"]


def test_masks_are_rejected_by_what_recognises_more(by_colour, squares):
    measured = calibrate(by_colour(), squares(16), thresholds=True).measured
    by = measured["rejected_by"]
    better = max(by, key=lambda name: by[name]["absent"])
    relative = measured["thresholds"]["relative_threshold"]
    assert (relative is not None) == (better == "highest_probability" and by["confidence"] != by[better])
    assert all(0 <= share <= 1 for figures in by.values() for share in figures.values())


def test_without_a_share_masks_are_rejected_only_if_some_expressions_fit_nothing(by_colour, squares):
    data = squares(20)
    assert calibrate(by_colour(), data).measured["rejections"] == 0.05
    samples_of = data.samples_of
    data.samples_of = lambda index: samples_of(index)[:2]
    calibrated = calibrate(by_colour(), data)
    assert calibrated.measured["rejections"] is None
    assert calibrated.decision.calibration.reject_below == 0
    assert "n_acc" not in calibrated.measured["on_the_other_half"]


def test_only_the_first_images(by_colour, squares):
    assert calibrate(by_colour(), squares(14), limit=12).measured["images"] == 12


@pytest.mark.parametrize("arguments", [{"rejections": 1.0}, {"rejections": -0.1}, {"limit": 0}])
def test_arguments_out_of_range_are_an_error(by_colour, squares, arguments):
    with pytest.raises(ConfigError):
        calibrate(by_colour(), squares(16), **arguments)


def test_too_few_expressions_are_an_error_before_the_model_answers_any(by_colour, squares, monkeypatch):
    monkeypatch.setattr("refseg.evaluation.calibrate.evaluate", None)
    with pytest.raises(DataError, match="at least 20 expressions, and there are 12"):
        calibrate(by_colour(), squares(3))


def test_too_few_for_two_halves_are_enough_to_calibrate_on(by_colour, squares):
    """Four expressions an image: 24 in all, 12 in each half."""
    calibrated = calibrate(by_colour(), squares(6))
    assert calibrated.decision.calibration is not None
    assert (calibrated.measured["expressions"], calibrated.measured["on_the_other_half"]) == (24, None)


def test_another_threshold_is_not_rejected_by_the_calibration(by_colour, squares):
    """A calibration is of its own thresholds; a decision by another threshold has none."""
    calibration = Calibration(knots=((0.5, 0.5),), reject_below=0.99)
    segmenter = by_colour(Decision(threshold=0.35, calibration=calibration))
    (encoding,) = segmenter.encode([squares().image(0)])
    (prediction,) = segmenter.segment(encoding, ["red"])
    assert prediction.rejected
    other = prediction.decided_by(Decision(threshold=0.5))
    assert not other.rejected
    assert other.score == other.confidence
