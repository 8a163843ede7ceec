"""Checkpoints of the reference to model folders and back, through files."""

from __future__ import annotations

import errno
import json
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from refseg.cli.main import main
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.errors import ConfigError, OutputError, RefsegError, WeightsError
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import ModelSpec
from refseg.models.clip_map.model import CLIPMap, default_spec
from refseg.models.convert import convert, merge
from refseg.models.cris.convert import as_checkpoint, from_reference, infer_config, to_reference
from refseg.models.cris.model import CRISConfig, cris
from refseg.models.families import MODELS, build, family
from refseg.models.folder import load_model, read_folder, save_model
from refseg.peers.table import PEERS
from refseg.values import Calibration, Decision


def small(**changes):
    """A spec whose heads are as wide as CLIP's, so that shapes determine its config, with the published inputs."""
    config = CRISConfig(
        vision=ResNetConfig(layers=(1, 2, 1, 1), width=4, heads=2, output_dim=16, pretrained_size=64),
        text=TextConfig(width=64, heads=1, layers=1, output_dim=16, vocabulary_size=50),
        neck_channels=(4, 64, 8),
        decoder_layers=2,
        decoder_hidden=16,
    )
    inputs, decision = Inputs(image_size=416, word_length=17), Decision(threshold=0.35)
    return ModelSpec(config=config, inputs=inputs, decision=decision).changed(**changes)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build(small())
    for key, value in model.state_dict().items():
        if "running" in key:
            value.uniform_(0.5, 1.5)
        if "num_batches" in key:
            value.fill_(7)
    return model


def official(model, path, prefix="module.", **others):
    """Write a checkpoint as the reference's training does."""
    content = {
        "epoch": 50,
        "cur_iou": np.float64(0.69),
        "best_iou": np.float32(0.5),
        "prec": {"Pr@50": np.float64(0.81)},
        "state_dict": OrderedDict((prefix + key, value) for key, value in to_reference(model.state_dict()).items()),
        "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "scheduler": torch.optim.lr_scheduler.MultiStepLR(torch.optim.Adam(model.parameters()), [35]).state_dict(),
    }
    torch.save(content | others, path)
    return path


def check_equal(found, expected):
    assert list(found) == list(expected)
    for key in found:
        assert found[key].dtype == expected[key].dtype
        assert torch.equal(found[key], expected[key]), key


# ── both directions ──


def test_a_checkpoint_is_converted_and_back(model, tmp_path):
    source = official(model, tmp_path / "best_model.pth")
    folder = convert(source, tmp_path / "folder")
    assert folder == tmp_path / "folder"
    loaded = load_model(folder)
    check_equal(loaded.state_dict(), model.state_dict())
    assert loaded.spec == small()
    assert read_folder(folder).about == {
        "name": "folder",
        "source": "best_model.pth",
        "epoch": 50,
        "cur_iou": 0.69,
        "best_iou": 0.5,
        "prec": {"Pr@50": 0.81},
    }
    content = torch.load(convert(folder, tmp_path / "back.pth"), weights_only=True)
    assert {"epoch", "cur_iou", "best_iou", "prec", "state_dict", "optimizer", "scheduler"} <= set(content)
    assert content["epoch"] == 50
    assert content["prec"] == {"Pr@50": 0.81}
    check_equal(content["state_dict"], torch.load(source, weights_only=False)["state_dict"])


def test_a_checkpoint_of_a_compiled_model_is_converted(model, tmp_path):
    folder = convert(official(model, tmp_path / "a.pth", "module._orig_mod."), tmp_path / "folder")
    check_equal(load_model(folder).state_dict(), model.state_dict())


def test_a_round_trip_keeps_the_whole_spec(tmp_path):
    spec = small(
        vision=ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=4, output_dim=16, pretrained_size=64),
        decoder_heads=2,
        dropout=0.0,
        image_size=96,
        word_length=22,
        mean=(0.1, 0.2, 0.3),
        std=(0.4, 0.5, 0.6),
        threshold=0.5,
        relative_threshold=0.4,
        calibration=Calibration(knots=((0.1, 0.2), (0.8, 0.9)), reject_below=0.05),
    )
    folder = save_model(build(spec), tmp_path / "folder")
    assert load_model(convert(convert(folder, tmp_path / "a.pth"), tmp_path / "again")).spec == spec
    # A file of the reference has the shapes of the weights only.
    torch.save({"state_dict": torch.load(tmp_path / "a.pth")["state_dict"]}, tmp_path / "plain.pth")
    inferred = load_model(convert(tmp_path / "plain.pth", tmp_path / "inferred")).spec
    assert (inferred.config.decoder_heads, inferred.config.vision.heads) == (8, 2)
    assert inferred.inputs == small().inputs
    assert inferred.decision == small().decision


def test_a_bare_state_dict_is_converted(model, tmp_path):
    torch.save(to_reference(model.state_dict()), tmp_path / "bare.pth")
    check_equal(load_model(convert(tmp_path / "bare.pth", tmp_path / "folder")).state_dict(), model.state_dict())


def test_changes(model, tmp_path):
    source = official(model, tmp_path / "a.pth")
    changes = {"word_length": 22, "image_size": 480, "threshold": 0.5}
    assert load_model(convert(source, tmp_path / "b", **changes)).spec == small(**changes)
    with pytest.raises(ConfigError, match="word_length"):
        convert(source, tmp_path / "d", word_lenght=22)
    with pytest.raises(ConfigError, match="multiple of 32"):
        convert(source, tmp_path / "d", image_size=100)
    with pytest.raises(ConfigError, match="image_size"):
        convert(tmp_path / "b", tmp_path / "c.pth", image_size=100)


@pytest.mark.parametrize("clip", ["RN50", "RN101"])
def test_published_sizes_are_inferred_from_shapes(clip):
    for layers in (1, 4):
        spec = cris(clip, decoder_layers=layers)
        with torch.device("meta"):
            state = to_reference(build(spec).state_dict())
        assert infer_config(from_reference(state)) == spec.config


# ── errors ──


def check_an_error(source, target, **changes):
    """Return the error message."""
    with pytest.raises(RefsegError) as caught:
        convert(source, target, **changes)
    assert type(caught.value) is WeightsError
    assert "\n" not in str(caught.value)
    assert str(source) in str(caught.value)
    assert not target.exists()
    return str(caught.value)


@pytest.mark.parametrize("changes", [{"contrastive": False}, {"decoder_layers": 0}])
def test_models_that_the_reference_does_not_have(changes, tmp_path):
    spec = small(**changes)
    with pytest.raises(WeightsError, match="reference"):
        as_checkpoint(build(spec).state_dict(), spec, {})


def test_other_families_cannot_become_a_checkpoint(tmp_path):
    spec = default_spec(family("clip-map").config(vision=small().config.vision, text=small().config.text))
    folder = save_model(CLIPMap(spec.config, spec.inputs, spec.decision), tmp_path / "clip")
    assert "clip-map" in check_an_error(folder, tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.pop("neck.aggr.0.weight"), "neck.aggregate.0.weight"),
        (lambda s: s.update({"neck.more.weight": torch.zeros(1)}), "'neck.more.weight'"),
        (lambda s: s.update({"neck.aggr.7.weight": torch.zeros(1)}), "neck.aggregate.7.weight"),
        (lambda s: s.update({"proj.txt.bias": torch.zeros(3)}), "projector.kernel.bias [3]"),
        (lambda s: s.pop("backbone.positional_embedding"), "'text.positional_embedding'"),
        (lambda s: s.update({"backbone.text_projection": torch.zeros(64, 32)}), "text.output_dim (32)"),
        (lambda s: s.update({"backbone.visual.layer1.5.conv1.weight": torch.zeros(1)}), "up to 5"),
        (lambda s: s["proj.txt.bias"].fill_(float("nan")), "not finite"),
    ],
)
def test_broken_weights_are_errors(model, tmp_path, change, word):
    state = {key: value.clone() for key, value in to_reference(model.state_dict()).items()}
    change(state)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "a.pth")
    assert word in check_an_error(tmp_path / "a.pth", tmp_path / "out")


def test_other_files_are_errors(model, tmp_path):
    path, target = tmp_path / "a.pth", tmp_path / "out"
    check_an_error(path, target)
    path.write_bytes(b"<html>")
    check_an_error(path, target)
    torch.save(model.state_dict(), path)
    assert "refseg" in check_an_error(path, target)
    torch.save({"fc.weight": torch.zeros(1)}, path)
    assert "backbone.visual." in check_an_error(path, target)
    (tmp_path / "folder").mkdir()
    check_an_error(tmp_path / "folder", target, to="refseg")
    check_an_error(tmp_path / "folder", tmp_path / "out.pth")
    assert "refseg convert" in check_an_error(path, tmp_path / "out.pth", to="reference")


class Code:
    def __reduce__(self):
        return os.mkdir, ("/nonexistent/refseg",)


def test_code_in_a_checkpoint_is_not_run(model, tmp_path):
    official(model, tmp_path / "a.pth", scheduler=Code())
    assert "mkdir" in check_an_error(tmp_path / "a.pth", tmp_path / "out")


@pytest.mark.parametrize(
    "change",
    [
        lambda spec: spec["config"].update(decoder_layers=10**9),
        lambda spec: spec["config"].update(image_siz=3),
        lambda spec: spec["config"].update(vision=None),
        lambda spec: spec.pop("inputs"),
        lambda spec: spec["decision"].update(threshold=2.0),
        lambda spec: spec.clear(),
    ],
)
def test_a_broken_spec_is_an_error(model, tmp_path, change):
    content = as_checkpoint(model.state_dict(), model.spec, {})
    change(content["refseg_spec"])
    torch.save(content, tmp_path / "a.pth")
    check_an_error(tmp_path / "a.pth", tmp_path / "out")
    torch.save(content | {"refseg_spec": []}, tmp_path / "a.pth")
    check_an_error(tmp_path / "a.pth", tmp_path / "out")


def test_scores_that_are_not_numbers_are_ignored(model, tmp_path):
    source = official(
        model, tmp_path / "a.pth", cur_iou=float("nan"), best_iou=torch.tensor(1.0), prec=None, epoch=True
    )
    assert read_folder(convert(source, tmp_path / "out")).about == {"name": "out", "source": "a.pth"}


def test_a_target_that_cannot_be_written(model, tmp_path):
    folder = save_model(model, tmp_path / "folder")
    with pytest.raises(OutputError):
        convert(folder, tmp_path / "none" / "a.pth")
    with pytest.raises(OutputError):
        convert(official(model, tmp_path / "a.pth"), tmp_path / "a.pth")
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_replaced_and_the_name_fits_what_is_written(model, tmp_path):
    folder, source = save_model(model, tmp_path / "folder"), official(model, tmp_path / "a.pth")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    wrong = [(source, "folder"), (source, "file"), (source, "b.pth"), (source, "b.safetensors")]
    wrong += [(folder, "a.pth"), (folder, "c"), (folder, "c.safetensors")]
    for given, target in wrong:
        with pytest.raises(OutputError, match=target):
            convert(given, tmp_path / target)
    with pytest.raises(OutputError, match="exists already"):
        merge(folder, tmp_path / "folder")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert load_model(convert(source, tmp_path / "empty")).spec == small()
    assert convert(source, tmp_path / "v1.2").is_dir()


def test_a_full_disk_is_named_and_leaves_nothing(model, tmp_path):
    """A limit on the size of files takes the place of the disk."""
    resource = pytest.importorskip("resource")
    folder, source = save_model(model, tmp_path / "folder"), official(model, tmp_path / "a.pth")
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    for given, target in ((folder, tmp_path / "b.pth"), (source, tmp_path / "new")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
        try:
            with pytest.raises(OutputError, match=f"{target.name}: .*File too large"):
                convert(given, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pth", "folder"]


def test_weights_that_may_not_be_read_are_called_so(model, tmp_path, monkeypatch):
    folder = save_model(model, tmp_path / "folder")
    opened = Path.open

    def refuse(path, *mode, **options):
        if path.name == "model.safetensors":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, *mode, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match="Permission denied"):
        load_model(folder)


# ── commands ──


def test_the_convert_command(model, tmp_path, capsys):
    source, target = official(model, tmp_path / "a.pth"), tmp_path / "folder"
    assert main(["convert", str(source), str(target), "--word-length", "22", "--threshold", "0.4"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    assert load_model(target).spec == small(word_length=22, threshold=0.4)
    assert main(["convert", str(target), str(tmp_path / "b.pth")]) == 0
    assert (tmp_path / "b.pth").exists()
    assert main(["convert", str(target), str(tmp_path / "merged"), "--merge"]) == 0
    check_equal(load_model(tmp_path / "merged").state_dict(), model.state_dict())
    capsys.readouterr()
    for arguments in ([tmp_path / "none.pth"], [source, "--clip", "x"], [source, "--merge", "--to", "refseg"]):
        assert main(["convert", *map(str, arguments), str(tmp_path / "c")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_the_models_command(capsys):
    assert main(["models"]) == 0
    table = capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in listed] == [*MODELS, *PEERS]
    for model in listed:
        entry = (MODELS | PEERS)[model["name"]]
        assert set(model) == {"name", "family", "parameters", "weights", "licence", "summary", "score", "exports"}
        assert model["exports"] == (["onnx"] if model["name"] in MODELS else [])
        assert (model["parameters"], model["licence"]) == (entry.parameters, entry.licence)
        assert model["name"] in table
        assert model["score"] in table


@pytest.mark.slow
def test_a_full_size_checkpoint(tmp_path):
    with torch.device("meta"):
        names = build(cris("RN50")).state_dict()
    generator = torch.Generator().manual_seed(0)
    state = {
        key: torch.tensor(3) if "num_batches" in key else torch.rand(value.shape, generator=generator)
        for key, value in names.items()
    }
    reference = {f"module.{key}": value for key, value in to_reference(state).items()}
    torch.save({"epoch": 50, "state_dict": reference, "optimizer": {}, "scheduler": {}}, tmp_path / "a.pth")
    back = convert(convert(tmp_path / "a.pth", tmp_path / "folder"), tmp_path / "back.pth")
    assert load_model(tmp_path / "folder").spec == cris("RN50")
    check_equal(torch.load(back, weights_only=True, mmap=True)["state_dict"], reference)
