"""The training facts of each model family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from refseg.data.batches import Batch
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.errors import ConfigError
from refseg.models.clip_map.model import clip_map_compact
from refseg.models.clipseg.model import CLIPSegConfig, default_spec
from refseg.models.cris.model import cris_compact
from refseg.models.families import FAMILIES, build
from refseg.models.risclip.model import risclip_compact
from refseg.training.config import TrainingConfig
from refseg.training.engine import Objective
from refseg.training.families import TRAINING, training_spec
from refseg.training.optim import freeze

CLIPSEG = CLIPSegConfig(
    vision=ViTConfig(patch=16, width=32, layers=3, heads=2, output_dim=16, pretrained_size=32),
    text=TextConfig(width=16, heads=2, layers=1, output_dim=16),
    decoder_blocks=(2, 1),
    decoder_width=8,
    decoder_hidden=16,
)
SPECS = {
    "cris": cris_compact(image_size=32),
    "risclip": risclip_compact(image_size=32),
    "clip-map": clip_map_compact("resnet", image_size=32),
    "clip-map, vit": clip_map_compact("vit", image_size=32),
    "clipseg": default_spec(CLIPSEG).changed(image_size=32),
    "clipseg, not frozen": default_spec(replace(CLIPSEG, frozen=False)).changed(image_size=32),
}
OBJECTIVES = [(name, objective) for name in SPECS for objective in TRAINING[name.partition(",")[0]].objectives]


def batch(side=32, stride=4):
    """Two images with two expressions each."""
    torch.manual_seed(2)
    tokens = torch.randint(1, 1000, (4, 6))
    tokens[:, -1] = 49_407
    return Batch(
        pixels=torch.randn(2, 3, side, side),
        tokens=tokens,
        padding=torch.zeros(4, 6, dtype=torch.bool),
        image_index=torch.tensor([0, 0, 1, 1]),
        target=(torch.rand(4, 1, side // stride, side // stride) > 0.5).float(),
        valid=torch.ones(4, 1, side // stride, side // stride),
        weight=torch.ones(4),
        box=torch.zeros(4, 4),
    )


def test_every_family_can_be_trained():
    assert TRAINING.keys() == set(FAMILIES)


def test_a_family_without_training_is_an_error(make_tiny):
    model = make_tiny()
    model.family = "other"
    with pytest.raises(ConfigError, match="cannot be trained"):
        training_spec(model)


@pytest.mark.parametrize(("name", "objective"), OBJECTIVES)
def test_gradients_reach_just_the_parameters_that_learn(name, objective):
    torch.manual_seed(1)
    model = build(SPECS[name])
    config = TrainingConfig(objective=objective)
    freeze(model, config)
    # Parts that are 0 at the start have no gradient behind them.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    Objective(model, config)(batch(stride=model.stride)).backward()
    reached = {key for key, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {key for key, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(("name", "objective"), [pair for pair in OBJECTIVES if pair[1] != "image-text"])
def test_the_loss_does_not_depend_on_the_target_where_it_is_ignored(name, objective):
    torch.manual_seed(1)
    model = build(SPECS[name]).eval()
    objective = Objective(model, TrainingConfig(objective=objective))
    plain = batch(stride=model.stride)
    valid = plain.valid.clone()
    valid[:, :, :4] = 0
    other = plain.target.clone()
    other[:, :, :4] = 1 - other[:, :, :4]
    with torch.no_grad():
        losses = [float(objective(replace(plain, valid=valid, target=target))) for target in (plain.target, other)]
        whole = [float(objective(replace(plain, target=target))) for target in (plain.target, other)]
    assert losses[0] == losses[1]
    assert whole[0] != whole[1]


def test_blocks_are_not_nested():
    for name, spec in SPECS.items():
        blocks = TRAINING[name.partition(",")[0]].blocks(build(spec))
        inside = {id(module) for block in blocks for module in block.modules() if module is not block}
        assert blocks
        assert not inside & {id(block) for block in blocks}, name
