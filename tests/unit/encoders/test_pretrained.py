"""CLIP's weights in a model: loading, errors that name the CLIP, and fingerprints."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pytest
import torch

from refseg.encoders.clip_sizes import CLIP_SIZES
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.pretrained import adopt_encoders, encoder_weights, fingerprint, in_a_model, load_encoders
from refseg.errors import WeightsError

of_both_kinds = pytest.mark.parametrize("encoders", ["resnet", "vit"], indirect=True)
of_a_vit = pytest.mark.parametrize("encoders", ["vit"], indirect=True)


def equal(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def error_of(model, state, message):
    with pytest.raises(WeightsError, match=message) as caught:
        load_encoders(model, state)
    assert "\n" not in str(caught.value)


class TestLoading:
    @of_a_vit
    def test_a_vision_transformer(self, make_encoders, encoders, state):
        other = make_encoders("vit")
        load_encoders(other, state)
        equal(other.state_dict(), encoders.state_dict())
        equal(encoder_weights(other), state)
        equal(in_a_model(state), encoders.state_dict())

    def test_the_layer_of_cris_keeps_its_weights(self, make_encoders, encoders, state):
        other = make_encoders()
        new = {key: value.clone() for key, value in other.visual.attnpool.connect.state_dict().items()}
        assert adopt_encoders(other, state, "RN50") == ("RN50", fingerprint(state))
        equal(other.text.state_dict(), encoders.text.state_dict())
        for key, value in other.visual.state_dict().items():
            if not key.startswith("attnpool.connect"):
                assert torch.equal(value, encoders.visual.state_dict()[key]), key
        equal(other.visual.attnpool.connect.state_dict(), new)

    def test_counters_of_batches_may_be_missing(self, make_encoders, state):
        less = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
        assert len(less) < len(state)
        other = make_encoders()
        load_encoders(other, less)
        assert torch.equal(other.visual.conv1.weight, state["visual.conv1.weight"])

    @of_a_vit
    def test_the_kind_of_encoder_is_named(self, make_encoders, encoders, state):
        resnet, vit = r"a CLIP of width 4 and layers \[1, 2, 1, 1\] \(a ResNet\)", "a CLIP of width 64 and layers 3 "
        vit += r"\(a vision transformer\)"
        error_of(make_encoders(), state, f"^{vit} does not fit this model, which takes {resnet}$")
        given = encoder_weights(make_encoders())
        error_of(encoders, given, f"^{resnet} does not fit this model, which takes {vit}$")
        error_of(make_encoders(), {"visual.proj": torch.zeros(1)}, r"^this file \(a vision transformer\)")

    @of_a_vit
    def test_sizes_that_weights_do_not_determine(self, make_encoders, state):
        # A width that is no multiple of 64: the number of heads is unknown.
        text = TextConfig(width=200, heads=2, layers=1, output_dim=16, vocabulary_size=50)
        error_of(make_encoders("resnet", text), state, r"takes another CLIP \(a ResNet\)$")

    def test_published_models_are_named(self, make_encoders):
        with torch.device("meta"):
            resnet, vit, larger = (
                make_encoders(CLIP_SIZES[name].vision, CLIP_SIZES[name].text) for name in ("RN50", "ViT-B/16", "RN101")
            )
        error_of(resnet, encoder_weights(vit), r"^CLIP's ViT-B/16 .* takes CLIP's RN50 \(a ResNet\)$")
        error_of(vit, encoder_weights(resnet), r"^CLIP's RN50 .* takes CLIP's ViT-B/16 \(a vision transformer\)$")
        error_of(resnet, encoder_weights(larger), "^CLIP's RN101 does not fit")

    def test_other_models_are_described(self, make_encoders, state):
        text = TextConfig(width=64, heads=1, layers=1, output_dim=16, vocabulary_size=50)
        error_of(make_encoders("resnet", text), state, r"^a CLIP of width 4 and layers \[1, 2, 1, 1\] does not fit")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("visual.conv1.weight"), "missing are conv1.weight"),
            (lambda s: s.pop("ln_final.bias"), "missing are ln_final.bias"),
            (lambda s: s.update({"visual.more": torch.zeros(1)}), "unexpected are more"),
            (lambda s: s.update({"visual.attnpool.connect.0.wight": torch.zeros(1)}), "unexpected are attnpool"),
            (lambda s: s.update(more=torch.zeros(1)), "unexpected are more"),
            (lambda s: s.update({"ln_final.bias": torch.zeros(1)}), "of another shape are ln_final.bias"),
            (lambda s: [s.pop(key) for key in list(s) if ".bn1." in key], "and 21 more"),
        ],
    )
    def test_names_and_shapes_have_to_match(self, make_encoders, state, change, message):
        change(state)
        error_of(make_encoders(), state, re.escape(message))

    @of_a_vit
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("visual.class_embedding"), "missing are class_embedding"),
            (lambda s: s.update({"visual.attnpool.c_proj.bias": torch.zeros(1)}), "unexpected are attnpool"),
            (lambda s: s.update({"visual.positional_embedding": torch.zeros(50, 64)}), "shape are positional"),
            (lambda s: s.update({"visual.positional_embedding": torch.zeros(0, 64)}), "shape are positional"),
        ],
    )
    def test_names_and_shapes_of_a_vision_transformer(self, make_encoders, state, change, message):
        change(state)
        error_of(make_encoders("vit"), state, re.escape(message))


class TestFingerprint:
    @of_both_kinds
    def test_depends_on_the_encoders_only(self, encoders, state):
        found = fingerprint(state)
        assert re.fullmatch("[0-9a-f]{64}", found)
        assert fingerprint(dict(reversed(state.items()))) == found
        assert fingerprint(encoder_weights(encoders)) == found
        half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        assert fingerprint(half) == found

    def test_is_the_same_on_every_machine(self):
        state = {"visual.proj": torch.arange(6.0).reshape(2, 3), "a": torch.tensor([0.5])}
        content = (
            b"a [1]\n" + np.float32([0.5]).tobytes() + b"visual.proj [2, 3]\n" + np.arange(6, dtype="<f4").tobytes()
        )
        assert fingerprint(state) == hashlib.sha256(content).hexdigest()

    def test_leaves_out_weights_that_features_do_not_depend_on(self, state):
        found = fingerprint(state)
        assert fingerprint(state | {"logit_scale": torch.tensor(1.0)}) == found
        assert fingerprint(state | {"visual.bn1.num_batches_tracked": torch.tensor(3)}) == found
        assert fingerprint(state | {"visual.attnpool.connect.0.weight": torch.ones(1)}) == found

    @pytest.mark.parametrize("key", ["visual.bn1.running_mean", "visual.conv1.weight", "ln_final.bias"])
    def test_depends_on_every_value_shape_and_name(self, state, key):
        found = fingerprint(state)
        assert fingerprint(state | {key: state[key] * (1 + 2**-20) + 2**-20}) != found
        assert fingerprint(state | {key: state[key][None]}) != found
        assert fingerprint({name: value for name, value in state.items() if name != key}) != found
        assert fingerprint({name + "x" * (name == key): value for name, value in state.items()}) != found
