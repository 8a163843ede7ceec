"""Make a report of a stored result: Markdown, or one HTML file with charts and, given the masks, images.

The result is a file that `refseg evaluate --out` or `refseg score --out` wrote, with its outcomes beside it. The report
compares it with published numbers of the same data and split, for each kind of IoU in a table of its own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from refseg.cli.outputs import check_outputs, result_files
from refseg.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg report result.json --html report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="the result file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report there as one HTML file")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the report there as Markdown; without FILEs it is printed"
    )
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder of the images, if they are not with the data"
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="the masks that were scored (`--save`), to show in the HTML"
    )
    parser.add_argument(
        "--other-predictions", type=Path, metavar="FILE", help="a second model's masks, to show beside them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    _check(arguments)
    from refseg.evaluation.about import about, open_scored_data
    from refseg.evaluation.predictions import Predictions
    from refseg.evaluation.result import load_result
    from refseg.files import write_text
    from refseg.report.report import html, markdown

    result = load_result(arguments.result)
    if arguments.html is None and arguments.markdown is None:
        print(markdown(result), end="")
    if arguments.markdown is not None:
        write_text(arguments.markdown, markdown(result))
    if arguments.html is not None:
        needs_data = any((arguments.data, arguments.images, arguments.predictions))
        data = open_scored_data(about(result), arguments.data, arguments.images) if needs_data else None
        predictions, other = (
            None if path is None else Predictions(path) for path in (arguments.predictions, arguments.other_predictions)
        )
        write_text(arguments.html, html(result, data=data, predictions=predictions, other=other))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Check the arguments, before anything is read.

    Raises:
        ConfigError: an argument has no effect without another.
        OutputError: a report cannot be written, or would replace an input.
    """
    masks = {"--predictions": arguments.predictions, "--other-predictions": arguments.other_predictions}
    outputs = {"--html": arguments.html, "--markdown": arguments.markdown}
    check_outputs(outputs, {**result_files("the result", arguments.result), **masks})
    for name in ("data", "images", "predictions", "other_predictions"):
        if getattr(arguments, name) is not None and arguments.html is None:
            raise ConfigError(f"--{name.replace('_', '-')} is for the images of a report; give --html FILE too")
    if arguments.other_predictions is not None and arguments.predictions is None:
        raise ConfigError("--other-predictions are shown beside those of --predictions; give both")
