"""Choose the thresholds of a model by the mean IoU on a validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg.data.dataset import ImageData
from refseg.errors import DataError
from refseg.evaluation.evaluate import Objects, evaluate, target_of
from refseg.evaluation.metrics import Outcome, count
from refseg.evaluation.protocols import PROTOCOLS, Protocol
from refseg.values import Decision, Expression, Prediction, Sample, Segmenter

__all__ = ["RELATIVE_THRESHOLDS", "THRESHOLDS", "Chosen", "Thresholds", "evaluate_with_own"]

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
LIMITS = (0.001, 0.999)
"""Of the threshold that decides whether a mask is empty."""
RELATIVE_THRESHOLDS = (0.35, 0.4, 0.45, 0.5, 0.55)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The best of the candidate thresholds, and the mean IoU of each candidate."""

    threshold: float
    relative_threshold: float | None
    """None if no relative threshold is better than the threshold alone, and no share of rejections was given."""
    mean_iou: dict[str, float]
    """Over the expressions with a target, by threshold."""
    mean_iou_relative: dict[str, float]
    """The same by relative threshold, together with the chosen threshold."""

    @property
    def decision(self) -> Decision:
        """The decision by these thresholds, without a calibration: that is only valid for its own thresholds."""
        return Decision(threshold=self.threshold, relative_threshold=self.relative_threshold)


@dataclass
class Thresholds:
    """Collects the IoU of every candidate threshold; pass `add` to `evaluate` as `each`."""

    _fixed: list[list[float]] = field(default_factory=list)
    """IoU by expression and threshold."""
    _relative: list[list[float]] = field(default_factory=list)
    """IoU by expression and relative threshold."""
    _highest: list[float] = field(default_factory=list)
    """The highest probability by expression."""

    def add(self, sample: Sample, expression: Expression, prediction: Prediction) -> None:
        """Count one prediction; those for expressions that fit nothing are skipped."""
        if sample.load_mask is None:
            return
        target, ignored = target_of(sample, PROTOCOLS["refseg"])
        assert target is not None
        probability = prediction.unrefined.probability
        highest = float(probability.max())
        self._highest.append(highest)
        self._fixed.append([_iou(probability > one, target, ignored) for one in THRESHOLDS])
        self._relative.append([_iou(probability > one * highest, target, ignored) for one in RELATIVE_THRESHOLDS])

    def __len__(self) -> int:
        """Return how many predictions were counted."""
        return len(self._highest)

    def choose(self, rejections: float | None = None) -> Chosen:
        """Return the threshold of the highest mean IoU, and with it the best relative threshold.

        The threshold is chosen as if it were used alone, because it still decides whether the mask is empty. If a share
        of rejections is given, it decides nothing else: it is the highest one that leaves no more masks empty, and the
        relative threshold tells the pixels.

        Args:
            rejections: the share of the expressions with a target whose mask may be empty.

        Raises:
            DataError: no expression has a target.
        """
        if not self._fixed:
            raise DataError("no expression has a target, so no threshold can be chosen")
        fixed, highest = np.mean(self._fixed, axis=0), np.array(self._highest)
        best = int(fixed.argmax())
        threshold = THRESHOLDS[best]
        if rejections is not None:
            ordered = np.sort(highest)
            rank = min(int(rejections * len(ordered)), len(ordered) - 1)
            # Just below it in float32, as a mask is of the pixels above; a threshold must lie inside of 0..1.
            below = np.nextafter(np.float32(ordered[rank]), np.float32(0))
            threshold = float(np.clip(below, *LIMITS))
        relative = np.mean(np.where(highest[:, None] > threshold, self._relative, 0.0), axis=0)
        share = RELATIVE_THRESHOLDS[int(relative.argmax())]
        return Chosen(
            threshold=threshold,
            relative_threshold=share if rejections is not None or relative.max() > fixed[best] else None,
            mean_iou=_by_name(THRESHOLDS, fixed),
            mean_iou_relative=_by_name(RELATIVE_THRESHOLDS, relative),
        )


def evaluate_with_own(
    segmenter: Segmenter,
    data: ImageData,
    images: int,
    objects: Objects | None = None,
    *,
    protocol: Protocol = PROTOCOLS["refseg"],
    progress: bool = False,
) -> tuple[list[Outcome], list[Outcome]]:
    """Return the outcomes of the first images (see `evaluate`), and those with thresholds chosen for this model.

    The thresholds for each half of the images are chosen on the other half, and take the place of the protocol's. If a
    half has no expression with a target, the second list is empty.
    """
    halves = tuple(range(start, images, 2) for start in (0, 1))
    tried = tuple(Thresholds() for _ in halves)
    outcomes: list[Outcome] = []
    for half, thresholds in zip(halves, tried, strict=True):
        outcomes += evaluate(segmenter, data, half, objects, protocol=protocol, progress=progress, each=thresholds.add)
    again: list[Outcome] = []
    if all(len(thresholds) for thresholds in tried):
        for half, thresholds in zip(halves, reversed(tried), strict=True):
            decision = thresholds.choose().decision
            again += evaluate(segmenter, data, half, objects, protocol=protocol, decision=decision, progress=progress)
    return outcomes, again


def _iou(prediction: Bool[ndarray, "H W"], target: Bool[ndarray, "H W"], ignored: Bool[ndarray, "H W"] | None) -> float:
    counts = count(prediction, target, ignored)
    return counts["intersection"] / counts["union"] if counts["union"] else 0.0


def _by_name(tried: Sequence[float], means: ndarray) -> dict[str, float]:
    return {str(one): float(mean) for one, mean in zip(tried, means, strict=True)}
