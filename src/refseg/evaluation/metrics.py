"""Metrics: the pixels of each expression are counted once, and every metric is computed from those counts.

"IoU" of a data set has two meanings. Here mean IoU is the mean over expressions, and overall IoU is the sum of the
intersections over the sum of the unions, which gives large objects more weight. Both are always reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from refseg.data.words import has_location_word
from refseg.errors import DataError
from refseg.evaluation.protocols import PROTOCOLS, Protocol

__all__ = [
    "BREAKDOWNS",
    "CONFIDENCE",
    "Outcome",
    "breakdown",
    "count",
    "intervals",
    "ratios",
    "resample",
    "sorted_groups",
    "summarise",
]

CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one expression, in pixels."""

    id: str
    """Of the expression, unique within the data set."""
    reference: str
    """The id of the sample that it belongs to."""
    image: str
    expression: str
    present: bool
    """Whether something in the image fits the expression."""
    intersection: int
    """Pixels of both the predicted mask and the target mask."""
    union: int
    """Pixels of the predicted mask or the target mask."""
    predicted_pixels: int
    target_pixels: int
    """0 where nothing fits the expression."""
    image_pixels: int
    """Of the image at the size at which the masks were compared."""
    score: float
    """Of the prediction, 0..1."""
    empty: bool
    """Whether the answer is that nothing fits."""
    truncated: bool = False
    """Whether the expression was longer than the model reads."""
    points_at_target: bool | None = None
    """Whether the predicted mask overlaps the target more than any other object; None if the objects are not known."""
    box_iou: float | None = None
    """Intersection over union of the box that the model detected and the box around the target mask; None if the model
    detects none, or nothing fits."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Of the sample and of the expression."""

    @property
    def iou(self) -> float:
        """Intersection over union, 0 where both masks are empty."""
        return self.intersection / self.union if self.union else 0.0


def count(
    prediction: Bool[ndarray, "H W"], target: Bool[ndarray, "H W"] | None, ignored: Bool[ndarray, "H W"] | None = None
) -> dict[str, int]:
    """Return the pixel counts of an `Outcome`.

    Args:
        prediction: the predicted mask.
        target: the target mask; None where nothing fits.
        ignored: pixels that are left out of all counts.
    """
    if ignored is not None:
        prediction = prediction & ~ignored
        target = None if target is None else target & ~ignored
    predicted_pixels = int(np.count_nonzero(prediction))
    target_pixels = 0 if target is None else int(np.count_nonzero(target))
    intersection = 0 if target is None else int(np.count_nonzero(prediction & target))
    return {
        "intersection": intersection,
        "union": predicted_pixels + target_pixels - intersection,
        "predicted_pixels": predicted_pixels,
        "target_pixels": target_pixels,
        "image_pixels": prediction.size,
    }


BOX_HIT = 0.5
"""A detected box is right from this IoU on, in referring expression comprehension (MCN; its code)."""


class _Columns:
    """Outcomes as arrays, counted by the rules of a protocol."""

    def __init__(self, outcomes: Sequence[Outcome], protocol: Protocol) -> None:
        def column(name: str, kind: Any) -> ndarray:
            return np.array([getattr(one, name) for one in outcomes], dtype=kind)

        self.present = column("present", bool)
        if not protocol.no_target and not self.present.all():
            raise DataError(
                f"the {protocol.name} protocol has no rule for expressions that fit nothing; take refseg or gres"
            )
        union, intersection = column("union", np.int64), column("intersection", np.int64)
        self.nothing_fits = column("empty", bool) | (column("predicted_pixels", np.int64) < protocol.min_pixels)
        """Whether the answer is that nothing fits."""
        total = union + protocol.epsilon
        self.iou = np.divide(intersection, total, out=np.zeros(len(outcomes)), where=total > 0)
        self.intersection, self.union = intersection, union
        self.points_at_target = np.array(
            [np.nan if one.points_at_target is None else one.points_at_target for one in outcomes], dtype=float
        )
        self.box_iou = np.array([np.nan if one.box_iou is None else one.box_iou for one in outcomes], dtype=float)
        # gRefCOCO: an expression that fits nothing has IoU 1 and adds nothing to the sums if the answer says so. A
        # target that the answer denies has IoU 0, and the sum of unions still grows by its union with the mask.
        self.general_iou = np.where(
            self.present, np.where(self.nothing_fits, 0.0, self.iou), self.nothing_fits.astype(float)
        )
        self.general_intersection = np.where(self.present & ~self.nothing_fits, intersection, 0)
        self.general_union = np.where(~self.present & self.nothing_fits, 0, union)

    def hits(self, protocol: Protocol, threshold: float) -> Bool[ndarray, "N"]:
        iou = self.general_iou if protocol.name == "gres" else self.iou
        return iou > threshold if protocol.strict else iou >= threshold

    def sums(self, protocol: Protocol) -> dict[str, tuple[Float[ndarray, "N"], Float[ndarray, "N"]]]:
        """Return numerators and denominators of each metric by expression; the metric is the ratio of their sums."""
        present, absent = self.present.astype(float), (~self.present).astype(float)
        every = np.ones(len(self.present))
        known = np.where(np.isnan(self.points_at_target), 0.0, present)
        sums = {
            "mean_iou": (self.iou * present, present),
            "overall_iou": (self.intersection * present, self.union * present),
            **{
                f"precision@{threshold:.1f}": (self.hits(protocol, threshold) * present, present)
                for threshold in protocol.thresholds
            },
            "n_acc": (self.nothing_fits * absent, absent),
            "t_acc": (~self.nothing_fits * present, present),
            "pointing": (np.nan_to_num(self.points_at_target) * known, known),
        }
        if (boxed := ~np.isnan(self.box_iou)).any():
            sums["box_accuracy"] = ((self.box_iou >= BOX_HIT).astype(float), boxed.astype(float))
        if absent.any():
            sums["giou"] = (self.general_iou, every)
            sums["ciou"] = (self.general_intersection.astype(float), self.general_union.astype(float))
        return sums


def summarise(outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"]) -> dict[str, Any]:
    """Return the metrics, all fractions of 1; a metric over no expressions is None.

    `mean_iou`, `overall_iou` and `precision` (the share of expressions with an IoU of at least, or above, each
    threshold) are over the `n` expressions that have a target. `n_acc` is the share of the `n_absent` others that are
    answered by "nothing fits", `t_acc` the share of the `n` that are not. If there are expressions that fit nothing,
    `giou` and `ciou` are gRefCOCO's mean and cumulative IoU over all expressions. `pointing` is the share of masks that
    overlap the target more than any other object, and `box_accuracy`, of models that detect boxes, the share of boxes
    with an IoU of at least 0.5. `mean_iou_by_reference` is the mean over references of the mean over their expressions.

    Source: gRefCOCO (GRES, CVPR 2023), section 3, for N-acc, T-acc, gIoU and cIoU.

    Raises:
        DataError: there are expressions that fit nothing, and the protocol has no rule for them.
    """
    columns = _Columns(outcomes, protocol)
    figures: dict[str, Any] = {"n": int(columns.present.sum()), "n_absent": int((~columns.present).sum())}
    precision: dict[str, float | None] = {}
    for name, (numerator, denominator) in columns.sums(protocol).items():
        below = fsum(denominator)  # exact, so that the order of the outcomes changes no digit
        value = fsum(numerator) / below if below else None
        if name.startswith("precision@"):
            precision[name.removeprefix("precision@")] = value
        else:
            figures[name] = value
    figures["precision"] = precision
    by_reference: dict[str, list[float]] = {}
    for one, iou in zip(outcomes, columns.iou.tolist(), strict=True):
        if one.present:
            by_reference.setdefault(one.reference, []).append(iou)
    means = [fsum(ious) / len(ious) for ious in by_reference.values()]
    figures["mean_iou_by_reference"] = fsum(means) / len(means) if means else None
    return figures


def intervals(
    outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"], *, seed: int = 0
) -> dict[str, list[float]]:
    """Return bootstrap confidence intervals (95 %) of the metrics, as pairs [low, high].

    Images are resampled, not expressions, 1,000 times, because expressions of one image are not independent.
    """
    columns = _Columns(outcomes, protocol)
    _, image = np.unique(np.array([one.image for one in outcomes]), return_inverse=True)
    images = int(image.max()) + 1 if len(outcomes) else 0
    if images < 2:
        return {}
    sums = columns.sums(protocol)
    totals = np.zeros((images, 2 * len(sums)))
    np.add.at(totals, image, np.stack([part for pair in sums.values() for part in pair], axis=1))
    resampled = resample(totals, seed=seed)
    edges = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    found = {}
    for number, name in enumerate(sums):
        numerator, denominator = resampled[:, 2 * number], resampled[:, 2 * number + 1]
        values = numerator[denominator > 0] / denominator[denominator > 0]
        if len(values):
            found[name] = [float(edge) for edge in np.percentile(values, edges)]
    return found


def resample(totals: Float[ndarray, "P K"], *, seed: int = 0) -> Float[ndarray, "R K"]:
    """Return the sums of each column over P images resampled with replacement, once for each of 1,000 draws."""
    images = len(totals)
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.multinomial(images, np.full(images, 1 / images), 50) @ totals for _ in range(RESAMPLES // 50)]
    )


def ratios(
    outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"]
) -> dict[str, tuple[Float[ndarray, "N"], Float[ndarray, "N"]]]:
    """Return the numerators and denominators of each metric by outcome; the metric is the ratio of their sums.

    Raises:
        DataError: as `summarise` does.
    """
    return _Columns(outcomes, protocol).sums(protocol)


SIZES = ((0.01, "below 1 % of the image"), (0.05, "1 to 5 %"), (0.2, "5 to 20 %"), (1.01, "20 % or more"))
LENGTHS = ((2, "1-2 words"), (5, "3-5 words"), (10, "6-10 words"), (10**9, "more than 10 words"))


def _size(one: Outcome) -> str:
    share = one.target_pixels / one.image_pixels
    return next(name for limit, name in SIZES if share < limit)


def _length(one: Outcome) -> str:
    words = len(one.expression.split())
    return next(name for limit, name in LENGTHS if words <= limit)


def _location(one: Outcome) -> str:
    return "yes" if has_location_word(one.expression) else "no"


def _distractors(one: Outcome) -> str | None:
    distractors = one.attributes.get("distractors")
    return None if not isinstance(distractors, int) else str(distractors) if distractors < 3 else "3 or more"


def _attribute(name: str) -> Callable[[Outcome], str | None]:
    return lambda one: None if name not in one.attributes else str(one.attributes[name]).lower()


GROUP_ORDER = {name: place for names in (SIZES, LENGTHS) for place, (_, name) in enumerate(names)}


def sorted_groups(names: Iterable[str]) -> list[str]:
    """Return the names of a breakdown's groups in the order in which they are shown."""
    return sorted(names, key=lambda name: (GROUP_ORDER.get(name, 0), name))


BREAKDOWNS: dict[str, Callable[[Outcome], str | None]] = {
    "size": _size,
    "words": _length,
    "location_words": _location,
    "distractors": _distractors,
    **{name: _attribute(name) for name in ("style", "form", "held_out", "targets")},
}
"""Returns the group of an outcome, or None if it belongs to none, by the name of the breakdown."""


def breakdown(
    outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `n`, `mean_iou`, `overall_iou` and `pointing` of expressions with a target, by group (`BREAKDOWNS`)."""
    found = {}
    for name, key_of in BREAKDOWNS.items():
        groups: dict[str, list[Outcome]] = {}
        for one in outcomes:
            key = key_of(one) if one.present else None
            if key is not None:
                groups.setdefault(key, []).append(one)
        if groups:
            found[name] = {key: _brief(members, protocol) for key, members in sorted(groups.items())}
    return found


def _brief(outcomes: Sequence[Outcome], protocol: Protocol) -> dict[str, Any]:
    figures = summarise(outcomes, protocol)
    return {name: figures[name] for name in ("n", "mean_iou", "overall_iou", "pointing")}
