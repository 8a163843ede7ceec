"""Twenty steps of each kind of recipe give the recorded losses.

`python tests/recipes/test_recorded.py` writes `tests/data/recipe_losses.json` anew, after a change that is meant to
change them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from refseg.config import replace
from refseg.data.batches import ByReference, TrainOrder, TrainTransform, batches
from refseg.data.shapes import CloseUps, Shapes
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import ModelSpec
from refseg.models.clip_map.model import CLIPMapConfig
from refseg.models.cris.model import CRISConfig
from refseg.models.families import build
from refseg.models.risclip.model import RISCLIPConfig
from refseg.training.engine import Engine
from refseg.training.optim import set_learning_rates
from refseg.training.processes import Processes
from refseg.training.recipes import RECIPES, recipe
from refseg.values import Decision

RECORD = Path(__file__).parents[1] / "data" / "recipe_losses.json"
STEPS = 20
KINDS = {
    "cris-r50-refcoco": {},
    "cris-r50-refcoco, faithful": {"faithful": True},
    "shapes": {},
    "finetune": {},
    "overfit": {},
    "shapes-ablation": {},
    "shapes-ablation, baseline": {"row": "baseline"},
    "shapes-clip": {},
    "shapes-clip-vit": {},
    "shapes-risclip": {},
    "shapes-risclip-mask": {},
    "risclip-b-refcoco": {},
    "risclip-b-refcoco-mask, faithful": {"faithful": True},
}
"""They differ in their numbers; the model and the data are replaced by small ones, in float32."""
STEADY = {"overfit": 5, "cris-r50-refcoco, faithful": 10}
"""Steps after which rounding is amplified: there a change of 2e-7 in a target, or another processor, makes 10 % within
20 steps. The losses of the others stay within 1e-3."""


def losses(kind):
    """Return the losses of the first steps of a recipe."""
    name, options = kind.partition(",")[0], KINDS[kind]
    found = recipe(name, **options)
    config = replace(
        found.training, epochs=1, steps_per_epoch=STEPS, batch_size=4, sizes=(), precision="float32", workers=0
    )
    torch.manual_seed(config.seed)
    engine = Engine(build(small(found.model)), config, Processes(torch.device("cpu")))
    data = CloseUps("train") if found.data == "shapes-closeups:train" else Shapes("train", drill=config.drill)
    if config.sample_by == "reference":
        data = ByReference(data)
    order = TrainOrder(
        num_images=40, batch_size=4, expressions=config.expressions_per_image, sizes=((0, 64),), seed=config.seed
    )
    transform = TrainTransform(data, Inputs(image_size=64, word_length=17), config.target, mirror=config.mirror)
    values = []
    for step, batch in enumerate(batches(transform, order, range(STEPS))):
        set_learning_rates(engine.optimizer, config, step)
        values.append(float(engine.step([batch], step)))
    return values


VIT = ViTConfig(patch=8, width=16, layers=3, heads=2, output_dim=16, pretrained_size=64)
VISION = ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64)
TEXT = TextConfig(width=16, heads=2, layers=1, output_dim=16)


def small(spec):
    """Return a model with the same parts and few channels."""
    return ModelSpec(
        config=small_config(None if spec is None else spec.config),
        inputs=Inputs(image_size=64, word_length=17),
        decision=Decision(),
    )


def small_config(config):
    if isinstance(config, CLIPMapConfig):
        return CLIPMapConfig(vision=VIT if isinstance(config.vision, ViTConfig) else VISION, text=TEXT)
    if isinstance(config, RISCLIPConfig):
        return RISCLIPConfig(
            vision=VIT,
            text=TEXT,
            fusions=((2, 1),),
            cfe_width=8,
            cfe_heads=2,
            ske_layers=1,
            ske_heads=2,
            ske_hidden=8,
            decoder_blocks=config.decoder_blocks and (3, 2, 1),
            decoder_channels=(8, 6, 4),
        )
    return CRISConfig(
        vision=VISION,
        text=TEXT,
        neck_channels=(8, 16, 32),
        decoder_layers=2 if config is None else min(config.decoder_layers, 2),
        decoder_heads=2,
        decoder_hidden=32,
        contrastive=config is None or config.contrastive,
        dropout=0.0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_steps_give_the_recorded_losses(kind):
    recorded, found = json.loads(RECORD.read_text())[kind], losses(kind)
    steady = STEADY.get(kind, STEPS)
    assert found[:steady] == pytest.approx(recorded[:steady], rel=3e-2)
    assert found[steady:] == pytest.approx(recorded[steady:], rel=0.5)


def test_every_kind_is_recorded_and_differs():
    recorded = json.loads(RECORD.read_text())
    assert recorded.keys() == KINDS.keys()
    assert all(len(values) == STEPS for values in recorded.values())
    assert len({tuple(values) for values in recorded.values()}) == len(KINDS)
    assert {kind.partition(",")[0] for kind in KINDS} <= RECIPES.keys()


if __name__ == "__main__":
    torch.set_num_threads(1)
    record = {kind: [round(loss, 6) for loss in losses(kind)] for kind in KINDS}
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
