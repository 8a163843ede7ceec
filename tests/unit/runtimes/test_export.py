"""Exporting: a folder is written whole, with graphs that compute what the model does, or there is none."""

from __future__ import annotations

import errno
import importlib
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from refseg.cli.main import main
from refseg.errors import ConfigError, OutputError, UnknownNameError, WeightsError
from refseg.models.exported import read_export
from refseg.models.families import create_model
from refseg.models.folder import save_model
from refseg.models.hub import resolve
from refseg.models.layout import EXPRESSION_GRAPH, IMAGE_GRAPH, WEIGHTS
from refseg.predictor import load
from refseg.runtimes.export import export
from refseg.runtimes.torch import TorchRuntime

MODULE = importlib.import_module("refseg.runtimes.export")


def test_another_format_or_precision_is_an_error(model_folder, tmp_path, unchecked):
    for options in (
        {"to": "torch"},
        {"precision": "float8"},
        {"precision": "bfloat16"},
        {"to": "openvino", "precision": "int8"},
        {"examples": [("photo.png", ["a cup"])]},
    ):
        with pytest.raises(ConfigError):
            export(model_folder, tmp_path / "out", **options)
    with pytest.raises(UnknownNameError):
        export("shape", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced(model_folder, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        export(model_folder, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_data_without_a_data_set_is_an_error(model_folder, tmp_path, capsys):
    words = ["export", str(model_folder), "--out", str(tmp_path / "out")]
    for more in (["--limit", "2"], ["--on", "shapes:val", "--limit", "0"], ["--on", "shapes:nonsense"]):
        assert main([*words, *more]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("library", ["onnxruntime", "onnx", "onnxscript"])
def test_without_the_libraries_it_says_what_to_install(model_folder, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match="pip install"):
        export(model_folder, tmp_path / "out")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_not_left(model_folder, tmp_path, monkeypatch, number):
    def fail(model, folder, precision):
        (folder / "image.onnx").touch()
        raise OSError(number, "cannot")

    monkeypatch.setattr(MODULE, "_write_graphs", fail)
    with pytest.raises(OutputError, match="cannot be written"):
        export(model_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("part", ["encode", "decode", "attend"])
@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_graphs_that_compute_something_else_are_not_left(model_folder, make_tiny, tmp_path, monkeypatch, part, error):
    class Wrong(TorchRuntime):
        def __init__(self, folder):
            super().__init__(load(model_folder, "cpu").runtime.model, "cpu")

        def encode(self, pixels):
            arrays = super().encode(pixels)
            return (
                {name: array + error * np.ptp(array) for name, array in arrays.items()} if part == "encode" else arrays
            )

        def decode(self, image, tokens, padding):
            return super().decode(image, tokens, padding) + (error if part == "decode" else 0)

        def attend(self, image, tokens, padding):
            return super().attend(image, tokens, padding) + (error if part == "attend" else 0)

    monkeypatch.setattr(MODULE, "_write_graphs", lambda model, folder, precision: None)
    monkeypatch.setattr(MODULE, "OnnxRuntime", Wrong)
    with pytest.raises(WeightsError, match="other values"):
        export(model_folder, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")  # the tracer's numbers are no integers
@pytest.mark.parametrize(
    ("to", "precision", "more", "size", "deviation"),
    [
        pytest.param("onnx", "float16", [], 0.6, 1e-3, marks=pytest.mark.long),
        ("onnx", "int8", [], 0.4, 0.05),
        pytest.param("openvino", "bfloat16", [], 0.6, 0.03, marks=pytest.mark.long),
        pytest.param("openvino", "int8", ["--examples", "shapes:val"], 0.4, 0.2, marks=pytest.mark.long),
    ],
)
def test_smaller_weights(model_folder, photo, tmp_path, monkeypatch, capsys, to, precision, more, size, deviation):
    monkeypatch.setattr("refseg.cli.export.EXAMPLES", 3)
    folder = tmp_path / "small"
    words = ["export", str(model_folder), "--out", str(folder), "--to", to, "--precision", precision, *more]
    assert main([*words, "--on", "shapes:val", "--limit", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{folder}: ")
    assert "mean IoU on shapes:val: 0." in printed.out
    assert "mean IoU of the masks of both: " in printed.out
    assert printed.err == ""
    assert read_export(folder).precision == precision
    assert read_export(folder).about["name"] == "tiny"
    weights = (model_folder / "model.safetensors").stat().st_size
    assert sum(file.stat().st_size for file in folder.iterdir() if file.suffix in (".data", ".bin")) < size * weights
    texts = [file.read_bytes() for file in folder.iterdir() if file.suffix in (".onnx", ".xml")]
    assert len(texts) == 2
    assert not any(b"site-packages" in text or b".py" in text for text in texts)
    eager, exported = load(model_folder, "cpu"), load(folder)
    words = ["the cup on the left", "blue square"]
    answers = [each.segment(each.encode(photo), words) for each in (eager, exported)]
    for one, other in zip(*answers, strict=True):
        # The mean: of random weights in 8 bits, a few pixels change with the processor's rounding.
        assert np.abs(one.scores - other.scores).mean() < deviation


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_int8_rounds_the_encoders_of_cris_and_channels_are_mixed_first(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("refseg.runtimes.convolutions.LEAST_CHANNELS", 4)
    folder = export(model_folder, tmp_path / "small", precision="int8")
    graph = onnx.load(folder / EXPRESSION_GRAPH).graph
    weights = {weight.name: tuple(weight.dims) for weight in graph.initializer}
    assert not [name for name in weights if name.startswith(("model.neck.", "model.projector.")) and "quant" in name]
    assert [name for name in weights if name.startswith("model.text.") and "quant" in name]
    assert not [name for name in weights if name.startswith("model.projector.pixels") and len(weights[name]) == 4]
    image = onnx.load(folder / IMAGE_GRAPH).graph
    rounded = {weight.name for weight in image.initializer if "quant" in weight.name}
    assert any(name.startswith("model.visual.") for name in rounded)
    assert not any(name.startswith("model.neck.") for name in rounded)
    left = [node for node in graph.node if node.op_type == "MatMul"]
    assert any(set(node.input).isdisjoint(weights) for node in left)  # attention
    assert any(node.op_type == "MatMulInteger" for node in graph.node)


def test_a_matrix_of_several_operations_is_transposed_once():
    random = np.random.default_rng(0)
    weights = {
        name: random.standard_normal(size, np.float32) for name, size in (("w", (4, 4)), ("b", 4), ("v", (4, 4)))
    }
    made = partial(onnx.helper.make_node, "Gemm", transB=1)
    nodes = [
        made(["x", "w", "b"], ["y"], "first"),
        made(["y", "w"], ["z"], "second"),
        made(["z", "v"], ["u"], "halved", alpha=0.5),
        onnx.helper.make_node("Gemm", ["u", "v"], ["t"], "not transposed"),
        onnx.helper.make_node("MatMul", ["t", "v"], ["end"], "last"),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2, 4)) for name in ("x", "end")]
    stored = [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:], stored)
    MODULE._split_gemms(graph)
    assert [node.op_type for node in graph.node] == ["MatMul", "Add", "MatMul", "Gemm", "Gemm", "MatMul"]
    assert [node.name for node in graph.node if node.op_type == "MatMul"] == ["first", "second", "last"]
    assert {weight.name for weight in graph.initializer} == {"b", "v", "w.transposed"}
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", MODULE.OPSET)], ir_version=10)
    x = random.standard_normal((2, 4), np.float32)
    (found,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    w, b, v = weights.values()
    np.testing.assert_allclose(found, 0.5 * ((x @ w.T + b) @ w.T) @ v.T @ v @ v, rtol=1e-4, atol=1e-5)


# ── graphs in a model folder ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A small model folder with graphs; they are made in a process of its own, where nothing checks types."""
    torch.manual_seed(0)
    folder = save_model(create_model("cris-compact", image_size=64), tmp_path_factory.mktemp("both") / "model")
    subprocess.run([sys.executable, "-m", "refseg", "export", folder, "--in-place"], check=True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=pytest.mark.long)])
def test_graphs_in_a_model_folder_use_its_weights(both, photo, runtime):
    graphs = [both / IMAGE_GRAPH, both / EXPRESSION_GRAPH]
    assert sum(path.stat().st_size for path in graphs) < 0.05 * (both / WEIGHTS).stat().st_size
    by_torch, found = (load(both, "cpu", runtime=name) for name in ("torch", runtime))
    words = ["a cup", "the left dog", "the second blue square from the right", "dog", "it"]
    expected = by_torch.segment(by_torch.encode(photo), words)
    assert (found.inputs, found.decision) == (by_torch.inputs, by_torch.decision)
    scene = found.encode(photo)
    for count in (2, 5, 1, 3):  # also other numbers than the first
        for one, other in zip(expected, found.segment(scene, words[:count]), strict=False):
            assert np.abs(one.probability - other.probability).max() < 1e-4


@pytest.mark.parametrize("name", ["photos", "shapes"])
def test_the_library_joins_the_normalisations_with_the_convolutions_before_them(name, tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "graph.onnx")
    options.log_severity_level = 3  # it warns that the stored graph is of this machine
    onnxruntime.InferenceSession(resolve(name) / IMAGE_GRAPH, options)
    found = {node.op_type for node in onnx.load(tmp_path / "graph.onnx", load_external_data=False).graph.node}
    assert "Conv" in found
    assert not found & {"BatchNormalization", "Cast", "Expand"}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", pytest.param("openvino", marks=pytest.mark.long)])
def test_graphs_are_not_used_with_other_weights(both, tmp_path, runtime):
    shutil.copytree(both, tmp_path / "model")
    save_model(create_model("cris-compact", decoder_layers=4), tmp_path / "other")
    shutil.copy(tmp_path / "other" / WEIGHTS, tmp_path / "model" / WEIGHTS)
    with pytest.raises(WeightsError, match="another"):
        load(tmp_path / "model", "cpu", runtime=runtime)
    (tmp_path / "model" / WEIGHTS).unlink()
    with pytest.raises(WeightsError):
        load(tmp_path / "model", "cpu", runtime=runtime)


def test_graphs_are_added_to_nothing_but_a_model_folder(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--in-place"]) == 2
    assert main(["export", str(tmp_path), "--in-place", "--precision", "int8"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert not list(tmp_path.iterdir())
