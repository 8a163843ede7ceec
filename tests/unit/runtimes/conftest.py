"""A small exported model, whose graphs are written by hand: making them of a model takes seconds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from refseg.inputs.preprocessing import Inputs
from refseg.models.exported import Exported, write_export
from refseg.models.layout import EXPRESSION_GRAPH, IMAGE_GRAPH
from refseg.values import Calibration, Decision

SIDE = 16
DECISION = Decision(threshold=0.4, calibration=Calibration(knots=((0.0, 0.1), (1.0, 0.9))))


def graph(path, inputs, outputs, nodes, constants=()):
    made = helper.make_graph(nodes, "graph", inputs, outputs, list(constants))
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def tensor(name, kind, *shape):
    return helper.make_tensor_value_info(name, kind, shape)


def image_graph(path):
    """The mean of the colours, as `grey`."""
    graph(
        path,
        [tensor("pixels", TensorProto.FLOAT, "images", 3, SIDE, SIDE)],
        [tensor("grey", TensorProto.FLOAT, "images", 1, SIDE, SIDE)],
        [helper.make_node("ReduceMean", ["pixels", "axes"], ["grey"])],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )


def expression_graph(path, feature="grey", scale=1e-4):
    """Grey, multiplied by the sum of the tokens and a scale."""
    graph(
        path,
        [
            tensor(f"image.{feature}", TensorProto.FLOAT, 1, 1, SIDE, SIDE),
            tensor("tokens", TensorProto.INT64, "expressions", "length"),
            tensor("padding", TensorProto.BOOL, "expressions", "length"),
        ],
        [tensor("logits", TensorProto.FLOAT, "expressions", 1, SIDE, SIDE)],
        [
            helper.make_node("Cast", ["tokens"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["numbers", "axes"], ["sums"]),
            helper.make_node("Mul", ["sums", "scale"], ["factors"]),
            helper.make_node("Unsqueeze", ["factors", "last"], ["rows"]),
            helper.make_node("Unsqueeze", ["rows", "last"], ["maps"]),
            helper.make_node("Mul", [f"image.{feature}", "maps"], ["logits"]),
        ],
        [
            helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
            helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        ],
    )


@pytest.fixture
def exported(tmp_path):
    """The folder of the exported model."""
    folder = tmp_path / "exported"
    folder.mkdir()
    image_graph(folder / IMAGE_GRAPH)
    expression_graph(folder / EXPRESSION_GRAPH)
    inputs = Inputs(image_size=SIDE, word_length=8)
    write_export(
        Exported(
            format="onnx", family="cris", inputs=inputs, decision=DECISION, domain="photos", about={"name": "grey"}
        ),
        folder,
    )
    return folder


@pytest.fixture
def write_expression_graph():
    """Writes the second graph: `write_expression_graph(path, feature, scale)`."""
    return expression_graph


@pytest.fixture
def images():
    """Three images of different sizes."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((16, 16), (10, 24), (30, 12))]
