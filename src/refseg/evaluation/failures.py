"""Hints at why an expression failed, in the kinds that CRIS' authors show: each a rule that can be read and doubted.

A hint is no diagnosis. Whether words are imperfect or an annotation is wrong, only people can tell; a rule can only say
where to look first. A failure is an expression with an IoU below 0.5, unless a rule says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg.evaluation.metrics import Outcome

__all__ = ["KINDS", "Kind", "Masks", "near_border", "parts"]

FAILED = 0.5
REACH = 5
"""Pixels from the true border within which an error is one of the border."""
AT_BORDER = 0.9
"""The share of wrong pixels that must lie there."""
AGREE = 0.7
"""The IoU with each other from which two predictions are the same."""
FEW_WORDS = 3
SMALLEST_PART = 0.02
"""The share of the mask from which a piece of it counts as a part; smaller ones are crumbs of the annotation."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks of one expression as they were compared."""

    truth: Bool[ndarray, "h w"]
    found: Bool[ndarray, "h w"] | None = None
    """The prediction, where it is stored."""
    other: Bool[ndarray, "h w"] | None = None
    """A second model's."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of failure, and the rule by which it is guessed."""

    name: str
    shown_as: str
    """What CRIS' authors call the kind that this hints at, empty where it is none of theirs."""
    rule: str
    """How it is assigned, for readers."""
    suspect: Callable[[Outcome], bool]
    """What the counts of an expression say; where masks have a say too, whether it is worth to look at them."""
    seen: Callable[[Masks], bool] | None = None
    """What the masks say, None where the counts are enough."""
    needs: tuple[str, ...] = ()
    """Which of the masks, besides the true one."""


def near_border(mask: Bool[ndarray, "h w"], reach: int) -> Bool[ndarray, "h w"]:
    """Return the pixels, inside and outside, that have the border of a mask within so many pixels, diagonals being 1.

    The edge of the image is no border.
    """
    near: ndarray = _grown(mask, reach) & _grown(~mask, reach)
    return near


def _grown(mask: Bool[ndarray, "h w"], reach: int) -> Bool[ndarray, "h w"]:
    """Return the pixels with one of the mask in the square of 2 reach + 1 around them."""
    for _ in range(2):  # along one axis, then along the other
        sums = np.pad(mask, ((reach + 1, reach), (0, 0))).cumsum(axis=0, dtype=np.int32)
        grown: ndarray = sums[2 * reach + 1 :] > sums[: -2 * reach - 1]
        mask = grown.T
    return mask


def parts(mask: Bool[ndarray, "h w"]) -> list[int]:
    """Return the pixels of each connected part of a mask, corners connecting, the largest first."""
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    leader = list(range(len(rows)))

    def first(run: int) -> int:
        while leader[run] != run:
            leader[run] = leader[leader[run]]
            run = leader[run]
        return run

    above = 0  # the first run of the row above that may still touch
    for run in range(len(rows)):
        while above < run and (
            rows[above] < rows[run] - 1 or (rows[above] == rows[run] - 1 and ends[above] < starts[run])
        ):
            above += 1
        touching = above
        while touching < run and rows[touching] == rows[run] - 1 and starts[touching] <= ends[run]:
            leader[first(run)] = first(touching)
            touching += 1
    sizes = np.bincount([first(run) for run in range(len(rows))], weights=ends - starts, minlength=1)
    return sorted((int(size) for size in sizes if size), reverse=True)


def _iou(one: Bool[ndarray, "h w"], other: Bool[ndarray, "h w"]) -> float:
    union = int(np.count_nonzero(one | other))
    return int(np.count_nonzero(one & other)) / union if union else 0.0


def _at_border(masks: Masks) -> bool:
    assert masks.found is not None
    wrong = masks.found ^ masks.truth
    near = near_border(masks.truth, REACH)
    thick = bool((masks.truth & ~near).any())  # of a thing thinner than the reach every error is near the border
    return thick and int(np.count_nonzero(wrong & near)) >= AT_BORDER * int(np.count_nonzero(wrong))


def _agree_against(masks: Masks) -> bool:
    assert masks.found is not None
    assert masks.other is not None
    return _iou(masks.found, masks.other) >= AGREE and _iou(masks.other, masks.truth) < FAILED


def _in_parts(masks: Masks) -> bool:
    sizes = parts(masks.truth)
    return sum(size >= SMALLEST_PART * sum(sizes) for size in sizes) > 1


def _failed(one: Outcome) -> bool:
    return one.present and one.iou < FAILED


def _ambiguous(one: Outcome) -> bool:
    distractors = one.attributes.get("distractors")
    few = len(one.expression.split()) <= FEW_WORDS
    return _failed(one) and few and isinstance(distractors, int) and distractors > 0


KINDS: MappingProxyType[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                name="ambiguous words",
                shown_as="imperfect expressions",
                rule=f"IoU below 0.5, at most {FEW_WORDS} words, and the data know another thing of the same kind in "
                "the image. Words that say too little or are wrong in other ways are not recognised.",
                suspect=_ambiguous,
            ),
            Kind(
                name="two models against the annotation",
                shown_as="noisy annotation",
                rule=f"Two models agree with each other (IoU {AGREE} or more), and neither with the true mask (below "
                "0.5). They may share a mistake. With one model alone this cannot be told.",
                suspect=_failed,
                seen=_agree_against,
                needs=("found", "other"),
            ),
            Kind(
                name="boundary",
                shown_as="boundaries",
                rule=f"IoU from 0.5 to 0.8, and at least {AT_BORDER:.0%} of the wrong pixels lie within {REACH} pixels "
                "of the true border, on things thicker than that.",
                suspect=lambda one: one.present and FAILED <= one.iou < 0.8,
                seen=_at_border,
                needs=("found",),
            ),
            Kind(
                name="true mask in several parts",
                shown_as="occlusion",
                rule="IoU below 0.5, and the true mask falls into parts that do not touch, each at least "
                f"{SMALLEST_PART:.0%} of it. Something in front often does that, but so do groups and gaps; a thing "
                "that is hidden without being split is not recognised.",
                suspect=_failed,
                seen=_in_parts,
            ),
            Kind(
                name="wrong object",
                shown_as="",
                rule="Something was found, and not one pixel of it is meant. The surest first.",
                suspect=lambda one: one.present and not one.empty and one.found > 0 and one.intersection == 0,
            ),
            Kind(
                name="nothing found",
                shown_as="",
                rule="The expression means something, and the model says that nothing fits. The largest things first.",
                suspect=lambda one: one.present and (one.empty or not one.found),
            ),
            Kind(
                name="found what is not there",
                shown_as="",
                rule="The expression fits nothing, and the model found something. The surest first.",
                suspect=lambda one: not one.present and not one.empty and one.found > 0,
            ),
        )
    }
)
