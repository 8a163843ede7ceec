"""The sizes of CLIP's published pairs of encoders, and who takes which."""

import pytest
import torch

from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_sizes import CLIP_SIZES, clip_sizes
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError, UnknownNameError
from refseg.models.cris.model import cris


@pytest.mark.parametrize("name", CLIP_SIZES)
def test_both_encoders_meet_in_one_space(name):
    sizes = clip_sizes(name)
    assert sizes.vision.output_dim == sizes.text.output_dim
    assert isinstance(sizes.vision, ViTConfig if name.startswith("ViT") else ResNetConfig)
    assert sizes.text.width == 64 * sizes.text.heads


# Parameters of the image encoder: of a patch, of each position, and 12 * width**2 + 13 * width in a block.
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


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'ViT-B/16'"):
        clip_sizes("ViT-B-16")


@pytest.mark.parametrize("name", [name for name in CLIP_SIZES if name.startswith("ViT")])
def test_cris_takes_a_resnet(name):
    with pytest.raises(ConfigError, match=f"^CLIP's {name} has a vision transformer, and CRIS needs one of CLIP's Res"):
        cris(name)
