"""What a model's confidence in its masks is worth: scores that are the IoU to expect, and a confidence too low to answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from refseg.errors import DataError
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.reliability import measure_reliability
from refseg.values import Calibration

__all__ = ["expected_calibration_error", "fit", "rejection_threshold"]

FEWEST = 100
"""Expressions that a calibration takes; fewer say too little."""
IN_A_GROUP = 25
"""Expressions whose mean makes a knot, at least: single ones would be noise."""
MOST_KNOTS = 20


def expected_calibration_error(scores: Float[ndarray, "N"], ious: Float[ndarray, "N"]) -> float:
    """Return the mean distance between score and IoU, in ten bins of the score (see `reliability`).

    Raises:
        DataError: there are no scores, or they do not lie in 0..1.
    """
    found = measure_reliability(scores, ious)
    if found is None:
        raise DataError("the calibration error needs scores, and they must lie in 0..1")
    return found.error


def fit(outcomes: Sequence[Outcome], *, rejections: float | None = None) -> Calibration:
    """Return the calibration that outcomes of an uncalibrated model ask for.

    Expressions in the order of their confidence are put into groups of the same size; groups whose mean IoU falls though
    their confidence rises are merged (isotonic regression by pooling adjacent violators). Each group is a knot. Expressions
    that fit nothing have an IoU of 0; those that nothing was found for are left out, since their score is 0.

    Args:
        outcomes: of a validation split; their scores are the model's confidences.
        rejections: the share of the expressions that mean something whose answer may be refused; None refuses none.

    Raises:
        DataError: there are too few outcomes, or nothing was found for any of them.
    """
    if len(outcomes) < FEWEST:
        raise DataError(f"a calibration needs {FEWEST} expressions or more, got {len(outcomes)}")
    confidences = np.array([one.score for one in outcomes], dtype=float)
    ious = np.array([one.iou if one.present else 0.0 for one in outcomes], dtype=float)
    present = np.array([one.present for one in outcomes], dtype=bool)
    found = confidences > 0
    if not found.any():
        raise DataError("the model finds nothing at all, so that its score cannot be calibrated")
    knots = _rising(confidences[found], ious[found])
    below = 0.0 if rejections is None else rejection_threshold(confidences, present, rejections)
    return Calibration(knots=knots, reject_below=below)


def rejection_threshold(confidences: Float[ndarray, "N"], present: Bool[ndarray, "N"], rejections: float) -> float:
    """Return the highest confidence below which no more than a share of the expressions that mean something lie.

    Raises:
        DataError: no expression means something.
    """
    ordered = np.sort(confidences[present])
    if not len(ordered):
        raise DataError("no expression means something, so that no rejection can be weighed")
    return float(ordered[min(int(rejections * len(ordered)), len(ordered) - 1)])


def _rising(confidences: Float[ndarray, "N"], ious: Float[ndarray, "N"]) -> tuple[tuple[float, float], ...]:
    """Return pairs (mean confidence, mean IoU) of groups, both rising."""
    order = np.argsort(confidences, kind="stable")
    groups = np.array_split(order, min(max(len(order) // IN_A_GROUP, 1), MOST_KNOTS))
    pooled: list[tuple[int, float, float]] = []
    for group in groups:
        size, confidence, iou = len(group), float(confidences[group].mean()), float(ious[group].mean())
        while pooled and (pooled[-1][2] >= iou or pooled[-1][1] >= confidence):
            n, before, lower = pooled.pop()
            confidence = (n * before + size * confidence) / (n + size)
            iou = (n * lower + size * iou) / (n + size)
            size += n
        pooled.append((size, confidence, iou))
    return tuple((min(confidence, 1.0), min(iou, 1.0)) for _, confidence, iou in pooled)
