"""Metrics of referring segmentation, as sums and counts: update, then compute.

The field says "IoU" for two things. Here mean IoU is the mean over expressions, and overall IoU is the sum of the
intersections over the sum of the unions, which favours large objects. Both are always reported.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

__all__ = ["THRESHOLDS", "SegmentationMetrics", "overlap"]

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def overlap(prediction: Bool[ndarray, "H W"], truth: Bool[ndarray, "H W"]) -> tuple[int, int]:
    """Return the pixels of the intersection and of the union."""
    intersection = int(np.count_nonzero(prediction & truth))
    return intersection, int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth)) - intersection


@dataclass
class SegmentationMetrics:
    """Mean IoU, overall IoU, precision at thresholds, and how well absence is told."""

    ious: list[float] = field(default_factory=list)
    intersection: int = 0
    union: int = 0
    absent: int = 0
    absent_told: int = 0
    present_told: int = 0

    def update(self, prediction: Bool[ndarray, "H W"], truth: Bool[ndarray, "H W"] | None) -> float | None:
        """Count one expression; `truth` is None where it fits nothing. Returns its IoU, if it has one."""
        if truth is None:
            self.absent += 1
            self.absent_told += not prediction.any()
            return None
        intersection, union = overlap(prediction, truth)
        iou = intersection / union if union else 0.0
        self.ious.append(iou)
        self.intersection += intersection
        self.union += union
        self.present_told += bool(prediction.any())
        return iou

    def compute(self) -> dict[str, object]:
        """Return the metrics, all fractions of 1; those that nothing was counted for are None.

        `mean_iou`, `overall_iou` and `precision` (the share of expressions with IoU at or above each threshold) are
        over the `n` expressions that mean something. `n_acc` is the share of the `n_absent` others that were given an
        empty mask, `t_acc` the share of the `n` that were not (gRefCOCO's names).
        """
        ious = np.array(self.ious)
        n = len(ious)
        return {
            "n": n,
            "mean_iou": float(ious.mean()) if n else None,
            "overall_iou": self.intersection / self.union if self.union else None,
            "precision": {f"{t:.1f}": float((ious >= t).mean()) if n else None for t in THRESHOLDS},
            "n_absent": self.absent,
            "n_acc": self.absent_told / self.absent if self.absent else None,
            "t_acc": self.present_told / n if n else None,
        }
