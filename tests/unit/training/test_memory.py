"""The memory that a run is said to need, against what PyTorch really allocates for it."""

from __future__ import annotations

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from refseg.models.cris.model import CRIS, cris, cris_compact
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.memory import GIB, Estimate, estimate
from refseg.training.processes import Team
from refseg.values import Batch

SIZE, LENGTH = 96, 17


def settings(**changes):
    values = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "expressions_per_image": 3, "optimizer": "adamw"}
    return TrainingConfig(**values | changes)


def batch(config):
    images, asked = config.batch_size // config.accumulate, config.expressions_per_image
    tokens = torch.randint(1, 1000, (images * asked, LENGTH))
    tokens[:, -1] = 49_407
    return Batch(
        pixels=torch.randn(images, 3, SIZE, SIZE),
        tokens=tokens,
        padding=torch.zeros_like(tokens, dtype=torch.bool),
        image_index=torch.arange(images).repeat_interleave(asked),
        target=torch.rand(images * asked, 1, SIZE // 4, SIZE // 4),
        weight=torch.ones(images * asked),
    )


def really(config):
    """Return the most bytes alive during a step beside what is there before it, and the optimizer's."""
    torch.manual_seed(0)
    engine = Engine(CRIS(cris_compact(image_size=SIZE, word_length=LENGTH)), config, Team(torch.device("cpu")))
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
        {"checkpointing": True},
        {"precision": "bfloat16"},
        {"freeze": ("visual", "text")},
        {"accumulate": 2},
        {"batch_size": 2, "expressions_per_image": 8},
    ],
    ids=["plain", "recomputed", "bfloat16", "frozen", "accumulated", "many expressions"],
)
def test_what_is_told_is_what_is_allocated(changes):
    config = settings(**changes)
    step, averages = really(config)
    told = estimate(CRIS(cris_compact(image_size=SIZE, word_length=LENGTH)), config)
    assert told.optimizer == averages
    assert told.step == pytest.approx(step, rel=0.15)


@pytest.mark.slow
def test_recomputing_saves_memory_and_shards_share_it():
    model = CRIS(cris_compact(image_size=SIZE, word_length=LENGTH))
    plain, less = estimate(model, settings()), estimate(model, settings(checkpointing=True))
    assert less.image < 0.8 * plain.image
    whole, part = (estimate(model, settings(), processes=2, shard=shard) for shard in (False, True))
    assert (part.weights, part.optimizer) == (whole.weights // 2, whole.optimizer // 2)
    assert whole.num_images == 2


def test_a_model_is_left_as_it_is():
    model = CRIS(cris_compact(image_size=SIZE, word_length=LENGTH))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    estimate(model, settings(freeze=("visual",), checkpointing=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_what_fits_by_hand():
    told = Estimate(weights=GIB, optimizer=2 * GIB, gradients=GIB, fixed=GIB // 2, image=GIB // 4, images=12)
    assert told.step == GIB // 2 + 3 * GIB
    assert told.total == 3 * GIB + told.step
    assert told.fits(8) == int((8 * 0.9 - 3.5) * 4)
    assert told.fits(4) == 0
    assert "12 images at a time (14 fit into 8 GB, " in str(told)


@pytest.mark.slow
def test_the_published_model_in_full():
    """CRIS R50: 147 M weights take 0.55 GiB, and Adam twice as much again."""
    with torch.device("meta"):
        model = CRIS(cris("RN50"))
    told = estimate(model, TrainingConfig(steps_per_epoch=1, batch_size=8))
    assert told.weights / GIB == pytest.approx(0.547, abs=0.01)
    assert told.optimizer / GIB == pytest.approx(1.094, abs=0.01)
    assert 1 <= told.fits(8) < told.fits(24) < told.fits(80)
