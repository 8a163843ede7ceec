"""EfficientNet-Lite0 equals the PyTorch port whose ImageNet weights it loads, `efficientnet-lite-pytorch` 0.1.0.

The values were recorded with that package: its weights drawn with a seed from the name of each, and its blocks 4, 10
and 15, the last ones at strides 8, 16 and 32.
"""

from __future__ import annotations

import zlib

import pytest
import torch

from refseg.encoders.efficientnet import EfficientNet, EfficientNetConfig, from_pretrained_names, infer_efficientnet
from refseg.errors import ConfigError, WeightsError
from refseg.models.convert import adopt_clip
from refseg.models.cris.convert import as_checkpoint
from refseg.models.cris.model import cris_photos
from refseg.models.families import build

LITE0 = EfficientNetConfig()
RECORDED = {
    (64, 64): [(-0.2318908, 0.4845156, 0.338168), (-0.0577741, 0.461085, 0.035205), (-0.0082242, 0.2541237, 0.360766)],
    (96, 160): [
        (-0.2464521, 0.507639, -0.046274),
        (-0.0585538, 0.5064177, 0.253845),
        (-0.0156849, 0.3009007, 0.062666),
    ],
}
"""By the size of the image: mean, standard deviation and the element 123 of each map."""
LAYERS = {
    "expand.0": "_expand_conv",
    "expand.1": "_bn0",
    "depthwise.0": "_depthwise_conv",
    "depthwise.1": "_bn1",
    "project.0": "_project_conv",
    "project.1": "_bn2",
}


def of_the_port(key):
    """Return the port's name of one of our weights."""
    if key.startswith("stem."):
        return key.replace("stem.0", "_conv_stem").replace("stem.1", "_bn0")
    _, stage, block, layer, number, rest = key.split(".")
    index = sum(LITE0.depths[: int(stage)]) + int(block)
    return f"_blocks.{index}.{LAYERS[f'{layer}.{number}']}.{rest}"


def drawn(key, value):
    chance = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    if not value.is_floating_point():
        return value
    if key.endswith("running_var"):
        return torch.rand(value.shape, generator=chance) + 0.5
    if value.ndim == 1:
        return torch.randn(value.shape, generator=chance) * 0.1 + key.endswith("weight")
    return torch.randn(value.shape, generator=chance) / value[0].numel() ** 0.5


@pytest.fixture(scope="module")
def weights():
    """The weights under the port's names, with parts of the classifier."""
    ours = EfficientNet(LITE0).state_dict()
    features = {of_the_port(key): drawn(of_the_port(key), value) for key, value in ours.items()}
    return features | {"_conv_head.weight": torch.zeros(1280, 320, 1, 1), "_fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def model(weights):
    model = EfficientNet(LITE0).eval()
    model.load_state_dict(from_pretrained_names(weights, LITE0))
    return model


@pytest.mark.parametrize("size", RECORDED)
def test_feature_maps(model, size):
    pixels = torch.linspace(-1, 1, 3 * size[0] * size[1]).reshape(1, 3, *size).sin() * 2
    with torch.no_grad():
        maps = model(pixels)
    for stride, found, (mean, std, element) in zip((8, 16, 32), maps, RECORDED[size], strict=True):
        assert found.shape[-2:] == (size[0] // stride, size[1] // stride)
        assert found.mean().item() == pytest.approx(mean, abs=1e-5)
        assert found.std().item() == pytest.approx(std, abs=1e-5)
        assert found.flatten()[123].item() == pytest.approx(element, abs=1e-4)


def test_sizes_are_inferred_from_shapes():
    small = EfficientNetConfig(stem=8, widths=(4, 6, 8, 10, 12, 14, 16), depths=(1, 1, 2, 1, 3, 1, 1))
    for config in (LITE0, small):
        state = {f"visual.{key}": value for key, value in EfficientNet(config).state_dict().items()}
        assert infer_efficientnet(state, "visual.") == config


def test_other_weights_are_errors(weights):
    for key in ("conv1.weight", "_blocks.16._bn1.weight", "_blocks.0._se_reduce.weight"):
        with pytest.raises(WeightsError, match=key.split(".")[-2]):
            from_pretrained_names({**weights, key: torch.zeros(1)}, LITE0)
    with pytest.raises(WeightsError, match=r"stages\.0\.0\.project"):
        infer_efficientnet({"stem.0.weight": torch.zeros(8, 3, 3, 3)}, "")


@pytest.mark.parametrize("changes", [{"stem": 0}, {"depths": (1, 2, 2)}, {"widths": (16, 24, 40, 80, 112, 192, -1)}])
def test_impossible_sizes_are_errors(changes):
    with pytest.raises(ConfigError):
        EfficientNetConfig(**changes)


def test_it_is_no_clip_and_no_model_of_the_reference(tmp_path):
    model = build(cris_photos())
    with pytest.raises(ConfigError, match="no encoders to load a CLIP"):
        adopt_clip(model, tmp_path / "RN50.pt")
    with pytest.raises(WeightsError, match="no CRIS on an EfficientNet"):
        as_checkpoint({}, model.spec, {})
