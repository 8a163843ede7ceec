"""Evaluate a model on a data set: every expression once, by the protocol of your choice."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.cli.options import add_device
from refseg.errors import ConfigError, OutputError

if TYPE_CHECKING:
    from refseg.data.dataset import DataSet
    from refseg.evaluation.metrics import Outcome
    from refseg.evaluation.protocols import Protocol

__all__ = [
    "EXAMPLE",
    "add_arguments",
    "add_data_arguments",
    "check_output",
    "check_result",
    "files_of",
    "open_for",
    "report",
    "run",
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
    add_device(parser)


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


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit must be at least 1, got {arguments.limit}")
    check_output(arguments.save)
    check_result(arguments.out, (arguments.save,))
    from refseg.evaluation.distributed import gather, rank_and_size

    rank, size = rank_and_size()
    if size > 1 and arguments.save is not None:
        raise ConfigError("--save works with one process; run without torchrun")
    data, protocol = open_for(arguments)
    from refseg.evaluation.evaluate import Timing, evaluate
    from refseg.evaluation.predictions import line_of
    from refseg.predictor import load

    segmenter = load(arguments.model, arguments.device)
    lines: list[str] = []
    timing = Timing()
    images = min(arguments.limit or data.num_images, data.num_images)
    save = partial(line_of, model=arguments.model, fingerprint=segmenter.fingerprint)
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
        "model": arguments.model,
        "fingerprint": segmenter.fingerprint,
        "threshold": segmenter.decision.threshold,
        "relative_threshold": segmenter.decision.relative_threshold,
        "device": segmenter.device,
    }
    return report(
        outcomes, data, protocol, made_by, arguments.out, whole=images == data.num_images, timing=asdict(timing)
    )


def check_output(path: Path | None, others: Iterable[Path | None] = ()) -> None:
    """Check that a file can be written, before a long computation.

    Args:
        path: the file; None is always valid.
        others: the other files of the command.

    Raises:
        OutputError: its folder does not exist, it is a folder itself, or it would replace one of the others.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    if path.resolve() in {other.resolve() for other in others if other is not None}:
        raise OutputError(f"{path}: would replace an input or another output; name another file")


def check_result(path: Path | None, others: Iterable[Path | None] = ()) -> None:
    """Check that a result file, and the outcomes beside it, can be written (see `check_output`).

    Raises:
        OutputError: one of them cannot.
    """
    if path is not None:
        check_output(path, others)
        check_output(files_of(path)[1], (path, *others))


def files_of(result: Path) -> tuple[Path, Path]:
    """Return the two files of a stored result: the metrics and the outcomes."""
    from refseg.evaluation.result import outcomes_path

    return result, outcomes_path(result)


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


def report(
    outcomes: list[Outcome],
    data: DataSet,
    protocol: Protocol,
    made_by: dict[str, Any],
    out: Path | None,
    *,
    whole: bool = True,
    timing: dict[str, float] | None = None,
) -> int:
    """Make the result, write it to `out` if given, and print its metrics."""
    from refseg.evaluation.result import make_result, save_result

    result = make_result(outcomes, data, protocol, made_by=made_by, whole=whole, timing=timing)
    if out is not None:
        save_result(result, out)
    published, scored = result.figures["data"].get("published_references"), result.figures["data"]["references"]
    if published not in (None, scored):
        print(
            f"refseg: note: {data.name}:{data.split} as published has {published:,} references, scored were "
            f"{scored:,}: not comparable with published numbers",
            file=sys.stderr,
        )
    for note in data.notes():
        print(f"refseg: note: {note}", file=sys.stderr)
    print(json.dumps(result.figures, indent=2, ensure_ascii=False, allow_nan=False))
    return 0
