"""Compare two results of the same data, expression by expression, and say whether the difference is real.

Differences are those of the second result over the first. Intervals come from a bootstrap over images, the p-value
from flipping the signs of whole images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.cli.evaluate import check_output, files_of

if TYPE_CHECKING:
    from refseg.evaluation.compare import Change, Comparison, Difference

__all__ = ["add_arguments", "run"]

LONGEST = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("first", type=Path, metavar="A.json", help="a result of `refseg evaluate` or `refseg score`")
    parser.add_argument("second", type=Path, metavar="B.json", help="another one of the same data and protocol")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    check_output(arguments.json, (*files_of(arguments.first), *files_of(arguments.second)))
    import json
    from dataclasses import asdict

    from refseg.evaluation.compare import compare, verdict
    from refseg.evaluation.result import load_result
    from refseg.files import write_text

    comparison = compare(load_result(arguments.first), load_result(arguments.second))
    if arguments.json is not None:
        found = {"schema": "refseg-comparison/1", "verdict": verdict(comparison), **asdict(comparison)}
        write_text(arguments.json, json.dumps(found, indent=2, allow_nan=False) + "\n")
    for line in _lines(comparison):
        print(line)
    print(verdict(comparison))
    return 0


def _lines(comparison: Comparison) -> list[str]:
    whole = "" if comparison.whole else ", a part of it"
    lines = [
        f"first:  {_short(comparison.first)}",
        f"second: {_short(comparison.second)}",
        f"data:   {comparison.data}:{comparison.split}{whole}, {comparison.num_images:,} images, {comparison.n:,} "
        f"expressions that mean something, {comparison.n_absent:,} that fit nothing; protocol {comparison.protocol}",
        "",
        *_table("in percent", comparison.metrics),
        "",
        f"The second has the higher IoU for {comparison.wins:,} expressions, the same for {comparison.ties:,}, a lower "
        f"one for {comparison.losses:,}.",
        "",
    ]
    for name, groups in comparison.by.items():
        lines += [*_table(f"mean IoU by {name}", groups), ""]
    lines += _changes("most improved", comparison.improved) + _changes("most worsened", comparison.worsened)
    return lines


def _table(title: str, differences: dict[str, Difference]) -> list[str]:
    rows = [(title, "n", "first", "second", "difference", "95 % interval")]
    for name, one in differences.items():
        edges = "-" if one.low is None or one.high is None else f"{100 * one.low:+.2f} to {100 * one.high:+.2f}"
        values = f"{100 * one.first:.2f}", f"{100 * one.second:.2f}", f"{100 * one.difference:+.2f}"
        rows.append((_short(name), f"{one.n:,}", *values, edges))
    return _aligned(rows)


def _changes(title: str, changes: Sequence[Change]) -> list[str]:
    if not changes:
        return []
    rows = [(title, "first", "second", "difference")]
    rows += [
        (
            f"{_short(change.expression)} ({_short(change.id)})",
            f"{100 * change.first:.2f}",
            f"{100 * change.second:.2f}",
            f"{100 * (change.second - change.first):+.2f}",
        )
        for change in changes
    ]
    return [*_aligned(rows), ""]


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return rows as lines: the first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _short(text: str) -> str:
    """Return untrusted words in one line that a terminal can show, of bounded length."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
