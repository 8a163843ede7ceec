"""The comparison of two results as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from refseg.errors import counted
from refseg.evaluation.compare import Change, Comparison, Difference, verdict
from refseg.writers.table import Table, aligned, shortened

__all__ = ["comparison_text"]

PERCENT = "in percent"


def comparison_text(comparison: Comparison) -> str:
    """Return the tables of a comparison, and its verdict as the last line."""
    whole = "" if comparison.whole else ", a part of it"
    images, expressions = counted(comparison.num_images, "image"), counted(comparison.n, "expression")
    parts = [
        f"first:  {shortened(comparison.first)}\n"
        f"second: {shortened(comparison.second)}\n"
        f"data:   {comparison.data}:{comparison.split}{whole}, {images}, {expressions} "
        f"with a target, {comparison.n_absent:,} that fit nothing; protocol {comparison.protocol}\n",
        _differences(PERCENT, comparison.metrics),
        f"The second has the higher IoU for {counted(comparison.wins, 'expression')}, the same for "
        f"{comparison.ties:,}, a lower one for {comparison.losses:,}.\n",
        *(_differences(f"mean IoU by {name}", groups) for name, groups in comparison.by.items()),
        *(
            _changes(title, changes)
            for title, changes in (("most improved", comparison.improved), ("most worsened", comparison.worsened))
            if changes
        ),
    ]
    return "\n".join([*parts, f"{verdict(comparison)}\n"])


def _differences(title: str, differences: dict[str, Difference]) -> str:
    rows = []
    for name, one in differences.items():
        edges = "-" if one.low is None or one.high is None else f"{100 * one.low:+.2f} to {100 * one.high:+.2f}"
        rows.append((shortened(name), f"{one.n:,}", *_values(one.first, one.second), edges))
    columns = (title, "n", "first", "second", "difference", "95 % interval")
    return aligned(Table(columns=columns, rows=tuple(rows), right=frozenset(range(1, 6))))


def _changes(title: str, changes: Sequence[Change]) -> str:
    rows = tuple(
        (f"{shortened(one.expression)} ({shortened(one.id)})", *_values(one.first, one.second)) for one in changes
    )
    return aligned(Table(columns=(title, "first", "second", "difference"), rows=rows, right=frozenset(range(1, 4))))


def _values(first: float, second: float) -> tuple[str, str, str]:
    return f"{100 * first:.2f}", f"{100 * second:.2f}", f"{100 * (second - first):+.2f}"
