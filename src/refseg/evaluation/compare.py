"""Compare two results of the same data, expression by expression, and test whether the difference may be chance.

Differences are the second result minus the first: above 0 the second is better. Expressions of one image are not
independent, so images are resampled and flipped as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from refseg.errors import DataError, counted
from refseg.evaluation.about import About, about
from refseg.evaluation.metrics import BREAKDOWNS, CONFIDENCE, Outcome, ratios, resample, sorted_groups
from refseg.evaluation.protocols import Protocol
from refseg.evaluation.result import Result

__all__ = ["Change", "Comparison", "Difference", "compare", "sign_flip", "verdict"]

FLIPS = 10_000
ENUMERATED = 12
"""If at most this many images differ, all ways to flip them are tried."""
COUNTED = {"overall_iou": "mean_iou", "ciou": "giou"}
"""By a metric whose denominators are pixels: the one whose denominators are 1 or 0 and so count its expressions."""
SHOWN = 10
"""Expressions that are listed as most improved, and as most worsened."""
MAX_GROUPS = 40
"""The largest groups of a breakdown; other data sets may have any number of groups."""
LEVEL = 0.05
"""The p-value below which a difference is called significant."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of both results, as fractions of 1."""

    n: int
    """The number of expressions that the metric is over."""
    first: float
    second: float
    difference: float
    """The second minus the first."""
    low: float | None
    """Of the 95 % interval of the difference; None if there are too few images."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """The IoU of one expression in both results."""

    id: str
    image: str
    expression: str
    first: float
    """IoU in the first result."""
    second: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The differences of two results."""

    first: str
    """The model or the predictions of the first result."""
    second: str
    data: str
    split: str
    protocol: str
    whole: bool
    num_images: int
    n: int
    """Expressions with a target; mean IoU, wins, ties and losses are over them."""
    n_absent: int
    metrics: dict[str, Difference]
    p_value: float | None
    """Of the difference in mean IoU (see `sign_flip`); None if no expression has a target."""
    wins: int
    """Expressions for which the second result has the higher IoU."""
    ties: int
    losses: int
    improved: tuple[Change, ...]
    """The expressions that gain most in the second result, the largest gain first."""
    worsened: tuple[Change, ...]
    by: dict[str, dict[str, Difference]]
    """The difference in mean IoU by the groups of `metrics.breakdown`, the `MAX_GROUPS` largest of each."""


def compare(a: Result, b: Result, *, seed: int = 0) -> Comparison:
    """Compare two results of the same expressions.

    Args:
        a: the first.
        b: the second.
        seed: of the bootstrap and the permutations.

    Raises:
        DataError: they are not of the same data, protocol and expressions, or one is broken.
    """
    first, second = about(a), about(b)
    _check_same(first, second)
    theirs = {one.id: one for one in b.outcomes}
    _check_ids({one.id for one in a.outcomes}, theirs.keys())
    pairs = [(one, theirs[one.id]) for one in sorted(a.outcomes, key=lambda one: one.id)]
    _check_pairs(pairs)
    before, after = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    present = np.array([one.present for one in before], dtype=bool)
    _, image = np.unique(np.array([one.image for one in before]), return_inverse=True)
    columns = _paired_columns(before, after, first.protocol)
    metrics = _differences(columns, image, seed)
    changes = columns["mean_iou"].after[present] - columns["mean_iou"].before[present]
    improved, worsened = _most_changed(pairs, columns["mean_iou"])
    return Comparison(
        first=first.made_by,
        second=second.made_by,
        data=first.data,
        split=first.split,
        protocol=first.protocol.name,
        whole=first.whole and second.whole,
        num_images=int(image.max()) + 1,
        n=int(present.sum()),
        n_absent=int((~present).sum()),
        metrics=metrics,
        p_value=sign_flip(changes, image[present], seed=seed) if present.any() else None,
        wins=int((changes > 0).sum()),
        ties=int((changes == 0).sum()),
        losses=int((changes < 0).sum()),
        improved=improved,
        worsened=worsened,
        by=_broken_down(before, columns["mean_iou"], image, seed),
    )


def _check_same(first: About, second: About) -> None:
    """Check that two results are of the same data and protocol.

    Raises:
        DataError: they are not.
    """
    names = f"{first.data}:{first.split}", f"{second.data}:{second.split}"
    if first.digest != second.digest:
        what = f"{names[0]} and {names[1]}" if names[0] != names[1] else f"{names[0]} with different contents"
        raise DataError(f"not comparable: the results are of different data, {what}")
    if first.protocol != second.protocol:
        one, other = first.protocol.name, second.protocol.name
        kinds = f"{one} and {other}" if one != other else f"{one} with different settings"
        raise DataError(f"not comparable: the results were counted by different protocols, {kinds}")


def _check_ids(ours: Set[str], theirs: Set[str]) -> None:
    if ours != theirs:
        only = counted(len(ours - theirs), "expression is", "expressions are")
        raise DataError(
            f"not comparable: {only} only in the first result, {len(theirs - ours):,} only in the "
            "second; score the same part of the data"
        )
    if not ours:
        raise DataError("not comparable: the results hold no expressions")


def _check_pairs(pairs: Sequence[tuple[Outcome, Outcome]]) -> None:
    for one, other in pairs:
        if (one.present, one.image, one.target_pixels) != (other.present, other.image, other.target_pixels):
            raise DataError(f"not comparable: expression {one.id[:60]} has another image or target in the second")


@dataclass(frozen=True, kw_only=True)
class _Paired:
    """The numerators and denominators of a metric in both results; the metric is the ratio of their sums."""

    n: int
    """The number of expressions that the metric is over."""
    before: Float[ndarray, "N"]
    below_before: Float[ndarray, "N"]
    after: Float[ndarray, "N"]
    below_after: Float[ndarray, "N"]

    def of(self, chosen: Bool[ndarray, "N"]) -> _Paired:
        """Return the metric over some of the expressions."""
        return _Paired(
            n=int(chosen.sum()),
            before=self.before * chosen,
            below_before=self.below_before * chosen,
            after=self.after * chosen,
            below_after=self.below_after * chosen,
        )

    def stacked(self) -> Float[ndarray, "N 4"]:
        return np.stack([self.before, self.below_before, self.after, self.below_after], axis=1)


def _paired_columns(before: Sequence[Outcome], after: Sequence[Outcome], protocol: Protocol) -> dict[str, _Paired]:
    """Return the metrics that both results have."""
    ours, theirs = ratios(before, protocol), ratios(after, protocol)
    return {
        name: _Paired(
            n=int((ours[COUNTED.get(name, name)][1] > 0).sum()),
            before=ours[name][0],
            below_before=ours[name][1],
            after=theirs[name][0],
            below_after=theirs[name][1],
        )
        for name in ours
    }


def _differences(columns: Mapping[str, _Paired], image: ndarray, seed: int) -> dict[str, Difference]:
    """Return the difference of each metric that is over at least one expression in both results."""
    images = int(image.max()) + 1
    totals = np.zeros((images, 4 * len(columns)))
    np.add.at(totals, image, np.concatenate([one.stacked() for one in columns.values()], axis=1))
    resampled = resample(totals, seed=seed) if images > 1 else totals[:0]
    whole = totals.sum(axis=0)
    found = {}
    for number, (name, column) in enumerate(columns.items()):
        place = slice(4 * number, 4 * number + 4)
        above, below, their_above, their_below = whole[place].tolist()
        if below and their_below:
            first, second = above / below, their_above / their_below
            low, high = _edges(resampled[:, place])
            found[name] = Difference(
                n=column.n, first=first, second=second, difference=second - first, low=low, high=high
            )
    return found


def _edges(resampled: Float[ndarray, "R 4"]) -> tuple[float | None, float | None]:
    """Return the interval of a difference, from draws of its numerators and denominators."""
    counted = resampled[(resampled[:, 1] > 0) & (resampled[:, 3] > 0)]
    if not len(counted):
        return None, None
    values = counted[:, 2] / counted[:, 3] - counted[:, 0] / counted[:, 1]
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def sign_flip(changes: Float[ndarray, "N"], image: ndarray, *, seed: int = 0) -> float:
    """Return the two-sided p-value of the mean of paired changes, by flipping the signs of whole images.

    If two models do not differ, the changes of each image are as likely to have the opposite sign. The p-value is the
    share of flips whose sum of changes is at least as far from 0 as the observed one: over all flips if few images
    differ, otherwise over 10,000 random ones and the observed one.

    Args:
        changes: of each expression.
        image: the number of its image.
        seed: of the random flips.
    """
    by_image = np.bincount(image, weights=changes)
    by_image = by_image[by_image != 0]
    if not len(by_image):
        return 1.0
    # The last digits of a sum depend on its order; equal sums must not count as less.
    reached = abs(float(by_image.sum())) - 1e-9 * float(np.abs(by_image).sum())
    if len(by_image) <= ENUMERATED:
        ways = np.arange(2 ** len(by_image))[:, None] >> np.arange(len(by_image)) & 1
        return float((np.abs((1 - 2 * ways) @ by_image) >= reached).mean())
    rng = np.random.default_rng(seed)
    beyond = 0
    for _ in range(FLIPS // 500):  # in parts, because there may be many images
        signs = 1 - 2 * rng.integers(0, 2, (500, len(by_image)), dtype=np.int8)
        beyond += int((np.abs(signs @ by_image) >= reached).sum())
    return (beyond + 1) / (FLIPS + 1)


def _most_changed(
    pairs: Sequence[tuple[Outcome, Outcome]], iou: _Paired
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Return the expressions that gain most in the second result, and those that lose most."""
    changes = [
        Change(id=one.id, image=one.image, expression=one.expression, first=first, second=second)
        for (one, _), first, second in zip(pairs, iou.before.tolist(), iou.after.tolist(), strict=True)
        if one.present
    ]
    gained = sorted(changes, key=lambda change: (change.first - change.second, change.id))[:SHOWN]
    lost = sorted(changes, key=lambda change: (change.second - change.first, change.id))[:SHOWN]
    return (
        tuple(change for change in gained if change.second > change.first),
        tuple(change for change in lost if change.second < change.first),
    )


def _broken_down(
    outcomes: Sequence[Outcome], iou: _Paired, image: ndarray, seed: int
) -> dict[str, dict[str, Difference]]:
    found = {}
    for name, key_of in BREAKDOWNS.items():
        keys = _keys(outcomes, key_of)
        counts = Counter(key for key in keys.tolist() if key is not None)
        if counts:
            largest = sorted_groups(key for key, _ in counts.most_common(MAX_GROUPS))
            found[name] = _differences({key: iou.of(keys == key) for key in largest}, image, seed)
    return found


def _keys(outcomes: Sequence[Outcome], key_of: Callable[[Outcome], str | None]) -> ndarray:
    """Return the group of each expression, None for those that belong to none."""
    return np.array([key_of(one) if one.present else None for one in outcomes], dtype=object)


def verdict(comparison: Comparison) -> str:
    """Return one sentence that says whether the difference in mean IoU is significant."""
    found, p = comparison.metrics.get("mean_iou"), comparison.p_value
    if found is None or p is None:
        return "Nothing to compare: no expression has a target."
    if not comparison.wins and not comparison.losses:
        return "There is no difference: every expression has the same IoU in both results."
    points, better = (
        f"{100 * abs(found.difference):.2f} points of mean IoU",
        "second" if found.difference > 0 else "first",
    )
    how = f"p = {p:.2g}, over {counted(comparison.n, 'expression')} in {counted(comparison.num_images, 'image')}"
    if found.low is None or found.high is None:
        return f"Too few images to test the difference of {points} ({how})."
    how = f"95 % interval of the difference {100 * found.low:+.2f} to {100 * found.high:+.2f}, {how}"
    outside = not found.low <= 0 <= found.high
    if p < LEVEL and outside:
        return f"The {better} result is better by {points}, and the difference is significant: {how}."
    if p < LEVEL or outside:
        return f"The {better} result is ahead by {points}; interval and p-value disagree on the significance: {how}."
    return f"The difference of {points} is not significant: {how}."
