import subprocess
import sys

import pytest
import torch

from refseg.errors import ConfigError, UnknownNameError, WeightsError
from refseg.models import zoo
from refseg.models.base import Segmenter
from refseg.models.families import ZOO, create_model, family, zoo_entry

PRESENT = [name for name, entry in ZOO.items() if entry.weights is None or entry.weights.is_dir()]


@pytest.mark.parametrize("name", PRESENT)
def test_every_entry_builds_and_has_the_parameters_it_says(name):
    entry = zoo_entry(name)
    assert entry.name == name
    with torch.device("meta"):
        model = family(entry.family).model(entry.config())
    assert isinstance(model, Segmenter)
    assert sum(p.numel() for p in model.parameters()) == entry.parameters
    assert entry.licence
    assert entry.summary
    assert entry.score


def test_published_sizes():
    assert zoo_entry("cris-r50").parameters == 146_849_122
    assert zoo_entry("cris-r101").parameters == 161_251_682


def test_changes_are_fields_of_the_config():
    model = create_model("cris-compact", decoder_layers=0, contrastive=False, image_size=64, neck_channels=(8, 96, 8))
    assert model.config.decoder_layers == 0
    assert model.config.neck_channels == (8, 96, 8)
    assert model.decoder is None
    assert model.training


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decoder_layer": 1}, "did you mean 'decoder_layers'"),
        ({"image_size": "64"}, "expected int"),
        ({"image_size": 65}, "multiple of 32"),
        ({"pretrained": True}, "no pretrained encoders"),
    ],
)
def test_changes_that_do_not_fit(changes, said):
    with pytest.raises(ConfigError, match=said):
        create_model("cris-compact", **changes)


def test_unknown_names():
    with pytest.raises(UnknownNameError, match="did you mean 'cris-r50'"):
        create_model("cris_r50")
    with pytest.raises(UnknownNameError, match="model family"):
        family("criss")


def test_a_bundled_model_gives_its_architecture(tmp_path, monkeypatch):
    from refseg.models.folder import save_model

    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    entry = zoo.ZooEntry(**{**vars(ZOO["shapes"]), "weights": tmp_path / "shapes"})
    monkeypatch.setitem(zoo.ZOO, "shapes", entry)
    with pytest.raises(WeightsError, match="missing from this installation"):
        create_model("shapes")
    saved = create_model("cris-compact", decoder_layers=1)
    save_model(saved, tmp_path / "shapes")
    assert create_model("shapes").config == saved.config
    assert create_model("shapes", decoder_layers=2).config.decoder_layers == 2


def test_the_table_does_not_import_torch():
    code = (
        "import sys, refseg.models.families, refseg.cli.models, refseg.cli.convert; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
