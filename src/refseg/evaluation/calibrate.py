"""Calibrate a segmenter on a validation split: choose its thresholds, then fit its score and its rejections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from refseg.config import to_dict
from refseg.data.dataset import DataSet
from refseg.errors import ConfigError
from refseg.evaluation.calibration import check_enough, fit, is_enough
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.reliability import measure_reliability
from refseg.evaluation.thresholds import Thresholds
from refseg.values import Calibration, Decision, Segmenter

__all__ = ["Calibrated", "calibrate"]

REJECTIONS = 0.05
"""The share of masks that may be wrongly rejected, if the split has expressions that fit nothing."""


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A new decision for a model, and the measurements behind it."""

    decision: Decision
    measured: dict[str, Any]
    """JSON: the data, the thresholds if they were chosen, and the effect on images that were not fitted on, None if
    half of the images are too few to fit on."""


def calibrate(
    segmenter: Segmenter,
    data: DataSet,
    *,
    rejections: float | None = None,
    thresholds: bool = False,
    limit: int | None = None,
    progress: bool = False,
) -> Calibrated:
    """Return the decision of a model with a calibration that is measured on a data set.

    The effect is measured on one half of the images after fitting on the other half, unless that half has too few
    expressions; the result is fitted on all. The segmenter is not changed, and a calibration that it has is not used.

    Args:
        segmenter: the model.
        data: a validation split.
        rejections: the share of the expressions with a target whose mask may be rejected, 0 included, 1 excluded. By
            default 0.05 if the split has expressions that fit nothing, otherwise no mask is rejected.
        thresholds: whether to choose the thresholds first, which takes two more passes over the images. It also
            chooses what masks are rejected by, their confidence or their highest probability: what recognises more
            expressions that fit nothing.
        limit: only the first images.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: `rejections` or `limit` is out of range.
        DataError: there are too few expressions.
    """
    if rejections is not None and not 0 <= rejections < 1:
        raise ConfigError(f"rejections must lie in 0..1, 1 excluded, got {rejections}")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit must be at least 1, got {limit}")
    images = range(min(limit or data.num_images, data.num_images))
    samples = [sample for image in images for sample in data.samples_of(image)]
    check_enough(sum(len(sample.expressions) for sample in samples))
    if rejections is None and any(sample.load_mask is None for sample in samples):
        rejections = REJECTIONS
    decision = replace(segmenter.decision, calibration=None)
    chosen: dict[str, Any] = {}
    if thresholds:
        tried = Thresholds()
        evaluate(segmenter, data, images, decision=decision, progress=progress, each=tried.add)
        best = tried.choose()
        decision = best.decision
    outcomes = evaluate(segmenter, data, images, decision=decision, progress=progress)
    further = rejections
    if thresholds and rejections:
        by_highest = tried.choose(rejections)
        others = evaluate(segmenter, data, images, decision=by_highest.decision, progress=progress)
        confidence = _rejects(outcomes, fit(outcomes, rejections=rejections))
        highest = _rejects(others, fit(others))
        chosen["rejected_by"] = {"confidence": confidence, "highest_probability": highest}
        # Where the threshold alone leaves more masks empty than may be, the confidence cannot reject fewer.
        if confidence["present"] > max(rejections, highest["present"]) or confidence["absent"] < highest["absent"]:
            best, decision, outcomes, further = by_highest, by_highest.decision, others, None
    if thresholds:
        chosen["thresholds"] = to_dict(best)
    names = {name: number % 2 for number, name in enumerate(sorted({one.image for one in outcomes}))}
    halves = [[one for one in outcomes if names[one.image] == half] for half in (0, 1)]
    measured = {
        "data": f"{data.name}:{data.split}",
        "digest": data.digest(),
        "images": len(names),
        "expressions": len(outcomes),
        **chosen,
        "rejections": rejections,
        "on_the_other_half": (
            _effect(halves[1], fit(halves[0], rejections=further)) if _can_measure(*halves) else None
        ),
    }
    return Calibrated(decision=replace(decision, calibration=fit(outcomes, rejections=further)), measured=measured)


def _rejects(outcomes: Sequence[Outcome], calibration: Calibration) -> dict[str, float]:
    """Return the share of empty and rejected masks of the expressions with a target, and of those that fit nothing."""
    rejected = {"present": [0.0], "absent": [0.0]}  # of none, nothing is rejected
    for one in outcomes:
        rejected["present" if one.present else "absent"].append(one.empty or one.score < calibration.reject_below)
    return {name: sum(values) / max(1, len(values) - 1) for name, values in rejected.items()}


def _can_measure(fitted: Sequence[Outcome], other: Sequence[Outcome]) -> bool:
    """Return whether a calibration can be fitted on one half of the outcomes, and the other half has any."""
    return (
        is_enough(len(fitted))
        and any(one.present for one in fitted)
        and any(one.score > 0 for one in fitted)
        and len(other) > 0
    )


def _effect(outcomes: Sequence[Outcome], calibration: Calibration) -> dict[str, Any]:
    """Return figures before and after a calibration, of outcomes that it was not fitted on."""
    confidences = np.array([one.score for one in outcomes])
    ious = np.array([one.iou for one in outcomes])
    scores = np.array([calibration.score(confidence) if confidence else 0.0 for confidence in confidences])
    present = np.array([one.present for one in outcomes])
    empty = np.array([one.empty for one in outcomes])
    rejected = empty | (confidences < calibration.reject_below)
    figures: dict[str, Any] = {
        "expected_calibration_error": {
            "before": measure_reliability(confidences, ious).error,
            "after": measure_reliability(scores, ious).error,
        }
    }
    for name, which, before, after in (("n_acc", ~present, empty, rejected), ("t_acc", present, ~empty, ~rejected)):
        if which.any():
            figures[name] = {"before": float(before[which].mean()), "after": float(after[which].mean())}
    return figures
