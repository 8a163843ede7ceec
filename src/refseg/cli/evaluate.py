"""Score a model on a data set: every expression once, by the convention of your choice."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.errors import DataError, OutputError

if TYPE_CHECKING:
    from refseg.data.catalogue import DataSet
    from refseg.evaluation.metrics import Outcome
    from refseg.evaluation.protocols import Protocol

__all__ = [
    "add_arguments",
    "add_data_arguments",
    "check_output",
    "check_result",
    "files_of",
    "open_for",
    "report",
    "run",
]

PROTOCOLS = ("refseg", "cris", "lavt", "gres")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a zoo name, a model folder, or a Hub name such as user/name")
    add_data_arguments(parser)
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="store every mask there, as `refseg score` reads them"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `evaluate` and `score` share."""
    parser.add_argument("dataset", metavar="DATASET:SPLIT", help="such as shapes:test, refcoco:testA, or my-folder:all")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are, if not with the data")
    parser.add_argument(
        "--protocol", default="refseg", choices=PROTOCOLS, help="whose convention to follow (default: refseg)"
    )
    parser.add_argument(
        "--text-field", choices=("sent", "raw"), help="which form of a sentence (default: the protocol's)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the result there as JSON, its expressions beside it"
    )


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    if arguments.limit is not None and arguments.limit < 1:
        raise DataError(f"--limit must be at least 1, got {arguments.limit}")
    check_output(arguments.save)
    check_result(arguments.out, (arguments.save,))
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if processes > 1 and arguments.save is not None:
        raise DataError("--save works with one process; run without torchrun")

    data, protocol = open_for(arguments)
    from refseg.evaluation.evaluate import Timing, evaluate
    from refseg.evaluation.predictions import line_of
    from refseg.predictor import load

    predictor = load(arguments.model, arguments.device)
    lines: list[str] = []
    timing = Timing()
    images = min(arguments.limit or data.num_images, data.num_images)
    outcomes = evaluate(
        predictor,
        data,
        range(rank, images, processes),
        getattr(data, "masks", None),
        protocol=protocol,
        progress=sys.stderr.isatty() and rank == 0,
        each=None if arguments.save is None else lambda *of: lines.append(line_of(*of)),
        timing=timing,
    )
    if processes > 1:
        outcomes = _gather(outcomes)
        if rank:
            return 0
    if arguments.save is not None:
        from refseg.files import write_text

        write_text(arguments.save, "".join(f"{line}\n" for line in sorted(lines)))
    config = predictor.model.config
    about = {
        "model": arguments.model,
        "threshold": config.threshold,
        "relative_threshold": config.relative_threshold,
        "device": str(predictor.device),
    }
    return report(
        outcomes, data, protocol, about, arguments.out, whole=images == data.num_images, timing=asdict(timing)
    )


def check_output(path: Path | None, others: Iterable[Path | None] = ()) -> None:
    """Check that a file can be written, before anything takes long.

    Args:
        path: the file, if one is asked for.
        others: files that the command reads or writes too.

    Raises:
        OutputError: its folder is not there, it is a folder itself, or it would replace one of the others.
    """
    if path is None:
        return
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    if path.resolve() in {other.resolve() for other in others if other is not None}:
        raise OutputError(f"{path}: would replace what it is made of, or another output; name another file")


def check_result(path: Path | None, others: Iterable[Path | None] = ()) -> None:
    """Check that a result file, and the outcomes beside it, can be written (see `check_output`).

    Raises:
        OutputError: one of them cannot.
    """
    if path is not None:
        check_output(path, others)
        check_output(files_of(path)[1], (path, *others))


def files_of(result: Path) -> tuple[Path, Path]:
    """Return the files of a stored result: its own, and its outcomes'."""
    from refseg.evaluation.result import outcomes_path

    return result, outcomes_path(result)


def open_for(arguments: argparse.Namespace) -> tuple[DataSet, Protocol]:
    """Return the data set and the protocol that the arguments name."""
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
    """Make the result, write it where asked, and print its numbers."""
    import json

    from refseg.evaluation.result import make_result, save_result

    result = make_result(outcomes, data, protocol, made_by=made_by, whole=whole, timing=timing)
    if out is not None:
        save_result(result, out)
    published = result.figures["data"].get("published_references")
    if published is not None and result.figures["data"]["references"] != published:
        print(
            f"refseg: note: {data.name}:{data.split} as published has {published:,} references, here were "
            f"{result.figures['data']['references']:,}: not comparable with published numbers",
            file=sys.stderr,
        )
    print(json.dumps(result.figures, indent=2, ensure_ascii=False))
    return 0


def _gather(outcomes: list[Outcome]) -> list[Outcome]:
    """Return the outcomes of all processes that torchrun started."""
    from torch import distributed

    distributed.init_process_group("gloo")
    parts: list[list[Outcome]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, outcomes)
    distributed.destroy_process_group()
    return [one for part in parts for one in part]
