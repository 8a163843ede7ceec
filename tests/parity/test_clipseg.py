"""CLIPSeg equals transformers' `CLIPSegForImageSegmentation`, whose files on the Hub it loads.

The values were recorded with transformers 5.24.0: a small model, its weights drawn with a seed from transformers' name
of each. Where transformers is installed, logits are also compared with it directly.
"""

from __future__ import annotations

import json
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.models.clipseg.model import CLIPSegConfig
from refseg.models.convert import convert
from refseg.models.folder import load_model

VISION = ViTConfig(patch=16, width=128, layers=11, heads=2, output_dim=24)
TEXT = TextConfig(width=64, heads=1, layers=2, output_dim=24, vocabulary_size=512)
TINY = CLIPSegConfig(vision=VISION, text=TEXT, decoder_width=16, decoder_hidden=32)
CONFIG = {
    "model_type": "clipseg",
    "projection_dim": 24,
    "reduce_dim": 16,
    "decoder_intermediate_size": 32,
    "vision_config": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 11,
        "num_attention_heads": 2,
        "patch_size": 16,
    },
    "text_config": {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "vocab_size": 512,
        "eos_token_id": 2,
    },
}
"""Of the same model, as transformers writes it: `eos_token_id` is that of the files on the Hub."""
TOKENS = torch.tensor([[510, 5, 77, 300, 511, 0, 0], [510, 9, 511, 0, 0, 0, 0]])
RECORDED = {
    (True, 224): (-0.0028848, 0.0870547, 0.069742, -0.083833, -0.001691),
    (True, 352): (-0.0020505, 0.0892315, 0.117569, -0.135728, -0.064916),
    (False, 224): (-0.0076713, 0.2409950, 0.062866, -0.093948, 0.170974),
    (False, 352): (-0.0017833, 0.2462600, 0.078522, -0.251246, 0.189379),
}
"""By whether the decoder is refined and the side of the image: mean, standard deviation, and three elements."""


def shapes(refined):
    """Return the shape of each weight by transformers' name."""
    found = {"clip.logit_scale": ()}

    def linear(name, *sizes):
        found.update({f"{name}.weight": sizes, f"{name}.bias": sizes[:1]})

    def layer(name, width, hidden):
        for part in ("q", "k", "v", "out"):
            linear(f"{name}.self_attn.{part}_proj", width, width)
        linear(f"{name}.mlp.fc1", hidden, width)
        linear(f"{name}.mlp.fc2", width, hidden)
        linear(f"{name}.layer_norm1", width)
        linear(f"{name}.layer_norm2", width)

    for name, config, hidden in (("text", TEXT, 256), ("vision", VISION, 512)):
        for number in range(config.layers):
            layer(f"clip.{name}_model.encoder.layers.{number}", config.width, hidden)
    found |= {
        "clip.text_model.embeddings.token_embedding.weight": (512, 64),
        "clip.text_model.embeddings.position_embedding.weight": (77, 64),
        "clip.vision_model.embeddings.class_embedding": (128,),
        "clip.vision_model.embeddings.patch_embedding.weight": (128, 3, 16, 16),
        "clip.vision_model.embeddings.position_embedding.weight": (197, 128),
        "clip.text_projection.weight": (24, 64),
        "clip.visual_projection.weight": (24, 128),
    }
    linear("clip.text_model.final_layer_norm", 64)
    linear("clip.vision_model.pre_layrnorm", 128)
    linear("clip.vision_model.post_layernorm", 128)
    linear("decoder.film_mul", 16, 24)
    linear("decoder.film_add", 16, 24)
    for number in range(3):
        linear(f"decoder.reduces.{number}", 16, 128)
        layer(f"decoder.layers.{number}", 16, 32)
    convolution = "decoder.transposed_convolution"
    if refined:
        linear(f"{convolution}.0", 16, 16, 3, 3)
        found |= {f"{convolution}.2.weight": (16, 8, 4, 4), f"{convolution}.2.bias": (8,)}
        found |= {f"{convolution}.4.weight": (8, 1, 4, 4), f"{convolution}.4.bias": (1,)}
    else:
        found |= {f"{convolution}.weight": (16, 1, 16, 16), f"{convolution}.bias": (1,)}
    return found


def drawn(name, shape):
    chance = np.random.default_rng(zlib.crc32(name.encode()))
    values = torch.from_numpy(chance.standard_normal(shape).astype(np.float32))
    if len(shape) < 2:
        return values * 0.1 + ("norm" in name and name.endswith("weight"))
    return values / values[0].numel() ** 0.5


def folder_of(refined, folder):
    """Write the model as transformers does."""
    folder.mkdir()
    save_file({name: drawn(name, shape) for name, shape in shapes(refined).items()}, folder / "model.safetensors")
    config = CONFIG | {"use_complex_transposed_convolution": refined}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["refined", "plain"])
def refined(request):
    return request.param


@pytest.fixture(scope="module")
def source(refined, tmp_path_factory):
    return folder_of(refined, tmp_path_factory.mktemp("hub") / "clipseg")


@pytest.fixture(scope="module")
def model(source, tmp_path_factory):
    return load_model(convert(source, tmp_path_factory.mktemp("models") / "clipseg"))


def pixels(side):
    return torch.linspace(-1, 1, 3 * side * side).mul(40).sin().reshape(1, 3, side, side) * 2


def logits_of(model, side, tokens=TOKENS):
    with torch.no_grad():
        return model.decode(model.encode_image(pixels(side)), tokens, tokens == 0)


@pytest.mark.parametrize("side", [224, 352])
def test_logits(model, refined, side):
    logits = logits_of(model, side)
    assert logits.shape == (2, 1, side, side)
    mean, std, *elements = RECORDED[refined, side]
    assert logits.mean().item() == pytest.approx(mean, abs=1e-5)
    assert logits.std().item() == pytest.approx(std, abs=1e-5)
    assert logits.flatten()[[123, side * side // 2, -5]].tolist() == pytest.approx(elements, abs=1e-5)


@pytest.mark.slow
def test_logits_of_transformers_itself(model, source):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPSegForImageSegmentation.from_pretrained(source).eval()
    for side in (224, 352):
        with torch.no_grad():
            expected = theirs(input_ids=TOKENS, pixel_values=pixels(side).expand(2, -1, -1, -1)).logits
        torch.testing.assert_close(logits_of(model, side)[:, 0], expected, rtol=0, atol=1e-5)
