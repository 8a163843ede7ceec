"""CLIP's weights in the files of OpenAI, open_clip and transformers."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from refseg.encoders.clip_files import clip_weights, is_clip, read_clip
from refseg.encoders.clip_text import TextTransformer
from refseg.encoders.pretrained import fingerprint, load_encoders, load_text_encoder
from refseg.encoders.weights_file import read_weights
from refseg.errors import WeightsError

# For tests of `encoders` and `state`.
of_both_kinds = pytest.mark.parametrize("encoders", ["resnet", "vit"], indirect=True)
of_a_vit = pytest.mark.parametrize("encoders", ["vit"], indirect=True)
PREFIXES = ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod."]


def equal(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


def error_of(path, *parts):
    with pytest.raises(WeightsError) as caught:
        read_clip(path)
    assert "\n" not in str(caught.value)
    for part in (str(path), *parts):
        assert part in str(caught.value)


@of_both_kinds
@pytest.mark.parametrize("kind", ["traced", "scripted"])
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_openais_archives(archive, state, tmp_path, kind, half):
    path = archive(state, tmp_path / "RN50.pt", kind, half)
    stored = torch.jit.load(str(path)).state_dict()
    assert {"input_resolution", "context_length"} <= set(stored)
    assert stored["visual.conv1.weight"].dtype == (torch.float16 if half else torch.float32)
    equal(read_clip(path), state)


@of_both_kinds
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("nested", [True, False])
def test_state_dicts(state, tmp_path, prefix, nested):
    stored = {prefix + key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    torch.save({"epoch": 3, "state_dict": stored} if nested else stored, tmp_path / "a.pt")
    assert is_clip(read_weights(tmp_path / "a.pt"))
    equal(read_clip(tmp_path / "a.pt"), state)


def test_numbers_that_are_not_weights_are_left_out(state, tmp_path):
    torch.save(state | {"vocab_size": torch.tensor(50), "input_resolution": torch.tensor(64)}, tmp_path / "a.pt")
    equal(read_clip(tmp_path / "a.pt"), state)


def test_the_logit_scale_is_a_scalar(state, tmp_path):
    torch.save(state | {"logit_scale": state["logit_scale"][None]}, tmp_path / "a.pt")
    equal(read_clip(tmp_path / "a.pt"), state)


@of_both_kinds
@pytest.mark.parametrize("text", ["", "text."])
def test_open_clip(state, tmp_path, text):
    # Its models with a text encoder of their own put `text.` before the names of that encoder.
    stored = {
        key if key.startswith(("visual.", "logit_scale")) else text + key: value.contiguous()
        for key, value in state.items()
    }
    save_file(stored, tmp_path / "open_clip_model.safetensors")
    equal(read_clip(tmp_path / "open_clip_model.safetensors"), state)


def test_two_weights_of_one_name_are_errors(state, tmp_path):
    torch.save(state | {"text.ln_final.bias": state["ln_final.bias"] + 1}, tmp_path / "a.pt")
    error_of(tmp_path / "a.pt", "'text.ln_final.bias'", "'ln_final.bias'", "same weight")


def test_weights_that_are_not_finite_are_errors(state, tmp_path):
    state["ln_final.bias"][3] = float("nan")
    torch.save(state, tmp_path / "a.pt")
    error_of(tmp_path / "a.pt", "'ln_final.bias'", "not finite")


def test_an_unknown_prefix_is_named(state, tmp_path):
    torch.save({f"my.clip.{key}": value for key, value in state.items()}, tmp_path / "a.pt")
    error_of(tmp_path / "a.pt", "not a CLIP", "'my.clip.'")


def test_different_prefixes_are_errors(state, tmp_path):
    torch.save(state | {f"module.{key}": value for key, value in state.items()}, tmp_path / "a.pt")
    error_of(tmp_path / "a.pt", "different prefixes")


def test_transformers_text_encoder(make_encoders, encoders, state, as_transformers, tmp_path):
    save_file(as_transformers(encoders.text.state_dict()), tmp_path / "model.safetensors")
    found = read_clip(tmp_path / "model.safetensors")
    equal(found, {key: value for key, value in state.items() if not key.startswith("visual.")})
    text = make_encoders().text
    assert isinstance(text, TextTransformer)
    load_text_encoder(text, found)
    equal(text.state_dict(), encoders.text.state_dict())
    with pytest.raises(WeightsError, match="no image encoder"):
        load_encoders(make_encoders(), found)


@of_a_vit
def test_transformers(state, as_transformers, tmp_path):
    stored = as_transformers(state)
    assert is_clip(stored)
    save_file(stored, tmp_path / "model.safetensors")
    equal(read_clip(tmp_path / "model.safetensors"), state)


@of_a_vit
def test_an_image_encoder_alone(state, as_transformers, tmp_path):
    visual = {key: value for key, value in state.items() if key.startswith("visual.")}
    save_file(as_transformers(visual), tmp_path / "model.safetensors")
    error_of(tmp_path / "model.safetensors", "'token_embedding.weight' is missing")


@of_a_vit
@pytest.mark.parametrize("encoder", ["text", "vision"])
def test_malformed_weights_of_transformers(state, as_transformers, encoder):
    stored = as_transformers(state)
    key = f"{encoder}_model.encoder.layers.1.self_attn.k_proj.weight"
    for value in (torch.zeros(3, 3), torch.tensor(1.0)):
        with pytest.raises(WeightsError, match=r"^file: .*attn\.in_proj_weight are of different shapes"):
            clip_weights(stored | {key: value}, "file")
    with pytest.raises(WeightsError, match="one of the projections"):
        clip_weights({name: value for name, value in stored.items() if name != key}, "file")
    for more in (f"{encoder}_model.more", f"{encoder}_model.encoder.layers.1.more.weight", "visual.proj", "more"):
        with pytest.raises(WeightsError, match=f"'{more}' is not a weight of transformers' CLIP"):
            clip_weights(stored | {more: torch.zeros(1)}, "file")
    with pytest.raises(WeightsError, match=r"'text_projection\.weight' is not a weight"):
        clip_weights(stored | {"text_projection.weight": torch.zeros(1)}, "file")


def test_other_models_are_not_a_clip(state):
    assert is_clip(state)
    for key in ("neck.a", "decoder.a", "backbone.a"):
        assert not is_clip(state | {key: torch.ones(1)})
    assert not is_clip({key: value for key, value in state.items() if not key.startswith("visual.")})
    assert not is_clip({key: value for key, value in state.items() if key.startswith("visual.")})
    assert not is_clip({})


@of_a_vit
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_the_fingerprint_does_not_depend_on_the_kind_of_file(archive, state, as_transformers, tmp_path):
    archive(state, tmp_path / "archive.pt")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "saved.pt")
    text = {key if key.startswith("visual.") else f"text.{key}": value for key, value in state.items()}
    save_file({key: value.half() for key, value in text.items()}, tmp_path / "open_clip.safetensors")
    save_file(as_transformers(state), tmp_path / "transformers.safetensors")
    assert {fingerprint(read_clip(path)) for path in tmp_path.iterdir()} == {fingerprint(state)}
