"""The file that holds a result: one JSON object of metrics, and beside it one JSON line for each expression."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from refseg import __version__
from refseg.config import to_dict
from refseg.data.catalogue import DATA_SETS
from refseg.data.dataset import DataSet
from refseg.errors import DataError
from refseg.evaluation import strict_json
from refseg.evaluation.metrics import Outcome, breakdown, intervals, summarise
from refseg.evaluation.protocols import Protocol
from refseg.files import write_text
from refseg.published import catalogue_name

__all__ = ["SCHEMA", "Result", "load_result", "make_result", "outcomes_path", "published_references", "save_result"]

SCHEMA = "refseg-result/2"


@dataclass(frozen=True)
class Result:
    """A stored result: the metrics, and the outcomes that they were computed from."""

    figures: dict[str, Any]
    """The JSON object (see `make_result`)."""
    outcomes: tuple[Outcome, ...]
    """Sorted by id."""


def make_result(
    outcomes: Sequence[Outcome],
    data: DataSet,
    protocol: Protocol,
    *,
    made_by: dict[str, Any],
    whole: bool = True,
    timing: dict[str, float] | None = None,
) -> Result:
    """Return the result of outcomes, whose order does not matter.

    Its figures are `schema`, `refseg` (the version), `made_by`, `data` (name, split, counts, digest), `protocol`, then
    the metrics of `summarise`, `intervals` and `breakdown` as `intervals` and `by`, and `timing` if it was measured.

    Args:
        outcomes: each expression once.
        data: the data set of the outcomes.
        protocol: how they were counted.
        made_by: the model or the predictions, as JSON.
        whole: whether all of the split was scored; then the numbers of images and expressions are checked.
        timing: seconds.

    Raises:
        DataError: there is no outcome, an expression was scored twice, one is missing from a whole, or a score is not
            finite.
    """
    ordered = sorted(outcomes, key=lambda one: one.id)
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise DataError(f"expression {one.id} was scored twice")
    for one in ordered:
        if not math.isfinite(one.score):
            raise DataError(f"the score of expression {one.id} is not finite")
    if not ordered:
        raise DataError(f"{data.name}:{data.split}: nothing was scored")
    counts = {
        "images": len({one.image for one in ordered}),
        "references": len({one.reference for one in ordered}),
        "expressions": len(ordered),
    }
    if whole and (expected := data.totals()) != counts:
        raise DataError(f"{data.name}:{data.split} has {expected}, but scored were {counts}")
    about_data: dict[str, Any] = {
        "name": data.name,
        "split": data.split,
        **counts,
        "skipped": data.skipped_count,
        "digest": data.digest(),
    }
    published = published_references(data.name, data.split)
    if published is not None:
        about_data["published_references"] = published
    figures = {
        "schema": SCHEMA,
        "refseg": __version__,
        "made_by": made_by,
        "data": about_data,
        "whole": whole,
        "protocol": to_dict(protocol),
        **summarise(ordered, protocol),
        "truncated": sum(one.truncated for one in ordered),
        "intervals": intervals(ordered, protocol),
        "by": breakdown(ordered, protocol),
    }
    if timing is not None:
        figures["timing"] = timing
    return Result(figures, tuple(ordered))


def published_references(data: str, split: str) -> int | None:
    """Return how many references a split of a public data set has as published, None if that is not known."""
    public = DATA_SETS.get(catalogue_name(data))
    return None if public is None else public.references.get(split)


def outcomes_path(path: Path) -> Path:
    """Return the path of the outcomes of a result file."""
    return path.with_suffix(".jsonl")


def save_result(result: Result, path: Path, *, outcomes: bool = True) -> None:
    """Write a result file, and the outcomes beside it.

    Raises:
        OutputError: one cannot be written; a file that is replaced stays as it was.
    """
    if outcomes:
        lines = (json.dumps(asdict(one), ensure_ascii=False, allow_nan=False) for one in result.outcomes)
        text = "".join(f"{line}\n" for line in lines)
        write_text(outcomes_path(path), text)
        result.figures["outcomes_sha256"] = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    write_text(path, json.dumps(result.figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load_result(path: Path) -> Result:
    """Read a result file and its outcomes.

    Raises:
        DataError: one is missing, broken or of another schema, or they do not belong together.
    """
    try:
        figures = strict_json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(figures, dict) or figures.get("schema") != SCHEMA:
            raise DataError(f"{path}: is no result of `refseg evaluate` or `refseg score` ({SCHEMA})")
        written = outcomes_path(path).read_bytes()
        expected = figures.get("outcomes_sha256")
        if expected != hashlib.sha256(written).hexdigest():
            raise DataError(f"{outcomes_path(path)}: does not belong to {path.name}, or was changed since")
        lines = written.decode("utf-8").splitlines()
        outcomes = tuple(Outcome(**strict_json.loads(line)) for line in lines)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except DataError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: broken: {error}") from None
    return Result(figures, outcomes)
