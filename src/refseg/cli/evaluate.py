"""Score a model on a data set: every expression once, at the picture's own size."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from refseg.errors import DataError, OutputError, UnknownNameError

__all__ = ["add_arguments", "run"]

DATASETS = ("shapes",)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a zoo name, a model folder, or a Hub name such as user/name")
    parser.add_argument("data", metavar="DATASET:SPLIT", help="what to score on, such as shapes:test")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the result there as JSON")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N pictures")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    name, _, split = arguments.data.partition(":")
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    if not split:
        raise DataError(f"which split of {name}? write {name}:test, or {name}:val")
    if arguments.limit is not None and arguments.limit < 1:
        raise DataError(f"--limit must be at least 1, got {arguments.limit}")
    if arguments.out is not None and not arguments.out.parent.is_dir():
        raise OutputError(f"{arguments.out}: there is no folder {arguments.out.parent}")
    if arguments.out is not None and arguments.out.is_dir():
        raise OutputError(f"{arguments.out}: is a folder; name a file in it")

    from refseg import __version__
    from refseg.data.shapes import Shapes
    from refseg.evaluation.evaluate import evaluate, summarise
    from refseg.predictor import load

    data = Shapes(split)
    predictor = load(arguments.model, arguments.device)
    pictures = range(min(arguments.limit or data.pictures, data.pictures))
    summary = summarise(*evaluate(predictor, data, pictures, data.masks, progress=sys.stderr.isatty()))
    result = {
        "refseg": __version__,
        "model": arguments.model,
        "data": arguments.data,
        "pictures": len(pictures),
        "threshold": predictor.model.config.threshold,
        **summary,
    }
    text = json.dumps(result, indent=2)
    if arguments.out is not None:
        try:
            arguments.out.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{arguments.out}: cannot be written: {error.strerror}") from None
    print(text)
    return 0
