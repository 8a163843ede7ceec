"""Computes a model from two graphs, whichever library computes them; the code of the model is not needed.

An exported model has two graphs: one computes all that depends on the images alone, the other answers expressions about
one image. Their inputs and outputs have the names below; those of the image have the names of `Model.encode_image`, in
the second graph with a prefix. The graphs of a model folder have no weights of their own: they refer to places in its
`model.safetensors`.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from refseg.errors import ConfigError, WeightsError, one_line
from refseg.models.layout import WEIGHTS
from refseg.runtimes.base import Detections, shortened
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
    "THREADS",
    "TOKENS",
    "Graph",
    "GraphRuntime",
    "layout_of",
    "thread_count",
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
THREADS = "OMP_NUM_THREADS"
"""The variable with the number of threads, which PyTorch follows too; without it the libraries use all cores."""


@runtime_checkable
class Graph(Protocol):
    """A graph that a library has loaded; it may be run from several threads at once."""

    @property
    def inputs(self) -> Collection[str]:
        """The names of its inputs."""
        ...

    @property
    def outputs(self) -> Sequence[str]:
        """The names of its outputs."""
        ...

    @property
    def layout(self) -> str | None:
        """The layout of the file of weights that it refers to (see `layout_of`); None: it has its own."""
        ...

    def run(self, outputs: Sequence[str], given: Mapping[str, ndarray]) -> list[ndarray]:
        """Compute some of the outputs; errors are those of the library."""
        ...


class GraphRuntime(ABC):
    """The two graphs of a model (see `runtimes.base.Runtime`).

    Args:
        folder: with the graphs.
        device: `auto` or `cpu`; it has to be a processor.

    Raises:
        ConfigError: the library is not installed, or the device is another one.
        WeightsError: a graph is missing or broken, or they are of two models.
    """

    name: ClassVar[str]
    """Of the runtime, as in `refseg.load`."""
    device = "cpu"
    """What it computes on."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        if device not in ("auto", "cpu"):
            raise ConfigError(f"an exported model is computed on the processor: take the device cpu, not {device}")
        self._folder = folder
        paths = self._paths(folder)
        files = sorted(file for path in paths for file in _files_of(path))
        # Each graph is prepared in one thread for the most part, and hashing need not be done when they are loaded.
        pool = ThreadPoolExecutor(len(paths) + 1)
        graphs = pool.map(self._load, paths)
        self._digests = [pool.submit(_digest, file) for file in files]
        self._image, self._expression = graphs
        needed = {TOKENS, PADDING, *(PREFIX + name for name in self._image.outputs)}
        if LOGITS not in self._expression.outputs or set(self._expression.inputs) != needed:
            names = " and ".join(path.name for path in paths)
            raise WeightsError(f"{folder}: {names} are not of one model; export the model again")
        layouts = {self._image.layout, self._expression.layout}
        if layouts != {None}:
            weights = folder / WEIGHTS
            if not weights.is_file() or layouts != {layout_of(weights)}:
                raise WeightsError(f"{folder}: the graphs were made for another {WEIGHTS}; export the model again")
            self._digests.append(pool.submit(_digest, weights))

    def _load(self, path: Path) -> Graph:
        if not path.is_file():
            raise WeightsError(f"{path.parent}: {path.name} is missing")
        try:
            return self._open(path)
        except ConfigError:
            raise
        except Exception as error:  # the errors of these libraries have no type in common
            raise WeightsError(f"{path}: broken or incomplete: {one_line(error)}") from None

    @staticmethod
    @abstractmethod
    def _paths(folder: Path) -> tuple[Path, Path]:
        """Return the files of the graphs of images and of expressions."""

    @abstractmethod
    def _open(self, path: Path) -> Graph:
        """Load a graph.

        Raises:
            ConfigError: the library is not installed.
        """

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the files of both graphs and of their weights."""
        return hashlib.sha256(b"".join(digest.result() for digest in self._digests)).hexdigest()

    @property
    def word_source(self) -> WordSource | None:
        """What tells where each word looks: attention, or patch-level maps; None: the graph has neither."""
        if ATTENTION in self._expression.outputs:
            return "attention"
        return "patches" if COSINES in self._expression.outputs else None

    def encode(self, pixels: Float[ndarray, "N 3 S S"]) -> dict[str, ndarray]:
        """Compute all that depends on the images alone."""
        names = self._image.outputs
        return dict(zip(names, self._run(self._image, names, {PIXELS: pixels}), strict=True))

    def decode(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B h w"]:
        """Return the logits of B expressions about one image."""
        (logits,) = self._answer([LOGITS], image, *shortened(tokens, padding))
        return np.asarray(logits[:, 0])

    def detect(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Detections | None:
        """Return logits and boxes; None: the model detects none."""
        if BOXES not in self._expression.outputs:
            return None
        logits, boxes, scores = self._answer([LOGITS, BOXES, BOX_SCORES], image, tokens, padding)
        return Detections(logits[:, 0], boxes, scores)

    def ground(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> tuple[Float[ndarray, "B g g"], Float[ndarray, "B h w"]] | None:
        """Return the patch-level map: cosines, and logits by the map alone; None: the model has no such map."""
        if COSINES not in self._expression.outputs:
            return None
        cosines, logits = self._answer([COSINES, MAP_LOGITS], image, tokens, padding)
        return cosines, logits[:, 0]

    def attend(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B _ g g"]:
        """Return how much each cell attends to each token, 0..1, without tokens after the longest expression."""
        (attention,) = self._answer([ATTENTION], image, *shortened(tokens, padding))
        return attention

    def _answer(
        self, outputs: list[str], image: Mapping[str, ndarray], tokens: ndarray, padding: ndarray
    ) -> list[ndarray]:
        given = {PREFIX + name: array for name, array in image.items()} | {TOKENS: tokens, PADDING: padding}
        return self._run(self._expression, outputs, given)

    def _run(self, graph: Graph, outputs: Sequence[str], given: Mapping[str, ndarray]) -> list[ndarray]:
        try:
            return graph.run(outputs, given)
        except Exception as error:  # the errors of these libraries have no type in common
            raise WeightsError(f"{self._folder}: cannot be computed: {one_line(error)}") from None


def layout_of(weights: Path) -> str:
    """Return the SHA-256 of the header of a safetensors file, which says where in it each tensor is.

    Raises:
        OSError: it cannot be read.
    """
    with weights.open("rb") as file:
        length = file.read(8)
        header = file.read(min(int.from_bytes(length, "little"), LONGEST_HEADER))
    return hashlib.sha256(length + header).hexdigest()


def thread_count() -> int | None:
    """Return the number of threads that the user has set, None if there is none."""
    threads = os.environ.get(THREADS, "")
    return int(threads) if threads.isdigit() and int(threads) else None


def _files_of(path: Path) -> list[Path]:
    """Return the files of a graph: its own, and that of its weights."""
    files = (path, path.with_name(f"{path.name}.data"), path.with_suffix(".bin"))
    return [file for file in files if file.is_file()]


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
