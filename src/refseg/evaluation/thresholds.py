"""Which probability makes a pixel part of the mask: chosen by the mean IoU on a validation split."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg.data.batches import ImageData
from refseg.errors import DataError
from refseg.evaluation.evaluate import Objects, evaluate, known_of
from refseg.evaluation.metrics import Outcome, count
from refseg.evaluation.protocols import PROTOCOLS, Protocol
from refseg.predictor import Predictor
from refseg.values import Prediction, Sample

__all__ = ["RELATIVE", "THRESHOLDS", "Chosen", "Thresholds", "evaluate_with_own"]

THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
RELATIVE = (0.35, 0.4, 0.45, 0.5, 0.55)


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The best of the thresholds that were tried, and what each of them was worth."""

    threshold: float
    relative_threshold: float | None
    """None where no relative one is better than the threshold alone."""
    mean_iou: dict[str, float]
    """Over the expressions that mean something, by threshold."""
    mean_iou_relative: dict[str, float]
    """The same by relative threshold, beside the chosen one."""


@dataclass
class Thresholds:
    """Collects what every threshold would have made of predictions; `add` is what `evaluate` calls with each."""

    _fixed: list[list[float]] = field(default_factory=list)
    """IoU by expression and threshold."""
    _relative: list[list[float]] = field(default_factory=list)
    """IoU by expression and relative threshold."""
    _highest: list[float] = field(default_factory=list)

    def add(self, sample: Sample, expression_id: str, prediction: Prediction) -> None:
        """Count one prediction; expressions that fit nothing have no say."""
        if sample.load_mask is None:
            return
        truth, ignored = known_of(sample, PROTOCOLS["refseg"])
        assert truth is not None
        probability, highest = prediction.probability, float(prediction.probability.max())
        self._highest.append(highest)
        self._fixed.append([_iou(probability > one, truth, ignored) for one in THRESHOLDS])
        self._relative.append([_iou(probability > one * highest, truth, ignored) for one in RELATIVE])

    def __len__(self) -> int:
        """How many predictions were counted."""
        return len(self._highest)

    def choose(self) -> Chosen:
        """Return the threshold of the highest mean IoU, and what is the best beside it.

        The threshold is chosen as if it were alone, so that it keeps deciding what is found at all.

        Raises:
            DataError: no expression meant anything.
        """
        if not self._fixed:
            raise DataError("no expression means something, so that no threshold is better than another")
        fixed = np.mean(self._fixed, axis=0)
        best = int(fixed.argmax())
        threshold = THRESHOLDS[best]
        found = np.array(self._highest)[:, None] > threshold
        relative = np.mean(np.where(found, self._relative, 0.0), axis=0)
        share = RELATIVE[int(relative.argmax())]
        return Chosen(
            threshold=threshold,
            relative_threshold=share if relative.max() > fixed[best] else None,
            mean_iou=_by_name(THRESHOLDS, fixed),
            mean_iou_relative=_by_name(RELATIVE, relative),
        )


def evaluate_with_own(
    predictor: Predictor,
    data: ImageData,
    images: int,
    objects: Objects | None = None,
    *,
    protocol: Protocol = PROTOCOLS["refseg"],
    progress: bool = False,
) -> tuple[list[Outcome], list[Outcome]]:
    """Return the outcomes of the first images (see `evaluate`), and those with thresholds of the model's own.

    The own ones are chosen for each half of the images on the other, so that no image has a say in its own. They
    take the place of the protocol's, too. Where a half has nothing to choose by, there are no second outcomes.
    """
    config = predictor.model.config
    halves = tuple(range(start, images, 2) for start in (0, 1))
    tried = tuple(Thresholds() for _ in halves)
    outcomes: list[Outcome] = []
    for half, thresholds in zip(halves, tried, strict=True):
        outcomes += evaluate(predictor, data, half, objects, protocol=protocol, progress=progress, each=thresholds.add)
    again: list[Outcome] = []
    if all(len(thresholds) for thresholds in tried):
        own = replace(protocol, threshold=None)
        try:
            for half, thresholds in zip(halves, reversed(tried), strict=True):
                best = thresholds.choose()
                # What a calibration refuses was measured with other masks.
                predictor.model.config = replace(
                    config,
                    threshold=best.threshold,
                    relative_threshold=best.relative_threshold,
                    calibration=None,
                )
                again += evaluate(predictor, data, half, objects, protocol=own, progress=progress)
        finally:
            predictor.model.config = config
    return outcomes, again


def _iou(found: Bool[ndarray, "H W"], truth: Bool[ndarray, "H W"], ignored: Bool[ndarray, "H W"] | None) -> float:
    counts = count(found, truth, ignored)
    return counts["intersection"] / counts["union"] if counts["union"] else 0.0


def _by_name(tried: tuple[float, ...], means: ndarray) -> dict[str, float]:
    return {str(one): float(mean) for one, mean in zip(tried, means, strict=True)}
