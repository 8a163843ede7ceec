"""The files of a model folder and of an exported model, by name. Importing this module does not import PyTorch."""

from __future__ import annotations

from pathlib import Path

from refseg.errors import WeightsError

__all__ = ["CONFIG", "DESCRIPTION", "EXPRESSION_GRAPH", "IMAGE_GRAPH", "WEIGHTS", "has_graphs", "not_a_folder"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""Of a model folder."""
DESCRIPTION = "export.json"
"""Of an exported model, in the place of `config.json`."""
IMAGE_GRAPH, EXPRESSION_GRAPH = "image.onnx", "expression.onnx"
"""Of an exported model. A model folder may have them too: then their weights are those of the folder."""


def has_graphs(folder: Path) -> bool:
    """Return whether a folder has both graphs that ONNX Runtime computes a model with."""
    return all((folder / name).is_file() for name in (IMAGE_GRAPH, EXPRESSION_GRAPH))


def not_a_folder(path: Path) -> WeightsError:
    """Return the error for a path that is not a folder, with what to do."""
    if path.is_file():
        return WeightsError(
            f"{path} is a file, and a model is a folder: `refseg convert {path} FOLDER` makes one of a checkpoint"
        )
    return WeightsError(f"{path}: no such folder")
