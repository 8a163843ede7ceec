"""What a run starts from: ImageNet's weights of an image encoder."""

from __future__ import annotations

import pytest
import torch

from refseg.encoders.efficientnet import EfficientNet, EfficientNetConfig
from refseg.errors import ConfigError, WeightsError
from refseg.models.families import build
from refseg.models.folder import save_model
from refseg.training.recipes import recipe
from refseg.training.start import start_of

SMALL = EfficientNetConfig(stem=4, widths=(4, 6, 8, 8, 12, 12, 16), depths=(1, 1, 1, 1, 1, 1, 1))
LAYERS = {
    "expand": ("_expand_conv", "_bn0"),
    "depthwise": ("_depthwise_conv", "_bn1"),
    "project": ("_project_conv", "_bn2"),
}


@pytest.fixture
def small():
    return recipe("photos-1", **{"model.vision": SMALL})


def port_name(key):
    """Return the name of the weight in PyTorch's usual port."""
    if key.startswith("stem."):
        return key.replace("stem.0", "_conv_stem").replace("stem.1", "_bn0")
    _, stage, _, layer, number, rest = key.split(".")
    return f"_blocks.{stage}.{LAYERS[layer][int(number)]}.{rest}"


@pytest.fixture
def file(tmp_path):
    """The weights of such an encoder under the port's names."""
    torch.manual_seed(3)
    state = {port_name(key): value for key, value in EfficientNet(SMALL).state_dict().items()}
    torch.save(state | {"_fc.bias": torch.zeros(1000)}, tmp_path / "lite.pth")
    return tmp_path / "lite.pth"


def test_the_image_encoder_has_the_weights_of_the_file(small, file):
    start = start_of(small, "photos-1", backbone=str(file))
    found, stored = start.model.visual.state_dict(), torch.load(file)
    assert all(torch.equal(value, stored[port_name(key)]) for key, value in found.items())
    other = start_of(small, "photos-1", backbone="none")
    assert start.digests["backbone"] != other.digests["backbone"]


def test_a_file_that_does_not_fit_is_an_error(small, file, tmp_path):
    with pytest.raises(ConfigError, match="--backbone FILE"):
        start_of(small, "photos-1")
    with pytest.raises(WeightsError, match=r"none\.pth"):
        start_of(small, "photos-1", backbone=str(tmp_path / "none.pth"))
    with pytest.raises(WeightsError, match="does not fit"):
        start_of(recipe("photos-1"), "photos-1", backbone=str(file))
    with pytest.raises(ConfigError, match="no EfficientNet"):
        start_of(recipe("shapes"), "shapes", backbone=str(file))


def test_a_model_that_is_given_brings_its_own(small, tmp_path):
    folder = save_model(build(small.model), tmp_path / "model", name="model")
    assert "backbone" not in start_of(small, "photos-1", init=str(folder)).digests


def test_the_backbone_takes_the_place_of_another_image_encoder(small, file, tmp_path):
    torch.manual_seed(5)
    shapes = build(recipe("shapes").model)
    folder = save_model(shapes, tmp_path / "shapes", name="shapes")
    start = start_of(small, "photos-1", init=str(folder), backbone=str(file))
    found, given = start.model.state_dict(), shapes.state_dict()
    assert set(start.digests) == {"start", "backbone"}
    anew = ("visual.", "neck.project3.", "neck.project4.", "neck.project5.")
    taken = [key for key in found if not key.startswith(anew)]
    assert all(torch.equal(found[key], given[key]) for key in taken)
    assert {key.split(".")[0] for key in taken} == {"text", "neck", "decoder", "projector"}
    assert torch.equal(found["visual.stem.0.weight"], torch.load(file)[port_name("stem.0.weight")])


def test_another_image_encoder_needs_the_file_of_its_weights(small, tmp_path):
    folder = save_model(build(recipe("shapes").model), tmp_path / "shapes", name="shapes")
    with pytest.raises(ConfigError, match="--backbone FILE"):
        start_of(small, "photos-1", init=str(folder))
    other = save_model(build(small.model), tmp_path / "photos", name="photos")
    with pytest.raises(ConfigError, match="another model"):
        start_of(recipe("shapes-2"), "shapes-2", init=str(other))
