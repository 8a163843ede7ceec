"""The sizes of CLIP's published pairs of towers, and who takes which."""

import pytest
import torch

from refseg.clip.resnet import ResNetConfig
from refseg.clip.towers import TOWERS, tower_sizes
from refseg.clip.vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError, UnknownNameError
from refseg.models.cris.model import cris


@pytest.mark.parametrize("name", TOWERS)
def test_both_towers_meet_in_one_space(name):
    sizes = tower_sizes(name)
    assert sizes.vision.output_dim == sizes.text.output_dim
    assert isinstance(sizes.vision, ViTConfig if name.startswith("ViT") else ResNetConfig)
    assert sizes.text.width == 64 * sizes.text.heads


# Parameters of the image tower: of a patch, of each position, and 12 * width**2 + 13 * width in a block.
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
    config = tower_sizes(name).vision
    assert isinstance(config, ViTConfig)
    assert config.grid == grid
    with torch.device("meta"):
        vit = VisionTransformer(config)
    assert sum(parameter.numel() for parameter in vit.parameters()) == parameters


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'ViT-B/16'"):
        tower_sizes("ViT-B-16")


@pytest.mark.parametrize("name", [name for name in TOWERS if name.startswith("ViT")])
def test_cris_takes_a_resnet(name):
    with pytest.raises(ConfigError, match=f"^CLIP's {name} has a vision transformer, and CRIS needs one of CLIP's Res"):
        cris(name)
