"""The PyTorch runtime: what it keeps, leaves out and rounds changes no answer."""

from __future__ import annotations

import gc
import resource
from concurrent.futures import ThreadPoolExecutor
from random import Random

import numpy as np
import pytest
import torch

from refseg.errors import ConfigError
from refseg.models.folder import load_model
from refseg.predictor import Predictor, load
from refseg.runtimes import convolutions, text_cache
from refseg.runtimes import torch as torch_runtime
from refseg.runtimes.torch import TorchRuntime, has_bfloat16

WORDS = ["the cup", "a ring on the left of the blue square", "x", "the second cup from the left"]


@pytest.fixture
def plain(model_folder):
    """A predictor of the model as it is."""
    return Predictor.from_model(load_model(model_folder), "cpu")


@pytest.fixture
def runtime(model_folder):
    return TorchRuntime.of_own(load_model(model_folder), "cpu")


def encoded(runtime, monkeypatch):
    """Return the list of the token arrays that the text encoder gets from now on."""
    seen, real = [], runtime.model.encode_text
    monkeypatch.setattr(
        runtime.model, "encode_text", lambda tokens, padding: seen.append(tokens.numpy()) or real(tokens, padding)
    )
    return seen


def test_a_loaded_model_answers_as_the_model_that_it_is_made_of(plain, predictor, photo):
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in predictor.runtime.model.modules())
    assert predictor.fingerprint == plain.fingerprint
    found, expected = (each.segment(each.encode(photo), WORDS) for each in (predictor, plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_a_loaded_model_has_faster_convolutions_and_answers_the_same(model_folder, plain, photo, monkeypatch):
    monkeypatch.setattr(convolutions, "LEAST_CHANNELS", 1)  # the tiny model has few
    predictor = load(model_folder, "cpu")
    kinds = [type(module) for module in predictor.runtime.model.modules()]
    assert kinds.count(convolutions.UpsampledConv2d) == 2
    assert kinds.count(convolutions.TiledConv2d) > 10
    assert predictor.fingerprint == plain.fingerprint
    found, expected = (each.segment(each.encode(photo), WORDS) for each in (predictor, plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)


def test_a_model_of_a_predictor_can_be_trained_further(model_folder, photo):
    model = load_model(model_folder)
    predictor = Predictor.from_model(model, "cpu")
    predictor.segment(predictor.encode(photo), WORDS)
    model.train()(torch.randn(2, 3, 64, 64), torch.ones(2, 5, dtype=torch.int64), torch.zeros(2, 5, dtype=torch.bool))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_each_expression_is_encoded_once_and_without_padding(runtime, predictor, photo, monkeypatch):
    seen = encoded(runtime, monkeypatch)
    arrays = predictor.encode(photo).arrays
    for asked in (WORDS[:1], [WORDS[2], WORDS[0], WORDS[2]], WORDS[:1]):
        words = predictor.inputs.tokens(asked)
        runtime.decode(arrays, words.tokens, words.padding)
    assert [tokens.shape for tokens in seen] == [(1, 4), (1, 4)]
    assert seen[1].tolist() == predictor.inputs.tokens([WORDS[2]]).tokens[:, :4].tolist()


def test_the_number_of_expressions_kept_is_bounded(runtime, predictor, photo, monkeypatch):
    monkeypatch.setattr(text_cache, "CAPACITY", 2)
    seen = encoded(runtime, monkeypatch)
    arrays = predictor.encode(photo).arrays

    def ask(*expressions):
        before, words = len(seen), predictor.inputs.tokens(expressions)
        runtime.decode(arrays, words.tokens, words.padding)
        return sum(map(len, seen[before:]))

    assert [ask("a"), ask("b"), ask("a"), ask("c")] == [1, 1, 0, 1]  # "b" was asked least recently
    assert [ask("a"), ask("b")] == [0, 1]
    assert ask("a", "b", "c", "d") == 2


@pytest.mark.parametrize("seed", range(3))
def test_order_grouping_and_repetition_change_no_answer(runtime, plain, photo_pixels, seed):
    random, predictor = Random(seed), Predictor(runtime, plain.inputs, plain.decision)
    images = [photo_pixels, np.ascontiguousarray(photo_pixels[::-1]), photo_pixels[:, 20:]]
    expected = [{one.expression: one.scores for one in plain.segment(scene, WORDS)} for scene in plain.encode(images)]
    scenes = predictor.encode(images)
    for _ in range(4):
        index, asked = random.randrange(3), random.choices(WORDS, k=random.randint(1, 6))
        for one in predictor.segment(scenes[index], asked):
            np.testing.assert_allclose(one.scores, expected[index][one.expression], atol=1e-5)


def test_several_threads_share_what_is_kept(runtime, plain, photo, monkeypatch):
    monkeypatch.setattr(text_cache, "CAPACITY", 2)
    predictor = Predictor(runtime, plain.inputs, plain.decision)
    scene = predictor.encode(photo)
    expected = {one.expression: one.scores for one in plain.segment(plain.encode(photo), WORDS)}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda words: predictor.segment(scene, [words])[0], WORDS * 6))
    for one in found:
        np.testing.assert_allclose(one.scores, expected[one.expression], atol=1e-5)


def test_fast_answers_nearly_the_same(model_folder, predictor, photo, monkeypatch):
    monkeypatch.setattr(torch_runtime, "has_bfloat16", lambda device: True)  # others compute it too, but slowly
    fast = load(model_folder, "cpu", precision="fast")
    assert fast.runtime.model.projector.mix.weight.dtype == torch.bfloat16
    assert fast.fingerprint != predictor.fingerprint
    found, expected = (each.segment(each.encode(photo), WORDS) for each in (fast, predictor))
    for one, other in zip(found, expected, strict=True):
        assert one.scores.dtype == np.float32
        np.testing.assert_allclose(one.scores, other.scores, atol=0.1)
        assert not np.array_equal(one.scores, other.scores)


def test_fast_needs_a_device_with_bfloat16(model_folder, monkeypatch):
    monkeypatch.setattr(torch_runtime, "has_bfloat16", lambda device: False)
    with pytest.raises(ConfigError, match="cpu has no bfloat16 arithmetic"):
        load(model_folder, "cpu", precision="fast")


@pytest.mark.parametrize(("avx512", "amx"), [(False, False), (True, False), (False, True)])
def test_the_instructions_of_the_processor_decide(avx512, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_bfloat16(torch.device("cpu")) == (avx512 or amx)
    assert not has_bfloat16(torch.device("mps"))


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_precision_is_an_error(model_folder):
    with pytest.raises(ConfigError, match="exact or fast, got 'half'"):
        load(model_folder, "cpu", precision="half")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch about its own code
@pytest.mark.usefixtures("unchecked")  # the compiler cannot read functions that check types
def test_a_compiled_model_answers_the_same(model_folder, predictor, photo):
    compiled = load(model_folder, "cpu", compiled=True)
    for asked in (WORDS[:1], WORDS):
        found, expected = (each.segment(each.encode(photo), asked) for each in (compiled, predictor))
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


@pytest.mark.slow
def test_memory_stays_flat(predictor, photo_pixels):
    def ask(count):
        for number in range(count):
            scene = predictor.encode(photo_pixels)
            predictor.segment(scene, [f"cup {number} of {side}" for side in ("left", "right", "middle")])
        gc.collect()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    settled = ask(50)
    assert ask(150) - settled < 4 * 1024  # KiB
