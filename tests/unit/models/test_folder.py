"""Model folders: what is written, what is loaded, and what is an error."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from refseg import __version__
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.errors import ConfigError, OutputError, RefsegError, WeightsError
from refseg.inputs.preprocessing import Inputs
from refseg.models import folder as folder_module
from refseg.models.cris.model import CRIS, CRISConfig
from refseg.models.folder import load_model, read_folder, save_model, write_decision
from refseg.values import Calibration, Decision

CALIBRATION = Calibration(knots=((0.2, 0.3), (0.9, 0.8)), reject_below=0.1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = CRISConfig(
        vision=ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=8, pretrained_size=64),
        text=TextConfig(width=8, heads=2, layers=1, output_dim=8, vocabulary_size=64),
        neck_channels=(4, 8, 8),
        decoder_layers=1,
        decoder_heads=2,
        decoder_hidden=8,
    )
    return CRIS(config, Inputs(image_size=64, word_length=17), Decision(threshold=0.35)).eval()


@pytest.fixture
def folder(model, tmp_path):
    return save_model(model, tmp_path / "model", name="tiny", extra={"training": {"epoch": 3}})


def check_an_error(folder, kind=WeightsError, **options):
    """Return the error message."""
    with pytest.raises(RefsegError) as caught:
        load_model(folder, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def edit(folder, change):
    """Change the values of a config."""
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_weights(folder, change):
    """Change the state dict of a folder."""
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)


# ── saving and loading ──


def test_saving_and_loading(model, folder):
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    stored = read_folder(folder)
    assert (stored.family, stored.spec, stored.refseg) == ("cris", model.spec, __version__)
    assert stored.about == {"name": "tiny", "training": {"epoch": 3}}
    loaded = load_model(folder)
    assert loaded.spec == model.spec
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


def test_folders_are_created(model, tmp_path):
    folder = save_model(model, str(tmp_path / "deep" / "model"))
    assert set(json.loads((folder / "config.json").read_text())) == {
        "refseg",
        "family",
        "config",
        "inputs",
        "decision",
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_for_matrices(model, tmp_path, dtype):
    folder = save_model(model, tmp_path, dtype=dtype)
    for key, value in load_file(folder / "model.safetensors").items():
        kind = model.state_dict()[key].dtype
        assert value.dtype == (dtype if value.ndim >= 2 else kind), key
    for key, value in load_model(folder).state_dict().items():
        original = model.state_dict()[key]
        assert value.dtype == original.dtype
        assert torch.equal(value, original.to(dtype).to(original.dtype) if value.ndim >= 2 else original)


def test_a_loaded_model_does_not_change_with_its_file(folder):
    loaded = load_model(folder)
    with torch.no_grad():
        loaded.visual.conv1.weight.zero_()
    (folder / "model.safetensors").write_bytes(b"")
    assert not loaded.visual.conv1.weight.any()
    assert loaded.visual.conv2.weight.any()


def test_files_have_the_usual_permissions(folder):
    usual = folder / "usual"
    usual.touch()
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).stat().st_mode == usual.stat().st_mode


def test_a_failure_keeps_the_old_model(model, folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_model(model, folder, name="other")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_folders_that_cannot_be_written(model, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_model(model, tmp_path / "file")
    with pytest.raises(ConfigError, match="JSON"):
        save_model(model, tmp_path / "model", extra={"a": object()})
    assert not (tmp_path / "model").exists()


def test_an_unknown_device_is_an_error(folder):
    with pytest.raises(ConfigError, match="nonsense"):
        load_model(folder, device="nonsense")


def test_the_folder_of_a_run_is_no_model_folder_but_has_some(folder, tmp_path):
    run = tmp_path / "run"
    for name in ("best", "last"):
        shutil.copytree(folder, run / name)
    for refused in (read_folder, load_model):
        with pytest.raises(WeightsError) as caught:
            refused(run)
        assert str(caught.value).endswith(f"{run / 'best'}, {run / 'last'}")


# ── the domain ──


def test_the_domain_is_declared_in_the_config_and_stays_with_another_decision(model, folder, tmp_path):
    assert read_folder(folder).domain is None
    declared = save_model(model, tmp_path / "declared", domain="photos")
    assert json.loads((declared / "config.json").read_text())["domain"] == "photos"
    copy = write_decision(declared, tmp_path / "copy", Decision(threshold=0.7), {})
    assert read_folder(declared).domain == read_folder(copy).domain == "photos"
    edit(declared, lambda values: values.update(domain=["photos"]))
    check_an_error(declared, ConfigError)


# ── another decision ──


def test_another_decision_keeps_the_weights(folder, tmp_path):
    decision = Decision(threshold=0.2, relative_threshold=0.4, calibration=CALIBRATION)
    before = read_folder(folder)
    target = write_decision(folder, tmp_path / "deep" / "calibrated", decision, {"calibration": {"data": "x"}})
    assert (target / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    stored = read_folder(target)
    assert stored.spec.decision == load_model(target).decision == decision
    assert (stored.spec.config, stored.spec.inputs) == (before.spec.config, before.spec.inputs)
    assert stored.about == before.about | {"calibration": {"data": "x"}}
    assert read_folder(write_decision(target, target, decision, {"calibration": None})).about == before.about
    assert read_folder(folder) == before


def test_another_decision_in_the_same_folder(folder):
    weights = (folder / "model.safetensors").read_bytes()
    write_decision(folder, folder, Decision(threshold=0.7), {})
    assert (folder / "model.safetensors").read_bytes() == weights
    assert read_folder(folder).spec.decision == Decision(threshold=0.7)
    assert not list(folder.glob(".*"))


def test_decisions_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_decision(folder, tmp_path / "file", Decision(), {})
    with pytest.raises(ConfigError, match="JSON"):
        write_decision(folder, tmp_path / "other", Decision(), {"a": float("nan")})
    with pytest.raises(WeightsError):
        write_decision(tmp_path / "none", tmp_path / "other", Decision(), {})
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        write_decision(folder, tmp_path / "other", Decision(), {})
    assert not (tmp_path / "other").exists()


# ── errors: folders and configs ──


def test_missing_folders_and_files_are_errors(folder, tmp_path):
    check_an_error(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "config.json" in check_an_error(tmp_path / "empty")
    (tmp_path / "official.pth").touch()
    assert "refseg convert" in check_an_error(tmp_path / "official.pth")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors" in check_an_error(folder)


@pytest.mark.parametrize("field", ["family", "config", "inputs", "decision"])
def test_a_missing_field_is_an_error(folder, field):
    edit(folder, lambda values: values.pop(field))
    assert f"{field!r} is missing" in check_an_error(folder, ConfigError)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda v: v.update(family="criss"), "'cris'"),
        (lambda v: v.update(family=3), "family"),
        (lambda v: v.update(refseg=3), "refseg"),
        (lambda v: v.update(about=[]), "about"),
        (lambda v: v.update(input={}), "'inputs'"),
        (lambda v: v["config"].update(decoder_layer=3), "'decoder_layers'"),
        (lambda v: v["config"].update(image_size=64), "image_size"),
        (lambda v: v["config"].pop("vision"), "'vision'"),
        (lambda v: v["config"]["text"].update(width=10**9), "text.width"),
        (lambda v: v["inputs"].update(image_siz=3), "'image_size'"),
        (lambda v: v["inputs"].pop("word_length"), "'word_length'"),
        (lambda v: v["inputs"].update(image_size="64"), "inputs.image_size"),
        (lambda v: v.update(inputs=[]), "inputs"),
        (lambda v: v["decision"].update(thresholds=0.5), "'threshold'"),
        (lambda v: v["decision"].update(threshold=float("nan")), "threshold"),
        (lambda v: v["decision"].update(calibration={"knots": []}), "calibration"),
        (lambda v: v.update(decision=None), "decision"),
    ],
)
def test_broken_configs_are_errors(folder, change, word):
    edit(folder, change)
    with pytest.raises(ConfigError) as caught:
        load_model(folder)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_inputs_that_do_not_fit_the_architecture_are_errors(folder):
    edit(folder, lambda values: values["inputs"].update(image_size=65))
    with pytest.raises(ConfigError, match="image_size"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c.update(decoder_layers=10**9), "decoder_layers"),
        (lambda c: c["text"].update(layers=10**9), "text.layers"),
        (lambda c: c["text"].update(context_length=10**15), "text.context_length"),
        (lambda c: c["text"].update(vocabulary_size=10**12), "text.vocabulary_size"),
        (lambda c: c["vision"].update(layers=[1, 10**9, 1, 1]), "vision.layers"),
        (lambda c: c["vision"].update(width=10**9), "vision.width"),
        (lambda c: c["vision"].update(pretrained_size=32 * 10**9), "vision.pretrained_size"),
        (lambda c: c.update(neck_channels=[10**12, 8, 8]), "neck_channels"),
        (lambda c: c.update(contrastive=False), "contrastive"),
    ],
)
def test_a_config_of_other_sizes_is_an_error_before_anything_is_built(folder, monkeypatch, change, word):
    monkeypatch.setattr(CRIS, "__init__", None)
    edit(folder, lambda values: change(values["config"]))
    assert word in check_an_error(folder)


def test_sizes_that_no_weight_determines_are_compared_too(folder):
    edit(folder, lambda values: values["config"].update(decoder_hidden=10))
    assert "decoder.layers.0.ffn.0.weight [8, 8]" in check_an_error(folder)


def test_enormous_sizes_of_empty_weights_are_errors(folder):
    # A shape with a zero fits into a small file, whatever its other sizes are.
    edit_weights(folder, lambda state: state.update({"decoder.layers.0.ffn.0.weight": torch.empty(10**14, 0)}))
    edit(folder, lambda values: values["config"].update(decoder_hidden=10**14))
    assert "cannot be built" in check_an_error(folder)


# ── errors: weights ──


def test_broken_files_are_errors(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    for broken in (b"", content[:7], content[:1000], content[:-1], b"\xff" * 8 + content[8:], b"not safetensors" * 99):
        path.write_bytes(broken)
        assert "model.safetensors" in check_an_error(folder)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda s: s.pop("neck.norm5.bias"), "neck.norm5.bias"),
        (lambda s: s.update(more=torch.zeros(1)), "more"),
        (lambda s: [s.update({f"more{i}": torch.zeros(1)}) for i in range(5)], "more0, more1, more2 and 2 more"),
        (lambda s: s.update({"neck.norm5.bias": torch.zeros(3)}), "neck.norm5.bias [3] for [8]"),
        (lambda s: s.update({"neck.norm5.bias": torch.zeros(8, dtype=torch.int8)}), "I8"),
        (lambda s: s.pop("visual.layer1.0.conv1.weight"), "visual.layer1.0.conv1.weight"),
        (lambda s: s.pop("neck.project3.0.weight"), "'neck.project3.0.weight'"),
        (lambda s: s.update({"neck.project3.0.weight": torch.tensor(1.0)}), "single number"),
        (lambda s: s.update({"text.text_projection": torch.tensor(1.0)}), "'text.text_projection'"),
        (lambda s: s.update({"decoder.layers.7.norm1.bias": torch.zeros(8)}), "up to 7"),
    ],
)
def test_weights_of_another_model_are_errors(folder, change, word):
    edit_weights(folder, change)
    assert word in check_an_error(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("key", ["decoder.norm.bias", "visual.bn1.running_var", "text.token_embedding.weight"])
def test_loaded_weights_that_are_not_finite_are_errors(folder, key, value):
    edit_weights(folder, lambda state: state[key].view(-1)[-1:].fill_(value))
    assert key in check_an_error(folder)


def test_saved_weights_that_are_not_finite_are_errors(model, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = model.untrained()
    with torch.no_grad():
        broken.neck.norm5.weight[2] = float("nan")
    with pytest.raises(WeightsError, match=r"neck\.norm5\.weight"):
        save_model(broken, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_weights_that_overflow_in_half_precision_are_errors(model, tmp_path):
    large = model.untrained()
    with torch.no_grad():
        large.visual.conv1.weight[0] = 1e6
    with pytest.raises(WeightsError, match=r"visual\.conv1\.weight"):
        save_model(large, tmp_path / "half", dtype=torch.float16)
    assert not (tmp_path / "half").exists()
    assert torch.equal(load_model(save_model(large, tmp_path / "full")).visual.conv1.weight, large.visual.conv1.weight)


def test_the_hubs_client_is_not_imported():
    code = "import sys, refseg.models.hub; assert 'huggingface_hub' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
