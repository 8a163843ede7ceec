"""Prediction: mask, box, score and verdict follow from scores and decision. Encoding: immutable, stored exactly."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import tracemalloc
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from refseg.errors import ConfigError, ImageError, InputError, OutputError, WeightsError
from refseg.inputs.frame import Frame
from refseg.masks import decode_rle, encode_rle
from refseg.values import NOTEBOOK_SIDE, Calibration, Decision, Encoding, Prediction

KNOTS = ((0.0, 0.0), (1.0, 1.0))


def predict(values, threshold=0.5, *, truncated=False, **decision):
    """A prediction on a square image of the model's own size, so that restoring changes nothing."""
    scores = np.array(values, dtype=np.float32)
    side = max(scores.shape)
    square = np.zeros((side, side), np.float32)
    square[: scores.shape[0], : scores.shape[1]] = scores
    frame = Frame(side, side, side)
    return Prediction("the cup", square, frame, Decision(threshold=threshold, **decision), truncated)


def test_the_mask_holds_the_pixels_above_the_threshold():
    assert predict([[0.25, 0.5, 0.75]]).mask[0].tolist() == [False, False, True]
    assert predict([[0.25, 0.5, 0.75]]).mask.dtype == bool


def test_confidence_by_hand():
    # Inside: 0.75 + 1.0 of two pixels; outside: 0.25 + 0.5.
    prediction = predict([[0.75, 1.0], [0.25, 0.5]])
    assert prediction.confidence == pytest.approx(1.75 / (2 + 0.75))
    assert prediction.score == prediction.confidence


def test_a_refined_mask_keeps_the_score_of_its_own():
    own = predict([[0.75, 1.0], [0.25, 0.5]])
    sharper = np.array([[0.1, 0.9], [0.1, 0.9]], np.float32)
    asked = []
    refined = dataclasses.replace(own, refine=lambda one: asked.append(one) or sharper)
    assert refined.mask.tolist() == [[False, True], [False, True]]
    assert (refined.box, refined.confidence, refined.threshold) == ((1, 0, 2, 2), own.confidence, 0.5)
    assert np.array_equal(refined.probability, sharper)
    assert all(one.refine is None and one.box == own.box for one in asked)
    asked.clear()
    nothing = refined.decided_by(Decision(threshold=0.999999))
    nothing = dataclasses.replace(nothing, scores=own.scores / 2)
    assert (nothing.empty, nothing.box, nothing.mask.any(), asked) == (True, None, False, [])


def test_a_certain_mask_has_score_one():
    assert predict([[1, 0], [0, 1]]).score == 1


def test_an_empty_prediction():
    empty = predict([[0.1, 0.2], [0.3, 0.5]])
    assert (empty.empty, empty.box, empty.score) == (True, None, 0)
    assert not empty.mask.any()


@pytest.mark.parametrize(
    ("rows", "columns", "box"),
    [
        (slice(1, 3), slice(2, 5), (2, 1, 5, 3)),
        (slice(0, 1), slice(0, 1), (0, 0, 1, 1)),
        (slice(None), slice(None), (0, 0, 6, 6)),
    ],
)
def test_the_box_ends_after_the_last_pixel(rows, columns, box):
    values = np.zeros((6, 6), dtype=np.float32)
    values[rows, columns] = 0.9
    prediction = predict(values)
    assert prediction.box == box
    x0, y0, x1, y1 = box
    assert prediction.mask[y0:y1, x0:x1].sum() == prediction.mask.sum()


def test_the_box_encloses_separate_parts():
    values = np.zeros((5, 5), dtype=np.float32)
    values[0, 4] = values[3, 1] = 1
    assert predict(values).box == (1, 0, 5, 4)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 0.99))
def test_the_score_lies_in_0_to_1_and_is_zero_only_when_empty(seed, threshold):
    values = np.random.default_rng(seed).random((7, 7), dtype=np.float32) ** 3
    prediction = predict(values, threshold)
    assert 0 <= prediction.score <= 1
    assert (prediction.score == 0) == prediction.empty == (prediction.box is None)
    assert np.array_equal(decode_rle(prediction.rle), prediction.mask)


def test_a_higher_inside_and_a_lower_outside_give_a_higher_score():
    assert predict([[0.9, 0.1]]).score > predict([[0.8, 0.1]]).score > predict([[0.8, 0.4]]).score


def test_a_relative_threshold_applies_where_something_fits():
    values = [[0.8, 0.5], [0.3, 0.1]]
    assert predict(values, 0.35, relative_threshold=0.5).threshold == pytest.approx(0.4)
    nothing = predict(values, 0.9, relative_threshold=0.5)
    assert nothing.threshold == 0.9
    assert nothing.empty


# ── calibration ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_score_of_an_object_multiplies_the_confidence_and_leaves_the_mask():
    plain = predict([[0.75, 1.0], [0.25, 0.5]])
    doubted = dataclasses.replace(plain, object_score=0.25)
    assert doubted.confidence == pytest.approx(plain.confidence / 4)
    assert np.array_equal(doubted.mask, plain.mask)
    assert doubted.decided_by(Decision(threshold=0.35)).object_score == 0.25
    for impossible in (-0.1, 1.1, float("nan")):
        with pytest.raises(WeightsError):
            dataclasses.replace(plain, object_score=impossible)


def test_calibration_maps_confidence_to_score():
    calibration = Calibration(knots=((0.2, 0.1), (0.6, 0.5), (0.9, 0.5)))
    assert [round(calibration.score(confidence), 9) for confidence in (0.0, 0.4, 0.7, 1.0)] == [0.1, 0.3, 0.5, 0.5]
    prediction = predict([[0.75, 1.0], [0.25, 0.5]], calibration=calibration)
    assert prediction.confidence == pytest.approx(1.75 / 2.75)
    assert prediction.score == calibration.score(prediction.confidence)


def test_a_mask_of_low_confidence_is_rejected():
    values = [[0.75, 1.0], [0.25, 0.5]]
    kept = predict(values, calibration=Calibration(knots=KNOTS, reject_below=0.63))
    rejected = predict(values, calibration=Calibration(knots=KNOTS, reject_below=0.64))
    assert (kept.rejected, kept.empty, kept.mask.sum()) == (False, False, 2)
    assert (rejected.rejected, rejected.empty, rejected.mask.sum()) == (True, True, 0)
    assert (rejected.box, rejected.score) == (None, 0)
    assert not decode_rle(rejected.rle).any()
    assert rejected.confidence == kept.confidence


def test_another_decision_about_the_same_scores():
    rejected = predict([[0.75, 1.0], [0.25, 0.5]], calibration=Calibration(knots=KNOTS, reject_below=0.9))
    other = rejected.decided_by(Decision(threshold=0.2))
    assert (rejected.empty, other.empty) == (True, False)
    assert other.mask.sum() == 4
    assert other.score == other.confidence


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
def test_an_impossible_calibration_is_an_error(values):
    with pytest.raises(ConfigError, match="calibration"):
        Calibration(**values)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -0.1, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["threshold", "relative_threshold"])
def test_a_threshold_out_of_range_is_an_error(name, threshold):
    with pytest.raises(ConfigError, match=name):
        Decision(**{name: threshold})


# ── memory, faults ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_large_image_is_summed_exactly_enough():
    scores = np.full((20, 20), 0.75, np.float32)
    prediction = Prediction("x", scores, Frame(2000, 2000, 2000), Decision())
    assert prediction.score == pytest.approx(0.75, abs=1e-5)


def test_predictions_of_a_large_image_hold_no_full_size_arrays():
    frame, decision = Frame(3000, 4000, 64), Decision()
    rng = np.random.default_rng(0)
    tracemalloc.start()
    try:
        predictions = [Prediction(str(i), rng.random((16, 16), np.float32), frame, decision) for i in range(6)]
        for prediction in predictions:
            assert prediction.box is not None
            assert prediction.mask.shape == (3000, 4000)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    full_size = 3000 * 4000 * 4
    assert held < 0.06 * full_size, "all six together keep less than a sixteenth of one map of probabilities"
    assert peak < 2 * full_size


def test_blocks_of_a_large_image_are_its_restoration():
    scores = np.random.default_rng(1).random((16, 16), np.float32)
    prediction = Prediction("x", scores, Frame(1500, 2000, 64), Decision(threshold=0.6))
    assert np.array_equal(prediction.mask, prediction.probability > 0.6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_not_finite_are_errors(value):
    with pytest.raises(WeightsError, match="not finite"):
        predict([[0.5, value]])


def test_a_prediction_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        predict([[1.0]]).expression = "x"


def test_expression_and_truncation_are_kept():
    assert predict([[1.0]]).expression == "the cup"
    assert predict([[1.0]]).truncated is False
    assert predict([[1.0]], truncated=True).truncated is True


# ── what is done with a prediction ───────────────────────────────────────────────────────────────────────────────────


def test_a_prediction_as_json():
    said = predict([[0.75, 1.0], [0.25, 0.5]], truncated=True).to_dict()
    assert json.loads(json.dumps(said)) == said
    assert said == {
        "expression": "the cup",
        "score": round(1.75 / 2.75, 6),
        "empty": False,
        "box": [0, 0, 2, 1],
        "segmentation": encode_rle(np.array([[True, True], [False, False]])),
        "threshold": 0.5,
        "truncated": True,
    }
    assert predict([[0.1]]).to_dict()["box"] is None


def test_the_mask_is_saved_as_png(tmp_path):
    prediction = predict([[0.75, 1.0], [0.25, 0.5]])
    prediction.save(str(tmp_path / "cup.png"))
    with Image.open(tmp_path / "cup.png") as image:
        assert np.array_equal(np.asarray(image), prediction.mask * 255)
    with pytest.raises(OutputError):
        prediction.save(tmp_path / "cup.jpg")


def test_the_overlay_needs_the_image_of_the_prediction():
    prediction = predict(np.eye(8))
    image = np.full((8, 8, 3), 200, np.uint8)
    shown = prediction.overlay(image)
    assert shown.size == (8, 8)
    assert (np.asarray(shown) != image).any()
    with pytest.raises(ImageError, match="8x8"):
        prediction.overlay(image[:7])


def test_a_notebook_shows_words_verdict_and_mask():
    fits = dataclasses.replace(predict(np.eye(1000)), expression="<b>&")
    shown = fits._repr_html_()
    assert "&lt;b&gt;&amp;" in shown
    assert f"{fits.score:.2f}" in shown
    with Image.open(BytesIO(b64decode(re.search(r"base64,([^\"]+)", shown)[1]))) as image:
        assert max(image.size) == NOTEBOOK_SIDE
    assert "nothing fits" in predict([[0.1]])._repr_html_()


# ── encodings ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def encoding():
    arrays = {"p3": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), "p4": np.ones((1, 5), np.float32)}
    return Encoding("abc", Frame(48, 64, 32), arrays)


def same(one, other):
    return (
        (one.fingerprint, one.frame) == (other.fingerprint, other.frame)
        and list(one.arrays) == list(other.arrays)
        and all(np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays)
    )


def test_an_encoding_is_immutable(encoding):
    with pytest.raises(ValueError, match="read-only"):
        encoding.arrays["p3"][0] = 1
    with pytest.raises(TypeError):
        encoding.arrays["p5"] = np.ones(1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        encoding.fingerprint = "x"


def test_an_encoding_is_stored_and_read_exactly(encoding, tmp_path):
    encoding.save(tmp_path / "scene.safetensors")
    assert same(Encoding.load(tmp_path / "scene.safetensors"), encoding)
    assert same(pickle.loads(pickle.dumps(encoding)), encoding)


def test_an_encoding_that_cannot_be_written(encoding, tmp_path):
    with pytest.raises(OutputError):
        encoding.save(tmp_path / "none" / "scene.safetensors")


@pytest.mark.parametrize("content", [b"", b"{}", b"\x08\0\0\0\0\0\0\0{}      ", b"\xff" * 64])
def test_a_file_that_is_no_encoding_is_an_error(tmp_path, content):
    path = tmp_path / "scene.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError):
        Encoding.load(path)
    with pytest.raises(InputError):
        Encoding.load(tmp_path / "missing")


def test_weights_are_no_encoding(model_folder):
    with pytest.raises(InputError, match="is no encoding"):
        Encoding.load(model_folder / "model.safetensors")
