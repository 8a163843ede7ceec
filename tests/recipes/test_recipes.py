"""Recipes: each builds, and parameter groups and learning rates are as published."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from refseg.config import from_dict, to_dict
from refseg.errors import ConfigError, UnknownNameError
from refseg.models.cris.convert import to_reference
from refseg.models.cris.model import cris
from refseg.models.families import build
from refseg.training.config import TrainingConfig
from refseg.training.optim import build_optimizer, freeze, learning_rate_factor, set_learning_rates
from refseg.training.recipes import MEASURED, OWN, RECIPES, describe, recipe, settings


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds(name):
    found = recipe(name)
    if found.model is not None:
        with torch.device("meta"):
            build(found.model)
    assert from_dict(TrainingConfig, to_dict(found.training)) == found.training
    assert found.init is None or found.init in RECIPES
    assert f"refseg train {name}" in describe(name)


def test_training_numbers_model_fields_and_data_can_be_changed():
    changed = recipe("shapes", **{"epochs": 3, "sizes": [[0, 64]], "model.decoder_layers": 1, "data": "shapes:val"})
    assert (changed.training.epochs, changed.training.sizes) == (3, ((0.0, 64),))
    assert (changed.model.config.decoder_layers, changed.data) == (1, "shapes:val")
    assert recipe("shapes") == RECIPES["shapes"]


def test_the_preprocessing_and_the_decision_of_the_model_can_be_changed():
    spec = recipe("shapes", **{"model.image_size": 96, "model.threshold": 0.5}).model
    assert (spec.inputs.image_size, spec.decision.threshold) == (96, 0.5)


def test_unknown_names_are_errors_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        recipe("shapes", epoch=3)
    with pytest.raises(ConfigError, match="did you mean 'decoder_layers'"):
        recipe("shapes", **{"model.decoder_layer": 3})
    with pytest.raises(UnknownNameError) as caught:
        recipe("shape")
    assert "shapes" in caught.value.known


def test_every_setting_of_a_recipe_is_explained():
    for name, found in RECIPES.items():
        parts = [("", found.training)]
        if found.model is not None:
            parts += [("model.", part) for part in (found.model.config, found.model.inputs, found.model.decision)]
        keys = [*OWN, *(prefix + field.name for prefix, part in parts for field in dataclasses.fields(part))]
        lines = settings(name).splitlines()
        explained = [re.match(r"  (\S+?)=", line)[1] for line in lines if re.match(r"  \S", line)]
        assert sorted(explained) == sorted({*keys} - {f"model.{key}" for key in MEASURED})
        assert all(below.startswith("      ") for line, below in pairwise(lines) if re.match(r"  \S", line))
    assert "  epochs=10\n      The number of epochs" in settings("finetune")
    assert "\n  model.threshold=0.35\n      A pixel belongs to the mask where" in settings("cris-r50-refcoco")


@pytest.mark.parametrize("key", sorted(MEASURED))
def test_what_is_measured_with_trained_weights_is_no_setting(key):
    with pytest.raises(ConfigError, match="refseg calibrate"):
        recipe("shapes", **{f"model.{key}": 0.5})


def test_the_faithful_run_differs_where_the_published_code_does():
    usual, faithful = recipe("cris-r50-refcoco+"), recipe("cris-r50-refcoco+", faithful=True)
    assert (usual.validation, faithful.validation) == ("refcoco+:val", "refcoco+:testB")
    assert (usual.training.sample_by, faithful.training.sample_by) == ("image", "reference")
    assert (faithful.training.batch_size, faithful.training.precision, faithful.protocol) == (64, "float16", "cris")
    assert recipe("cris-r50-refcoco+", faithful=True, epochs=3).training.epochs == 3
    with pytest.raises(ConfigError, match="--faithful"):
        recipe("shapes", faithful=True)


RENAMED = {
    "draw": "sample_by",
    "expressions_per_picture": "expressions_per_image",
    "validation_pictures": "validation_images",
}
NOT_RECORDED = {"recipe", "data", "validation", "save_every"}


@pytest.mark.parametrize("number", range(1, 13))
def test_the_stages_of_the_bundled_model_are_those_on_record(number):
    folder = Path(__file__).parents[2] / "docs" / "results" / "shapes"
    record = json.loads((folder / (str(number) if number < 12 else ".") / "training.json").read_text())
    stage = to_dict(recipe(f"shapes-{number}").training)
    for key, value in record.items():
        if key not in NOT_RECORDED:
            assert stage[RENAMED.get(key, key)] == ("image" if key == "draw" else value), key


def test_each_stage_of_the_bundled_model_can_start_from_the_one_before(tmp_path):
    for number in range(2, 13):
        before, stage = recipe(f"shapes-{number - 1}"), recipe(f"shapes-{number}")
        assert stage.init == f"shapes-{number - 1}"
        assert stage.model.config == before.model.config


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"expressions_per_image": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"learning_rate": math.inf},
        {"weight_decay": -1.0},
        {"max_norm": math.nan},
        {"decay": math.inf},
        {"warmup_steps": -1},
        {"workers": -1},
        {"seed": -1},
        {"stop_after": -1},
        {"mirror": math.nan},
        {"emphasis": (("nearest", math.nan),)},
        {"sizes": ((0.5, 64),)},
        {"sizes": ((0.0, 65),)},
        {"sizes": ((0.0, 0),)},
        {"sizes": ((0.0, 64), (0.6, 96), (0.3, 128))},
        {"sizes": ((0.0, 64), (1.5, 96))},
    ],
)
def test_impossible_numbers_are_errors(changes):
    with pytest.raises(ConfigError):
        TrainingConfig(**{"steps_per_epoch": 1} | changes)


# ── parameter groups ──


def test_the_groups_are_those_of_the_reference():
    """The reference: names with `backbone` and without `positional_embedding`, and all others."""
    with torch.device("meta"):
        model = build(cris("RN50"))
    config = TrainingConfig(steps_per_epoch=1)
    freeze(model, config)
    backbone, new = build_optimizer(model, config).param_groups
    slow = {id(parameter) for parameter in backbone["params"]}
    names = to_reference(dict(model.named_parameters()))
    del names["backbone.logit_scale"]  # no gradient reaches it
    for name, parameter in names.items():
        by_the_reference = name.startswith("backbone") and "positional_embedding" not in name
        assert (id(parameter) in slow) == by_the_reference, name
    assert len(backbone["params"]) + len(new["params"]) == len(names)
    assert (backbone["initial_lr"], new["initial_lr"]) == (pytest.approx(1e-5), 1e-4)
    assert {name for name in names if "positional_embedding" in name} == {
        "backbone.positional_embedding",
        "backbone.visual.attnpool.positional_embedding",
    }


def test_defaults_are_the_published_ones():
    config = TrainingConfig(steps_per_epoch=662)
    assert (config.epochs, config.batch_size, config.milestones, config.decay) == (50, 64, (35,), 0.1)
    assert (config.learning_rate, config.backbone_factor, config.weight_decay) == (1e-4, 0.1, 0.0)
    assert (config.max_norm, config.warmup_steps, config.optimizer, config.seed) == (0.0, 0, "adam", 0)
    assert config.expressions_per_image == 1


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_named_one(make_tiny, name, kind):
    optimizer = build_optimizer(make_tiny(), TrainingConfig(steps_per_epoch=1, optimizer=name, weight_decay=0.5))
    assert type(optimizer) is kind
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]


# ── schedules ──


def test_the_rate_falls_after_the_milestones():
    config = TrainingConfig(epochs=50, steps_per_epoch=10, milestones=(35, 45))
    factors = [learning_rate_factor(config, step) for step in range(500)]
    assert set(factors[:350]) == {1.0}
    assert factors[350:450] == pytest.approx([0.1] * 100)
    assert factors[450:] == pytest.approx([0.01] * 50)


@pytest.mark.parametrize(
    ("name", "epochs"),
    [
        ("mcn-refcoco", {1e-3: 29, 1e-4: 5, 1e-5: 5, 1e-6: 6}),
        ("vlt-refcoco", {1e-3: 39, 1e-4: 5, 1e-5: 5, 1e-6: 1}),
    ],
)
def test_the_rates_of_the_earlier_systems_are_those_their_code_gives(name, epochs):
    """Recorded by running the schedules of the authors' code, for each epoch."""
    expected = [rate for rate, count in epochs.items() for _ in range(count)]
    for faithful in (False, True):
        config = dataclasses.replace(recipe(name, faithful=faithful).training, steps_per_epoch=2)
        assert config.epochs == len(expected)
        rates = [config.learning_rate * learning_rate_factor(config, 2 * epoch + 1) for epoch in range(config.epochs)]
        assert rates == pytest.approx(expected)


def test_the_cosine_ends_near_zero():
    config = TrainingConfig(epochs=4, steps_per_epoch=25, schedule="cosine")
    assert learning_rate_factor(config, 0) == 1.0
    assert learning_rate_factor(config, 25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert learning_rate_factor(config, 50) == pytest.approx(0.5)
    assert learning_rate_factor(config, 99) == pytest.approx(0.000247, abs=1e-6)


def test_the_rate_rises_in_the_warmup():
    config = TrainingConfig(epochs=1, steps_per_epoch=100, warmup_steps=4)
    assert [learning_rate_factor(config, step) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_both_groups_follow_the_schedule(make_tiny):
    config = TrainingConfig(epochs=2, steps_per_epoch=1, milestones=(1,), learning_rate=0.5, backbone_factor=0.2)
    optimizer = build_optimizer(make_tiny(), config)
    assert set_learning_rates(optimizer, config, 1) == pytest.approx(0.05)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.01, 0.05])
    assert set_learning_rates(optimizer, config, 0) == 0.5
