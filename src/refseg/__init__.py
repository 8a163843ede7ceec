"""Referring image segmentation: segments the region of an image that an expression refers to."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from refseg.errors import RefsegError
    from refseg.inputs.preprocessing import Inputs
    from refseg.models.convert import convert
    from refseg.models.families import create_model
    from refseg.models.folder import load_model, save_model
    from refseg.models.hub import push_to_hub
    from refseg.predictor import Predictor, load, predict
    from refseg.runtimes.export import export
    from refseg.values import Calibration, Decision, Encoding, Expression, PatchMap, Prediction, Sample, Segmenter

__version__ = "0.1.0"

__all__ = [
    "Calibration",
    "Decision",
    "Encoding",
    "Expression",
    "Inputs",
    "PatchMap",
    "Prediction",
    "Predictor",
    "RefsegError",
    "Sample",
    "Segmenter",
    "__version__",
    "convert",
    "create_model",
    "export",
    "load",
    "load_model",
    "predict",
    "push_to_hub",
    "save_model",
]

# Imported when first asked for, so that `refseg --help` need not wait for PyTorch.
_HOMES = {
    "Calibration": "refseg.values",
    "Decision": "refseg.values",
    "Encoding": "refseg.values",
    "Expression": "refseg.values",
    "Inputs": "refseg.inputs.preprocessing",
    "PatchMap": "refseg.values",
    "Prediction": "refseg.values",
    "Predictor": "refseg.predictor",
    "RefsegError": "refseg.errors",
    "Sample": "refseg.values",
    "Segmenter": "refseg.values",
    "convert": "refseg.models.convert",
    "create_model": "refseg.models.families",
    "export": "refseg.runtimes.export",
    "load": "refseg.predictor",
    "load_model": "refseg.models.folder",
    "predict": "refseg.predictor",
    "push_to_hub": "refseg.models.hub",
    "save_model": "refseg.models.folder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'refseg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
