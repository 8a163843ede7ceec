"""Computes the graphs of a model with ONNX Runtime, on a processor."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy import ndarray

from refseg.errors import ConfigError
from refseg.models.layout import GRAPHS
from refseg.runtimes.graphs import SHARED, GraphRuntime, thread_count

__all__ = ["OnnxRuntime", "onnxruntime"]

ERRORS_ONLY = 3


class OnnxRuntime(GraphRuntime):
    """The two graphs of a model, of the format ONNX (see `GraphRuntime`)."""

    name = "onnx"

    @staticmethod
    def _paths(folder: Path) -> tuple[Path, Path]:
        image, expression = GRAPHS["onnx"]
        return folder / image, folder / expression

    def _open(self, path: Path) -> _OnnxGraph:
        return _OnnxGraph(path)


class _OnnxGraph:
    """A session of ONNX Runtime (see `runtimes.graphs.Graph`)."""

    def __init__(self, path: Path) -> None:
        library = onnxruntime()
        options = library.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        if (threads := thread_count()) is not None:
            options.intra_op_num_threads = threads
        self._session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._options = library.RunOptions()
        self._options.only_execute_path_to_fetches = True  # outputs that are not asked for are not computed
        self.inputs = frozenset(given.name for given in self._session.get_inputs())
        self.outputs = tuple(output.name for output in self._session.get_outputs())
        self.layout: str | None = self._session.get_modelmeta().custom_metadata_map.get(SHARED)

    def run(self, outputs: Sequence[str], given: Mapping[str, ndarray]) -> list[ndarray]:
        """Compute some of the outputs."""
        computed: list[ndarray] = self._session.run(outputs, given, self._options)
        return computed


def onnxruntime() -> Any:
    """Return the library.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when the library is imported
    try:
        return importlib.import_module("onnxruntime")
    except ImportError:
        raise ConfigError("this needs the library onnxruntime, which belongs to refseg: pip install refseg") from None
