"""Inputs: preprocessing is data that travels with the weights."""

import numpy as np
import pytest

from refseg.config import from_dict, to_dict
from refseg.errors import ConfigError, ExpressionError, ImageError
from refseg.inputs.frame import Frame
from refseg.inputs.preprocessing import LARGEST_SIDE, Inputs

INPUTS = Inputs(image_size=32, word_length=6)


def test_pixels_are_letterboxed_and_normalised(photo_pixels):
    pixels, frame = INPUTS.pixels(photo_pixels)
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), np.float32)
    assert frame == Frame(64, 96, 32)
    assert np.abs(pixels[:, 0]).max() < 0.02, "the border has the mean colour"


def test_other_statistics_normalise_otherwise(photo_pixels):
    mean, std = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)
    usual, _ = INPUTS.pixels(photo_pixels)
    other, _ = Inputs(image_size=32, word_length=6, mean=mean, std=std).pixels(photo_pixels)
    middle = np.s_[:, 14:18, 8:24]  # away from the border, whose colour differs
    restored = [
        values[middle] * np.array(deviation)[:, None, None] + np.array(average)[:, None, None]
        for values, average, deviation in ((usual, INPUTS.mean, INPUTS.std), (other, mean, std))
    ]
    np.testing.assert_allclose(*restored, atol=1e-5)


def test_tokens_have_the_length_of_the_inputs():
    tokens = INPUTS.tokens(["the cup", "the cup on the left of the table"])
    assert tokens.tokens.shape == (2, 6)
    assert tokens.truncated == (False, True)


def test_bad_input_is_an_error(tmp_path):
    with pytest.raises(ImageError):
        INPUTS.pixels(tmp_path / "missing.png")
    with pytest.raises(ExpressionError):
        INPUTS.tokens(["fine", " "])


def test_inputs_are_stored_as_json():
    assert from_dict(Inputs, to_dict(INPUTS)) == INPUTS


@pytest.mark.parametrize(
    "values",
    [
        {"image_size": 0},
        {"image_size": LARGEST_SIDE + 1},
        {"word_length": 1},
        {"word_length": 78},
        {"mean": [0.5, 0.5]},
        {"mean": [0.5, 0.5, 1.5]},
        {"std": [0.5, 0.5, 0.0]},
        {"std": [0.5, 0.5, float("nan")]},
        {"fit": "squash"},
        {"tokenizer": "words"},
    ],
)
def test_impossible_inputs_are_errors(values):
    with pytest.raises(ConfigError):
        from_dict(Inputs, to_dict(INPUTS) | values)
