"""CLIPSeg equals transformers' `CLIPSegForImageSegmentation`, whose files on the Hub it loads.

The values were recorded with transformers 5.24.0: a small model, its weights drawn with a seed from transformers' name
of each. Where transformers is installed, logits are also compared with it directly.
"""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.errors import ConfigError, WeightsError
from refseg.inputs.preprocessing import Inputs
from refseg.models.clipseg.convert import infer_config
from refseg.models.clipseg.model import CLIPSegConfig, clipseg, default_spec
from refseg.models.convert import convert
from refseg.models.families import MODELS, build
from refseg.models.folder import load_model
from refseg.predictor import Predictor

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


# ── one image, many expressions ──


def test_one_expression_or_several_give_the_same_numbers(model):
    together = logits_of(model, 352)
    alone = torch.cat([logits_of(model, 352, TOKENS[row : row + 1]) for row in range(2)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_predictions_of_an_image_that_is_encoded_once(photo):
    torch.manual_seed(0)
    text = TextConfig(width=16, heads=1, layers=1, output_dim=24)
    predictor = Predictor.from_model(build(default_spec(replace(TINY, text=text))), "cpu")
    encoding = predictor.encode(photo)
    assert {name: array.shape for name, array in encoding.arrays.items()} == {
        f"block{block}": (1, 485, 16) for block in (10, 7, 4)
    }
    first, second = predictor.segment(encoding, ["the disc", "the blue square"])
    (alone,) = predictor.segment(encoding, ["the blue square"])
    assert second.scores.shape == (352, 352)
    assert second.probability.shape == (64, 96)
    np.testing.assert_allclose(second.scores, alone.scores, atol=1e-6)
    assert not np.allclose(first.scores, second.scores, atol=1e-4)


# ── preprocessing ──


def test_the_published_preprocessing():
    """That of `preprocessor_config.json` in CIDAS/clipseg-rd64-refined on the Hub, and the threshold of the paper."""
    spec = clipseg()
    assert spec.inputs == Inputs(image_size=352, word_length=77, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert spec.decision.threshold == 0.3


def test_a_square_image_is_resized_as_by_the_hub_up_to_the_filter():
    """The letterbox of a square image has no border, where transformers resizes by PIL's bilinear filter."""
    line = np.linspace(0, 3, 200)
    waves = np.sin(line[:, None, None] + line[:, None] * [1, 2, 3])
    image = Image.fromarray(np.uint8(128 + 100 * waves))
    inputs = clipseg().inputs
    found, _ = inputs.pixels(image)
    resized = np.asarray(image.resize((352, 352), Image.Resampling.BILINEAR), np.float32) / 255
    expected = ((resized - np.float32(inputs.mean)) / np.float32(inputs.std)).transpose(2, 0, 1)
    inner = slice(4, -4)  # the outermost pixels blend into the colour of the border
    assert np.abs(found - expected)[:, inner, inner].max() < 3 / 255 / min(inputs.std)


# ── conversion ──


def test_both_kinds_of_files_give_the_same_model(model, source, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    # Older versions of transformers stored the numbers of the positions too; the files on the Hub have them.
    numbers = {f"clip.{name}_model.embeddings.position_ids": torch.arange(77)[None] for name in ("text", "vision")}
    torch.save(load_file(source / "model.safetensors") | numbers, folder / "pytorch_model.bin")
    shutil.copy(source / "config.json", folder)
    loaded = load_model(convert(folder, tmp_path / "model"))
    assert loaded.spec == model.spec
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_file_alone_gives_the_published_blocks_and_heads(model, source, tmp_path):
    loaded = load_model(convert(source / "model.safetensors", tmp_path / "model", word_length=20))
    assert loaded.config == model.config
    assert loaded.inputs.word_length == 20


def test_sizes_are_inferred_from_shapes():
    few = ViTConfig(patch=16, width=64, layers=2, heads=1, output_dim=24, pretrained_size=32)
    small = CLIPSegConfig(vision=few, text=TEXT, decoder_blocks=(2, 1), decoder_width=6, decoder_heads=1, refined=False)
    for config in (clipseg().config, clipseg(refined=False).config, TINY, small):
        with torch.device("meta"):
            assert infer_config(build(default_spec(config)).state_dict()) == config


@pytest.fixture
def changed(source, tmp_path):
    """Copies the model with some of its config, or of its weights, changed."""

    def change(config=None, weights=None):
        folder = tmp_path / "changed"
        shutil.copytree(source, folder)
        values = json.loads((folder / "config.json").read_text()) | (config or {})
        (folder / "config.json").write_text(json.dumps(values))
        stored = load_file(folder / "model.safetensors") | (weights or {})
        stored = {name: value for name, value in stored.items() if value is not None}
        save_file(stored, folder / "model.safetensors")
        return folder

    return change


def test_the_config_determines_blocks_and_heads(changed, tmp_path):
    vision = CONFIG["vision_config"] | {"num_attention_heads": 4}
    config = {"extract_layers": [1, 2, 8], "decoder_num_attention_heads": 8, "vision_config": vision}
    loaded = load_model(convert(changed(config), tmp_path / "model"))
    assert loaded.config.decoder_blocks == (9, 3, 2)
    assert (loaded.config.decoder_heads, loaded.config.vision.heads) == (8, 4)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"model_type": "clip"}, "model_type"),
        ({"conditional_layer": 1}, "conditional_layer"),
        ({"text_config": CONFIG["text_config"] | {"hidden_act": "gelu"}}, "hidden_act"),
        ({"vision_config": [1]}, "vision_config"),
        ({"extract_layers": "3, 6"}, "extract_layers"),
        ({"extract_layers": [3, 6, 11]}, "decoder_blocks"),
        ({"extract_layers": []}, "decoder_blocks"),
        ({"decoder_num_attention_heads": 0}, "decoder_num_attention_heads"),
        ({"decoder_num_attention_heads": 3}, "decoder_heads"),
    ],
)
def test_a_config_of_another_model_is_an_error(changed, tmp_path, config, word):
    with pytest.raises(ConfigError, match=rf"config\.json: .*{word}"):
        convert(changed(config), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    "weights",
    [
        {"decoder.more.weight": torch.zeros(1)},
        {"head.weight": torch.zeros(1)},
        {"decoder.film_add.bias": None},
        {"decoder.film_mul.weight": None},
        {"decoder.reduces.1.weight": torch.zeros(16, 7)},
        {"decoder.layers.0.self_attn.k_proj.bias": None},
        {"clip.visual_projection.weight": None},
        {"decoder.film_add.bias": torch.full((16,), float("nan"))},
    ],
)
def test_weights_of_another_model_are_an_error(changed, tmp_path, weights):
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        convert(changed(weights=weights), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_folder_without_weights_is_an_error(changed, tmp_path):
    folder = changed()
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin"):
        convert(folder, tmp_path / "model")


# ── the config ──


@pytest.mark.parametrize(
    "changes",
    [
        {"decoder_blocks": ()},
        {"decoder_blocks": (4, 7)},
        {"decoder_blocks": (7, 7)},
        {"decoder_blocks": (13, 7)},
        {"decoder_blocks": (7, 0)},
        {"decoder_hidden": 0},
        {"decoder_heads": 5},
        {"vision": ViTConfig(patch=32, width=64, layers=12, heads=1, output_dim=512)},
    ],
)
def test_impossible_sizes_are_errors(changes):
    with pytest.raises(ConfigError):
        clipseg(**changes)


def test_both_published_models_have_a_decoder_of_one_million_parameters():
    for name, parameters in (("clipseg", 1_127_009), ("clipseg-rd64", 1_073_153)):
        with torch.device("meta"):
            model = build(MODELS[name].spec())
        assert sum(parameter.numel() for parameter in model.decoder.parameters()) == parameters
        assert model.frozen_parts == ("visual", "text")
