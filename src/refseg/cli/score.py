"""Score the stored masks of any model on a data set; the metrics are those of `refseg evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from refseg.cli.evaluate import add_data_arguments, open_for, tell
from refseg.cli.outputs import check_outputs, result_files

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg score masks.jsonl my-data:all --out scored.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "predictions", type=Path, help="JSON lines (sent_id, or image and text; rle or mask), or a folder of PNGs"
    )
    add_data_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    check_outputs(result_files("--out", arguments.out), {"the predictions": arguments.predictions})
    data, protocol = open_for(arguments)
    from refseg.evaluation.predictions import Predictions, score
    from refseg.evaluation.result import make_result

    predictions = Predictions(arguments.predictions)
    outcomes = score(predictions, data, protocol, objects=data.objects, progress=sys.stderr.isatty())
    made_by = {"predictions": arguments.predictions.name, "sha256": predictions.sha256}
    return tell(make_result(outcomes, data, protocol, made_by=made_by), data, arguments)
