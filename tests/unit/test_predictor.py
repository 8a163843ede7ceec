"""Predictor: encode once, ask many times; any kind of photo_pixels; what does not fit together is refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import refseg
from refseg.config import replace
from refseg.errors import ConfigError, ExpressionError, ImageError, InputError, RefsegError, UnknownNameError
from refseg.predictor import CHUNK, Predictor, load, pick_device

WORDS = ["the cup on the left", "second ring", "blue square"]


@pytest.fixture
def counted(predictor, monkeypatch):
    """The calls of the image encoder."""
    calls = []
    real = predictor.model.encode_image
    monkeypatch.setattr(predictor.model, "encode_image", lambda pixels: calls.append(pixels.shape) or real(pixels))
    return calls


def test_a_image_is_encoded_once(predictor, photo, counted):
    scene = predictor.encode(photo)
    for words in WORDS:
        predictor.segment(scene, [words])
    predictor.segment(scene, WORDS)
    assert counted == [(1, 3, 64, 64)]


def test_every_kind_of_image_gives_the_same(predictor, photo, photo_pixels):
    def found(source):
        return predictor.segment(predictor.encode(source), WORDS[:1])[0].probability

    expected = found(photo_pixels)
    assert expected.shape == (64, 96)
    assert expected.dtype == np.float32
    with Image.open(photo) as image, photo.open("rb") as file:
        for source in (photo, str(photo), image, file, io.BytesIO(photo.read_bytes())):
            assert np.array_equal(found(source), expected)


def test_answers_come_in_the_order_of_the_words(predictor, photo):
    scene = predictor.encode(photo)
    found = predictor.segment(scene, WORDS)
    assert [one.expression for one in found] == WORDS
    for one, words in zip(found, WORDS, strict=True):
        (alone,) = predictor.segment(scene, [words])
        np.testing.assert_allclose(one.probability, alone.probability, atol=1e-5)
    assert np.abs(found[0].probability - found[1].probability).max() > 0.01


def test_many_expressions_are_answered_as_one_by_one(predictor, photo):
    scene = predictor.encode(photo)
    many = [f"thing number {i}" for i in range(CHUNK + 3)]
    found = predictor.segment(scene, many)
    assert [one.expression for one in found] == many
    for i in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        (alone,) = predictor.segment(scene, [many[i]])
        np.testing.assert_allclose(found[i].probability, alone.probability, atol=1e-5)


def test_the_memory_is_bounded_however_many_are_asked(predictor, photo, monkeypatch):
    sizes = []
    real = predictor.model.segment
    monkeypatch.setattr(
        predictor.model,
        "segment",
        lambda image, tokens, padding: sizes.append(len(tokens)) or real(image, tokens, padding),
    )
    predictor.segment(predictor.encode(photo), ["x"] * (2 * CHUNK + 1))
    assert sizes == [CHUNK, CHUNK, 1]


def test_no_expressions_no_answers(predictor, photo):
    assert predictor.segment(predictor.encode(photo), []) == []


def test_probabilities_are_probabilities(predictor, photo):
    for one in predictor.segment(predictor.encode(photo), WORDS):
        assert 0 <= one.probability.min() <= one.probability.max() <= 1


def test_the_threshold_is_the_models_or_the_one_given(predictor, photo):
    scene = predictor.encode(photo)
    assert predictor.segment(scene, WORDS)[0].threshold == predictor.model.config.threshold == 0.35
    assert predictor.segment(scene, WORDS, threshold=0.6)[0].threshold == 0.6


def test_a_relative_threshold_decides_where_something_is_found(predictor, photo, monkeypatch):
    scene = predictor.encode(photo)
    config = predictor.model.config

    def answer(**changes):
        monkeypatch.setattr(predictor.model, "config", replace(config, **changes))
        return predictor.segment(scene, WORDS[:1])[0]

    fixed = answer()
    highest = fixed.probability.max()
    assert fixed.threshold == 0.35 < highest
    relative = answer(relative_threshold=0.9)
    assert relative.threshold == pytest.approx(0.9 * highest)
    assert np.array_equal(relative.mask, fixed.probability > relative.threshold)
    assert 0 < relative.mask.sum() != fixed.mask.sum()
    nothing = answer(relative_threshold=0.9, threshold=float(highest) + 1e-4)
    assert nothing.empty, "where no pixel exceeds the threshold itself, nothing is found"
    assert nothing.score == 0


def test_a_threshold_that_is_given_goes_before_the_relative_one(predictor, photo, monkeypatch):
    monkeypatch.setattr(predictor.model, "config", replace(predictor.model.config, relative_threshold=0.5))
    assert predictor.segment(predictor.encode(photo), WORDS, threshold=0.6)[0].threshold == 0.6


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_out_of_range_is_refused(predictor, photo, threshold):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        predictor.segment(predictor.encode(photo), WORDS, threshold=threshold)


def test_an_encoding_belongs_to_its_predictor(predictor, photo, model_folder):
    with pytest.raises(InputError, match="another predictor"):
        load(model_folder, "cpu").segment(predictor.encode(photo), WORDS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("words", ["the cup", ["fine", ""], ["fine", None], [3], [" \n"]])
def test_what_is_no_list_of_expressions_is_refused(predictor, photo, words):
    with pytest.raises(ExpressionError):
        predictor.segment(predictor.encode(photo), words)


def test_what_is_no_image_is_refused(predictor, tmp_path):
    with pytest.raises(ImageError):
        predictor.encode(tmp_path / "missing.png")


def test_a_long_expression_is_marked(predictor, photo):
    short, long = predictor.segment(predictor.encode(photo), ["the cup", "cup " * 40])
    assert (short.truncated, long.truncated) == (False, True)


def test_predicting_needs_no_gradient_and_leaves_the_model_in_evaluation_mode(make_tiny, photo):
    model = make_tiny(word_length=10).train()
    predictor = Predictor(model, "cpu")
    (found,) = predictor.segment(predictor.encode(photo), ["x"])
    assert not model.training
    assert isinstance(found.probability, np.ndarray)
    assert predictor.tokenizer.word_length == 10


def test_a_model_is_loaded_by_path_of_any_kind(model_folder):
    for name in (model_folder, str(model_folder), _Path(model_folder)):
        assert isinstance(Predictor.from_pretrained(name, "cpu"), Predictor)
    with pytest.raises(UnknownNameError, match="did you mean 'shapes'"):
        load("shape")


class _Path(os.PathLike):
    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="unknown device 'gpu'; known are: auto, cpu, cuda, mps"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no cuda device"):
            pick_device("cuda")


def test_the_public_face(model_folder, photo):
    predictor = refseg.load(model_folder)
    scene = predictor.encode(photo)
    (left,) = predictor.segment(scene, ["the cup on the left"])
    assert isinstance(left, refseg.Prediction)
    assert isinstance(scene, refseg.Encoding)
    with pytest.raises(refseg.RefsegError):
        refseg.load(Path("nowhere") / "at" / "all")
    assert refseg.RefsegError is RefsegError


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_what_a_cpu_finds(model_folder, photo):
    found = []
    for device in ("cpu", "cuda"):
        predictor = load(model_folder, device)
        found.append(predictor.segment(predictor.encode(photo), WORDS[:1])[0].probability)
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
