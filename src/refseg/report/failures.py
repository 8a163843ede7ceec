"""Kinds of failures, each assigned by a simple rule, after the kinds that the authors of CRIS show.

A kind is a hint, not a diagnosis: only people can judge whether an expression or an annotation is wrong. A failure is
an expression with an IoU below 0.5, unless a rule says otherwise.

Source: the failure cases that the authors of CRIS (CVPR 2022) show.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg.evaluation.metrics import Outcome
from refseg.masks import iou, near_border, parts

__all__ = ["KINDS", "Kind", "Masks"]

FAILED = 0.5
REACH = 5
"""The distance in pixels from the border of the target within which an error is a border error."""
AT_BORDER = 0.9
"""The share of wrong pixels that must lie within that distance."""
AGREE = 0.7
"""Two predictions with this IoU or more agree."""
FEW_WORDS = 3
SMALLEST_PART = 0.02
"""The least share of a mask that counts as a part; smaller parts are inaccuracies of the annotation."""


@dataclass(frozen=True, kw_only=True)
class Masks:
    """The masks of one expression at the size at which they are compared."""

    target: Bool[ndarray, "h w"]
    predicted: Bool[ndarray, "h w"] | None = None
    """The predicted mask, if it is stored."""
    other: Bool[ndarray, "h w"] | None = None
    """The mask of a second model."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of failure, and the rule that assigns it."""

    name: str
    shown_as: str
    """The name that the authors of CRIS give to a similar kind, empty if there is none."""
    rule: str
    """The rule as a text for readers."""
    suspect: Callable[[Outcome], bool]
    """Whether the pixel counts of an expression satisfy the rule; the first step if masks are examined too."""
    seen: Callable[[Masks], bool] | None = None
    """Whether the masks satisfy the rule; None if the counts are enough."""
    needs: tuple[str, ...] = ()
    """The masks, besides that of the target, that `seen` examines."""


def _at_border(masks: Masks) -> bool:
    assert masks.predicted is not None
    wrong = masks.predicted ^ masks.target
    near = near_border(masks.target, REACH)
    thick = bool((masks.target & ~near).any())  # in a thinner target every error is near the border
    return thick and int(np.count_nonzero(wrong & near)) >= AT_BORDER * int(np.count_nonzero(wrong))


def _agree_against(masks: Masks) -> bool:
    assert masks.predicted is not None
    assert masks.other is not None
    return iou(masks.predicted, masks.other) >= AGREE and iou(masks.other, masks.target) < FAILED


def _in_parts(masks: Masks) -> bool:
    sizes = parts(masks.target)
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
                name="ambiguous expression",
                shown_as="imperfect expressions",
                rule=f"IoU below 0.5, at most {FEW_WORDS} words, and the data set knows a distractor of the same "
                "category in the image. Other incomplete or wrong expressions are not recognised.",
                suspect=_ambiguous,
            ),
            Kind(
                name="two models against the annotation",
                shown_as="noisy annotation",
                rule=f"Two models agree with each other (IoU {AGREE} or more), and neither agrees with the target mask "
                "(IoU below 0.5). Both may make the same mistake. The rule needs two models.",
                suspect=_failed,
                seen=_agree_against,
                needs=("predicted", "other"),
            ),
            Kind(
                name="boundary",
                shown_as="boundaries",
                rule=f"IoU from 0.5 to 0.8, and at least {AT_BORDER:.0%} of the wrong pixels lie within {REACH} pixels "
                "of the border of the target, if the target is thicker than that.",
                suspect=lambda one: one.present and FAILED <= one.iou < 0.8,
                seen=_at_border,
                needs=("predicted",),
            ),
            Kind(
                name="target mask in several parts",
                shown_as="occlusion",
                rule="IoU below 0.5, and the target mask has several parts that do not touch, each at least "
                f"{SMALLEST_PART:.0%} of it. Occlusion often causes this, but so do groups and gaps; an object "
                "that is occluded without being split is not recognised.",
                suspect=_failed,
                seen=_in_parts,
            ),
            Kind(
                name="wrong object",
                shown_as="",
                rule="The predicted mask is not empty and has no pixel of the target. The highest score first.",
                suspect=lambda one: (
                    one.present and not one.empty and one.predicted_pixels > 0 and one.intersection == 0
                ),
            ),
            Kind(
                name="target without a mask",
                shown_as="",
                rule="The expression has a target, and the answer is that nothing fits. The largest target first.",
                suspect=lambda one: one.present and (one.empty or not one.predicted_pixels),
            ),
            Kind(
                name="mask without a target",
                shown_as="",
                rule="Nothing fits the expression, and the predicted mask is not empty. The highest score first.",
                suspect=lambda one: not one.present and not one.empty and one.predicted_pixels > 0,
            ),
        )
    }
)
