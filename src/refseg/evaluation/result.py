"""The file that holds a result: one JSON of numbers, and beside it one JSON line for each expression."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from refseg import __version__
from refseg.config import to_dict
from refseg.data.catalogue import DATA_SETS, DataSet
from refseg.errors import DataError
from refseg.evaluation.metrics import Outcome, breakdown, intervals, summarise
from refseg.evaluation.protocols import Protocol
from refseg.files import write_text

__all__ = ["SCHEMA", "Result", "load_result", "make_result", "outcomes_path", "save_result"]

SCHEMA = "refseg-result/1"


@dataclass(frozen=True)
class Result:
    """A result as it is stored: the numbers, and the outcomes that they were made from."""

    figures: dict[str, Any]
    """The JSON object (see `make_result`)."""
    outcomes: tuple[Outcome, ...]
    """In the order of their ids."""


def make_result(
    outcomes: Sequence[Outcome],
    data: DataSet,
    protocol: Protocol,
    *,
    made_by: dict[str, Any],
    whole: bool = True,
    timing: dict[str, float] | None = None,
) -> Result:
    """Return the result of some outcomes, whatever order they came in.

    Its figures are `schema`, `refseg` (the version), `made_by`, `data` (name, split, counts, digest), `protocol`, then
    the metrics of `summarise`, `intervals` and `breakdown` as `intervals` and `by`, and `timing` where it was measured.

    Args:
        outcomes: each expression once.
        data: what they are of.
        protocol: how they were counted.
        made_by: the model or the predictions, as JSON.
        whole: whether all of the split was scored; then its numbers of images and expressions are checked.
        timing: seconds.

    Raises:
        DataError: an expression is there twice, or one is missing from a whole.
    """
    ordered = sorted(outcomes, key=lambda one: one.id)
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise DataError(f"expression {one.id} was scored twice")
    if not ordered:
        raise DataError(f"{data.name}:{data.split}: nothing was scored")
    counts = {
        "images": len({one.image for one in ordered}),
        "references": len({one.reference for one in ordered}),
        "expressions": len(ordered),
    }
    if whole and (expected := data.totals()) != counts:
        raise DataError(f"{data.name}:{data.split} has {expected}, but scored were {counts}")
    published = DATA_SETS[data.name].references.get(data.split) if data.name in DATA_SETS else None
    about_data: dict[str, Any] = {"name": data.name, "split": data.split, **counts, "digest": data.digest()}
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


def outcomes_path(path: Path) -> Path:
    """Return where the outcomes of a result file are."""
    return path.with_suffix(".jsonl")


def save_result(result: Result, path: Path, *, outcomes: bool = True) -> None:
    """Write a result file, and the outcomes beside it.

    Raises:
        OutputError: one cannot be written; what was there before is still there.
    """
    if outcomes:
        lines = (json.dumps(asdict(one), ensure_ascii=False) for one in result.outcomes)
        text = "".join(f"{line}\n" for line in lines)
        write_text(outcomes_path(path), text)
        result.figures["outcomes_sha256"] = hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()
    write_text(path, json.dumps(result.figures, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def load_result(path: Path) -> Result:
    """Read a result file and its outcomes.

    Raises:
        DataError: one is missing, broken, of another schema, or they do not belong together.
    """
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(figures, dict) or figures.get("schema") != SCHEMA:
            raise DataError(f"{path}: is no result of `refseg evaluate` or `refseg score` ({SCHEMA})")
        written = outcomes_path(path).read_bytes()
        expected = figures.get("outcomes_sha256")
        if expected != hashlib.sha256(written).hexdigest():
            raise DataError(f"{outcomes_path(path)}: does not belong to {path.name}, or was changed since")
        outcomes = tuple(Outcome(**json.loads(line)) for line in written.decode("utf-8").splitlines())
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: broken: {error}") from None
    return Result(figures, outcomes)
