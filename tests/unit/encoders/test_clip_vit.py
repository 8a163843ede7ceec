"""CLIP's vision transformer, compared with transformers, and the properties that models rely on."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from refseg.encoders.clip_files import read_clip
from refseg.encoders.clip_sizes import infer_text, infer_vit
from refseg.encoders.clip_text import TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.encoders.pretrained import load_encoders, load_text_encoder
from refseg.errors import ConfigError, ImageError

GOLDEN = Path(__file__).parents[2] / "data" / "clip_vit.npz"
SMALL = ViTConfig(patch=4, width=16, layers=3, heads=2, output_dim=12, pretrained_size=16)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


@pytest.fixture(scope="module")
def recorded(golden, tmp_path_factory):
    """Both encoders, loaded from a file with the names of transformers."""
    path = tmp_path_factory.mktemp("clip") / "model.safetensors"
    weights = {key.removeprefix("weights/"): value for key, value in golden.items() if key.startswith("weights/")}
    save_file(weights, path)
    state = read_clip(path)
    encoders = nn.Module()
    # The number of heads is inferred for 64 channels each; these encoders are smaller.
    encoders.visual = VisionTransformer(replace(infer_vit(state), heads=4))
    encoders.text = TextTransformer(replace(infer_text(state), heads=3))
    load_encoders(encoders, state)
    return encoders.eval()


@pytest.fixture
def vit():
    torch.manual_seed(0)
    return VisionTransformer(SMALL).eval()


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


class TestAgainstTransformers:
    def test_sizes(self, recorded):
        assert recorded.visual.grid == 4
        assert len(recorded.visual.blocks) == 3
        assert recorded.text.text_projection.shape == (24, 20)

    # The grid of pretraining, a finer and a coarser one.
    @pytest.mark.parametrize("side", [32, 40, 24])
    def test_images(self, recorded, golden, side):
        pixels = golden[f"{side}/pixels"].float()
        with torch.inference_mode():
            tokens, kept = recorded.visual(pixels, keep=(1, 3))
            embedded = recorded.visual.embed(pixels)
        assert tokens.shape == (2, 1 + (side // 8) ** 2, 20)
        close(embedded, golden[f"{side}/after_0"])
        close(kept[0], golden[f"{side}/after_1"])
        close(kept[1], golden[f"{side}/after_3"])
        close(tokens, golden[f"{side}/tokens"])
        close(tokens[:, 0], golden[f"{side}/image"])

    def test_expressions(self, recorded, golden):
        with torch.inference_mode():
            words, sentence = recorded.text(golden["tokens"])
            projected = recorded.text.project(words)
        close(words, golden["words"])
        close(projected, golden["words_joint"])
        close(sentence, golden["sentence"])
        close(recorded.text.sentence_of(projected, golden["tokens"]), golden["sentence"])

    def test_the_text_encoder_alone(self, recorded, golden):
        text = TextTransformer(replace(infer_text(recorded.text.state_dict()), heads=3)).eval()
        load_text_encoder(text, recorded.text.state_dict())
        with torch.inference_mode():
            close(text(golden["tokens"]).sentence, golden["sentence"])


class TestVisionTransformer:
    @pytest.mark.parametrize("side", [16, 4, 8, 28])
    def test_shapes(self, vit, side):
        tokens, kept = vit(torch.randn(2, 3, side, side))
        assert tokens.shape == (2, 1 + (side // 4) ** 2, 12)
        assert kept == ()

    @pytest.mark.parametrize("side", [15, 17, 2])
    def test_the_side_has_to_be_a_multiple_of_the_patch(self, vit, side):
        with pytest.raises(ImageError, match=f"{side} pixels"):
            vit(torch.randn(1, 3, side, side))

    @pytest.mark.parametrize("keep", [(), (1,), (3, 1), (2, 2), (1, 2, 3)])
    def test_the_outputs_of_blocks_are_returned_in_order(self, vit, keep):
        pixels = torch.randn(1, 3, 16, 16)
        states = [vit.embed(pixels)]
        for block in vit.blocks:
            states.append(block(states[-1]))
        tokens, kept = vit(pixels, keep)
        assert len(kept) == len(keep)
        assert all(torch.equal(found, states[number]) for found, number in zip(kept, keep, strict=True))
        assert torch.equal(tokens, vit.project(states[-1]))
        assert not any(torch.equal(a, b) for a, b in pairwise(states))

    @pytest.mark.parametrize("keep", [(0,), (4,), (1, -1)])
    def test_unknown_blocks(self, vit, keep):
        with pytest.raises(ConfigError, match=r"the blocks have the numbers 1\.\.3"):
            vit(torch.randn(1, 3, 16, 16), keep)

    def test_patches_are_in_row_major_order(self, vit):
        pixels = torch.zeros(1, 3, 16, 16)
        changed = pixels.clone()
        changed[:, :, 4:8, 8:12] = 1  # row 1, column 2
        differs = (vit.embed(pixels) != vit.embed(changed)).any(dim=-1)[0]
        assert differs.nonzero().flatten().tolist() == [1 + 1 * 4 + 2]

    def test_positions_are_not_resized_on_the_grid_of_pretraining(self, vit):
        assert vit._positions(4) is vit.positional_embedding

    def test_positions_are_resized(self, vit):
        with torch.no_grad():
            # A ramp, from left to right in one channel and from top to bottom in another.
            vit.positional_embedding[1:, 0] = torch.arange(4.0).repeat(4)
            vit.positional_embedding[1:, 1] = torch.arange(4.0).repeat_interleave(4)
            found = vit._positions(8)
        assert torch.equal(found[0], vit.positional_embedding[0])
        across, down = (found[1:, channel].reshape(8, 8) for channel in (0, 1))
        torch.testing.assert_close(across, across[:1].expand(8, 8))
        torch.testing.assert_close(down, across.T)
        assert (across[0].diff() > 0).all()
        torch.testing.assert_close(across[0] + across[0].flip(0), torch.full((8,), 3.0))

    def test_all_parameters_get_gradients(self, vit):
        vit(torch.randn(2, 3, 24, 24)).tokens.pow(2).sum().backward()
        for name, parameter in vit.named_parameters():
            assert parameter.grad.abs().sum() > 0, name

    def test_initial_values(self):
        torch.manual_seed(0)
        vit = VisionTransformer(ViTConfig(patch=2, width=256, layers=1, heads=4, output_dim=128, pretrained_size=32))
        for parameter in (vit.class_embedding, vit.positional_embedding, vit.proj):
            values = parameter.detach()
            assert float(values.std()) == pytest.approx(1 / 16, rel=0.15)
            assert abs(float(values.mean())) < 1 / 64

    def test_names_of_openai(self, vit):
        names = set(vit.state_dict())
        assert "conv1.bias" not in names
        assert {name for name in names if "resblocks" not in name} == {
            *("conv1.weight", "class_embedding", "positional_embedding", "proj"),
            *("ln_pre.weight", "ln_pre.bias", "ln_post.weight", "ln_post.bias"),
        }
        assert {name.removeprefix("transformer.resblocks.2.") for name in names if ".2." in name} == {
            f"{layer}.{kind}"
            for layer in ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
            for kind in ("weight", "bias")
        } | {"attn.in_proj_weight", "attn.in_proj_bias"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch": 0}, "must be positive"),
        ({"layers": 0}, "must be positive"),
        ({"output_dim": -1}, "must be positive"),
        ({"heads": 3}, "3 heads do not divide a width of 16"),
        ({"pretrained_size": 18}, r"a multiple of the patch \(4\), got 18"),
        ({"pretrained_size": 0}, r"a multiple of the patch \(4\), got 0"),
    ],
)
def test_invalid_sizes(changes, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **changes)
