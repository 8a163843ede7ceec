"""Writes a model as two graphs, and compares what they compute with what PyTorch computes."""

from __future__ import annotations

import copy
import importlib
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from refseg.errors import ConfigError, WeightsError, one_line
from refseg.files import new_folder, unwritable
from refseg.inputs.preprocessing import Inputs
from refseg.inputs.read import ImageSource
from refseg.models.base import AttentionModel, BoxModel, Model, PatchMapModel
from refseg.models.exported import REDUCED, Exported, Precision, write_export
from refseg.models.folder import load_model, read_folder
from refseg.models.hub import resolve
from refseg.models.layout import EXPRESSION_GRAPH, GRAPHS, IMAGE_GRAPH, WEIGHTS, Format
from refseg.runtimes.base import Runtime
from refseg.runtimes.choose import LIBRARIES
from refseg.runtimes.compare import largest_deviation
from refseg.runtimes.convolutions import upsample_after_mixing
from refseg.runtimes.graphs import (
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
    layout_of,
)
from refseg.runtimes.onnx import OnnxRuntime, onnxruntime
from refseg.runtimes.openvino import OpenVinoRuntime, free_image, openvino
from refseg.runtimes.prepare import prepare
from refseg.runtimes.torch import TorchRuntime

__all__ = ["Example", "add_graphs", "export"]

Example: TypeAlias = tuple[ImageSource, Sequence[str]]
"""An image, and expressions about it."""
OPSET = 20
"""The first version of ONNX whose GridSample is what PyTorch computes."""
TOLERANCE: Mapping[Precision, float] = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 0.2, "int8": 1.0}
"""The largest difference of a probability, and of a feature in relation to the largest one.

Graphs in int8 are compared in float32 first; what rounding changes has to be measured on images that the model knows.
"""
PRECISIONS: Mapping[Format, tuple[Precision, ...]] = {
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16", "bfloat16", "int8"),
}
"""In which each format stores weights."""
QUANTISED = ("Conv", "MatMul", "Gemm", "Gather")
"""The operations of ONNX whose weights are stored in int8."""
GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}
"""The attributes of a Gemm of ONNX that has none."""


def export(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    to: Format = "onnx",
    precision: Precision = "float32",
    examples: Iterable[Example] = (),
) -> Path:
    """Write a model for another runtime than PyTorch, and return the folder; `refseg.load` reads it.

    The folder has two graphs, one for images and one for expressions, so that an image is still encoded once for all
    expressions. The numbers of images, of expressions and of tokens are free; the side of images is the model's. What
    the graphs compute is compared with PyTorch first: if it differs, nothing is left.

    Args:
        model: a name from `refseg models`, a model folder, or a Hub name `user/name`.
        folder: to write; it must not exist.
        to: the format of the graphs: `onnx` or `openvino`.
        precision: in which the weights are stored. `float16` halves the files, and values are computed in float32.
            `bfloat16`, of `openvino`, halves them too, and computes products in bfloat16 on processors that have
            instructions for it. `int8` quarters the weights that it rounds, and rounds what they are multiplied by to 8
            bits too: those of the encoders of CRIS, but no EfficientNet, and all matrices and kernels of the others;
            with `openvino` the rest is as in `bfloat16`.
        examples: for int8, images with expressions about each, from which the ranges that are rounded to 8 bits are
            taken. Without any they are taken of each call, which `openvino` cannot do.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: it has no weights here, they are broken, or the graphs compute something else.
        ConfigError: its config is broken, `to`, `precision` or `examples` do not fit, or the extra `refseg[export]`
            or the library of the format is missing.
        InputError: an example cannot be read.
        DownloadError: the model cannot be fetched.
        OutputError: the folder exists, or cannot be written.
    """
    if to not in PRECISIONS or precision not in PRECISIONS[to]:
        known = "; ".join(f"to {name} as {', '.join(each)}" for name, each in PRECISIONS.items())
        raise ConfigError(f"a model is exported {known}; got to {to} as {precision}")
    shown = list(examples)
    if shown and precision != "int8":
        raise ConfigError("only int8 takes examples")
    if not shown and (to, precision) == ("openvino", "int8"):
        raise ConfigError("int8 for openvino needs examples, from which it takes the ranges that it rounds")
    _check_libraries(to)
    source = resolve(model if isinstance(model, str) else Path(model))
    stored, eager = read_folder(source), TorchRuntime(load_model(source), "cpu")
    fingerprint = eager.fingerprint
    prepare(eager.model)  # before both differ, as features may lie before a normalisation that is folded
    traced = copy.deepcopy(eager.model)
    upsample_after_mixing(traced, for_graph=True)
    try:
        with new_folder(Path(folder)) as draft:
            # OpenVINO rounds weights when it stores them.
            _write_graphs(traced, draft, "float16" if (to, precision) == ("onnx", "float16") else "float32")
            if precision == "int8":
                exact = OnnxRuntime(draft)
                _compare(eager, exact, traced.inputs, "float32")
                _store_in_int8(draft, exact, traced, shown)
            if to == "openvino":
                _convert_to_openvino(draft, compress=precision != "float32")
                runtime: Runtime = OpenVinoRuntime(draft, reduced=precision in REDUCED)
            else:
                runtime = OnnxRuntime(draft)
            made = {
                "source": os.fspath(model),
                "fingerprint": fingerprint,
                "largest_deviation": _compare(eager, runtime, traced.inputs, precision),
                "examples": len(shown),
                "libraries": {name: importlib.import_module(name).__version__ for name in ("torch", LIBRARIES[to])},
            }
            exported = Exported(
                format=to,
                family=stored.family,
                inputs=traced.inputs,
                decision=traced.decision,
                precision=precision,
                domain=stored.domain,
                about={**stored.about, "export": made},
            )
            write_export(exported, draft)
    except OSError as error:
        raise unwritable(Path(folder), error) from None
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
    _check_libraries("onnx")
    folder = Path(folder)
    if read_folder(folder).clip is not None:
        raise WeightsError(f"{folder}: needs a CLIP that is elsewhere; `refseg convert --merge` joins both first")
    loaded = load_model(folder)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".graphs-") as name:
            draft = Path(name)
            os.link(folder / WEIGHTS, draft / WEIGHTS)
            _write_graphs(loaded, draft, None)
            deviation = _compare(TorchRuntime(loaded, "cpu"), OnnxRuntime(draft), loaded.inputs, "float32")
            for graph in (IMAGE_GRAPH, EXPRESSION_GRAPH):
                (draft / graph).replace(folder / graph)
    except OSError as error:
        raise unwritable(folder, error) from None
    return deviation


def _check_libraries(to: Format) -> None:
    onnxruntime()
    if to == "openvino":
        openvino()
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
    image = _traced(_ImageGraph(model), (pixels,), [PIXELS], list(features), {PIXELS: {0: "images"}}, shared)
    free = {0: "expressions", 1: "length"}
    expression = _traced(
        _ExpressionGraph(model),
        (features, tokens, tokens == 0),
        [*(PREFIX + name for name in features), TOKENS, PADDING],
        [LOGITS, *_further_outputs(model)],
        {"image": {name: {} for name in features}, TOKENS: free, PADDING: free},
        shared,
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
    keep_weights: bool,
) -> torch.onnx.ONNXProgram:
    """Return the graph of a module.

    Args:
        module: it is put into evaluation mode.
        arguments: example arguments of the module.
        inputs: the names of the arguments.
        outputs: the names of what it returns.
        free: by argument, the names of the axes that may have any length.
        keep_weights: whether the weights have to stay as they are, and may not be joined with operations.

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
                optimize=not keep_weights,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ConfigError(f"this model cannot be converted to ONNX: {one_line(error)}") from None
    assert program is not None
    if keep_weights:
        _optimise_around_weights(program.model)
    # Without the traces of the tracer, which name the files of this machine.
    passes.ClearMetadataAndDocStringPass()(program.model)
    return program


def _optimise_around_weights(model: Any) -> None:
    """Compute what does not depend on weights or inputs in advance, and join operations that have no weights.

    ONNX Runtime then recognises what it joins with the weights when it loads the graph, such as a normalisation after a
    convolution.

    Args:
        model: an `onnx_ir.Model`, whose weights have names with `model.` in front.
    """
    optimizer = importlib.import_module("onnxscript.optimizer")
    graph = model.graph
    weights = [value for name, value in graph.initializers.items() if name.startswith("model.")]
    values = [weight.const_value for weight in weights]
    for weight in weights:  # an input of the graph has no value that could be computed with
        del graph.initializers[weight.name]
        weight.const_value = None
        graph.inputs.append(weight)
    with _quiet():
        optimizer.optimize_ir(model)
    for weight, value in zip(weights, values, strict=True):
        graph.inputs.remove(weight)
        weight.const_value = value
        graph.register_initializer(weight)


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
        dtype = dtypes[entry["dtype"]]
        is_float = dtype == ir.DataType.FLOAT
        place = ir.ExternalTensor(
            weights.name,
            8 + length + start,
            end - start,
            dtype,
            name=name if is_float else f"{name}.stored",
            shape=weight.shape,
            base_dir=weights.parent,
        )
        if is_float:
            weight.const_value = place
        else:
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


def _store_in_int8(folder: Path, exact: Runtime, model: Model, examples: Sequence[Example]) -> None:
    """Store the weights of both graphs in int8, with a scale for each channel, and round what they are multiplied by.

    Args:
        folder: with the graphs.
        exact: computes them as they are.
        model: of the graphs.
        examples: whose values are the ranges of what is rounded; none: the range is that of the values in each call.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    images, expressions = _calls(exact, model.inputs, examples)
    settings: dict[str, Any] = {
        "op_types_to_quantize": [*QUANTISED],
        "per_channel": True,
        "weight_type": quantization.QuantType.QInt8,
        "reduce_range": True,  # 7 bits: processors with AVX2 alone add products in 16 bits, which 8 bits overflow
        "use_external_data_format": True,
    }
    for path, calls in ((folder / IMAGE_GRAPH, images), (folder / EXPRESSION_GRAPH, expressions)):
        graph = onnx.load(path)
        for file in folder.glob(f"{path.name}*"):
            file.unlink()
        if not examples:
            _split_gemms(graph.graph)
        settings["nodes_to_exclude"] = _not_in_int8(graph.graph, model.unrounded)
        # The quantiser transposes weights, but not the shapes that are stated of them; it infers those that are not.
        del graph.graph.value_info[:]
        with _quiet():
            if examples:
                # Signed values have a zero point after a ReLU, with which OpenVINO 2026.4 finds no convolution for AMX.
                unsigned = quantization.QuantType.QUInt8
                quantization.quantize_static(graph, path, _Reader(calls), activation_type=unsigned, **settings)
            else:
                quantization.quantize_dynamic(graph, path, **settings)


def _split_gemms(graph: Any) -> None:
    """Replace what multiplies by a transposed matrix of weights and adds a bias by a product and a sum.

    The quantiser would do that too, but that of ONNX Runtime 1.31 transposes a matrix anew for each operation that has
    it, so that recurrent networks were multiplied by the wrong ones.

    Args:
        graph: an `onnx.GraphProto`.
    """
    onnx = importlib.import_module("onnx")
    weights = {weight.name: weight for weight in graph.initializer}
    nodes, replaced = [], set()
    for node in graph.node:
        flags = {flag.name: onnx.helper.get_attribute_value(flag) for flag in node.attribute}
        linear = node.op_type == "Gemm" and GEMM | flags == GEMM | {"transB": 1}
        if not linear or node.input[1] not in weights:
            nodes.append(node)
            continue
        values, name, *bias = node.input
        transposed = f"{name}.transposed"
        replaced.add(name)
        if transposed not in weights:
            matrix = np.ascontiguousarray(onnx.numpy_helper.to_array(weights[name]).T)
            weights[transposed] = onnx.numpy_helper.from_array(matrix, transposed)
        product = f"{node.output[0]}.product" if bias else node.output[0]
        nodes.append(onnx.helper.make_node("MatMul", [values, transposed], [product], node.name))
        if bias:
            nodes.append(onnx.helper.make_node("Add", [product, *bias], node.output, f"{node.name}.bias"))
    replaced -= {name for node in nodes for name in node.input}
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(weight for name, weight in weights.items() if name not in replaced)


def _not_in_int8(graph: Any, unrounded: Sequence[str]) -> list[str]:
    """Return the names of the operations of a graph that are left as they are.

    Those are products with anything but a matrix of weights, as in attention, whose rounding costs more time than it
    gains, and what is computed from the results of some modules.

    Args:
        graph: an `onnx.GraphProto`, whose operations are in the order in which they are computed.
        unrounded: the names of the modules.
    """
    matrices = {weight.name for weight in graph.initializer if len(weight.dims) == 2}
    weights = {weight.name for weight in graph.initializer}
    exact = {name for name in weights if name.startswith(tuple(f"model.{module}." for module in unrounded))}
    names = []
    for node in graph.node:
        if not exact.isdisjoint(node.input):
            exact.update(node.output)
            names += [node.name, f"{node.name}_MatMul"]  # the second is what the quantiser makes of a Gemm
        elif node.op_type == "MatMul" and matrices.isdisjoint(node.input):
            names.append(node.name)
    return names


def _calls(
    exact: Runtime, inputs: Inputs, examples: Sequence[Example]
) -> tuple[list[dict[str, ndarray]], list[dict[str, ndarray]]]:
    """Return what both graphs are given for some examples."""
    images, expressions = [], []
    for image, texts in examples:
        pixels = inputs.pixels(image)[0][None]
        words = inputs.tokens(texts)
        images.append({PIXELS: pixels})
        features = {PREFIX + name: array for name, array in exact.encode(pixels).items()}
        expressions.append(features | {TOKENS: words.tokens, PADDING: words.padding})
    return images, expressions


class _Reader:
    """Gives what a graph is called with, one call after the other, in the way that the quantiser asks for it."""

    def __init__(self, calls: Iterable[dict[str, ndarray]]) -> None:
        self._left = iter(calls)

    def get_next(self) -> dict[str, ndarray] | None:
        """Return what the next call is given, None after the last one."""
        return next(self._left, None)


def _convert_to_openvino(folder: Path, *, compress: bool) -> None:
    """Replace the ONNX graphs of a folder by those of OpenVINO.

    Args:
        folder: with the graphs.
        compress: whether weights are stored in float16.
    """
    library = openvino()
    core = library.Core()
    for before, after in zip(GRAPHS["onnx"], GRAPHS["openvino"], strict=True):
        graph = core.read_model(folder / before)
        free_image(graph)
        library.save_model(graph, folder / after, compress_to_fp16=compress)
        del graph  # it reads its weights from the file
        for file in folder.glob(f"{before}*"):
            file.unlink()


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


def _compare(eager: Runtime, exported: Runtime, inputs: Inputs, precision: Precision) -> float:
    """Return the largest deviation of exported graphs from a model.

    Raises:
        WeightsError: it is larger than the precision explains, or not finite.
    """
    deviation = largest_deviation(eager, exported, inputs)
    if not deviation <= TOLERANCE[precision]:
        raise WeightsError(f"the exported graphs compute other values than PyTorch, which differ by {deviation:g}")
    return deviation
