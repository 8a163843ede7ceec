"""Inputs: preprocessing is data that travels with the weights."""

import numpy as np
import pytest

from refseg.config import from_dict, to_dict
from refseg.errors import ConfigError, ExpressionError, ImageError
from refseg.inputs.frame import Frame
from refseg.inputs.preprocessing import LARGEST_SIDE, Inputs
from refseg.inputs.words import UNKNOWN, read_vocabulary, split_words

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
        {"fit": "stretch"},
        {"vocabulary": ["cup"]},
        {"tokenizer": "words", "vocabulary": ["cup"], "word_length": 0},
    ],
)
def test_impossible_inputs_are_errors(values):
    with pytest.raises(ConfigError):
        from_dict(Inputs, to_dict(INPUTS) | values)


def test_pixels_of_other_ranges_and_orders(photo_pixels):
    plain = {"image_size": 32, "word_length": 6, "mean": (0.0, 0.0, 0.0)}
    usual, frame = Inputs(**plain, fit="squash", std=(1.0, 1.0, 1.0)).pixels(photo_pixels)
    assert frame == Frame(64, 96, 32, "squash")
    other, _ = Inputs(**plain, fit="squash", std=(1 / 255,) * 3, channels="bgr").pixels(photo_pixels)
    np.testing.assert_allclose(other, usual[::-1] * 255, rtol=1e-6)
    assert other.max() > 200


def test_words_are_numbered_from_one():
    words = Inputs(image_size=32, word_length=4, tokenizer="words", vocabulary=("the", "left", "cup"))
    found = words.tokens(["The cup, left?", "cup of the left one", "saucer"])
    assert found.tokens.tolist() == [[1, 3, 2, 0], [3, 0, 1, 2], [0, 0, 0, 0]]
    assert found.padding.tolist() == [[False, False, False, True], [False] * 4, [False, True, True, True]]
    assert found.truncated == (False, True, False)
    assert from_dict(Inputs, to_dict(words)) == words


def test_a_text_without_words_is_an_unknown_word():
    words = Inputs(image_size=32, word_length=3, tokenizer="words", vocabulary=("cup",))
    assert words.tokens(["?"]).padding.tolist() == [[False, True, True]]


def test_without_its_vocabulary_a_model_reads_tokens_alone():
    inputs = Inputs(image_size=32, word_length=3, tokenizer="words")
    with pytest.raises(ConfigError, match="--vocabulary"):
        inputs.tokens(["cup"])


def test_a_vocabulary_is_read_with_and_without_its_padding(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("<pad>\nthe\ncup\n")
    assert read_vocabulary(path, 3) == ("the", "cup")
    path.write_text("the\ncup\n")
    assert read_vocabulary(path, 3) == ("the", "cup")
    with pytest.raises(ConfigError, match=r"2 lines.*5 tokens"):
        read_vocabulary(path, 5)
    with pytest.raises(ConfigError, match=r"none\.txt: cannot be read"):
        read_vocabulary(tmp_path / "none.txt", 3)


def test_unknown_words_have_the_number_of_their_entry():
    words = Inputs(image_size=32, word_length=2, tokenizer="words", vocabulary=("cup", UNKNOWN))
    assert words.tokens(["blue cup"]).tokens.tolist() == [[2, 1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The man's hat, left?", ["the", "mans", "hat", "left"]),
        ("left-most zebra/horse!", ["left", "most", "zebra", "horse"]),
        ('a "red" car ($5): ok; yes.', ["a", "red", "car", "5", "ok", "yes"]),
        ("two  spaces", ["two", "spaces"]),
        ("café (right)", ["café", "right"]),
    ],
)
def test_words_without_punctuation(text, words):
    assert split_words(text) == words


def test_words_as_written_have_the_places_of_their_numbers():
    inputs = Inputs(image_size=32, word_length=4, tokenizer="words", vocabulary=("red", "haired", "man"))
    assert inputs.words("The red-haired , Man behind") == [
        ("The", range(1)),
        ("red-haired", range(1, 3)),
        ("Man", range(3, 4)),
    ]
    with pytest.raises(ExpressionError, match="blank"):
        inputs.words(" ")
