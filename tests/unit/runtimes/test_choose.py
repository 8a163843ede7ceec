"""Which runtime computes a model folder."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from refseg.cli.main import main
from refseg.errors import ConfigError
from refseg.models.layout import EXPRESSION_GRAPH, IMAGE_GRAPH
from refseg.predictor import load
from refseg.runtimes.choose import choose_runtime
from refseg.runtimes.onnx import OnnxRuntime
from refseg.runtimes.torch import TorchRuntime

MODULE = importlib.import_module("refseg.runtimes.choose")


@pytest.fixture
def graphs(tmp_path):
    for name in (IMAGE_GRAPH, EXPRESSION_GRAPH):
        (tmp_path / name).touch()
    return tmp_path


def without(monkeypatch, *missing):
    monkeypatch.setattr(MODULE, "find_spec", lambda name: None if name in missing else object())


@pytest.mark.parametrize(
    ("runtime", "device", "missing", "expected"),
    [
        ("auto", "cpu", (), "onnx"),
        ("auto", "cuda", (), "torch"),
        ("auto", "cpu", ("torch",), "onnx"),
        ("auto", "cpu", ("onnxruntime",), "torch"),
        ("torch", "cpu", (), "torch"),
        ("onnx", "auto", (), "onnx"),
    ],
)
def test_graphs_are_computed_on_the_processor(graphs, monkeypatch, runtime, device, missing, expected):
    without(monkeypatch, *missing)
    assert choose_runtime(graphs, runtime, device) == expected


def test_a_folder_without_graphs_needs_pytorch(tmp_path, monkeypatch):
    assert choose_runtime(tmp_path, "auto", "cpu") == "torch"
    with pytest.raises(ConfigError, match="--in-place"):
        choose_runtime(tmp_path, "onnx", "cpu")
    without(monkeypatch, "torch")
    for runtime in ("auto", "torch"):
        with pytest.raises(ConfigError, match=r"refseg\[torch\]"):
            choose_runtime(tmp_path, runtime, "cpu")


@pytest.mark.parametrize("found", [True, False])
def test_auto_takes_a_gpu_if_there_is_one(graphs, monkeypatch, found):
    without(monkeypatch)
    monkeypatch.setattr(MODULE.shutil, "which", lambda name: "nvidia-smi")
    device = torch.device("cuda" if found else "cpu")
    monkeypatch.setattr("refseg.runtimes.torch.pick_device", lambda name: device)
    assert choose_runtime(graphs, "auto", "auto") == ("torch" if found else "onnx")


def test_an_unknown_runtime_is_an_error(graphs):
    with pytest.raises(ConfigError, match="tensorrt"):
        choose_runtime(graphs, "tensorrt", "cpu")


def test_the_bundled_models_have_graphs():
    for name in ("photos", "shapes"):
        assert isinstance(load(name, "cpu").runtime, OnnxRuntime)
    assert isinstance(load("shapes", "cpu", runtime="torch").runtime, TorchRuntime)
    assert isinstance(load("shapes", "cpu", precision="fast").runtime, TorchRuntime)
    with pytest.raises(ConfigError, match="precision"):
        load("shapes", "cpu", runtime="onnx", precision="fast")
    with pytest.raises(ConfigError, match="ONNX Runtime"):
        load("florence-2", runtime="onnx")


def test_a_command_that_needs_pytorch_says_so(monkeypatch, capsys):
    monkeypatch.setattr("refseg.cli.convert.run", lambda arguments: importlib.import_module("torch"))
    monkeypatch.setitem(sys.modules, "torch", None)
    code = main(["convert", "weights.pth", "out"])
    assert code == 2
    assert capsys.readouterr().err == "refseg: this needs PyTorch: pip install 'refseg[torch]'\n"
