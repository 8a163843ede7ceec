"""Which runtime computes a model folder."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from refseg.cli.main import main
from refseg.errors import ConfigError, OutputError
from refseg.files import user_cache
from refseg.models.layout import CONFIG, EXPRESSION_GRAPH, IMAGE_GRAPH
from refseg.predictor import load
from refseg.runtimes.choose import choose_runtime
from refseg.runtimes.onnx import OnnxRuntime
from refseg.runtimes.torch import TorchRuntime

MODULE = importlib.import_module("refseg.runtimes.choose")


@pytest.fixture
def graphs(tmp_path):
    for name in (CONFIG, IMAGE_GRAPH, EXPRESSION_GRAPH):
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
        ("auto", "cpu", ("openvino",), "onnx"),
        ("auto", "cpu", ("onnxruntime",), "openvino"),
        ("auto", "cpu", ("onnxruntime", "openvino"), "torch"),
        ("torch", "cpu", (), "torch"),
        ("onnx", "auto", (), "onnx"),
        ("openvino", "cpu", (), "openvino"),
    ],
)
def test_graphs_are_computed_on_the_processor(graphs, monkeypatch, runtime, device, missing, expected):
    without(monkeypatch, *missing)
    assert choose_runtime(graphs, runtime, device) == expected


def test_a_folder_without_graphs_needs_pytorch(tmp_path, monkeypatch):
    (tmp_path / CONFIG).touch()
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


def test_the_bundled_models_have_graphs(monkeypatch):
    monkeypatch.setattr("refseg.runtimes.torch.has_bfloat16", lambda _: True)  # not every processor's
    for name in ("photos", "shapes"):
        assert isinstance(load(name, "cpu").runtime, OnnxRuntime)
    assert isinstance(load("shapes", "cpu", runtime="torch").runtime, TorchRuntime)
    assert isinstance(load("shapes", "cpu", precision="fast").runtime, TorchRuntime)
    with pytest.raises(ConfigError, match="precision"):
        load("shapes", "cpu", runtime="onnx", precision="fast")
    with pytest.raises(ConfigError, match="by PyTorch, not by onnx"):
        load("florence-2", runtime="onnx")


@pytest.fixture
def measured(monkeypatch, tmp_path_factory):
    """Lets `auto` measure, by a function that says that OpenVINO is faster; returns the folders that it measured."""
    folders = []
    monkeypatch.delenv("REFSEG_RUNTIME")
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr(
        MODULE, "_measure", lambda folder, names: folders.append(folder) or dict(zip(names, (0.2, 0.1), strict=True))
    )
    return folders


def test_the_fastest_runtime_is_measured_once_and_said(graphs, measured, caplog):
    assert [choose_runtime(graphs, "auto", "cpu") for _ in range(3)] == ["openvino"] * 3
    assert measured == [graphs]
    assert "onnx 200 ms, openvino 100 ms" in caplog.text
    (graphs / IMAGE_GRAPH).write_bytes(b"another")
    choose_runtime(graphs, "auto", "cpu")
    assert measured == [graphs] * 2
    for file in user_cache("runtimes").iterdir():
        file.write_text("{")
    assert choose_runtime(graphs, "auto", "cpu") == "openvino"
    assert measured == [graphs] * 3


def test_the_variable_chooses_without_measuring(graphs, measured, monkeypatch):
    monkeypatch.setenv("REFSEG_RUNTIME", "onnx")
    assert choose_runtime(graphs, "auto", "cpu") == "onnx"
    assert not measured


def test_without_a_place_for_the_outcome_nothing_is_measured(graphs, measured, monkeypatch):
    def fail(*parts):
        raise OutputError("no home folder")

    monkeypatch.setattr(MODULE, "user_cache", fail)
    assert choose_runtime(graphs, "auto", "cpu") == "onnx"
    assert not measured


@pytest.mark.long
def test_a_runtime_that_computes_something_else_is_not_taken(exported, monkeypatch):
    assert list(MODULE._measure(exported, ["onnx", "openvino"])) == ["onnx", "openvino"]
    monkeypatch.setattr("refseg.runtimes.compare.largest_deviation", lambda *runtimes: 0.01)
    assert list(MODULE._measure(exported, ["onnx", "openvino"])) == ["onnx"]


def test_a_command_that_needs_pytorch_says_so(monkeypatch, capsys):
    monkeypatch.setattr("refseg.cli.convert.run", lambda arguments: importlib.import_module("torch"))
    monkeypatch.setitem(sys.modules, "torch", None)
    code = main(["convert", "weights.pth", "out"])
    assert code == 2
    assert capsys.readouterr().err == "refseg: this needs PyTorch: pip install 'refseg[torch]'\n"
