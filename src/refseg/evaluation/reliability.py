"""Reliability of scores: a score is the IoU to expect of a mask, compared here with the IoU of the mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refseg.errors import DataError

__all__ = ["Bin", "Reliability", "measure_reliability"]

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The expressions whose score lies in one tenth of 0..1."""

    low: float
    high: float
    n: int
    score: float | None
    """The mean of their scores, None if there are none."""
    iou: float | None
    """The mean of their IoUs, None if there are none."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The values of a reliability diagram."""

    n: int
    bins: tuple[Bin, ...]
    error: float
    """The expected calibration error, 0..1 (see `measure_reliability`)."""


def measure_reliability(scores: Float[ndarray, "N"], ious: Float[ndarray, "N"]) -> Reliability:
    """Compare scores, 0..1, with IoUs.

    The scores are put into ten bins of equal width: [0, 0.1), [0.1, 0.2) ... [0.9, 1]. The expected calibration error
    is the sum over bins of n_b / N * |mean score of b - mean IoU of b|, with n_b of the N expressions in bin b. This is
    the usual definition for classifiers with the IoU in place of the accuracy. It is 0 if the mean score equals the
    mean IoU in every bin, even if no single score equals its IoU.

    Raises:
        DataError: there are no scores, or they do not lie in 0..1.
    """
    if not len(scores) or not ((scores >= 0) & (scores <= 1)).all():
        raise DataError("the calibration error needs scores, and they must lie in 0..1")
    place = np.minimum((scores * BINS).astype(int), BINS - 1)
    bins = []
    for index in range(BINS):
        here = place == index
        n = int(here.sum())
        bins.append(
            Bin(
                low=index / BINS,
                high=(index + 1) / BINS,
                n=n,
                score=float(scores[here].mean()) if n else None,
                iou=float(ious[here].mean()) if n else None,
            )
        )
    gaps = [one.n * abs(one.score - one.iou) for one in bins if one.score is not None and one.iou is not None]
    return Reliability(n=len(scores), bins=tuple(bins), error=sum(gaps) / len(scores))
