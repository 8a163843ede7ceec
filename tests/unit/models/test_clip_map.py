"""Plain CLIP as a segmentation model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.encoders.pretrained import encoder_weights
from refseg.errors import ConfigError, InputError, WeightsError
from refseg.inputs.preprocessing import Inputs
from refseg.models.clip_map.model import CLIPMap, CLIPMapConfig, clip_map, clip_map_compact
from refseg.models.convert import convert
from refseg.models.folder import load_model
from refseg.models.grid import to_quarter
from refseg.predictor import Predictor
from refseg.values import Decision

VIT = ViTConfig(patch=8, width=64, layers=2, heads=1, output_dim=12, pretrained_size=32)
RESNET = ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=12, pretrained_size=64)
TEXT = TextConfig(width=64, heads=1, layers=2, output_dim=12)
both_kinds = pytest.mark.parametrize("vision", [VIT, RESNET], ids=["vit", "resnet"])


def make(vision):
    torch.manual_seed(0)
    return CLIPMap(
        CLIPMapConfig(vision=vision, text=TEXT), Inputs(image_size=64, word_length=12), Decision(threshold=0.5)
    ).eval()


@both_kinds
def test_embeddings_have_length_one(vision):
    model = make(vision)
    tokens = torch.tensor([[49406, 5, 49407]])
    with torch.no_grad():
        image, sentence = model.embed(torch.randn(2, 3, 64, 64), tokens)
    torch.testing.assert_close(image.norm(dim=-1), torch.ones(2))
    torch.testing.assert_close(sentence.norm(dim=-1), torch.ones(1))


def test_a_position_of_a_resnet_is_pooled_alone():
    """The attention pool of a single position returns its projected value."""
    model = make(RESNET)
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = model.visual._stages(pixels)[-1]
        pool = model.visual.attnpool
        tokens = pool._tokens(last)
        found = model.visual.values(pixels)
        alone = torch.stack([pool._attend(tokens[:, i : i + 1], tokens[:, i : i + 1])[:, 0] for i in range(4)], dim=-1)
    torch.testing.assert_close(found.flatten(2), alone)


@both_kinds
def test_the_mask_is_a_standard_deviation_above_the_mean(vision):
    model = make(vision)
    tokens = torch.tensor([[49406, 5, 49407], [49406, 6, 49407]])
    with torch.no_grad():
        image = model.encode_image(torch.randn(1, 3, 64, 64))
        cosines = model.ground(image, tokens, tokens == 0)
        logits = model.map_logits(cosines)
    assert cosines.abs().max() <= 1
    assert len(cosines) == 2
    for one, logit in zip(cosines, logits[:, 0], strict=True):
        spread = one.std(correction=0)
        assert torch.equal(logit > 0, one > one.mean() + spread + 1e-6) or spread < 1e-4


@both_kinds
def test_a_file_of_clip_becomes_a_model(vision, tmp_path, photo):
    state = {key: value for key, value in encoder_weights(make(vision)).items() if "connect" not in key}
    torch.save(state, tmp_path / "clip.pt")
    folder = convert(tmp_path / "clip.pt", tmp_path / "model")
    loaded = load_model(folder)
    assert loaded.family == "clip-map"
    assert loaded.inputs == Inputs(image_size=2 * vision.pretrained_size, word_length=77)
    predictor = Predictor.from_model(loaded, "cpu")
    encoded = predictor.encode(photo)
    found = predictor.ground(encoded, "the disc")
    grid = loaded.inputs.image_size // loaded.config.patch
    assert found.cosines.shape == (grid, grid)
    assert found.probability.shape == (64, 96)
    (prediction,) = predictor.segment(encoded, ["the disc"])
    # Loading folds norms, which rounds in another order.
    np.testing.assert_allclose(prediction.probability, found.probability, atol=1e-5)
    with pytest.raises(InputError):
        Predictor.from_model(make(vision), "cpu").ground(encoded, "the disc")


def test_a_file_that_is_not_a_whole_clip_is_an_error(tmp_path):
    state = {key: value for key, value in encoder_weights(make(VIT)).items() if key != "visual.proj"}
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(WeightsError, match=r"clip\.pt"):
        convert(tmp_path / "clip.pt", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_model_without_a_map_is_an_error(make_tiny, photo):
    predictor = Predictor.from_model(make_tiny(), "cpu")
    with pytest.raises(ConfigError, match="patch-level map"):
        predictor.ground(predictor.encode(photo), "the disc")


def test_published_and_compact_sizes():
    assert clip_map("ViT-B/16").inputs.image_size == 448
    assert clip_map("ViT-L/14").config.patch == 14
    assert clip_map_compact("vit").config.patch == 8
    assert clip_map_compact("resnet").config.patch == 32
    with pytest.raises(ConfigError, match="resnet, vit"):
        clip_map_compact("vgg")
    config = CLIPMapConfig(vision=ViTConfig(patch=14, width=8, layers=1, heads=1, output_dim=12), text=TEXT)
    with pytest.raises(ConfigError, match="image_size must be a multiple of 28"):
        CLIPMap(config, Inputs(image_size=224 + 14, word_length=12), Decision())


@pytest.mark.parametrize(("grid", "side"), [(4, 64), (5, 80), (40, 560)])
def test_resized_maps_keep_their_position(grid, side):
    """A linear function of the cells' centres stays the same function at the positions of the logits inside of them."""
    step = side / grid
    centres = (torch.arange(grid) + 0.5) * step - 0.5
    plane = (0.3 * centres[:, None] + 0.1 * centres[None]).expand(1, 1, grid, grid)
    positions = torch.arange(side // 4) * (side - 1) / (side // 4 - 1)
    inside = (positions >= centres[0]) & (positions <= centres[-1])
    found = to_quarter(plane.contiguous(), side)[0, 0][inside][:, inside]
    expected = (0.3 * positions[:, None] + 0.1 * positions[None])[inside][:, inside]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * side)


def test_a_map_of_one_cell_is_constant():
    assert torch.equal(to_quarter(torch.full((1, 1, 1, 1), 3.0), 32), torch.full((1, 1, 8, 8), 3.0))
