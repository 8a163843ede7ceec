"""Computes the graphs of a model with OpenVINO, on a processor: those exported for it, or those of the format ONNX."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy import ndarray

from refseg.errors import ConfigError
from refseg.models.layout import GRAPHS, WEIGHTS, has_graphs
from refseg.runtimes.graphs import PREFIX, GraphRuntime, layout_of, thread_count

__all__ = ["OpenVinoRuntime", "free_image", "openvino"]

TELEMETRY = "openvino_telemetry"
"""The module by which OpenVINO would report to a server that it is imported, and write into the home folder."""
KEPT = "CPU_RUNTIME_CACHE_CAPACITY"
"""The setting of OpenVINO for how many layers, each for one shape, are kept prepared; its default is 5,000."""
KEPT_AT_MOST = "64"
"""So that memory stays flat where every call has other numbers of expressions and words; answers are as fast."""


class OpenVinoRuntime(GraphRuntime):
    """The two graphs of a model (see `GraphRuntime`).

    Args:
        folder: with the graphs.
        device: `auto` or `cpu`.
        reduced: whether products are computed in bfloat16, on processors that have instructions for it.
    """

    name = "openvino"

    def __init__(self, folder: Path, device: str = "auto", *, reduced: bool = False) -> None:
        self._settings = {"INFERENCE_PRECISION_HINT": "bf16" if reduced else "f32"}
        if (threads := thread_count()) is not None:
            self._settings["INFERENCE_NUM_THREADS"] = str(threads)
        super().__init__(folder, device)

    @staticmethod
    def _paths(folder: Path) -> tuple[Path, Path]:
        image, expression = GRAPHS["openvino" if has_graphs(folder, "openvino") else "onnx"]
        return folder / image, folder / expression

    def _open(self, path: Path) -> _OpenVinoGraph:
        return _OpenVinoGraph(path, self._settings)


class _OpenVinoGraph:
    """A compiled graph of OpenVINO (see `runtimes.graphs.Graph`)."""

    def __init__(self, path: Path, settings: Mapping[str, str]) -> None:
        core = openvino().Core()
        core.get_property("CPU", "FULL_DEVICE_NAME")  # before, any setting is accepted, and a wrong one fails later
        with suppress(RuntimeError):  # no public setting: a later version may have none
            core.set_property("CPU", {KEPT: KEPT_AT_MOST})
        model = core.read_model(path)
        free_image(model)
        self._compiled = core.compile_model(model, "CPU", dict(settings))
        self._own = _Own()
        self.inputs = frozenset(given.any_name for given in self._compiled.inputs)
        self.outputs = tuple(output.any_name for output in self._compiled.outputs)
        self.layout = _layout(path)

    def run(self, outputs: Sequence[str], given: Mapping[str, ndarray]) -> list[ndarray]:
        """Compute all outputs, and return some of them."""
        if self._own.request is None:
            self._own.request = self._compiled.create_infer_request()
        computed = self._own.request.infer(dict(given))
        return [np.array(computed[name]) for name in outputs]  # copied: the next run writes to the same memory


class _Own(threading.local):
    """What a thread has for itself."""

    request: Any = None
    """To compute, one run at a time; made at the first run and kept, as making it takes as long as a run."""


def free_image(model: Any) -> None:
    """Let the first axis of the features of the image have any length.

    It is 1, and that of the expressions is free. With a fixed length OpenVINO 2026.4 adds features to the result of a
    convolution in place, as if both had one shape, and answers all expressions but the first of a model wrongly.

    Args:
        model: an `openvino.Model`, changed in place.
    """
    library = openvino()
    shapes = {given.any_name: given.partial_shape for given in model.inputs if given.any_name.startswith(PREFIX)}
    if shapes:
        model.reshape({name: library.PartialShape([-1, *list(shape)[1:]]) for name, shape in shapes.items()})


def openvino() -> Any:
    """Return the library, imported without its telemetry.

    Raises:
        ConfigError: it is not installed.
    """
    blocked = TELEMETRY not in sys.modules
    if blocked:
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise ConfigError("this needs the library openvino: pip install 'refseg[openvino]'") from None
    finally:
        if blocked:
            sys.modules.pop(TELEMETRY, None)  # another thread may have done so


def _layout(path: Path) -> str | None:
    """Return the layout of the weights in the folder of a graph if the graph names it, else None."""
    weights = path.with_name(WEIGHTS)
    if path.suffix != ".onnx" or not weights.is_file():
        return None
    layout = layout_of(weights)
    return layout if layout.encode() in path.read_bytes() else "another"
