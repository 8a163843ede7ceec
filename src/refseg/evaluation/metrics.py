"""From pixels to numbers: each expression is counted once, and every number is made from those counts.

The field says "IoU" for two things. Here mean IoU is the mean over expressions, and overall IoU is the sum of the
intersections over the sum of the unions, which favours large objects. Both are always reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    "LENGTHS",
    "SIZES",
    "Outcome",
    "breakdown",
    "count",
    "intervals",
    "overlap",
    "ratios",
    "resample",
    "summarise",
]

CONFIDENCE = 0.95
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one expression came out, in pixels."""

    id: str
    """Of the expression, unique within the data set."""
    reference: str
    """Of the sample that it belongs to."""
    image: str
    expression: str
    present: bool
    """Whether the expression means something."""
    intersection: int
    """Pixels that are both found and meant."""
    union: int
    """Pixels that are found or meant."""
    found: int
    """Pixels of the mask."""
    meant: int
    """Pixels of the true mask; 0 where the expression fits nothing."""
    pixels: int
    """Of the image, as it was compared."""
    score: float
    """The model's own score, 0..1."""
    empty: bool
    """Whether the model says that nothing fits."""
    truncated: bool = False
    """Whether the expression was longer than the model reads."""
    pointed: bool | None = None
    """Whether the mask overlaps the meant object more than any other; None where the objects are not known."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)

    @property
    def iou(self) -> float:
        """Intersection over union, 0 where nothing is found nor meant."""
        return self.intersection / self.union if self.union else 0.0


def overlap(prediction: Bool[ndarray, "H W"], truth: Bool[ndarray, "H W"]) -> tuple[int, int]:
    """Return the pixels of the intersection and of the union."""
    intersection = int(np.count_nonzero(prediction & truth))
    return intersection, int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth)) - intersection


def count(
    prediction: Bool[ndarray, "H W"], truth: Bool[ndarray, "H W"] | None, ignored: Bool[ndarray, "H W"] | None = None
) -> dict[str, int]:
    """Return the pixel counts of an `Outcome`.

    Args:
        prediction: what was found.
        truth: what is meant; None where nothing is.
        ignored: pixels that count neither for nor against.
    """
    if ignored is not None:
        prediction = prediction & ~ignored
        truth = None if truth is None else truth & ~ignored
    found = int(np.count_nonzero(prediction))
    meant = 0 if truth is None else int(np.count_nonzero(truth))
    intersection = 0 if truth is None else int(np.count_nonzero(prediction & truth))
    return {
        "intersection": intersection,
        "union": found + meant - intersection,
        "found": found,
        "meant": meant,
        "pixels": prediction.size,
    }


class _Columns:
    """Outcomes as arrays, by a protocol's rules."""

    def __init__(self, outcomes: Sequence[Outcome], protocol: Protocol) -> None:
        def column(name: str, kind: Any) -> ndarray:
            return np.array([getattr(one, name) for one in outcomes], dtype=kind)

        self.present = column("present", bool)
        if not protocol.absent and not self.present.all():
            raise DataError(
                f"the {protocol.name} protocol has no rule for expressions that fit nothing; take refseg or gres"
            )
        found, union, intersection = (column(name, np.int64) for name in ("found", "union", "intersection"))
        self.told = column("empty", bool) | (found < protocol.fewest)
        """Where the model says that nothing fits."""
        total = union + protocol.guard
        self.iou = np.divide(intersection, total, out=np.zeros(len(outcomes)), where=total > 0)
        self.intersection, self.union = intersection, union
        self.pointed = np.array([np.nan if one.pointed is None else one.pointed for one in outcomes], dtype=float)
        # gRefCOCO: what is rightly said to be absent is a hit, and costs the sums nothing; a target that is said to be
        # absent is a miss, and costs the sums the union with the mask all the same.
        self.general_iou = np.where(self.present, np.where(self.told, 0.0, self.iou), self.told.astype(float))
        self.general_intersection = np.where(self.present & ~self.told, intersection, 0)
        self.general_union = np.where(~self.present & self.told, 0, union)

    def hits(self, protocol: Protocol, threshold: float) -> Bool[ndarray, "N"]:
        iou = self.general_iou if protocol.name == "gres" else self.iou
        return iou > threshold if protocol.strict else iou >= threshold

    def sums(self, protocol: Protocol) -> dict[str, tuple[Float[ndarray, "N"], Float[ndarray, "N"]]]:
        """Return each metric as numerators and denominators of the expressions: it is the ratio of their sums."""
        present, absent = self.present.astype(float), (~self.present).astype(float)
        everything = np.ones(len(self.present))
        known = np.where(np.isnan(self.pointed), 0.0, present)
        sums = {
            "mean_iou": (self.iou * present, present),
            "overall_iou": (self.intersection * present, self.union * present),
            **{
                f"precision@{threshold:.1f}": (self.hits(protocol, threshold) * present, present)
                for threshold in protocol.thresholds
            },
            "n_acc": (self.told * absent, absent),
            "t_acc": (~self.told * present, present),
            "pointing": (np.nan_to_num(self.pointed) * known, known),
        }
        if absent.any():
            sums["giou"] = (self.general_iou, everything)
            sums["ciou"] = (self.general_intersection.astype(float), self.general_union.astype(float))
        return sums


def summarise(outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"]) -> dict[str, Any]:
    """Return the metrics, all fractions of 1; those that nothing was counted for are None.

    `mean_iou`, `overall_iou` and `precision` (the share of expressions with IoU at, or above, each threshold) are over
    the `n` expressions that mean something. `n_acc` is the share of the `n_absent` others of which the model says so,
    `t_acc` the share of the `n` of which it does not. Where some fit nothing, `giou` and `ciou` are gRefCOCO's mean and
    cumulative IoU over all. `pointing` is the share of masks that overlap the meant object more than any other.
    `mean_iou_by_reference` is the mean over references of the mean over their expressions.

    Raises:
        DataError: the protocol has no rule for expressions that fit nothing, and there are some.
    """
    columns = _Columns(outcomes, protocol)
    figures: dict[str, Any] = {"n": int(columns.present.sum()), "n_absent": int((~columns.present).sum())}
    precision: dict[str, float | None] = {}
    for name, (numerator, denominator) in columns.sums(protocol).items():
        below = float(denominator.sum())
        value = float(numerator.sum()) / below if below else None
        if name.startswith("precision@"):
            precision[name.removeprefix("precision@")] = value
        else:
            figures[name] = value
    figures["precision"] = precision
    by_reference: dict[str, list[float]] = {}
    for one, iou in zip(outcomes, columns.iou.tolist(), strict=True):
        if one.present:
            by_reference.setdefault(one.reference, []).append(iou)
    means = [sum(ious) / len(ious) for ious in by_reference.values()]
    figures["mean_iou_by_reference"] = sum(means) / len(means) if means else None
    return figures


def intervals(
    outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"], *, seed: int = 0
) -> dict[str, list[float]]:
    """Return bootstrap confidence intervals (95 %) of the metrics, as pairs [low, high].

    Images are drawn, not expressions, 1,000 times: expressions of one image do not come out independently.
    """
    columns = _Columns(outcomes, protocol)
    _, image = np.unique(np.array([one.image for one in outcomes]), return_inverse=True)
    images = int(image.max()) + 1 if len(outcomes) else 0
    if images < 2:
        return {}
    sums = columns.sums(protocol)
    totals = np.zeros((images, 2 * len(sums)))
    np.add.at(totals, image, np.stack([part for pair in sums.values() for part in pair], axis=1))
    drawn = resample(totals, seed=seed)
    edges = [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)]
    found = {}
    for number, name in enumerate(sums):
        numerator, denominator = drawn[:, 2 * number], drawn[:, 2 * number + 1]
        values = numerator[denominator > 0] / denominator[denominator > 0]
        if len(values):
            found[name] = [float(edge) for edge in np.percentile(values, edges)]
    return found


def resample(totals: Float[ndarray, "P K"], *, seed: int = 0) -> Float[ndarray, "R K"]:
    """Return the sums of each column over P images drawn with replacement, once for each of 1,000 draws."""
    images = len(totals)
    rng = np.random.default_rng(seed)
    return np.concatenate(
        [rng.multinomial(images, np.full(images, 1 / images), 50) @ totals for _ in range(RESAMPLES // 50)]
    )


def ratios(
    outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"]
) -> dict[str, tuple[Float[ndarray, "N"], Float[ndarray, "N"]]]:
    """Return each metric as numerators and denominators, one of each for every outcome; it is the ratio of their sums.

    Raises:
        DataError: as `summarise` does.
    """
    return _Columns(outcomes, protocol).sums(protocol)


SIZES = ((0.01, "below 1 % of the image"), (0.05, "1 to 5 %"), (0.2, "5 to 20 %"), (1.01, "20 % or more"))
LENGTHS = ((2, "1-2 words"), (5, "3-5 words"), (10, "6-10 words"), (10**9, "more than 10 words"))


def _size(one: Outcome) -> str:
    share = one.meant / one.pixels
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


BREAKDOWNS: dict[str, Callable[[Outcome], str | None]] = {
    "size": _size,
    "words": _length,
    "location_words": _location,
    "distractors": _distractors,
    **{name: _attribute(name) for name in ("style", "form", "held_out", "targets")},
}


def breakdown(
    outcomes: Sequence[Outcome], protocol: Protocol = PROTOCOLS["refseg"]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return `n`, `mean_iou`, `overall_iou` and `pointing` of the present expressions, by what is known of them."""
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
