"""Evaluate a model on a data set: every expression once, by the protocol of your choice."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.cli.options import add_device, add_refine, add_runtime, model_name
from refseg.cli.outputs import check_outputs, result_files
from refseg.errors import ConfigError
from refseg.writers.table import aligned

if TYPE_CHECKING:
    from refseg.data.dataset import DataSet
    from refseg.evaluation.protocols import Protocol
    from refseg.evaluation.result import Result

__all__ = [
    "EXAMPLE",
    "add_arguments",
    "add_data_arguments",
    "open_for",
    "run",
    "tell",
]

EXAMPLE = "refseg evaluate shapes my-data:all --save masks.jsonl --out result.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a name from `refseg models`, a model folder, or a Hub name such as user/name")
    add_data_arguments(parser)
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="write every mask there, as `refseg score` reads them"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    add_refine(parser)
    add_device(parser)
    add_runtime(parser)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `evaluate` and `score` share."""
    from refseg.evaluation.protocols import PROTOCOLS

    parser.add_argument("dataset", metavar="DATASET:SPLIT", help="such as shapes:test, refcoco:testA, or my-folder:all")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="the folder of the images, if they are not with the data"
    )
    parser.add_argument(
        "--protocol", default="refseg", choices=tuple(PROTOCOLS), help="how masks are compared (default: refseg)"
    )
    parser.add_argument(
        "--text-field", choices=("sent", "raw"), help="the form of the sentences (default: the protocol's)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the result there as JSON, the outcomes of the expressions beside it",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON in place of a table")
    parser.epilog = (
        "A progress bar is shown if stderr is a terminal; otherwise only notes and errors are written there."
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {arguments.limit}")
    check_outputs(result_files("--out", arguments.out) | {"--save": arguments.save})
    from refseg.evaluation.distributed import gather, rank_and_size

    rank, size = rank_and_size()
    if size > 1 and arguments.save is not None:
        raise ConfigError("--save works with one process; run without torchrun")
    data, protocol = open_for(arguments)
    from refseg.evaluation.evaluate import Timing, evaluate
    from refseg.evaluation.predictions import line_of
    from refseg.evaluation.result import make_result
    from refseg.predictor import load

    segmenter = load(arguments.model, arguments.device, runtime=arguments.runtime, refine=arguments.refine)
    lines: list[str] = []
    timing = Timing()
    images = min(arguments.limit or data.num_images, data.num_images)
    save = partial(line_of, model=model_name(arguments), fingerprint=segmenter.fingerprint)
    outcomes = gather(
        evaluate(
            segmenter,
            data,
            range(rank, images, size),
            data.objects,
            protocol=protocol,
            progress=sys.stderr.isatty() and rank == 0,
            each=None if arguments.save is None else lambda *prediction: lines.append(save(*prediction)),
            timing=timing,
        )
    )
    if rank:
        return 0
    if arguments.save is not None:
        from refseg.files import write_text

        write_text(arguments.save, "".join(f"{line}\n" for line in sorted(lines)))
    made_by = {
        "model": model_name(arguments),
        "fingerprint": segmenter.fingerprint,
        "threshold": segmenter.decision.threshold,
        "relative_threshold": segmenter.decision.relative_threshold,
        "device": segmenter.device,
    }
    result = make_result(
        outcomes, data, protocol, made_by=made_by, whole=images == data.num_images, timing=asdict(timing)
    )
    return tell(result, data, arguments)


def open_for(arguments: argparse.Namespace) -> tuple[DataSet, Protocol]:
    """Return the data set and the protocol of the arguments."""
    from refseg.data.catalogue import open_data
    from refseg.evaluation.protocols import protocol

    chosen = protocol(arguments.protocol)
    data = open_data(
        arguments.dataset,
        arguments.data,
        text_field=arguments.text_field or chosen.text_field,
        overlap=chosen.overlap,
        images=arguments.images,
    )
    return data, chosen


def tell(result: Result, data: DataSet, arguments: argparse.Namespace) -> int:
    """Write a result to `--out` if given, and print it: its metrics as a table, or with `--json` all of it."""
    from refseg.evaluation.result import save_result
    from refseg.report.sections import summary

    if arguments.out is not None:
        save_result(result, arguments.out)
    published, scored = result.figures["data"].get("published_references"), result.figures["data"]["references"]
    if published not in (None, scored):
        print(
            f"refseg: note: {data.name}:{data.split} as published has {published:,} references, scored were "
            f"{scored:,}: not comparable with published numbers",
            file=sys.stderr,
        )
    for note in data.notes():
        print(f"refseg: note: {note}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(result.figures, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        title, table = summary(result)
        print(f"{title}\n\n{aligned(table)}", end="")
        if arguments.out is not None:
            print(f"\nthe whole result -> {arguments.out}")
    return 0
