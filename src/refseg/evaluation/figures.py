"""The figures of a stored result, checked before they are read: result files come from strangers too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from refseg.data.catalogue import DATA_SETS
from refseg.data.formats.record import take
from refseg.errors import DataError
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.protocols import Protocol
from refseg.evaluation.published import catalogue_name
from refseg.evaluation.result import Result

__all__ = ["About", "about", "interval", "number"]


@dataclass(frozen=True, kw_only=True)
class About:
    """What a result is of, and how it was made."""

    made_by: str
    """The model, or the file of predictions."""
    refseg: str
    """The version."""
    data: str
    split: str
    digest: str
    num_images: int
    references: int
    expressions: int
    whole: bool
    protocol: Protocol
    truncated: int
    n: int
    """Expressions that mean something."""
    n_absent: int
    """Expressions that fit nothing."""

    @property
    def published_references(self) -> int | None:
        """How many references the split has as published, None where that is not known."""
        known = DATA_SETS.get(catalogue_name(self.data))
        return None if known is None else known.references.get(self.split)

    @property
    def comparable(self) -> bool:
        """Whether it is of all that published numbers of the split are of, as far as is known."""
        return self.whole and self.published_references in (None, self.references)


def about(result: Result) -> About:
    """Return what a stored result says about itself.

    Raises:
        DataError: a figure or an outcome is missing or impossible.
    """
    figures = result.figures
    try:
        data, made_by = take(figures, "data", dict), take(figures, "made_by", dict)
        found = About(
            made_by=str(made_by.get("model") or made_by.get("predictions") or "unknown"),
            refseg=take(figures, "refseg", str),
            data=take(data, "name", str),
            split=take(data, "split", str),
            digest=take(data, "digest", str),
            num_images=take(data, "images", int),
            references=take(data, "references", int),
            expressions=take(data, "expressions", int),
            whole=take(figures, "whole", bool),
            protocol=_protocol(take(figures, "protocol", dict)),
            truncated=take(figures, "truncated", int),
            n=take(figures, "n", int),
            n_absent=take(figures, "n_absent", int),
        )
        take(figures, "precision", dict)
        take(figures, "intervals", dict)
        for groups in take(figures, "by", dict).values():
            for brief in groups.values() if isinstance(groups, dict) else (None,):
                take(brief, "n", int)
    except DataError as error:
        raise DataError(f"broken result: {error}") from None
    _check(result.outcomes)
    if (found.n + found.n_absent, found.expressions) != (len(result.outcomes),) * 2:
        raise DataError(f"broken result: {found.expressions} expressions, but {len(result.outcomes)} outcomes")
    return found


def number(figures: dict[str, Any], name: str) -> float | None:
    """Return a figure, None where it is none; `precision@0.5` is found among the precisions."""
    place = figures.get("precision", {}) if name.startswith("precision@") else figures
    return _finite(place.get(name.removeprefix("precision@")))


def interval(figures: dict[str, Any], name: str) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a figure, None where there is none."""
    pair = figures.get("intervals", {}).get(name)
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    low, high = map(_finite, pair)
    return None if low is None or high is None else (low, high)


def _finite(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _protocol(stored: dict[str, Any]) -> Protocol:
    """Return a protocol from its stored fields."""
    known = {one.name for one in fields(Protocol)}
    if stored.keys() != known:
        raise DataError(f"a protocol of another version, with the fields {', '.join(map(str, stored))}")
    thresholds = take(stored, "thresholds", (list, tuple))
    if not all(_finite(one) is not None for one in thresholds):
        raise DataError("the protocol's thresholds are no numbers")
    return Protocol(
        name=take(stored, "name", str),
        threshold=take(stored, "threshold", (int, float, type(None))),
        side=take(stored, "side", (int, type(None))),
        strict=take(stored, "strict", bool),
        thresholds=tuple(map(float, thresholds)),
        overlap="lavt" if take(stored, "overlap", str) == "lavt" else "union",
        text_field="raw" if take(stored, "text_field", str) == "raw" else "sent",
        fewest=take(stored, "fewest", int),
        absent=take(stored, "absent", bool),
        guard=float(take(stored, "guard", (int, float))),
    )


TEXTS = ("id", "reference", "image", "expression")
FLAGS = ("present", "empty", "truncated")
COUNTS = ("intersection", "union", "found", "meant", "pixels")


def _check(outcomes: Sequence[Outcome]) -> None:
    """Check that outcomes are of the types that they declare, and that their counts are possible."""
    ids: set[str] = set()
    for one in outcomes:
        values = vars(one)
        sound = (
            all(isinstance(values[name], str) for name in TEXTS)
            and all(isinstance(values[name], bool) for name in FLAGS)
            and all(type(values[name]) is int and values[name] >= 0 for name in COUNTS)
            and type(one.score) in (int, float)
            and one.pointed in (None, True, False)
            and isinstance(one.attributes, Mapping)
            and one.intersection <= min(one.found, one.meant)
            and one.union == one.found + one.meant - one.intersection
            and max(one.union, 1) <= one.pixels
            and (one.present or not one.meant)
        )
        if not sound:
            raise DataError(f"broken result: the outcome of expression {str(one.id)[:60]} is impossible")
        if one.id in ids:
            raise DataError(f"broken result: expression {one.id[:60]} is there twice")
        ids.add(one.id)
