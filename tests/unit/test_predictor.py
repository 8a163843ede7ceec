"""Predictor: an image is encoded once for many expressions, by one thread or process and used in another."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import refseg
from refseg.errors import (
    ConfigError,
    ExpressionError,
    ImageError,
    InputError,
    RefsegError,
    UnknownNameError,
    WeightsError,
)
from refseg.predictor import CHUNK, Predictor, load
from refseg.runtimes.torch import pick_device
from refseg.values import Calibration, Decision

WORDS = ["the cup on the left", "second ring", "blue square"]


@pytest.fixture
def counted(predictor, monkeypatch):
    """The calls of the image encoder."""
    calls = []
    real = predictor.runtime.encode
    monkeypatch.setattr(predictor.runtime, "encode", lambda pixels: calls.append(pixels.shape) or real(pixels))
    return calls


def test_an_image_is_encoded_once(predictor, photo, counted):
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


def test_predictions_come_in_the_order_of_the_expressions(predictor, photo):
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
    real = predictor.runtime.decode
    monkeypatch.setattr(
        predictor.runtime,
        "decode",
        lambda image, tokens, padding: sizes.append(len(tokens)) or real(image, tokens, padding),
    )
    predictor.segment(predictor.encode(photo), [f"x {number}" for number in range(2 * CHUNK + 1)])
    assert sizes == [CHUNK, CHUNK, 1]


def test_a_repeated_expression_is_computed_once(predictor, photo, monkeypatch):
    sizes = []
    real = predictor.runtime.decode
    monkeypatch.setattr(
        predictor.runtime,
        "decode",
        lambda image, tokens, padding: sizes.append(len(tokens)) or real(image, tokens, padding),
    )
    asked = ["the cup", "a ring", "The  Cup", "the cup"]  # the third has the same tokens
    found = predictor.segment(predictor.encode(photo), asked)
    assert sizes == [2]
    assert [one.expression for one in found] == asked
    assert np.array_equal(found[0].scores, found[2].scores)
    assert not np.array_equal(found[0].scores, found[1].scores)


def test_no_expressions_no_answers(predictor, photo):
    assert predictor.segment(predictor.encode(photo), []) == []


def test_probabilities_are_probabilities(predictor, photo):
    for one in predictor.segment(predictor.encode(photo), WORDS):
        assert 0 <= one.probability.min() <= one.probability.max() <= 1


def test_the_decision_is_the_models_or_the_threshold_given(predictor, photo, monkeypatch):
    scene = predictor.encode(photo)
    own = Decision(
        threshold=0.35,
        relative_threshold=0.9,
        calibration=Calibration(knots=((0.0, 0.0), (1.0, 1.0)), reject_below=1.0),
    )
    monkeypatch.setattr(predictor, "decision", own)
    (default,) = predictor.segment(scene, WORDS[:1])
    assert default.decision == own
    assert default.rejected
    # A calibration holds for the thresholds that it was measured with.
    (chosen,) = predictor.segment(scene, WORDS[:1], threshold=0.36)
    assert chosen.decision == Decision(threshold=0.36)
    assert not chosen.rejected
    assert chosen.score == chosen.confidence > 0


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.1, float("nan"), float("inf")])
def test_a_threshold_out_of_range_is_an_error(predictor, photo, threshold):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        predictor.segment(predictor.encode(photo), WORDS, threshold=threshold)


def test_an_encoding_of_another_model_is_an_error(predictor, photo, make_tiny):
    other = Predictor.from_model(make_tiny(seed=4), "cpu")
    with pytest.raises(InputError, match="another model"):
        other.segment(predictor.encode(photo), WORDS)


def test_preprocessing_is_part_of_the_fingerprint(make_tiny):
    fingerprints = {Predictor.from_model(make_tiny(image_size=size), "cpu").fingerprint for size in (64, 96)}
    assert len(fingerprints) == 2


def test_several_images_at_once(predictor, photo, photo_pixels):
    turned = np.ascontiguousarray(photo_pixels[::-1])
    together = predictor.encode([photo, turned])
    assert [one.frame for one in together] == [predictor.encode(photo).frame] * 2
    for encoded, source in zip(together, (photo, turned), strict=True):
        (found,) = predictor.segment(encoded, WORDS[:1])
        (alone,) = predictor.segment(predictor.encode(source), WORDS[:1])
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
    assert predictor.encode([]) == []


def test_an_encoding_serves_another_predictor_of_the_same_weights(predictor, photo, model_folder):
    (found,) = load(model_folder, "cpu").segment(predictor.encode(photo), WORDS[:1])
    (expected,) = predictor.segment(predictor.encode(photo), WORDS[:1])
    assert np.array_equal(found.scores, expected.scores)


SECOND = """
import sys, numpy as np, refseg
scene = refseg.Encoding.load(sys.argv[2])
(found,) = refseg.load(sys.argv[1], "cpu").segment(scene, [sys.argv[3]])
np.save(sys.argv[4], found.scores)
"""


def test_an_encoding_serves_another_process(predictor, photo, model_folder, tmp_path):
    scene = predictor.encode(photo)
    scene.save(tmp_path / "scene.safetensors")
    arguments = (model_folder, tmp_path / "scene.safetensors", WORDS[0], tmp_path / "scores.npy")
    subprocess.run([sys.executable, "-c", SECOND, *map(str, arguments)], check=True)
    (expected,) = predictor.segment(scene, WORDS[:1])
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected.scores, atol=1e-6)


def test_segment_from_several_threads(predictor, photo, photo_pixels):
    scenes = predictor.encode([photo, np.ascontiguousarray(photo_pixels[::-1])])
    asked = [(scene, words) for scene in scenes for words in WORDS] * 4
    expected = [predictor.segment(scene, [words])[0].scores for scene, words in asked]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: predictor.segment(one[0], [one[1]])[0].scores, asked))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_weights_that_overflow_are_errors(make_tiny, photo):
    model = make_tiny()
    with torch.no_grad():
        model.projector.kernel.weight.fill_(float("nan"))
    predictor = Predictor.from_model(model, "cpu")
    with pytest.raises(WeightsError, match="not finite"):
        predictor.segment(predictor.encode(photo), WORDS)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("words", ["ring", {"the cup"}, None, ["fine", ""], ["fine", None], [3], [" \n"]])
def test_anything_but_a_list_of_expressions_is_an_error(predictor, photo, words):
    with pytest.raises(ExpressionError):
        predictor.segment(predictor.encode(photo), words)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("image", ["photo.png", None, 3, []])
def test_an_image_that_is_not_encoded_is_an_error(predictor, image):
    for use in (
        lambda: predictor.segment(image, ["the cup"]),
        lambda: predictor.ground(image, "the cup"),
        lambda: predictor.word_maps(image, "the cup"),
    ):
        with pytest.raises(InputError, match=type(image).__name__):
            use()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("images", [None, 3, {"photo.png"}, "", [None], [["photo.png"]], np.zeros((2, 4, 4, 3))])
def test_what_is_no_image_is_an_error(predictor, images):
    with pytest.raises(ImageError):
        predictor.encode(images)


def test_generators_of_images_and_of_expressions(predictor, photo):
    first, second = predictor.encode(path for path in (photo, str(photo)))
    assert np.array_equal(first.arrays["p3"], second.arrays["p3"])
    found = predictor.segment(first, (words for words in WORDS))
    assert [one.expression for one in found] == WORDS


def test_the_limit_on_pixels_can_be_set(predictor, photo):
    with pytest.raises(ImageError, match="raise max_pixels"):
        predictor.encode(photo, max_pixels=64 * 96 - 1)
    assert predictor.encode(photo, max_pixels=64 * 96).frame.width == 96


def test_one_call(photo, model_folder):
    found = refseg.predict(photo, WORDS, model=model_folder, device="cpu", threshold=0.3)
    fresh = refseg.load(model_folder, "cpu")  # the other one may keep expressions that were encoded in other company
    expected = fresh.segment(fresh.encode(photo), WORDS, threshold=0.3)
    assert [one.to_dict() for one in found] == [one.to_dict() for one in expected]
    with pytest.raises(ExpressionError):
        refseg.predict(photo, "the cup", model="no model is loaded before the expressions are checked")


def test_the_domain_comes_from_the_model_folder(model_folder):
    assert load("shapes", "cpu").domain == "generated scenes"
    assert load(model_folder, "cpu").domain is None


def test_a_missing_image_is_an_error(predictor, tmp_path):
    with pytest.raises(ImageError):
        predictor.encode(tmp_path / "missing.png")


def test_a_long_expression_is_marked(predictor, photo):
    short, long = predictor.segment(predictor.encode(photo), ["the cup", "cup " * 40])
    assert (short.truncated, long.truncated) == (False, True)


def test_predicting_needs_no_gradient_and_leaves_the_model_in_evaluation_mode(make_tiny, photo):
    model = make_tiny(word_length=10).train()
    predictor = Predictor.from_model(model, "cpu")
    (found,) = predictor.segment(predictor.encode(photo), ["x"])
    assert not model.training
    assert isinstance(found.probability, np.ndarray)
    assert predictor.inputs.word_length == 10


def test_a_model_is_loaded_by_path_of_any_kind(model_folder):
    for name in (model_folder, str(model_folder), _Path(model_folder)):
        assert isinstance(load(name, "cpu"), Predictor)
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
    assert pick_device(torch.device("cpu")) == torch.device("cpu")
    for unknown in ("gpu", "", "cuda:x", torch.device("meta")):
        with pytest.raises(ConfigError, match=r"unknown device .*; known are: auto, cpu, cuda, cuda:1"):
            pick_device(unknown)
    for missing in ("cpu:1", torch.device("cuda", torch.cuda.device_count())):
        with pytest.raises(ConfigError, match=f"no {missing} device"):
            pick_device(missing)


def test_a_device_of_pytorch(model_folder):
    assert load(model_folder, torch.device("cpu")).device == "cpu"


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


def test_a_map_of_a_word_adds_up_its_tokens(predictor, photo):
    scene, text = predictor.encode(photo), "the Red-striped cup"
    tokens = predictor.inputs.tokens([text])
    (attention,) = predictor.runtime.attend(scene.arrays, tokens.tokens, tokens.padding)
    maps = predictor.word_maps(scene, text)
    places = {"the": (1, 2), "Red-striped": (2, 5), "cup": (5, 6)}
    assert [one.word for one in maps] == list(places)
    for one, (start, stop) in zip(maps, places.values(), strict=True):
        np.testing.assert_allclose(one.scores, attention[start:stop].sum(axis=0), rtol=1e-6)
        assert one.map.shape == (64, 96)
        assert one.within(48).map.shape == (32, 48)
    with pytest.raises(ExpressionError, match="blank"):
        predictor.word_maps(scene, " ")
