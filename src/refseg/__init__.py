"""Referring image segmentation: an image and some words in, the pixels that the words mean out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refseg.errors import RefsegError
    from refseg.models.families import create_model
    from refseg.models.folder import convert, load_model, save_model
    from refseg.predictor import Encoding, Predictor, load
    from refseg.values import Batch, PatchMap, Prediction, Sample

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Encoding",
    "PatchMap",
    "Prediction",
    "Predictor",
    "RefsegError",
    "Sample",
    "__version__",
    "convert",
    "create_model",
    "load",
    "load_model",
    "save_model",
]

# Imported when first asked for, so that `refseg --help` need not wait for PyTorch.
_HOMES = {
    "Batch": "refseg.values",
    "Encoding": "refseg.predictor",
    "PatchMap": "refseg.values",
    "Prediction": "refseg.values",
    "Predictor": "refseg.predictor",
    "RefsegError": "refseg.errors",
    "Sample": "refseg.values",
    "convert": "refseg.models.folder",
    "create_model": "refseg.models.families",
    "load": "refseg.predictor",
    "load_model": "refseg.models.folder",
    "save_model": "refseg.models.folder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'refseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
