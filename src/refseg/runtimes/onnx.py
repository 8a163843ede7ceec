"""Computes a model with ONNX Runtime, on a processor; PyTorch is not needed.

An exported model has two graphs: `image.onnx` computes all that depends on the images alone, `expression.onnx` answers
expressions about one image. Their inputs and outputs have the names below; those of the image have the names of
`Model.encode_image`, in the second graph with a prefix. The graphs of a model folder have no weights of their own: they
refer to places in its `model.safetensors`.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from refseg.errors import ConfigError, WeightsError, one_line
from refseg.models.layout import EXPRESSION_GRAPH, IMAGE_GRAPH, WEIGHTS
from refseg.runtimes.base import Detections
from refseg.values import WordSource

__all__ = [
    "ATTENTION",
    "BOXES",
    "BOX_SCORES",
    "COSINES",
    "LOGITS",
    "MAP_LOGITS",
    "PADDING",
    "PIXELS",
    "PREFIX",
    "SHARED",
    "TOKENS",
    "OnnxRuntime",
    "layout_of",
    "onnxruntime",
]

PIXELS, TOKENS, PADDING, LOGITS = "pixels", "tokens", "padding", "logits"
BOXES, BOX_SCORES = "boxes", "box_scores"
"""Further outputs of models that detect boxes."""
COSINES, MAP_LOGITS = "cosines", "map_logits"
"""Further outputs of models with a patch-level map."""
ATTENTION = "attention"
"""A further output of models whose feature map attends to the tokens."""
PREFIX = "image."
"""Of the names of the image's features where they are inputs."""
SHARED = "weights"
"""The metadata of a graph that has no weights of its own: what `layout_of` returns of the file that has them."""
LONGEST_HEADER = 100 * 10**6
"""Bytes, as the library safetensors allows."""
ERRORS_ONLY = 3
THREADS = "OMP_NUM_THREADS"
"""The variable with the number of threads, which PyTorch follows too; without it the library uses all cores."""


class OnnxRuntime:
    """The two graphs of an exported model (see `runtimes.base.Runtime`).

    Args:
        folder: with the graphs.
        device: `auto` or `cpu`; it has to be a processor.

    Raises:
        ConfigError: ONNX Runtime is not installed, or the device is another one.
        WeightsError: a graph is missing or broken, or they are of two models.
    """

    device = "cpu"
    """What it computes on."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"an exported model is computed on the processor: take the device cpu, not {device}")
        self._folder = folder
        self._image, self._expression = (_session(folder / name) for name in (IMAGE_GRAPH, EXPRESSION_GRAPH))
        self._features = [output.name for output in self._image.get_outputs()]
        self._answers = {output.name for output in self._expression.get_outputs()}
        needed = {TOKENS, PADDING, *(PREFIX + name for name in self._features)}
        if LOGITS not in self._answers or {given.name for given in self._expression.get_inputs()} != needed:
            raise WeightsError(
                f"{folder}: {IMAGE_GRAPH} and {EXPRESSION_GRAPH} are not of one model; export the model again"
            )
        self._files = sorted(file for name in (IMAGE_GRAPH, EXPRESSION_GRAPH) for file in folder.glob(f"{name}*"))
        layouts = {
            session.get_modelmeta().custom_metadata_map.get(SHARED) for session in (self._image, self._expression)
        }
        if layouts != {None}:
            weights = folder / WEIGHTS
            if not weights.is_file() or layouts != {layout_of(weights)}:
                raise WeightsError(f"{folder}: the graphs were made for another {WEIGHTS}; export the model again")
            self._files.append(weights)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files of both graphs and of their weights; computed at first use."""
        digest = hashlib.sha256()
        for path in self._files:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    @property
    def word_source(self) -> WordSource | None:
        """What tells where each word looks: attention, or patch-level maps; None: the graph has neither."""
        if ATTENTION in self._answers:
            return "attention"
        return "patches" if COSINES in self._answers else None

    def encode(self, pixels: Float[ndarray, "N 3 S S"]) -> dict[str, ndarray]:
        """Compute all that depends on the images alone."""
        return dict(zip(self._features, self._run(self._image, self._features, {PIXELS: pixels}), strict=True))

    def decode(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B h w"]:
        """Return the logits of B expressions about one image."""
        (logits,) = self._answer([LOGITS], image, tokens, padding)
        return np.asarray(logits[:, 0])

    def detect(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Detections | None:
        """Return logits and boxes; None: the model detects none."""
        if BOXES not in self._answers:
            return None
        logits, boxes, scores = self._answer([LOGITS, BOXES, BOX_SCORES], image, tokens, padding)
        return Detections(logits[:, 0], boxes, scores)

    def ground(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> tuple[Float[ndarray, "B g g"], Float[ndarray, "B h w"]] | None:
        """Return the patch-level map: cosines, and logits by the map alone; None: the model has no such map."""
        if COSINES not in self._answers:
            return None
        cosines, logits = self._answer([COSINES, MAP_LOGITS], image, tokens, padding)
        return cosines, logits[:, 0]

    def attend(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B _ g g"]:
        """Return how much each cell attends to each token, 0..1."""
        (attention,) = self._answer([ATTENTION], image, tokens, padding)
        return attention

    def _answer(
        self, outputs: list[str], image: Mapping[str, ndarray], tokens: ndarray, padding: ndarray
    ) -> list[ndarray]:
        given = {PREFIX + name: array for name, array in image.items()} | {TOKENS: tokens, PADDING: padding}
        return self._run(self._expression, outputs, given)

    def _run(self, session: Any, outputs: list[str], given: dict[str, ndarray]) -> list[ndarray]:
        options = onnxruntime().RunOptions()
        options.only_execute_path_to_fetches = True  # outputs that are not asked for are not computed
        try:
            computed: list[ndarray] = session.run(outputs, given, options)
        except Exception as error:  # the library's errors have no type in common
            raise WeightsError(f"{self._folder}: cannot be computed: {one_line(error)}") from None
        return computed


def layout_of(weights: Path) -> str:
    """Return the SHA-256 of the header of a safetensors file, which says where in it each tensor is.

    Raises:
        OSError: it cannot be read.
    """
    with weights.open("rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), LONGEST_HEADER))
    return hashlib.sha256(length + header).hexdigest()


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


def _session(path: Path) -> Any:
    library = onnxruntime()
    options = library.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    if (threads := os.environ.get(THREADS, "")).isdigit():
        options.intra_op_num_threads = int(threads)
    if not path.is_file():
        raise WeightsError(f"{path.parent}: {path.name} is missing")
    try:
        return library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's errors have no type in common
        raise WeightsError(f"{path}: broken or incomplete: {one_line(error)}") from None
