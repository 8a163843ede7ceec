"""The files of a model folder and of an exported model, by name. Importing this module does not import PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from refseg.errors import WeightsError

__all__ = [
    "CONFIG",
    "DESCRIPTION",
    "EXPRESSION_GRAPH",
    "GRAPHS",
    "IMAGE_GRAPH",
    "WEIGHTS",
    "Format",
    "has_graphs",
    "not_a_folder",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""Of a model folder."""
DESCRIPTION = "export.json"
"""Of an exported model, in the place of `config.json`."""
IMAGE_GRAPH, EXPRESSION_GRAPH = "image.onnx", "expression.onnx"
"""Of an exported model. A model folder may have them too: then their weights are those of the folder."""
Format: TypeAlias = Literal["onnx", "openvino"]
"""Of the graphs of an exported model."""
GRAPHS: Mapping[Format, tuple[str, str]] = {
    "onnx": (IMAGE_GRAPH, EXPRESSION_GRAPH),
    "openvino": ("image.xml", "expression.xml"),
}
"""The files of the graphs for images and for expressions, by format."""


def has_graphs(folder: Path, format: Format = "onnx") -> bool:
    """Return whether a folder has both graphs of a format."""
    return all((folder / name).is_file() for name in GRAPHS[format])


def not_a_folder(path: Path) -> WeightsError:
    """Return the error for a path that is not a folder, with what to do."""
    if path.is_file():
        return WeightsError(
            f"{path} is a file, and a model is a folder: `refseg convert {path} FOLDER` makes one of a checkpoint"
        )
    return WeightsError(f"{path}: no such folder")
