"""The contract of a runtime: arrays in, arrays out, whichever library computes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from refseg.values import WordSource

__all__ = ["Arithmetic", "Detections", "Runtime", "probabilities", "shortened"]

Arithmetic: TypeAlias = Literal["exact", "fast"]
"""How a model is computed: `exact` in float32; `fast` with products of bfloat16, which have 8 bits of precision."""


class Detections(NamedTuple):
    """What a model that detects boxes computes for B expressions about one image."""

    logits: Float[ndarray, "B h w"]
    boxes: Float[ndarray, "B 4"]
    """(x0, y0, x1, y1) as fractions of the side of the square."""
    scores: Float[ndarray, "B"]
    """The probability that a box is the target's, 0..1."""


@runtime_checkable
class Runtime(Protocol):
    """The weights of a model, ready to compute; its methods may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Of the runtime, as in `refseg.load`: `torch`, `onnx` or `openvino`."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the weights: SHA-256 of their names, shapes and values."""
        ...

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        ...

    @property
    def word_source(self) -> WordSource | None:
        """What tells where each word looks: `attend`, or `ground`; None: the model has neither."""
        ...

    def encode(self, pixels: Float[ndarray, "N 3 S S"]) -> dict[str, ndarray]:
        """Compute all that depends on the images alone: arrays by name, whose first axis is the image."""
        ...

    def decode(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B h w"]:
        """Return the logits of B expressions about one image, float32.

        Args:
            image: arrays of `encode`, whose first axis is one.
            tokens: of the expressions.
            padding: True where a token is padding.
        """
        ...

    def detect(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Detections | None:
        """Return the logits as `decode` does, and boxes; None: the model detects none."""
        ...

    def ground(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> tuple[Float[ndarray, "B g g"], Float[ndarray, "B h w"]] | None:
        """Return the patch-level map: cosines, -1..1, and logits by the map alone; None: the model has no such map."""
        ...

    def attend(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B _ g g"]:
        """Return how much each cell attends to each token, 0..1, of a model whose `word_source` is `attention`.

        Tokens after the end of the longest expression may be left out.
        """
        ...


def probabilities(logits: Float[ndarray, "*B h w"]) -> Float[ndarray, "*B h w"]:
    """Return the probabilities that logits stand for, 0..1."""
    with np.errstate(over="ignore"):  # the exponential of a large number is infinite, and the probability 0
        return np.asarray(1 / (1 + np.exp(-logits)))


def shortened(
    tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
) -> tuple[Int64[ndarray, "B K"], Bool[ndarray, "B K"]]:
    """Return tokens and padding up to the end of the longest expression: what is after it need not be computed."""
    longest = int((~padding).sum(axis=1).max())
    return tokens[:, :longest], padding[:, :longest]
