"""CRIS against values recorded from the reference: R50, three decoder layers, 416 pixels, a batch of two."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.data.batches import Batch
from refseg.models.cris.convert import from_reference, infer_config, to_reference
from refseg.models.cris.model import cris
from refseg.models.families import build
from refseg.runtimes.convolutions import TiledConv2d
from refseg.runtimes.torch import TorchRuntime
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.losses import contrastive_loss
from refseg.training.processes import Processes

_spec = importlib.util.spec_from_file_location("recipe", Path(__file__).with_name("recipe.py"))
recipe = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recipe)

FAR, NEAR, SHARE = 2e-2, 1e-3, 0.8
"""The greatest relative difference of a gradient's norm, and the share of norms that differ by less than 1e-3.

A batch of two at random weights magnifies rounding: batch normalisation of two sentences gives +-1 whatever the values
are, and ReLUs depend on the sign of values near zero. The recorded values are float32, and differ by up to 1.7e-2 from
the exact ones. They are compared with float64, since float32 adds as much again, by the order of summation: the norm of
`neck.txt_proj.0.weight` differs by 1.9e-2 or 2.2e-2, depending on the memory layout of the text encoder.
"""
ZERO = "backbone.visual.attnpool.k_proj.bias"
"""A bias of all keys changes all attention logits alike, and softmax ignores it: the gradient is zero, and the recorded
one (7e-7) is rounding."""


@pytest.fixture(scope="module")
def golden():
    with np.load(recipe.DATA / "cris_r50_n3_416.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def batch(golden):
    pixels, tokens, target = recipe.inputs(
        int(golden["image_seed"]), int(golden["batch"]), int(golden["size"]), int(golden["word_len"])
    )
    assert (tokens.numpy() == golden["tokens"]).all()
    return pixels, tokens, tokens == 0, target


@pytest.fixture(scope="module")
def state():
    return recipe.weights(recipe.reference_shapes("r50"))


@pytest.fixture(scope="module")
def model(state):
    with torch.device("meta"):
        model = build(cris("RN50", dropout=0.0))
    model.load_state_dict(from_reference(state), assign=True)
    return model


@pytest.fixture(scope="module")
def stages(model, batch):
    pixels, tokens, padding, _ = batch
    model.eval()
    with torch.no_grad():
        pyramid = model.visual(pixels)
        words, sentence = model.text(tokens)
        neck = model.neck(model.neck.project(pyramid), sentence)
        decoder = model.decoder(neck, words, padding)
        return {
            "v3": pyramid.v3,
            "v4": pyramid.v4,
            "v5": pyramid.v5,
            "words": words,
            "state": sentence,
            "neck": neck,
            "decoder": decoder.flatten(2),
            "logits": model.projector(decoder, sentence),
        }


def test_sizes_are_inferred_from_shapes(state):
    assert infer_config(from_reference(state)) == cris("RN50").config


@pytest.mark.parametrize("name", ["v3", "v4", "v5", "words", "state", "neck", "decoder"])
def test_stages(name, stages, golden):
    found = stages[name]
    assert list(found.shape) == list(golden[f"{name}_shape"])
    assert np.abs(found.flatten(1)[:, :64].numpy() - golden[f"{name}_head"]).max() < 1e-3
    assert float(found.mean()) == pytest.approx(float(golden[f"{name}_mean"]), abs=1e-4)
    assert float(found.std()) == pytest.approx(float(golden[f"{name}_std"]), rel=1e-3)


def test_logits(stages, golden):
    assert np.abs(stages["logits"].numpy() - golden["logits"]).max() < 1e-3


def test_forward_composes_the_stages(model, batch, stages):
    pixels, tokens, padding, _ = batch
    model.eval()
    with torch.no_grad():
        assert torch.equal(model(pixels, tokens, padding), stages["logits"])


@pytest.mark.slow
def test_logits_of_a_loaded_model_whose_layers_have_another_form(model, batch, golden):
    runtime = TorchRuntime.of_own(copy.deepcopy(model), "cpu")
    assert any(isinstance(module, TiledConv2d) for module in runtime.model.modules())
    pixels, tokens, padding = (part[:1].numpy() for part in batch[:3])
    found = runtime.decode(runtime.encode(pixels), tokens, padding)
    assert np.abs(found - golden["logits"][:1, 0]).max() < 1e-3


@pytest.mark.slow
def test_first_loss_and_its_gradients(state, batch, golden):
    with torch.device("meta"):
        model = build(cris("RN50", dropout=0.0))
    weights = {key: value.double() if value.is_floating_point() else value.clone() for key, value in state.items()}
    model.load_state_dict(from_reference(weights), assign=True)
    pixels, tokens, padding, target = batch
    logits = model(pixels.double(), tokens, padding)
    loss = contrastive_loss(logits, target, torch.ones_like(target)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["losses"][0]), rel=1e-4)

    named = dict(model.named_parameters())
    gradients = {key: value.grad for key, value in to_reference(named).items()}
    recorded = json.loads(str(golden["grad_norms"]))
    assert {key for key, value in gradients.items() if value is None} == {"backbone.logit_scale"}
    assert float(gradients.pop(ZERO).norm()) < 1e-5
    off = {key: abs(float(value.norm()) / recorded[key] - 1) for key, value in gradients.items() if value is not None}
    assert len(off) == len(recorded) - 2 == 447
    assert {key: value for key, value in off.items() if value > FAR} == {}
    assert sum(value < NEAR for value in off.values()) > SHARE * len(off)
    total = sum(float(gradients[key].norm()) ** 2 for key in off) ** 0.5
    assert total == pytest.approx(sum(recorded[key] ** 2 for key in off) ** 0.5, rel=5 * NEAR)


@pytest.mark.slow
def test_three_steps_of_the_published_optimizer(state, batch, golden):
    """The engine's memory layout sums in another order, which a batch of two magnifies (see `FAR`).

    Adam's first steps are the signs of the gradients, which magnifies rounding again: the later losses agree roughly.
    """
    with torch.device("meta"):
        model = build(cris("RN50", dropout=0.0))
    model.load_state_dict(from_reference({key: value.clone() for key, value in state.items()}), assign=True)
    config = TrainingConfig(steps_per_epoch=3, batch_size=2)
    engine = Engine(model, config, Processes(torch.device("cpu")))
    pixels, tokens, padding, target = batch
    one = Batch(
        pixels=pixels,
        tokens=tokens,
        padding=padding,
        image_index=torch.arange(2),
        target=target,
        valid=torch.ones_like(target),
        weight=torch.ones(2),
        box=torch.zeros(2, 4),
    )
    losses = [float(engine.step([one], step)) for step in range(3)]
    recorded = golden["losses"].tolist()
    assert losses[0] == pytest.approx(recorded[0], rel=NEAR)
    assert losses == pytest.approx(recorded, rel=0.1)


@pytest.mark.parametrize(("backbone", "clip"), [("r50", "RN50"), ("r101", "RN101")])
def test_names_and_shapes_of_the_state_dict(backbone, clip):
    shapes = recipe.reference_shapes(backbone)
    with torch.device("meta"):
        model = build(cris(clip))
    assert {key: list(value.shape) for key, value in to_reference(model.state_dict()).items()} == shapes


@pytest.mark.parametrize("backbone", ["r50", "r101"])
def test_renaming_is_reversible(backbone):
    state = {key: torch.empty(0) for key in recipe.reference_shapes(backbone)}
    back = to_reference(from_reference(state))
    assert list(back) == list(state)
    assert all(value is state[key] for key, value in back.items())
