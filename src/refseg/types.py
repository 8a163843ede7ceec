"""The three values that flow through the package, and the letters that stand for their axes.

| letter | axis                                                           |
|--------|----------------------------------------------------------------|
| B      | expressions (each with its picture) computed together          |
| S      | side of the square that a picture is letterboxed into, pixels  |
| L      | tokens of an expression, start and end token included          |
| H, W   | height and width of the picture as its owner sees it, pixels   |
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
    """One reference: a picture, the expressions that mean the same region of it, and that region.

    Pictures and masks are loaded when asked for, so that a list of samples costs only its words.
    """

    id: str
    """Unique within the data set."""
    image_id: str
    """Shared by all samples of one picture."""
    expressions: tuple[str, ...]
    """The words, verbatim; each of them means the same region."""
    expression_ids: tuple[str, ...] = ()
    """Of the expressions, unique within the data set; empty where the data have none."""
    load_image: Callable[[], Image.Image]
    """Returns the picture as RGB, (H, W)."""
    load_mask: Callable[[], Bool[ndarray, "H W"]] | None
    """Returns the meant pixels, or is None where the expressions fit nothing in the picture."""
    load_ignored: Callable[[], Bool[ndarray, "H W"]] | None = None
    """Returns the pixels that count neither for nor against a model, or is None where all count."""
    split: str
    source: str
    """The data set that the sample comes from."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    """What else is known, for breakdowns: `temper`, `rivals`, `kind`..."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training input: N pictures, and B expressions each of which asks about one of them."""

    pixels: Float[Tensor, "N 3 S S"]
    """Letterboxed and normalised."""
    tokens: Int64[Tensor, "B L"]
    padding: Bool[Tensor, "B L"]
    """True where a token is padding."""
    image_index: Int64[Tensor, "B"]
    """Which of the N pictures each expression asks about."""
    target: Float[Tensor, "B 1 h w"]
    """The meant region at a quarter of the side, S/4, in 0..1."""
    weight: Float[Tensor, "B"]
    """How much each expression counts in the loss, over the others; positive."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a model's belief in its own masks is worth, measured on a validation split (`refseg calibrate`)."""

    knots: tuple[tuple[float, float], ...]
    """Pairs (belief, score), both rising: between them the score follows a straight line, beyond them it is level."""
    refuse_below: float = 0.0
    """Where the belief is lower, the answer is that nothing fits."""

    def __post_init__(self) -> None:
        values = [value for knot in self.knots for value in knot]
        if not values or not all(0 <= value <= 1 for value in (*values, self.refuse_below)):
            raise ConfigError("calibration needs knots, and its values must lie in 0..1")
        for (belief, score), (next_belief, next_score) in pairwise(self.knots):
            if not (belief < next_belief and score <= next_score):
                raise ConfigError("the knots of calibration must rise")

    def score(self, belief: float) -> float:
        """Return the IoU that masks of this belief had on average, 0..1."""
        beliefs, scores = zip(*self.knots, strict=True)
        return float(np.interp(belief, beliefs, scores))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model found for one expression."""

    expression: str
    """The words, verbatim."""
    probability: Float[ndarray, "H W"]
    """How likely each pixel is to be meant, 0..1, float32, at the picture's own size."""
    threshold: float
    """A pixel is in the mask where its probability is greater: as asked, or by the model's rule for this answer."""
    truncated: bool = False
    """True where the expression was longer than the model reads, so that its end was cut off."""
    calibration: Calibration | None = None
    """What the model's belief is worth, where that was measured."""

    @cached_property
    def _above(self) -> Bool[ndarray, "H W"]:
        return self.probability > self.threshold

    @cached_property
    def refused(self) -> bool:
        """True where the model does not trust the mask that it found: it is taken for nothing."""
        return self.calibration is not None and self.belief < self.calibration.refuse_below

    @cached_property
    def mask(self) -> Bool[ndarray, "H W"]:
        """The pixels that the words mean; none where the answer is refused."""
        return np.zeros_like(self._above) if self.refused else self._above

    @cached_property
    def empty(self) -> bool:
        """True where nothing in the picture fits the words: no pixel exceeds the threshold, or the mask is refused."""
        return not bool(self.mask.any())

    @cached_property
    def box(self) -> tuple[int, int, int, int] | None:
        """The smallest box (x0, y0, x1, y1) around the mask in pixels, x1 and y1 exclusive; None where it is empty."""
        if self.empty:
            return None
        rows, columns = np.flatnonzero(self.mask.any(axis=1)), np.flatnonzero(self.mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1

    @cached_property
    def belief(self) -> float:
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

        Where the model was calibrated it is the mean IoU that masks of the same `belief` had on a validation split, on
        which expressions that fit nothing count 0; else it is the belief itself. It holds for pictures like those of
        that split, and for the model's own threshold: on pictures unlike them a model is sure of itself all the same.
        """
        if self.empty:
            return 0.0
        return self.belief if self.calibration is None else self.calibration.score(self.belief)


@dataclass(frozen=True, eq=False)
class PatchMap:
    """How similar each patch of a picture is to the words: what a model with a grounding map answers on the way."""

    expression: str
    """The words, verbatim."""
    cosines: Float[ndarray, "g g"]
    """Of each patch of the model's square and the sentence, -1..1, float32."""
    probability: Float[ndarray, "H W"]
    """How likely each place is to be meant by the map alone, 0..1, float32, at the picture's own size."""
