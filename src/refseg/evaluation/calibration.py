"""Fit a calibration: scores that equal the IoU to expect, and a confidence below which masks are rejected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from refseg.errors import DataError
from refseg.evaluation.metrics import Outcome
from refseg.values import Calibration

__all__ = ["check_enough", "fit", "is_enough", "rejection_threshold"]

MIN_EXPRESSIONS = 100
"""A calibration of fewer expressions would be mostly noise."""
GROUP_SIZE = 25
"""The least number of expressions whose mean is a knot."""
MAX_KNOTS = 20


def fit(outcomes: Sequence[Outcome], *, rejections: float | None = None) -> Calibration:
    """Return the calibration of a model from its outcomes without one.

    Expressions, sorted by confidence, are put into groups of equal size; groups whose mean IoU falls while their
    confidence rises are merged (isotonic regression by pooling adjacent violators). Each group is a knot. Expressions
    that fit nothing have an IoU of 0; empty masks are left out, since their score is 0.

    Args:
        outcomes: of a validation split; their scores are the model's confidences.
        rejections: the share of the expressions with a target whose mask may be rejected; None rejects no mask.

    Raises:
        DataError: there are too few outcomes, or all masks are empty.
    """
    check_enough(len(outcomes))
    confidences = np.array([one.score for one in outcomes], dtype=float)
    ious = np.array([one.iou if one.present else 0.0 for one in outcomes], dtype=float)
    present = np.array([one.present for one in outcomes], dtype=bool)
    answered = confidences > 0
    if not answered.any():
        raise DataError("all masks of the model are empty, so its score cannot be calibrated")
    knots = _rising(confidences[answered], ious[answered])
    below = 0.0 if rejections is None else rejection_threshold(confidences, present, rejections)
    return Calibration(knots=knots, reject_below=below)


def is_enough(expressions: int) -> bool:
    """Return whether so many expressions are enough to fit a calibration."""
    return expressions >= MIN_EXPRESSIONS


def check_enough(expressions: int) -> None:
    """Check that there are enough expressions to fit a calibration.

    Raises:
        DataError: there are not.
    """
    if not is_enough(expressions):
        raise DataError(
            f"a calibration needs at least {MIN_EXPRESSIONS} expressions, and there are {expressions}: add more, or "
            "leave the model without a calibration (`refseg calibrate MODEL --forget --out FOLDER`)"
        )


def rejection_threshold(confidences: Float[ndarray, "N"], present: Bool[ndarray, "N"], rejections: float) -> float:
    """Return the highest confidence that rejects at most a share of the expressions with a target.

    Raises:
        DataError: no expression has a target.
    """
    ordered = np.sort(confidences[present])
    if not len(ordered):
        raise DataError("no expression has a target, so no rejection can be chosen")
    return float(ordered[min(int(rejections * len(ordered)), len(ordered) - 1)])


def _rising(confidences: Float[ndarray, "N"], ious: Float[ndarray, "N"]) -> tuple[tuple[float, float], ...]:
    """Return pairs (mean confidence, mean IoU) of groups, both rising."""
    order = np.argsort(confidences, kind="stable")
    groups = np.array_split(order, min(max(len(order) // GROUP_SIZE, 1), MAX_KNOTS))
    pooled: list[tuple[int, float, float]] = []
    for group in groups:
        size, confidence, iou = len(group), float(confidences[group].mean()), float(ious[group].mean())
        while pooled and (pooled[-1][2] >= iou or pooled[-1][1] >= confidence):
            n, lower_confidence, lower_iou = pooled.pop()
            confidence = (n * lower_confidence + size * confidence) / (n + size)
            iou = (n * lower_iou + size * iou) / (n + size)
            size += n
        pooled.append((size, confidence, iou))
    return tuple((min(confidence, 1.0), min(iou, 1.0)) for _, confidence, iou in pooled)
