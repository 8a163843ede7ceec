"""EFN's recipes: the published numbers, the words of the training data, and steps that learn."""

from __future__ import annotations

import pytest
import torch

from refseg.data.batches import Batch
from refseg.data.shapes import Shapes
from refseg.encoders.resnet import WideResNetConfig
from refseg.errors import ConfigError
from refseg.inputs.words import UNKNOWN
from refseg.models.families import build
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.optim import build_optimizer, learning_rate_factor
from refseg.training.processes import Processes
from refseg.training.recipes import recipe
from refseg.training.start import load_backbone
from refseg.training.vocabulary import vocabulary_of, with_vocabulary

TINY = {
    "model.vision": WideResNetConfig(layers=(1, 1, 1, 1), width=4, factor=1),
    "model.width": 8,
    "model.coattention_width": 4,
    "model.decoder_widths": (4, 4, 4, 8, 8),
    "model.image_size": 64,
}


class Few:
    """The first scenes of Shapes."""

    def __init__(self, count):
        self.num_images, self.samples_of = count, Shapes("train").samples_of


@pytest.fixture
def run():
    return with_vocabulary(recipe("efn-refcoco", faithful=True, **TINY), Few(20))


def test_the_published_numbers():
    found = recipe("efn-refcoco", faithful=True)
    config = found.training
    assert config.steps == 100_000
    assert [learning_rate_factor(config, step) for step in (0, 59_999, 60_000)] == [1, 1, 0.1]
    assert (found.protocol, config.batch_size, config.precision) == ("efn", 16, "float32")
    assert "62.76 on val" in found.expected
    with torch.device("meta"):
        optimizer = build_optimizer(build(found.model), config)
    assert type(optimizer) is torch.optim.SGD
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (1e-3, 0.9, 5e-4)


def test_the_vocabulary_is_that_of_the_training_data(run):
    words = run.model.inputs.vocabulary
    assert words[0] == UNKNOWN
    assert {"the", "of"} <= set(words)
    assert words == vocabulary_of(Few(20))
    assert run.model.config.vocabulary_size == len(words) + 1
    assert with_vocabulary(run, Few(3)) is run
    other = recipe("shapes")
    assert with_vocabulary(other, Few(3)) is other
    with pytest.raises(ConfigError, match="no word"):
        with_vocabulary(recipe("efn-refcoco"), Few(0))


def batch(inputs, target):
    torch.manual_seed(1)
    words = inputs.tokens(["the red square", "the blue circle", "the star", "a ring"])
    return Batch(
        pixels=torch.rand(4, 3, 64, 64) * 255,
        tokens=torch.from_numpy(words.tokens),
        padding=torch.from_numpy(words.padding),
        image_index=torch.arange(4),
        target=target,
        valid=torch.ones_like(target),
        weight=torch.ones(4),
        box=torch.zeros(4, 4),
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_steps_learn(run, precision):
    torch.manual_seed(0)
    target = torch.zeros(4, 1, 64, 64)
    target[:, :, 16:40, 8:32] = 1
    config = TrainingConfig(**{**vars(run.training), "precision": precision, "learning_rate": 0.02})
    engine = Engine(build(run.model), config, Processes(torch.device("cpu")))
    losses = [float(engine.step([batch(run.model.inputs, target)], step)) for step in range(6)]
    assert losses[-1] < losses[0] - 0.3


def test_weights_of_torchvision_are_loaded(run, tmp_path):
    source, model = build(run.model), build(run.model)
    path = tmp_path / "wide.pth"
    torch.save({**source.visual.state_dict(), "fc.weight": torch.zeros(10, 3), "fc.bias": torch.zeros(10)}, path)
    load_backbone(model, "wide ResNet-101", str(path), "efn-refcoco")
    assert torch.equal(model.visual.layer4[0].conv3.weight, source.visual.layer4[0].conv3.weight)
    with pytest.raises(ConfigError, match=r"wide_resnet101_2-32ee1156\.pth"):
        load_backbone(model, "wide ResNet-101", None, "efn-refcoco")
