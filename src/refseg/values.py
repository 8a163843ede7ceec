"""The three values that flow through the package, and the letters that stand for their axes.

| letter | axis                                                           |
|--------|----------------------------------------------------------------|
| B      | expressions (each with its image) computed together          |
| S      | side of the square that an image is letterboxed into, pixels  |
| L      | tokens of an expression, start and end token included          |
| H, W   | height and width of the image as its owner sees it, pixels   |
| C      | channels                                                       |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor

from refseg.errors import ConfigError

__all__ = ["Batch", "Calibration", "PatchMap", "Prediction", "Sample"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One reference: an image, the expressions that mean the same region of it, and that region.

    Images and masks are loaded when asked for, so that a list of samples costs only its words.
    """

    id: str
    """Unique within the data set."""
    image_id: str
    """Shared by all samples of one image."""
    expressions: tuple[str, ...]
    """The words, verbatim; each of them means the same region."""
    expression_ids: tuple[str, ...] = ()
    """Of the expressions, unique within the data set; empty where the data have none."""
    load_image: Callable[[], Image.Image]
    """Returns the image as RGB, (H, W)."""
    load_mask: Callable[[], Bool[ndarray, "H W"]] | None
    """Returns the meant pixels, or is None where the expressions fit nothing in the image."""
    load_ignored: Callable[[], Bool[ndarray, "H W"]] | None = None
    """Returns the pixels that count neither for nor against a model, or is None where all count."""
    split: str
    source: str
    """The data set that the sample comes from."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    """What else is known, for breakdowns: `style`, `distractors`, `kind`..."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training input: N images, and B expressions each of which asks about one of them."""

    pixels: Float[Tensor, "N 3 S S"]
    """Letterboxed and normalised."""
    tokens: Int64[Tensor, "B L"]
    padding: Bool[Tensor, "B L"]
    """True where a token is padding."""
    image_index: Int64[Tensor, "B"]
    """Which of the N images each expression asks about."""
    target: Float[Tensor, "B 1 h w"]
    """The meant region at a quarter of the side, S/4, in 0..1."""
    weight: Float[Tensor, "B"]
    """How much each expression counts in the loss, over the others; positive."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a model's confidence in its own masks is worth, measured on a validation split (`refseg calibrate`)."""

    knots: tuple[tuple[float, float], ...]
    """Pairs (confidence, score), both rising: between them the score follows a straight line, beyond them it is level."""
    reject_below: float = 0.0
    """Where the confidence is lower, the answer is that nothing fits."""

    def __post_init__(self) -> None:
        values = [value for knot in self.knots for value in knot]
        if not values or not all(0 <= value <= 1 for value in (*values, self.reject_below)):
            raise ConfigError("calibration needs knots, and its values must lie in 0..1")
        for (confidence, score), (next_belief, next_score) in pairwise(self.knots):
            if not (confidence < next_belief and score <= next_score):
                raise ConfigError("the knots of calibration must rise")

    def score(self, confidence: float) -> float:
        """Return the IoU that masks of this confidence had on average, 0..1."""
        confidences, scores = zip(*self.knots, strict=True)
        return float(np.interp(confidence, confidences, scores))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model found for one expression."""

    expression: str
    """The words, verbatim."""
    probability: Float[ndarray, "H W"]
    """How likely each pixel is to be meant, 0..1, float32, at the image's own size."""
    threshold: float
    """A pixel is in the mask where its probability is greater: as asked, or by the model's rule for this answer."""
    truncated: bool = False
    """True where the expression was longer than the model reads, so that its end was cut off."""
    calibration: Calibration | None = None
    """What the model's confidence is worth, where that was measured."""

    @cached_property
    def _above(self) -> Bool[ndarray, "H W"]:
        return self.probability > self.threshold

    @cached_property
    def rejected(self) -> bool:
        """True where the model does not trust the mask that it found: it is taken for nothing."""
        return self.calibration is not None and self.confidence < self.calibration.reject_below

    @cached_property
    def mask(self) -> Bool[ndarray, "H W"]:
        """The pixels that the words mean; none where the answer is refused."""
        return np.zeros_like(self._above) if self.rejected else self._above

    @cached_property
    def empty(self) -> bool:
        """True where nothing in the image fits the words: no pixel exceeds the threshold, or the mask is refused."""
        return not bool(self.mask.any())

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """The smallest box (x0, y0, x1, y1) around the mask in pixels, x1 and y1 exclusive; None where it is empty."""
        if self.empty:
            return None
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @cached_property
    def confidence(self) -> float:
        """How far the model agrees with its own mask, 0..1: the intersection over union that it expects of it.

        With p the probabilities and M the pixels above the threshold it is sum(p in M) / (|M| + sum(p outside M)): the
        expected intersection over the expected union, were every pixel right with just its probability. It falls when
        the inside is unsure and when other places are nearly as likely. It is 0 where no pixel is above the threshold.
        """
        inside = float(self.probability.sum(where=self._above, dtype=np.float64))
        everything = float(self.probability.sum(dtype=np.float64))
        union = float(self._above.sum()) + everything - inside
        return min(1.0, inside / union) if inside > 0 else 0.0

    @cached_property
    def score(self) -> float:
        """The intersection over union to expect of the mask, 0..1; 0 where it is empty.

        Where the model was calibrated it is the mean IoU that masks of the same `confidence` had on a validation split, on
        which expressions that fit nothing count 0; else it is the confidence itself. It holds for images like those of
        that split, and for the model's own threshold: on images unlike them a model is sure of itself all the same.
        """
        if self.empty:
            return 0.0
        return self.confidence if self.calibration is None else self.calibration.score(self.confidence)


@dataclass(frozen=True, eq=False)
class PatchMap:
    """How similar each patch of an image is to the words: what a model with a grounding map answers on the way."""

    expression: str
    """The words, verbatim."""
    cosines: Float[ndarray, "g g"]
    """Of each patch of the model's square and the sentence, -1..1, float32."""
    probability: Float[ndarray, "H W"]
    """How likely each place is to be meant by the map alone, 0..1, float32, at the image's own size."""
