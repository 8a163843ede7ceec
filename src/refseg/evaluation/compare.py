"""Two results of the same data, expression by expression: by how much one is better, and whether that may be chance.

Differences are of the second result over the first: above 0 the second is better. Expressions of one image do not
come out independently, so that images are drawn and flipped as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from refseg.errors import DataError
from refseg.evaluation.figures import About, about
from refseg.evaluation.metrics import BREAKDOWNS, CONFIDENCE, Outcome, ratios, resample
from refseg.evaluation.protocols import Protocol
from refseg.evaluation.result import Result
from refseg.evaluation.tables import MOST_GROUPS, ORDER

__all__ = ["Change", "Comparison", "Difference", "compare", "sign_flip", "verdict"]

FLIPS = 10_000
ENUMERATED = 12
"""Up to so many images that differ, all ways to flip them are tried."""
COUNTED = {"overall_iou": "mean_iou", "ciou": "giou"}
"""Whose denominators, which are 1 or 0, tell over how many expressions a metric is whose own are pixels."""
SHOWN = 10
"""Expressions that are listed as most improved, and as most worsened."""
LEVEL = 0.05
"""The p-value below which a difference is called real."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric of both results, as fractions of 1."""

    n: int
    """Expressions that it is over."""
    first: float
    second: float
    difference: float
    """The second minus the first."""
    low: float | None
    """Of the 95 % interval of the difference; None where there are too few images to tell."""
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Change:
    """How one expression came out in both."""

    id: str
    image: str
    expression: str
    first: float
    """Its IoU in the first result."""
    second: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How two results differ."""

    first: str
    """What made the first result."""
    second: str
    data: str
    split: str
    protocol: str
    whole: bool
    num_images: int
    n: int
    """Expressions that mean something; mean IoU, wins, ties and losses are over them."""
    n_absent: int
    metrics: dict[str, Difference]
    p_value: float | None
    """Of the difference in mean IoU (see `sign_flip`); None where no expression means something."""
    wins: int
    """Expressions of which the second result has the higher IoU."""
    ties: int
    losses: int
    improved: tuple[Change, ...]
    """The expressions that the second gains most on, the most first."""
    worsened: tuple[Change, ...]
    by: dict[str, dict[str, Difference]]
    """The difference in mean IoU, by what is known of the expressions (see `metrics.breakdown`); the largest groups."""


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
        raise DataError(
            f"not comparable: {len(ours - theirs):,} expressions are only in the first result, "
            f"{len(theirs - ours):,} only in the second; score the same part of the data"
        )
    if not ours:
        raise DataError("not comparable: the results hold no expressions")


def _check_pairs(pairs: Sequence[tuple[Outcome, Outcome]]) -> None:
    for one, other in pairs:
        if (one.present, one.image, one.meant) != (other.present, other.image, other.meant):
            raise DataError(f"not comparable: expression {one.id[:60]} has another image or meaning in the second")


@dataclass(frozen=True, kw_only=True)
class _Paired:
    """A metric's numerators and denominators in both results: it is the ratio of their sums."""

    n: int
    """Expressions that it is over."""
    before: Float[ndarray, "N"]
    below_before: Float[ndarray, "N"]
    after: Float[ndarray, "N"]
    below_after: Float[ndarray, "N"]

    def of(self, chosen: Bool[ndarray, "N"]) -> _Paired:
        """Return it over some of the expressions."""
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
    """Return the difference of each metric that something was counted for in both results."""
    images = int(image.max()) + 1
    totals = np.zeros((images, 4 * len(columns)))
    np.add.at(totals, image, np.concatenate([one.stacked() for one in columns.values()], axis=1))
    drawn = resample(totals, seed=seed) if images > 1 else totals[:0]
    whole = totals.sum(axis=0)
    found = {}
    for number, (name, column) in enumerate(columns.items()):
        place = slice(4 * number, 4 * number + 4)
        above, below, their_above, their_below = whole[place].tolist()
        if below and their_below:
            first, second = above / below, their_above / their_below
            low, high = _edges(drawn[:, place])
            found[name] = Difference(
                n=column.n, first=first, second=second, difference=second - first, low=low, high=high
            )
    return found


def _edges(drawn: Float[ndarray, "R 4"]) -> tuple[float | None, float | None]:
    """Return the interval of a difference, from draws of its numerators and denominators."""
    counted = drawn[(drawn[:, 1] > 0) & (drawn[:, 3] > 0)]
    if not len(counted):
        return None, None
    values = counted[:, 2] / counted[:, 3] - counted[:, 0] / counted[:, 1]
    low, high = np.percentile(values, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return float(low), float(high)


def sign_flip(changes: Float[ndarray, "N"], image: ndarray, *, seed: int = 0) -> float:
    """Return the two-sided p-value of the mean of paired changes, by flipping the signs of whole images.

    Were there no difference between two models, then the changes of each image could as well have come out with the
    opposite sign. The p-value is the share of flips whose sum of changes is as far from 0 as the real one, or
    further: over all flips where few images differ, else over 10,000 random ones with the real one among them.

    Args:
        changes: of each expression.
        image: the number of its image.
        seed: of the random flips.
    """
    by_image = np.bincount(image, weights=changes)
    by_image = by_image[by_image != 0]
    if not len(by_image):
        return 1.0
    # Sums in another order differ in their last digits: what is equal must not count as less.
    reached = abs(float(by_image.sum())) - 1e-9 * float(np.abs(by_image).sum())
    if len(by_image) <= ENUMERATED:
        ways = np.arange(2 ** len(by_image))[:, None] >> np.arange(len(by_image)) & 1
        return float((np.abs((1 - 2 * ways) @ by_image) >= reached).mean())
    rng = np.random.default_rng(seed)
    beyond = 0
    for _ in range(FLIPS // 500):  # in parts, for there may be many images
        signs = 1 - 2 * rng.integers(0, 2, (500, len(by_image)), dtype=np.int8)
        beyond += int((np.abs(signs @ by_image) >= reached).sum())
    return (beyond + 1) / (FLIPS + 1)


def _most_changed(
    pairs: Sequence[tuple[Outcome, Outcome]], iou: _Paired
) -> tuple[tuple[Change, ...], tuple[Change, ...]]:
    """Return the expressions that the second result gains most on, and those that it loses most on."""
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
            largest = [key for key, _ in counts.most_common(MOST_GROUPS)]
            largest.sort(key=lambda key: (ORDER.get(key, 0), key))
            found[name] = _differences({key: iou.of(keys == key) for key in largest}, image, seed)
    return found


def _keys(outcomes: Sequence[Outcome], key_of: Callable[[Outcome], str | None]) -> ndarray:
    """Return the group of each expression, None for those of none."""
    return np.array([key_of(one) if one.present else None for one in outcomes], dtype=object)


def verdict(comparison: Comparison) -> str:
    """Return one plain sentence that says whether the difference in mean IoU is real."""
    found, p = comparison.metrics.get("mean_iou"), comparison.p_value
    if found is None or p is None:
        return "Nothing to tell: no expression means something."
    if not comparison.wins and not comparison.losses:
        return "There is no difference: every expression has the same IoU in both results."
    points, better = (
        f"{100 * abs(found.difference):.2f} points of mean IoU",
        "second" if found.difference > 0 else "first",
    )
    how = f"p = {p:.2g}, over {comparison.n:,} expressions in {comparison.num_images:,} images"
    if found.low is None or found.high is None:
        return f"Too few images to tell whether the difference of {points} is real ({how})."
    how = f"95 % interval of the difference {100 * found.low:+.2f} to {100 * found.high:+.2f}, {how}"
    surely = not found.low <= 0 <= found.high
    if p < LEVEL and surely:
        return f"The {better} result is better by {points}, and that is hardly chance: {how}."
    if p < LEVEL or surely:
        return f"The {better} result is ahead by {points}, but whether that is chance is on the edge: {how}."
    return f"The difference of {points} may well be chance: {how}."
