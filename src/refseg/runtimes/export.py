"""Writes a model as two ONNX graphs, and compares what they compute with what PyTorch computes."""

from __future__ import annotations

import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor, nn

from refseg.errors import ConfigError, OutputError, WeightsError, one_line
from refseg.files import new_folder
from refseg.inputs.clip_bpe import END_TOKEN, START_TOKEN
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import AttentionModel, BoxModel, Model, PatchMapModel
from refseg.models.exported import Exported, Precision, write_export
from refseg.models.folder import load_model, read_folder
from refseg.models.hub import resolve
from refseg.models.layout import EXPRESSION_GRAPH, IMAGE_GRAPH, WEIGHTS
from refseg.runtimes.base import Runtime, probabilities
from refseg.runtimes.onnx import (
    ATTENTION,
    BOX_SCORES,
    BOXES,
    COSINES,
    LOGITS,
    MAP_LOGITS,
    PADDING,
    PIXELS,
    PREFIX,
    SHARED,
    TOKENS,
    OnnxRuntime,
    layout_of,
    onnxruntime,
)
from refseg.runtimes.torch import TorchRuntime

__all__ = ["add_graphs", "export"]

OPSET = 20
"""The first version of ONNX whose GridSample is what PyTorch computes."""
TOLERANCE: Mapping[Precision, float] = {"float32": 1e-3, "float16": 2e-2, "int8": 1.0}
"""The largest difference of a probability, and of a feature in relation to the largest one.

Graphs in int8 are compared in float32 first; what rounding changes has to be measured on images that the model knows.
"""
QUANTISED = ("Conv", "MatMul", "Gemm", "Gather")
"""The operations of ONNX whose weights are stored in int8."""


def export(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    to: Literal["onnx"] = "onnx",
    precision: Precision = "float32",
) -> Path:
    """Write a model for another runtime than PyTorch, and return the folder; `refseg.load` reads it.

    The folder has two graphs, one for images and one for expressions, so that an image is still encoded once for all
    expressions. The numbers of images, of expressions and of tokens are free; the side of images is the model's. What
    the graphs compute is compared with PyTorch first: if it differs, nothing is left.

    Args:
        model: a name from `refseg models`, a model folder, or a Hub name `user/name`.
        folder: to write; it must not exist.
        to: the format of the graphs.
        precision: in which the weights are stored. `float16` halves the files, and values are computed in float32.
            `int8` quarters them, and rounds the factors of products to 8 bits.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: it has no weights here, they are broken, or the graphs compute something else.
        ConfigError: its config is broken, `to` or `precision` is unknown, or the extra `refseg[export]` is missing.
        DownloadError: the model cannot be fetched.
        OutputError: the folder exists, or cannot be written.
    """
    if to != "onnx" or precision not in TOLERANCE:
        raise ConfigError(f"a model is exported to onnx, as {' or '.join(TOLERANCE)}, got {to} and {precision}")
    _check_libraries()
    source = resolve(model if isinstance(model, str) else Path(model))
    stored, loaded = read_folder(source), load_model(source)
    try:
        with new_folder(Path(folder)) as draft:
            _write_graphs(loaded, draft, precision)
            eager = TorchRuntime(loaded, "cpu")
            deviation = _compare(eager, draft, loaded.inputs, "float32" if precision == "int8" else precision)
            if precision == "int8":
                for name in (IMAGE_GRAPH, EXPRESSION_GRAPH):
                    _store_in_int8(draft / name)
                deviation = _compare(eager, draft, loaded.inputs, precision)
            made = {
                "source": os.fspath(model),
                "fingerprint": eager.fingerprint,
                "largest_deviation": deviation,
                "libraries": {name: importlib.import_module(name).__version__ for name in ("torch", "onnxruntime")},
            }
            exported = Exported(
                format=to,
                family=stored.family,
                inputs=loaded.inputs,
                decision=loaded.decision,
                precision=precision,
                domain=stored.domain,
                about={**stored.about, "export": made},
            )
            write_export(exported, draft)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{os.fspath(folder)}: cannot be written: {error.strerror or error}") from None
    return Path(folder)


def add_graphs(folder: str | os.PathLike[str]) -> float:
    """Add to a model folder the graphs that ONNX Runtime computes it with, and return how far they are from PyTorch.

    They have no weights of their own, but refer to those of the folder, so that they take few bytes. They hold as long
    as the names and shapes of the weights stay: training writes a new folder, without graphs.

    Args:
        folder: of a model.

    Returns:
        The largest difference of a probability, and of a feature in relation to the largest one.

    Raises:
        WeightsError: it is not a model folder, its CLIP is elsewhere, or the graphs compute something else.
        ConfigError: its config is broken, or the extra `refseg[export]` is missing.
        OutputError: they cannot be written.
    """
    _check_libraries()
    folder = Path(folder)
    if read_folder(folder).clip is not None:
        raise WeightsError(f"{folder}: needs a CLIP that is elsewhere; `refseg convert --merge` joins both first")
    loaded = load_model(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".graphs-") as name:
            draft = Path(name)
            os.link(folder / WEIGHTS, draft / WEIGHTS)
            _write_graphs(loaded, draft, None)
            deviation = _compare(TorchRuntime(loaded, "cpu"), draft, loaded.inputs, "float32")
            for graph in (IMAGE_GRAPH, EXPRESSION_GRAPH):
                (draft / graph).replace(folder / graph)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    return deviation


def _check_libraries() -> None:
    onnxruntime()
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
    except ImportError:
        raise ConfigError("exporting needs the library onnxscript: pip install 'refseg[export]'") from None


# ── the graphs ───────────────────────────────────────────────────────────────────────────────────────────────────────


class _ImageGraph(nn.Module):
    """From pixels to all that depends on the images alone."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.model.encode_image(pixels).values())


class _ExpressionGraph(nn.Module):
    """From one encoded image and several expressions to logits, and to boxes, attention or a patch-level map."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: dict[str, Tensor], tokens: Tensor, padding: Tensor) -> tuple[Tensor, ...]:
        if isinstance(self.model, BoxModel):
            return self.model.detect(image, self.model.encode_text(tokens, padding), padding)
        if isinstance(self.model, AttentionModel) and self.model.attends:
            return self.model.attend(image, self.model.encode_text(tokens, padding), padding)
        logits = self.model.decode(image, tokens, padding)
        if isinstance(self.model, PatchMapModel):
            return logits, *self.model.patch_map(image, tokens, padding)
        return (logits,)


def _further_outputs(model: Model) -> tuple[str, ...]:
    if isinstance(model, BoxModel):
        return BOXES, BOX_SCORES
    if isinstance(model, AttentionModel) and model.attends:
        return (ATTENTION,)
    return (COSINES, MAP_LOGITS) if isinstance(model, PatchMapModel) else ()


def _write_graphs(model: Model, folder: Path, precision: Precision | None) -> None:
    """Write both graphs of a model in evaluation mode, with weights of a precision; None: those of the folder.

    Raises:
        ConfigError: the model has an operation that ONNX lacks.
        OSError: they cannot be written.
    """
    side, length = model.inputs.image_size, model.inputs.word_length
    # Two of each, as the tracer takes a number of one for a constant.
    pixels, tokens = torch.zeros(2, 3, side, side), torch.zeros(2, length, dtype=torch.int64)
    with torch.no_grad():
        features = {name: value[:1] for name, value in model.encode_image(pixels).items()}
    shared = precision is None  # then the weights have to stay as they are stored
    image = _traced(_ImageGraph(model), (pixels,), [PIXELS], list(features), {PIXELS: {0: "images"}}, not shared)
    free = {0: "expressions", 1: "length"}
    expression = _traced(
        _ExpressionGraph(model),
        (features, tokens, tokens == 0),
        [*(PREFIX + name for name in features), TOKENS, PADDING],
        [LOGITS, *_further_outputs(model)],
        {"image": {name: {} for name in features}, TOKENS: free, PADDING: free},
        not shared,
    )
    for program, name in ((image, IMAGE_GRAPH), (expression, EXPRESSION_GRAPH)):
        if precision == "float16":
            _store_in_float16(program.model)
        if shared:
            _refer_to(folder / WEIGHTS, program.model)
        # Weights beside the graph, which has at most 2 GB.
        program.save(folder / name, external_data=not shared)


def _traced(
    module: nn.Module,
    arguments: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    free: dict[str, Any],
    optimise: bool,
) -> torch.onnx.ONNXProgram:
    """Return the graph of a module.

    Args:
        module: it is put into evaluation mode.
        arguments: example arguments of the module.
        inputs: the names of the arguments.
        outputs: the names of what it returns.
        free: by argument, the names of the axes that may have any length.
        optimise: whether operations may be joined, which changes the weights.

    Raises:
        ConfigError: the module has an operation that ONNX lacks.
    """
    passes = importlib.import_module("onnx_ir.passes.common")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                arguments,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=free,
                opset_version=OPSET,
                dynamo=True,
                optimize=optimise,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(f"this model cannot be converted to ONNX: {one_line(error)}") from None
    assert program is not None
    # Without the traces of the tracer, which name the files of this machine.
    passes.ClearMetadataAndDocStringPass()(program.model)
    return program


def _store_in_float16(model: Any) -> None:
    """Store matrices and convolution kernels in float16; the graph starts by casting them to float32.

    Args:
        model: an `onnx_ir.Model`.
    """
    ir = importlib.import_module("onnx_ir")
    graph = model.graph
    for name, weight in list(graph.initializers.items()):
        if weight.dtype != ir.DataType.FLOAT or len(weight.shape) < 2:
            continue
        with np.errstate(over="ignore"):  # a weight that is too large is found by the comparison with PyTorch
            half = ir.tensor(weight.const_value.numpy().astype(np.float16), name=f"{name}.float16")
        _replace_weight(graph, name, half)


def _refer_to(weights: Path, model: Any) -> None:
    """Let the weights of a graph be those of a safetensors file, which must be in the folder of the graph.

    Args:
        weights: the file.
        model: an `onnx_ir.Model`, whose weights have the names of the file with `model.` in front.
    """
    ir = importlib.import_module("onnx_ir")
    dtypes = {"F32": ir.DataType.FLOAT, "F16": ir.DataType.FLOAT16, "BF16": ir.DataType.BFLOAT16}
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        stored = json.loads(file.read(length))
    graph = model.graph
    for name, weight in list(graph.initializers.items()):
        entry = stored.get(name.removeprefix("model."))
        if entry is None or entry["dtype"] not in dtypes:  # a constant of the graph
            continue
        start, end = entry["data_offsets"]
        place = ir.ExternalTensor(
            weights.name,
            8 + length + start,
            end - start,
            dtypes[entry["dtype"]],
            name=f"{name}.stored",
            shape=weight.shape,
            base_dir=weights.parent,
        )
        _replace_weight(graph, name, place)
    model.metadata_props[SHARED] = layout_of(weights)


def _replace_weight(graph: Any, name: str, tensor: Any) -> None:
    """Replace a weight of an `onnx_ir.Graph` by another tensor, which is cast to float32."""
    ir = importlib.import_module("onnx_ir")
    weight = graph.initializers.pop(name)
    stored = ir.Value(name=tensor.name, shape=weight.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(stored)
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT})
    cast.outputs[0].name = name
    ir.convenience.replace_all_uses_with(weight, cast.outputs[0])
    graph.insert_before(graph[0], cast)


def _store_in_int8(path: Path) -> None:
    """Store the weights of a graph in int8, with a scale for each channel, and round what they are multiplied by."""
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    model = onnx.load(path)
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()
    # The quantiser transposes weights, but not the shapes that are stated of them; it infers those that are not.
    del model.graph.value_info[:]
    with _quiet():
        quantization.quantize_dynamic(
            model,
            path,
            op_types_to_quantize=[*QUANTISED],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            use_external_data_format=True,
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Show none of the warnings of the exporters, which are about their own code."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


# ── the comparison ───────────────────────────────────────────────────────────────────────────────────────────────────


def _compare(eager: Runtime, folder: Path, inputs: Inputs, precision: Precision) -> float:
    """Return the largest deviation of the graphs in a folder from a model.

    Raises:
        WeightsError: it is larger than the precision explains, or not finite.
    """
    deviation = _largest_deviation(eager, OnnxRuntime(folder), inputs)
    if not deviation <= TOLERANCE[precision]:
        raise WeightsError(f"the exported graphs compute other values than PyTorch, which differ by {deviation:g}")
    return deviation


def _largest_deviation(eager: Runtime, exported: Runtime, inputs: Inputs) -> float:
    """Compare two runtimes of a model on random images and expressions, in other numbers than it was traced with.

    Returns:
        The largest difference of a probability, or of a feature in relation to the largest one.
    """
    rng = np.random.default_rng(0)
    deviations = []
    for images, expressions, length in ((1, 1, inputs.word_length), (3, 5, min(3, inputs.word_length))):
        pixels = rng.standard_normal((images, 3, inputs.image_size, inputs.image_size), dtype=np.float32)
        tokens, padding = _random_tokens(rng, expressions, length, inputs)
        features, others = eager.encode(pixels), exported.encode(pixels)
        deviations += [_relative(features[name], others[name]) for name in features]
        both = [
            (runtime, {name: part[-1:] for name, part in arrays.items()})
            for runtime, arrays in ((eager, features), (exported, others))
        ]
        expected, found = (probabilities(runtime.decode(image, tokens, padding)) for runtime, image in both)
        deviations.append(float(np.abs(expected - found).max()))
        if eager.word_source == "attention":
            attention, other = (runtime.attend(image, tokens, padding) for runtime, image in both)
            deviations.append(float(np.abs(attention - other[:, : attention.shape[1]]).max()))
    return float(np.max(deviations))  # not finite if one of them is not


def _relative(expected: Float[ndarray, "..."], found: Float[ndarray, "..."]) -> float:
    return float(np.abs(expected - found).max() / max(np.abs(expected).max(), 1e-6))


def _random_tokens(
    rng: np.random.Generator, count: int, length: int, inputs: Inputs
) -> tuple[Int64[ndarray, "{count} {length}"], Bool[ndarray, "{count} {length}"]]:
    """Return expressions of random tokens and of different lengths, and where they are padding."""
    tokens = np.zeros((count, length), np.int64)
    for row in tokens:
        end = rng.integers(1, length)
        if inputs.tokenizer == "words":
            row[:end] = rng.integers(1, len(inputs.vocabulary) + 1, end)
        else:
            row[: end + 1] = [START_TOKEN, *rng.integers(1, START_TOKEN, end - 1), END_TOKEN]
    return tokens, tokens == 0
