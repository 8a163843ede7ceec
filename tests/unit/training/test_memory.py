"""The estimated memory of a run against what PyTorch allocates for it."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from refseg.data.batches import Batch
from refseg.models.cris.model import cris, cris_compact
from refseg.models.families import build
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.memory import GIB, Estimate, estimate
from refseg.training.processes import Processes

SIZE, LENGTH = 96, 17


def compact():
    return build(cris_compact(image_size=SIZE, word_length=LENGTH))


def settings(**changes):
    values = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "expressions_per_image": 3, "optimizer": "adamw"}
    return TrainingConfig(**values | changes)


def batch(config):
    images, expressions = config.batch_size // config.accumulate, config.expressions_per_image
    tokens = torch.randint(1, 1000, (images * expressions, LENGTH))
    tokens[:, -1] = 49_407
    return Batch(
        pixels=torch.randn(images, 3, SIZE, SIZE),
        tokens=tokens,
        padding=torch.zeros_like(tokens, dtype=torch.bool),
        image_index=torch.arange(images).repeat_interleave(expressions),
        target=torch.rand(images * expressions, 1, SIZE // 4, SIZE // 4),
        valid=torch.ones(images * expressions, 1, SIZE // 4, SIZE // 4),
        weight=torch.ones(images * expressions),
        box=torch.zeros(images * expressions, 4),
    )


def allocated(config):
    """Return the peak of a step in bytes, without what is allocated before it, and the bytes of the optimizer."""
    torch.manual_seed(0)
    engine = Engine(compact(), config, Processes(torch.device("cpu")))
    pieces = [batch(config) for _ in range(config.accumulate)]
    engine.step(pieces, 0)  # makes the optimizer's averages
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        engine.step(pieces, 1)
    now = most = 0
    for event in measured.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    averages = sum(
        value.nbytes for values in engine.optimizer.state.values() for value in values.values() if value.dim()
    )
    return most, averages


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"checkpointing": True, "precision": "bfloat16"},
        {"accumulate": 2, "freeze": ("visual", "text"), "expressions_per_image": 8},
    ],
    ids=["plain", "recomputed in bfloat16", "frozen encoders in two pieces"],
)
def test_the_estimate_is_what_is_allocated(changes):
    config = settings(**changes)
    step, averages = allocated(config)
    estimated = estimate(compact(), config)
    assert estimated.optimizer == averages
    assert estimated.step == pytest.approx(step, rel=0.15)


@pytest.mark.slow
def test_recomputing_and_sharding_save_memory():
    model = compact()
    plain, less = estimate(model, settings()), estimate(model, settings(checkpointing=True))
    assert less.image < 0.8 * plain.image
    whole, part = (estimate(model, settings(), processes=2, shard=shard) for shard in (False, True))
    assert (part.weights, part.optimizer) == (whole.weights // 2, whole.optimizer // 2)
    assert whole.num_images == 2


@pytest.mark.slow
def test_the_model_is_not_changed():
    model = compact()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    estimate(model, settings(freeze=("visual",), checkpointing=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_number_of_images_that_fit_by_hand():
    estimated = Estimate(weights=GIB, optimizer=2 * GIB, gradients=GIB, fixed=GIB // 2, image=GIB // 4, num_images=12)
    assert estimated.step == GIB // 2 + 3 * GIB
    assert estimated.total == 3 * GIB + estimated.step
    assert estimated.fits(8) == int((8 * 0.9 - 3.5) * 4)
    assert estimated.fits(4) == 0
    assert "12 images at a time (14 fit into 8 GB, " in str(estimated)


@pytest.mark.slow
def test_the_published_model_in_full():
    """CRIS R50: 147 M weights take 0.55 GiB, and Adam twice as much again."""
    with torch.device("meta"):
        model = build(cris("RN50"))
    estimated = estimate(model, TrainingConfig(steps_per_epoch=1, batch_size=8))
    assert estimated.weights / GIB == pytest.approx(0.547, abs=0.01)
    assert estimated.optimizer / GIB == pytest.approx(1.094, abs=0.01)
    assert 1 <= estimated.fits(8) < estimated.fits(24) < estimated.fits(80)
