"""Models of the table whose encoders are loaded from a file of CLIP's weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from refseg.encoders import clip_download
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.pretrained import encoder_weights, fingerprint
from refseg.errors import WeightsError
from refseg.inputs.preprocessing import Inputs
from refseg.models import families
from refseg.models.base import ModelSpec
from refseg.models.cris.model import CRISConfig
from refseg.models.families import build, create_model
from refseg.values import Decision

SPEC = ModelSpec(
    config=CRISConfig(
        vision=ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64),
        text=TextConfig(width=64, heads=1, layers=1, output_dim=16, context_length=12, vocabulary_size=50),
        neck_channels=(4, 64, 8),
        decoder_layers=0,
    ),
    inputs=Inputs(image_size=64, word_length=8),
    decision=Decision(threshold=0.35),
)


@pytest.fixture
def state(monkeypatch):
    """The weights of a CLIP, for which `cris-r50` has the right sizes."""
    monkeypatch.setitem(families.MODELS, "cris-r50", replace(families.MODELS["cris-r50"], spec=lambda: SPEC))
    torch.manual_seed(0)
    return {key: value for key, value in encoder_weights(build(SPEC)).items() if "connect" not in key}


def check(model, state):
    found = {key: value for key, value in encoder_weights(model).items() if "connect" not in key}
    assert fingerprint(found) == fingerprint(state)
    assert model.clip == ("RN50", fingerprint(state))


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_from_a_local_file(state, tmp_path, kind):
    torch.save(state, tmp_path / "RN50.pt")
    check(create_model("cris-r50", pretrained=kind(tmp_path / "RN50.pt")), state)
    check(create_model("cris-r50", pretrained=kind(tmp_path / "RN50.pt"), decoder_layers=1, decoder_heads=2), state)


def test_from_a_download(state, tmp_path, monkeypatch):
    torch.save(state, tmp_path / "RN50.pt")
    names = []
    monkeypatch.setattr(clip_download, "download_clip", lambda name: names.append(name) or tmp_path / "RN50.pt")
    check(create_model("cris-r50", pretrained=True), state)
    assert names == ["RN50"]


def test_from_a_file_that_is_missing_or_does_not_fit(state, tmp_path):
    with pytest.raises(WeightsError, match=r"RN50\.pt"):
        create_model("cris-r50", pretrained=tmp_path / "RN50.pt")
    del state["ln_final.bias"]
    torch.save(state, tmp_path / "RN50.pt")
    with pytest.raises(WeightsError, match=r"ln_final\.bias"):
        create_model("cris-r50", pretrained=tmp_path / "RN50.pt")
