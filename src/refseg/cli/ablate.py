"""Train the rows of an ablation alike, with several seeds, and print its table; the same command resumes it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from refseg.cli.outputs import check_outputs
from refseg.cli.train import add_run_arguments, change
from refseg.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg ablate shapes epochs=1 steps_per_epoch=2 --rows baseline --seeds 1 --limit 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "dataset", help="shapes, shapes-easy, refcoco, refcoco+, refcocog-umd or refcocog-google, with --data ROOT"
    )
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="settings of every run to change")
    add_run_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each row (default: %(default)s)")
    parser.add_argument("--rows", metavar="ROW,...", help="only these rows, such as baseline,both-3")
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="the split of the data set to score (default: the validation images of the runs)",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N images")
    parser.add_argument(
        "--clip",
        metavar="FILE",
        help="OpenAI's weights of the encoders, or download, or none; with --table parts the folder of runs that "
        "has shapes-clip and shapes-clip-vit, with --table systems that of shapes-easy-clip and shapes-easy-clip-vit",
    )
    parser.add_argument(
        "--table",
        default="rows",
        metavar="NAME",
        help="rows: of CRIS' ablation (the default); systems: compact EFN, VLT, MCN, CRIS and RISCLIP, the last two "
        "with and without a CLIP to start from; parts: CRIS, RISCLIP, and RISCLIP without each of its parts",
    )
    parser.add_argument("--faithful", action="store_true", help="the published runs, with the bugs of their code")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder of the runs (default: runs/ablate-DATASET-TABLE)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of every run there")
    parser.add_argument("--curves", type=Path, metavar="FILE.svg", help="write a chart of the validations there")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    check_outputs({"--json": arguments.json, "--curves": arguments.curves})
    if arguments.curves is not None and arguments.curves.suffix.lower() != ".svg":
        raise ConfigError(f"--curves {arguments.curves}: an SVG image is written; let the name end with .svg")
    if arguments.seeds < 1 or (arguments.limit is not None and arguments.limit < 1):
        raise ConfigError("--seeds and --limit must be at least 1")

    from refseg.bench import machine
    from refseg.config import save_json
    from refseg.files import write_text
    from refseg.report.charts import as_image, learning_curves
    from refseg.training.ablation import Ablation, ablate, largest_object, table

    ablation = Ablation(
        dataset=arguments.dataset,
        rows=() if arguments.rows is None else tuple(arguments.rows.split(",")),
        table=arguments.table,
        faithful=arguments.faithful,
        changes=dict(change(text) for text in arguments.changes),
        split=arguments.split,
        clip=arguments.clip,
        root=arguments.data,
        image_folder=arguments.images,
    )
    if arguments.curves is not None and not ablation.validates:
        raise ConfigError("--curves: these runs validate on no image during training; add validation_images=50")
    if ablation.left_out:
        print(f"refseg: note: without --clip, {' and '.join(ablation.left_out)} are left out", file=sys.stderr)
    cells = ablate(
        ablation,
        arguments.out or Path("runs") / f"ablate-{arguments.dataset}-{arguments.table}",
        seeds=range(arguments.seeds),
        limit=arguments.limit,
        device=arguments.device,
        show=sys.stderr.isatty(),
    )
    without_words = largest_object(ablation, arguments.limit)
    if arguments.json is not None:
        of = {name: getattr(ablation, name) for name in ("dataset", "table", "rows", "faithful", "changes", "split")}
        record = {
            "machine": machine(),
            **of,
            "limit": arguments.limit,
            "largest_object": without_words,
            "cells": [asdict(cell) for cell in cells],
        }
        save_json(record, arguments.json)
    if arguments.curves is not None:
        curves: dict[str, list[Sequence[tuple[int, float]]]] = {}
        for cell in cells:
            curves.setdefault(cell.row, []).append(cell.curve)
        write_text(arguments.curves, as_image(learning_curves(curves)))
    print(table(cells))
    if without_words is not None:
        print(f"\nThe largest object of each image, whatever the expression: IoU {100 * without_words:.2f}")
    return 0
