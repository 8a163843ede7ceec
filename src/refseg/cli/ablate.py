"""Train the rows of an ablation alike, with several seeds, and print its table; the same command resumes it."""

from __future__ import annotations

import argparse
import sys
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
        "dataset", help="shapes, or one that CRIS R50 is trained on: refcoco, refcoco+, refcocog-umd, refcocog-google"
    )
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="settings of every run to change")
    add_run_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each row (default: %(default)s)")
    parser.add_argument("--rows", metavar="ROW,...", help="only these rows, such as baseline,both-3")
    parser.add_argument("--limit", type=int, metavar="N", help="score only the first N images")
    parser.add_argument(
        "--clip",
        metavar="FILE",
        help="OpenAI's weights of the encoders, or download, or none; with --systems the folder of runs that has "
        "shapes-clip and shapes-clip-vit",
    )
    parser.add_argument(
        "--systems", action="store_true", help="compare CRIS and RISCLIP, and RISCLIP without each of its parts"
    )
    parser.add_argument("--faithful", action="store_true", help="the published runs, with the bugs of their code")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the runs (default: runs/ablate-DATASET)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of every run there")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    check_outputs({"--json": arguments.json})
    if arguments.seeds < 1 or (arguments.limit is not None and arguments.limit < 1):
        raise ConfigError("--seeds and --limit must be at least 1")

    from refseg.config import save_json
    from refseg.training.ablation import Ablation, ablate, table

    ablation = Ablation(
        dataset=arguments.dataset,
        rows=() if arguments.rows is None else tuple(arguments.rows.split(",")),
        systems=arguments.systems,
        faithful=arguments.faithful,
        changes=dict(change(text) for text in arguments.changes),
        clip=arguments.clip,
        root=arguments.data,
        image_folder=arguments.images,
    )
    cells = ablate(
        ablation,
        arguments.out or Path("runs") / f"ablate-{'systems' if arguments.systems else arguments.dataset}",
        seeds=range(arguments.seeds),
        limit=arguments.limit,
        device=arguments.device,
        show=sys.stderr.isatty(),
    )
    if arguments.json is not None:
        save_json([asdict(cell) for cell in cells], arguments.json)
    print(table(cells))
    return 0
