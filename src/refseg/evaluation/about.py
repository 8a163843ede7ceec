"""The statements of a stored result about itself, checked before they are used: result files may be untrusted."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refseg.config import from_dict
from refseg.data.catalogue import open_data
from refseg.data.dataset import DataSet
from refseg.data.formats.record import take
from refseg.errors import ConfigError, DataError
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.protocols import Protocol
from refseg.evaluation.result import Result, published_references

__all__ = ["About", "about", "interval", "number", "open_scored_data"]


@dataclass(frozen=True, kw_only=True)
class About:
    """The data, the model and the protocol of a result."""

    made_by: str
    """The model, or the file of predictions."""
    fingerprint: str | None
    """Of the model, if the result is of one."""
    predictions: str | None
    """The SHA-256 of the file of predictions, if the result is of one."""
    refseg: str
    """The version."""
    data: str
    split: str
    digest: str
    num_images: int
    references: int
    expressions: int
    skipped: int
    """Rows of the data that could not be read."""
    whole: bool
    protocol: Protocol
    truncated: int
    n: int
    """Expressions with a target."""
    n_absent: int
    """Expressions that fit nothing."""

    @property
    def published_references(self) -> int | None:
        """The number of references of the split as published, None if that is not known."""
        return published_references(self.data, self.split)

    @property
    def comparable(self) -> bool:
        """Whether it is of all references of the split as published, as far as is known."""
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
            fingerprint=take(made_by, "fingerprint", (str, type(None)), None),
            predictions=take(made_by, "sha256", (str, type(None)), None),
            refseg=take(figures, "refseg", str),
            data=take(data, "name", str),
            split=take(data, "split", str),
            digest=take(data, "digest", str),
            num_images=take(data, "images", int),
            references=take(data, "references", int),
            expressions=take(data, "expressions", int),
            skipped=take(data, "skipped", int),
            whole=take(figures, "whole", bool),
            protocol=from_dict(Protocol, take(figures, "protocol", dict), where="protocol"),
            truncated=take(figures, "truncated", int),
            n=take(figures, "n", int),
            n_absent=take(figures, "n_absent", int),
        )
        take(figures, "precision", dict)
        take(figures, "intervals", dict)
        for groups in take(figures, "by", dict).values():
            for group in groups.values() if isinstance(groups, dict) else (None,):
                take(group, "n", int)
    except (ConfigError, DataError) as error:
        raise DataError(f"broken result: {error}") from None
    _check(result.outcomes)
    if (found.n + found.n_absent, found.expressions) != (len(result.outcomes),) * 2:
        raise DataError(f"broken result: {found.expressions} expressions, but {len(result.outcomes)} outcomes")
    return found


def open_scored_data(
    of: About, root: str | os.PathLike[str] | None = None, images: str | os.PathLike[str] | None = None
) -> DataSet:
    """Return the data that a result is of: with the protocol's form of expressions, or with the other one.

    Args:
        of: of the result.
        root: the folder that holds the public data sets.
        images: the folder of the images, if they are not with the data.

    Raises:
        DataError: the data are not found, or they have changed since.
    """
    for field in sorted(("sent", "raw"), key=lambda field: field != of.protocol.text_field):
        data = open_data(f"{of.data}:{of.split}", root, text_field=field, overlap=of.protocol.overlap, images=images)
        if data.digest() == of.digest:
            return data
    raise DataError(f"{of.data}:{of.split} is not the data that was scored: it has changed since, or is other data")


def number(figures: dict[str, Any], name: str) -> float | None:
    """Return a figure, None if it is no number; `precision@0.5` is found among the precisions."""
    place = figures.get("precision", {}) if name.startswith("precision@") else figures
    return _finite(place.get(name.removeprefix("precision@")))


def interval(figures: dict[str, Any], name: str) -> tuple[float, float] | None:
    """Return the 95 % confidence interval of a figure, None if there is none."""
    pair = figures.get("intervals", {}).get(name)
    if not isinstance(pair, list) or len(pair) != 2:
        return None
    low, high = map(_finite, pair)
    return None if low is None or high is None else (low, high)


def _finite(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


TEXTS = ("id", "reference", "image", "expression")
FLAGS = ("present", "empty", "truncated")
COUNTS = ("intersection", "union", "predicted_pixels", "target_pixels", "image_pixels")


def _check(outcomes: Sequence[Outcome]) -> None:
    """Check that the values of outcomes are of their declared types, and that their counts are possible."""
    ids: set[str] = set()
    for one in outcomes:
        values = vars(one)
        valid = (
            all(isinstance(values[name], str) for name in TEXTS)
            and all(isinstance(values[name], bool) for name in FLAGS)
            and all(type(values[name]) is int and values[name] >= 0 for name in COUNTS)
            and type(one.score) in (int, float)
            and 0 <= one.score <= 1
            and one.points_at_target in (None, True, False)
            and isinstance(one.attributes, Mapping)
            and one.intersection <= min(one.predicted_pixels, one.target_pixels)
            and one.union == one.predicted_pixels + one.target_pixels - one.intersection
            and max(one.union, 1) <= one.image_pixels
            and (one.present or not one.target_pixels)
        )
        if not valid:
            raise DataError(f"broken result: the outcome of expression {str(one.id)[:60]} is impossible")
        if one.id in ids:
            raise DataError(f"broken result: expression {one.id[:60]} occurs twice")
        ids.add(one.id)
