"""Compare two results of the same data, expression by expression, and test whether the difference is significant.

Differences are the second result minus the first. Intervals come from a bootstrap over images, the p-value from
flipping the signs of whole images.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from refseg.cli.outputs import check_outputs, result_files

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg compare result.json scored.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("first", type=Path, metavar="A.json", help="a result of `refseg evaluate` or `refseg score`")
    parser.add_argument("second", type=Path, metavar="B.json", help="another one of the same data and protocol")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the comparison there as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    inputs = result_files("the first result", arguments.first) | result_files("the second result", arguments.second)
    check_outputs({"--json": arguments.json}, inputs)
    from refseg.evaluation.compare import compare, verdict
    from refseg.evaluation.result import load_result
    from refseg.files import write_text
    from refseg.report.comparison import comparison_text

    comparison = compare(load_result(arguments.first), load_result(arguments.second))
    if arguments.json is not None:
        values = {"schema": "refseg-comparison/1", "verdict": verdict(comparison), **asdict(comparison)}
        write_text(arguments.json, json.dumps(values, indent=2, allow_nan=False) + "\n")
    print(comparison_text(comparison), end="")
    return 0
