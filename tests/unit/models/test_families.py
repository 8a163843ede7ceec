"""The tables of families and of models with a name."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from refseg.errors import ConfigError, UnknownNameError, WeightsError
from refseg.models import families
from refseg.models.families import FAMILIES, MODELS, build, create_model, family, model_entry
from refseg.models.folder import save_model
from refseg.published import all_published

RESULTS = Path(__file__).parents[3] / "docs" / "results" / "shapes" / "test.json"


@pytest.mark.parametrize("name", MODELS)
def test_entries_build_and_have_their_number_of_parameters(name):
    entry = model_entry(name)
    assert entry.name == name
    with torch.device("meta"):
        model = build(entry.spec())
    assert model.family == entry.family
    assert type(model) is family(entry.family).model
    assert sum(p.numel() for p in model.parameters()) == entry.parameters
    assert entry.licence
    assert entry.summary
    assert entry.score


def test_parameters_of_the_published_models():
    assert model_entry("cris-r50").parameters == 146_849_122
    assert model_entry("cris-r101").parameters == 161_251_682


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if entry.published])
def test_published_scores_are_those_of_the_table(name):
    entry = MODELS[name]
    rows = [row for row in all_published() if (row.system, row.backbone, row.metric) == entry.published]
    assert rows
    assert all(f"{row.value:.2f}" in entry.score for row in rows)


def test_the_score_of_the_bundled_model_is_the_reported_one():
    result = json.loads(RESULTS.read_text())
    score = model_entry("shapes").score
    assert f"mean IoU {result['mean_iou']:.3f}" in score
    assert f"{100 * result['pointing']:.1f} % pointing" in score


def test_changes_are_fields_of_the_spec():
    changes = {"decoder_layers": 0, "contrastive": False, "neck_channels": (8, 96, 8)}
    model = create_model("cris-compact", image_size=64, word_length=9, threshold=0.2, **changes)
    assert model.decoder is None
    assert model.config.neck_channels == (8, 96, 8)
    assert (model.inputs.image_size, model.inputs.word_length, model.decision.threshold) == (64, 9, 0.2)
    assert model.training


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"decoder_layer": 1}, "decoder_layers"),
        ({"image_size": "64"}, "image_size"),
        ({"image_size": 65}, "image_size"),
        ({"word_length": 78}, "word_length|77"),
        ({"threshold": 1.0}, "threshold"),
        ({"pretrained": True}, "pretrained"),
    ],
)
def test_changes_that_do_not_fit_are_errors(changes, word):
    with pytest.raises(ConfigError, match=word):
        create_model("cris-compact", **changes)


def test_unknown_names_are_errors():
    with pytest.raises(UnknownNameError) as caught:
        create_model("cris_r50")
    assert (caught.value.kind, caught.value.name) == ("model", "cris_r50")
    with pytest.raises(UnknownNameError) as caught:
        family("criss")
    assert caught.value.known == sorted(FAMILIES)


def test_a_config_of_no_family_is_an_error():
    spec = MODELS["cris-compact"].spec()
    with pytest.raises(ConfigError):
        build(replace(spec, config=spec.inputs))


def test_a_model_with_weights_gives_its_architecture(tmp_path, monkeypatch):
    monkeypatch.setattr(families, "WEIGHTS", tmp_path)
    monkeypatch.setitem(MODELS, "shapes", replace(MODELS["shapes"], weights=tmp_path / "shapes"))
    with pytest.raises(WeightsError, match="missing"):
        create_model("shapes")
    saved = create_model("cris-compact", decoder_layers=1)
    save_model(saved, tmp_path / "shapes")
    assert create_model("shapes").spec == saved.spec
    assert create_model("shapes", decoder_layers=2).config.decoder_layers == 2


def test_the_table_does_not_import_torch():
    code = (
        "import sys, refseg.models.families, refseg.cli.models, refseg.cli.convert; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
