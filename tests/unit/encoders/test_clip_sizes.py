"""The sizes of CLIP's encoders: the published ones, those inferred from weights, and those that CRIS supports."""

import pytest
import torch

from refseg.encoders.clip_resnet import Bottleneck, ResNetConfig
from refseg.encoders.clip_sizes import CLIP_SIZES, clip_sizes, count_layers, infer_resnet, infer_text, infer_vit
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError, UnknownNameError, WeightsError
from refseg.models.cris.model import cris


@pytest.mark.parametrize("name", CLIP_SIZES)
def test_both_encoders_have_one_joint_space(name):
    sizes = clip_sizes(name)
    assert sizes.vision.output_dim == sizes.text.output_dim
    assert isinstance(sizes.vision, ViTConfig if name.startswith("ViT") else ResNetConfig)
    assert sizes.text.width == 64 * sizes.text.heads


@pytest.mark.parametrize(
    ("name", "grid", "parameters"),
    [
        ("ViT-B/32", 7, 87_849_216),
        ("ViT-B/16", 14, 86_192_640),
        ("ViT-L/14", 16, 303_966_208),
        ("ViT-L/14@336px", 24, 304_293_888),
    ],
)
def test_vision_transformers(name, grid, parameters):
    config = clip_sizes(name).vision
    assert isinstance(config, ViTConfig)
    assert config.grid == grid
    with torch.device("meta"):
        vit = VisionTransformer(config)
    assert sum(parameter.numel() for parameter in vit.parameters()) == parameters


@pytest.mark.parametrize("name", CLIP_SIZES)
def test_sizes_are_inferred_from_shapes(make_encoders, name):
    with torch.device("meta"):
        encoders = make_encoders(CLIP_SIZES[name].vision, CLIP_SIZES[name].text)
    infer = infer_vit if name.startswith("ViT") else infer_resnet
    assert infer(encoders.visual.state_dict(), "") == CLIP_SIZES[name].vision
    assert infer_text(encoders.text.state_dict()) == CLIP_SIZES[name].text


def test_sizes_of_other_weights():
    with pytest.raises(WeightsError, match=r"'visual\.layer1\.0\.conv1\.weight' is missing"):
        infer_resnet({})
    with pytest.raises(WeightsError, match=r"'visual\.conv1\.weight' is missing"):
        infer_vit({})
    with pytest.raises(WeightsError, match=r"'token_embedding\.weight' is missing"):
        infer_text({})
    with pytest.raises(WeightsError, match="shape"):
        infer_text({"token_embedding.weight": torch.zeros(3)})


def test_indices_of_layers_have_to_be_complete(state):
    assert count_layers(state, r"transformer\.resblocks\.(\d+)\.") == 2
    assert count_layers(state, r"nothing\.(\d+)\.") == 0
    state["transformer.resblocks.999999999.ln_1.bias"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="999999999"):
        infer_text(state)


def test_a_bottleneck_has_clips_names():
    names = set(Bottleneck(4, 4, stride=2).state_dict())
    assert {"downsample.0.weight", "downsample.1.running_mean"} <= names


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'ViT-B/16'"):
        clip_sizes("ViT-B-16")


@pytest.mark.parametrize("name", [name for name in CLIP_SIZES if name.startswith("ViT")])
def test_cris_needs_a_resnet(name):
    with pytest.raises(ConfigError, match=name):
        cris(name)
