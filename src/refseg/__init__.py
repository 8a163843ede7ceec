"""Referring image segmentation: a picture and some words in, the pixels that the words mean out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refseg.checkpoint import convert, load_model, save_model
    from refseg.errors import RefsegError
    from refseg.models.zoo import create_model
    from refseg.predictor import EncodedImage, Predictor, load
    from refseg.types import Batch, PatchMap, Prediction, Sample

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "EncodedImage",
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
    "Batch": "refseg.types",
    "EncodedImage": "refseg.predictor",
    "PatchMap": "refseg.types",
    "Prediction": "refseg.types",
    "Predictor": "refseg.predictor",
    "RefsegError": "refseg.errors",
    "Sample": "refseg.types",
    "convert": "refseg.checkpoint",
    "create_model": "refseg.models.zoo",
    "load": "refseg.predictor",
    "load_model": "refseg.checkpoint",
    "save_model": "refseg.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'refseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
