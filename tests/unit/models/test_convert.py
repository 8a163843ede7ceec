"""Checkpoints of the reference to model folders and back, through real files."""

import json
import os
from collections import OrderedDict

import numpy as np
import pytest
import torch

from refseg.cli import convert as verb
from refseg.cli import models as models_verb
from refseg.cli.main import main
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.errors import ConfigError, OutputError, RefsegError, WeightsError
from refseg.models.cris.convert import as_checkpoint, from_reference, infer_config, to_reference
from refseg.models.cris.model import CRIS, CRISConfig, cris
from refseg.models.families import ZOO
from refseg.models.folder import convert, load_model, read_folder, save_model


def small(**changes):
    """A CRIS whose heads are as wide as CLIP's, so that shapes tell all of it."""
    values = {
        "vision": ResNetConfig(layers=(1, 2, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64),
        "text": TextConfig(width=64, heads=1, layers=1, output_dim=16, vocabulary_size=50),
        "neck_channels": (4, 64, 8),
        "decoder_layers": 2,
        "decoder_hidden": 16,
    } | changes
    return CRISConfig(**values)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = CRIS(small())
    for key, value in model.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
        if "num_batches" in key:
            value.fill_(7)
    return model


def official(model, path, prefix="module.", **beside):
    """Write what the reference's training writes."""
    state = OrderedDict(
        (prefix + key.removeprefix("module."), value) for key, value in to_reference(model.state_dict()).items()
    )
    content = {
        "epoch": 50,
        "cur_iou": np.float64(0.69),
        "best_iou": np.float32(0.5),
        "prec": {"Pr@50": np.float64(0.81)},
        "state_dict": state,
        "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(torch.optim.Adam(model.parameters()), [35]).state_dict(),
    } | beside
    torch.save(content, path)
    return path


def same(a, b):
    assert list(a) == list(b)
    for key in a:
        assert a[key].dtype == b[key].dtype
        assert torch.equal(a[key], b[key]), key


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_a_checkpoint_there_and_back(model, tmp_path, prefix):
    source = official(model, tmp_path / "best_model.pth", prefix)
    folder = convert(source, tmp_path / "folder")
    assert folder == tmp_path / "folder"
    loaded = load_model(folder)
    same(loaded.state_dict(), model.state_dict())
    assert loaded.config == small()
    assert read_folder(folder).about == {
        "name": "folder",
        "source": "best_model.pth",
        "epoch": 50,
        "cur_iou": 0.69,
        "best_iou": 0.5,
        "prec": {"Pr@50": 0.81},
    }

    back = convert(folder, tmp_path / "back.pth")
    content = torch.load(back, weights_only=True)
    assert {"epoch", "cur_iou", "best_iou", "prec", "state_dict", "optimizer", "scheduler"} <= set(content)
    assert content["epoch"] == 50
    assert content["prec"] == {"Pr@50": 0.81}
    same(content["state_dict"], to_reference(model.state_dict()))


def test_what_no_shape_tells_survives_our_own_round_trip(tmp_path):
    config = small(
        vision=ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=4, output_dim=16, pretrained_size=64),
        decoder_heads=2,
        dropout=0.0,
        image_size=96,
        word_length=22,
        threshold=0.5,
    )
    folder = save_model(CRIS(config), tmp_path / "folder")
    assert load_model(convert(convert(folder, tmp_path / "a.pth"), tmp_path / "again")).config == config
    # A file of the reference's own has shapes alone.
    plain = {"state_dict": torch.load(tmp_path / "a.pth")["state_dict"]}
    torch.save(plain, tmp_path / "plain.pth")
    guessed = load_model(convert(tmp_path / "plain.pth", tmp_path / "guessed")).config
    assert (guessed.decoder_heads, guessed.vision.heads, guessed.image_size) == (8, 2, 416)


def test_a_bare_state_dict(model, tmp_path):
    torch.save(to_reference(model.state_dict()), tmp_path / "bare.pth")
    same(load_model(convert(tmp_path / "bare.pth", tmp_path / "folder")).state_dict(), model.state_dict())


def test_settings(model, tmp_path):
    source = official(model, tmp_path / "a.pth")
    config = load_model(convert(source, tmp_path / "b", word_length=22, image_size=480, threshold=0.5)).config
    assert config == small(word_length=22, image_size=480, threshold=0.5)
    with pytest.raises(ConfigError, match="did you mean 'word_length'"):
        convert(source, tmp_path / "b", word_lenght=22)
    with pytest.raises(ConfigError, match="multiple of 32"):
        convert(source, tmp_path / "b", image_size=100)
    with pytest.raises(ConfigError, match="image_size: a checkpoint of the reference has no settings"):
        convert(tmp_path / "b", tmp_path / "c.pth", image_size=100)


@pytest.mark.parametrize("changes", [{"contrastive": False}, {"decoder_layers": 0}])
def test_what_the_reference_does_not_have(changes):
    model = CRIS(small(**changes))
    with pytest.raises(WeightsError, match="the reference has no CRIS without"):
        as_checkpoint(model.state_dict(), model.config, {})


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("clip", ["RN50", "RN101"])
def test_published_sizes_follow_from_shapes(clip, layers):
    config = cris(clip, decoder_layers=layers)
    with torch.device("meta"):
        state = to_reference(CRIS(config).state_dict())
    assert infer_config(from_reference(state)) == config


def refused(source, target, **changes):
    with pytest.raises(RefsegError) as caught:
        convert(source, target, **changes)
    assert type(caught.value) is WeightsError
    assert "\n" not in str(caught.value)
    assert not target.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("module.neck.aggr.0.weight"), "1 weights are missing: neck.aggregate.0.weight"),
        (
            lambda s: s.update({"module.neck.more.weight": torch.zeros(1)}),
            "no weight of CRIS is called 'neck.more.weight'",
        ),
        (lambda s: s.update({"module.neck.aggr.7.weight": torch.zeros(1)}), "1 weights are unexpected"),
        (lambda s: s.update({"module.proj.txt.bias": torch.zeros(3)}), "another shape: projector.kernel.bias [3] for"),
        (lambda s: s.pop("module.backbone.positional_embedding"), "'text.positional_embedding' is missing"),
        (
            lambda s: s.update({"module.backbone.text_projection": torch.zeros(64, 32)}),
            "text.output_dim and vision.output_dim must be equal",
        ),
        (lambda s: s.update({"module.backbone.visual.layer1.5.conv1.weight": torch.zeros(1)}), "up to 5"),
    ],
)
def test_another_architecture(model, tmp_path, change, said):
    state = to_reference(model.state_dict())
    change(state)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    assert said in refused(tmp_path / "a.pth", tmp_path / "out")


def test_other_files(model, tmp_path):
    assert "No such file" in refused(tmp_path / "a.pth", tmp_path / "out")
    (tmp_path / "a.pth").write_bytes(b"<html>")
    assert "no file of weights" in refused(tmp_path / "a.pth", tmp_path / "out")
    torch.save(model.state_dict(), tmp_path / "a.pth")
    assert "it has refseg's own names already" in refused(tmp_path / "a.pth", tmp_path / "out")
    clip = {key.removeprefix("text."): value for key, value in model.state_dict().items()}
    torch.save(clip, tmp_path / "a.pth")
    assert "it is CLIP alone" in refused(tmp_path / "a.pth", tmp_path / "out")
    torch.save({"fc.weight": torch.zeros(1)}, tmp_path / "a.pth")
    assert "no name starts with 'backbone.visual.'" in refused(tmp_path / "a.pth", tmp_path / "out")
    (tmp_path / "folder").mkdir()
    assert "is a folder" in refused(tmp_path / "folder", tmp_path / "out", to="refseg")
    assert "no config.json" in refused(tmp_path / "folder", tmp_path / "out")
    assert "is a file, and a model is a folder" in refused(tmp_path / "a.pth", tmp_path / "out", to="reference")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/refseg",)


def test_code_in_a_checkpoint_is_not_run(model, tmp_path):
    official(model, tmp_path / "a.pth", scheduler=Evil())
    assert "mkdir); that code was not run" in refused(tmp_path / "a.pth", tmp_path / "out")


@pytest.mark.parametrize("config", [{"decoder_layers": 10**9}, {"image_siz": 3}, [], {"vision": None}])
def test_a_config_that_lies(model, tmp_path, config):
    content = as_checkpoint(model.state_dict(), model.config, {})
    content["refseg_config"] = content["refseg_config"] | config if config else config
    torch.save(content, tmp_path / "a.pth")
    refused(tmp_path / "a.pth", tmp_path / "out")


def test_scores_that_are_none(model, tmp_path):
    source = official(
        model, tmp_path / "a.pth", cur_iou=float("nan"), best_iou=torch.tensor(1.0), prec=None, epoch=True
    )
    assert read_folder(convert(source, tmp_path / "out")).about == {"name": "out", "source": "a.pth"}


def test_a_target_that_cannot_be(model, tmp_path):
    folder = save_model(model, tmp_path / "folder")
    with pytest.raises(OutputError):
        convert(folder, tmp_path / "none" / "a.pth")
    with pytest.raises(OutputError):
        convert(official(model, tmp_path / "a.pth"), tmp_path / "a.pth")
    assert not list(tmp_path.glob(".*"))


def test_the_verb(model, tmp_path, capsys):
    source = official(model, tmp_path / "a.pth")
    target = tmp_path / "folder"
    assert main(["convert", str(source), str(target), "--word-length", "22", "--threshold", "0.4"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert load_model(target).config == small(word_length=22, threshold=0.4)
    assert main(["convert", str(target), str(tmp_path / "b.pth")]) == 0
    assert (tmp_path / "b.pth").exists()
    assert main(["convert", str(tmp_path / "none.pth"), str(target)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert verb.__doc__


def test_the_list_of_models(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listed] == list(ZOO)
    assert listed[0]["parameters"] == 146_849_122
    for model in listed:
        assert set(model) == {"name", "family", "parameters", "weights", "licence", "summary", "score"}
        assert model["name"] in table
    assert models_verb.__doc__


@pytest.mark.slow
def test_a_full_size_checkpoint(tmp_path):
    with torch.device("meta"):
        names = CRIS(cris("RN50")).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.tensor(3) if "num_batches" in key else torch.rand(value.shape, generator=generator)
        for key, value in names.items()
    }
    reference = to_reference(state)
    torch.save({"epoch": 50, "state_dict": reference, "optimizer": {}, "scheduler": {}}, tmp_path / "a.pth")
    back = convert(convert(tmp_path / "a.pth", tmp_path / "folder"), tmp_path / "back.pth")
    assert load_model(tmp_path / "folder").config == cris("RN50")
    same(torch.load(back, weights_only=True, mmap=True)["state_dict"], reference)
