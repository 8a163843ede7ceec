"""Make a report of a stored result: Markdown, or one HTML file with charts and, given the masks, images.

The result is a file that `refseg evaluate --out` or `refseg score --out` wrote, with its expressions beside it.
Published numbers of the same data and split stand beside its own, each kind of IoU for itself.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.cli.evaluate import check_output, files_of
from refseg.errors import DataError, OutputError

if TYPE_CHECKING:
    from refseg.data.catalogue import DataSet
    from refseg.evaluation.result import Result

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("result", type=Path, metavar="RESULT.json", help="the result file")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report there as one HTML file")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the report there as Markdown; without FILEs it is printed"
    )
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are, if not with the data")
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="the masks that were scored (`--save`), to show in the HTML"
    )
    parser.add_argument(
        "--other-predictions", type=Path, metavar="FILE", help="a second model's masks, to show beside them"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    _check(arguments)
    from refseg.evaluation.predictions import Predictions
    from refseg.evaluation.report import html, markdown
    from refseg.evaluation.result import load_result
    from refseg.files import write_text

    result = load_result(arguments.result)
    if arguments.html is None and arguments.markdown is None:
        print(markdown(result), end="")
    if arguments.markdown is not None:
        write_text(arguments.markdown, markdown(result))
    if arguments.html is not None:
        wanted = (arguments.data, arguments.images, arguments.predictions)
        data = None if wanted == (None, None, None) else _open(result, arguments)
        predictions, other = (
            None if path is None else Predictions(path) for path in (arguments.predictions, arguments.other_predictions)
        )
        write_text(arguments.html, html(result, data=data, predictions=predictions, other=other))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Refuse what cannot be carried out, before anything is read.

    Raises:
        DataError: an argument has no use without another.
        OutputError: a report cannot be written, or would replace what it is made of.
    """
    read = (*files_of(arguments.result), arguments.predictions, arguments.other_predictions)
    for output in (arguments.html, arguments.markdown):
        check_output(output, read)
    if (
        arguments.html is not None
        and arguments.markdown is not None
        and arguments.html.resolve() == arguments.markdown.resolve()
    ):
        raise OutputError(f"{arguments.html}: --html and --markdown name the same file")
    for name in ("data", "images", "predictions", "other_predictions"):
        if getattr(arguments, name) is not None and arguments.html is None:
            raise DataError(f"--{name.replace('_', '-')} is for the images of a report; give --html FILE too")
    if arguments.other_predictions is not None and arguments.predictions is None:
        raise DataError("--other-predictions are shown beside those of --predictions; give both")


def _open(result: Result, arguments: argparse.Namespace) -> DataSet:
    """Return the data that a result is of: with the protocol's form of sentences, or with the other one.

    Raises:
        DataError: they are not there, or they have changed since.
    """
    from refseg.data.catalogue import open_data
    from refseg.evaluation.figures import about

    of = about(result)
    fields = sorted(("sent", "raw"), key=lambda field: field != of.protocol.text_field)
    for field in fields:
        data = open_data(
            f"{of.data}:{of.split}",
            arguments.data,
            text_field=field,
            overlap=of.protocol.overlap,
            images=arguments.images,
        )
        if data.digest() == of.digest:
            return data
    raise DataError(f"{of.data}:{of.split} is not what was scored: the data have changed since, or are others")
