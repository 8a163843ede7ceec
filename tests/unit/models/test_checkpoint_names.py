"""CRIS checkpoints of wrapped models, with names in conflict, and with weights that are not finite."""

from __future__ import annotations

import pytest
import torch

from refseg.encoders.weights_file import read_file
from refseg.errors import WeightsError
from refseg.models.cris.convert import parse_checkpoint, to_reference


@pytest.fixture(scope="module")
def model(make_tiny):
    return make_tiny(decoder_layers=1)


@pytest.fixture
def names(model):
    """The weights under the names of the reference, without a prefix."""
    return to_reference(model.state_dict())


def parse(path, state):
    torch.save({"epoch": 1, "state_dict": state}, path)
    return parse_checkpoint(*read_file(path), path)[0]


def error_of(path, state, *parts):
    with pytest.raises(WeightsError) as caught:
        parse(path, state)
    assert "\n" not in str(caught.value)
    for part in (str(path), *parts):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "net.", "model.module."]
)
def test_prefixes_of_wrappers_are_removed(model, names, tmp_path, prefix):
    found = parse(tmp_path / "a.pth", {prefix + key: value for key, value in names.items()})
    expected = model.state_dict()
    assert set(found) == set(expected)
    assert all(torch.equal(found[key], value) for key, value in expected.items())


def test_an_unknown_prefix_is_named(names, tmp_path):
    state = {f"segmenter.cris.{key}": value for key, value in names.items()}
    error_of(tmp_path / "a.pth", state, "'segmenter.cris.'")


def test_different_prefixes_are_errors(names, tmp_path):
    first = next(iter(names))
    error_of(tmp_path / "a.pth", names | {f"module.{first}": names[first]}, "different prefixes", "'module.'")


def test_two_weights_of_one_name_are_errors(names, tmp_path):
    key = "decoder.layers.0.self_attn.out_proj.bias"
    own = "decoder.layers.0.self_attention.out_proj.bias"
    error_of(tmp_path / "a.pth", names | {own: names[key] + 1}, repr(key), repr(own), "same weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_errors(names, tmp_path, value):
    changed = names["neck.aggr.0.weight"].clone()
    changed.view(-1)[5] = value
    error_of(tmp_path / "a.pth", names | {"neck.aggr.0.weight": changed}, "'neck.aggr.0.weight'", "not finite")
