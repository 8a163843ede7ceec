"""Prediction: mask, box, score and emptiness follow from the probabilities."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.errors import ConfigError
from refseg.values import Calibration, Prediction


def predict(values, threshold=0.5, **more):
    return Prediction("the cup", np.array(values, dtype=np.float32), threshold, **more)


def test_the_mask_is_what_exceeds_the_threshold():
    assert predict([[0.25, 0.5, 0.75]]).mask.tolist() == [[False, False, True]]
    assert predict([[0.25, 0.5, 0.75]]).mask.dtype == bool


def test_the_score_by_hand():
    # Inside: 0.75 + 1.0, of two pixels; outside: 0.25 + 0.5.
    assert predict([[0.75, 1.0], [0.25, 0.5]]).score == pytest.approx(1.75 / (2 + 0.75))


def test_a_certain_answer_scores_one():
    assert predict([[1, 0], [0, 1]]).score == 1


def test_an_empty_answer():
    empty = predict([[0.1, 0.2], [0.3, 0.5]])
    assert (empty.empty, empty.box, empty.score) == (True, None, 0)
    assert not empty.mask.any()


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(1, 3), slice(2, 5), (2, 1, 5, 3)),
        (slice(0, 1), slice(0, 1), (0, 0, 1, 1)),
        (slice(None), slice(None), (0, 0, 6, 4)),
    ],
)
def test_the_box_ends_after_the_last_pixel(rows, columns, box):
    values = np.zeros((4, 6), dtype=np.float32)
    values[rows, columns] = 0.9
    prediction = Prediction("x", values, 0.5)
    assert prediction.box == box
    x0, y0, x1, y1 = box
    assert prediction.mask[y0:y1, x0:x1].sum() == prediction.mask.sum()


def test_the_box_encloses_separate_parts():
    values = np.zeros((5, 5), dtype=np.float32)
    values[0, 4] = values[3, 1] = 1
    assert Prediction("x", values, 0.5).box == (1, 0, 5, 4)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_the_score_is_a_share_and_zero_just_when_empty(seed, threshold):
    values = np.random.default_rng(seed).random((5, 7), dtype=np.float32) ** 3
    prediction = Prediction("x", values, threshold)
    assert 0 <= prediction.score <= 1
    assert (prediction.score == 0) == prediction.empty == (prediction.box is None)


def test_calibration_says_what_a_belief_is_worth():
    calibration = Calibration(knots=((0.2, 0.1), (0.6, 0.5), (0.9, 0.5)))
    assert [round(calibration.score(confidence), 9) for confidence in (0.0, 0.4, 0.7, 1.0)] == [0.1, 0.3, 0.5, 0.5]
    probability = np.array([[0.75, 1.0], [0.25, 0.5]], dtype=np.float32)
    prediction = Prediction("cup", probability, 0.5, calibration=calibration)
    assert prediction.confidence == pytest.approx(1.75 / 2.75)
    assert prediction.score == calibration.score(prediction.confidence)


def test_a_mask_of_too_little_belief_is_refused():
    probability = np.array([[0.75, 1.0], [0.25, 0.5]], dtype=np.float32)
    knots = ((0.0, 0.0), (1.0, 1.0))
    trusted = Prediction("cup", probability, 0.5, calibration=Calibration(knots=knots, reject_below=0.63))
    refused = Prediction("cup", probability, 0.5, calibration=Calibration(knots=knots, reject_below=0.64))
    assert (trusted.refused, trusted.empty, trusted.mask.sum()) == (False, False, 2)
    assert (refused.refused, refused.empty, refused.mask.sum()) == (True, True, 0)
    assert (refused.box, refused.score) == (None, 0)
    assert refused.confidence == trusted.confidence


@pytest.mark.parametrize(
    "values",
    [
        {"knots": ()},
        {"knots": ((0.5, 0.1), (0.5, 0.2))},
        {"knots": ((0.1, 0.5), (0.2, 0.4))},
        {"knots": ((0.1, 1.5),)},
        {"knots": ((0.1, 0.5),), "reject_below": float("nan")},
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(values):
    with pytest.raises(ConfigError, match="calibration"):
        Calibration(**values)


def test_a_surer_inside_and_a_surer_outside_score_higher():
    assert predict([[0.9, 0.1]]).score > predict([[0.8, 0.1]]).score > predict([[0.8, 0.4]]).score


def test_a_large_image_is_summed_exactly_enough():
    values = np.full((2000, 2000), 0.75, dtype=np.float32)
    assert Prediction("x", values, 0.5).score == pytest.approx(0.75, abs=1e-9)


def test_a_prediction_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        predict([[1.0]]).threshold = 0.1


def test_words_are_kept_and_truncation_is_told():
    assert predict([[1.0]]).expression == "the cup"
    assert predict([[1.0]]).truncated is False
    assert predict([[1.0]], truncated=True).truncated is True
