"""Train the rows of an ablation alike, with several seeds, and print its table; go on where it was stopped."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.cli.evaluate import check_output
from refseg.cli.train import add_run_arguments, change, starting_model
from refseg.errors import ConfigError, UnknownNameError

if TYPE_CHECKING:
    from refseg.models.base import Segmenter
    from refseg.training.recipes import Recipe

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "dataset", help="shapes, refcoco, refcoco+, refcocog-umd or refcocog-google: CRIS R50 but for shapes"
    )
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="settings of every run to change")
    add_run_arguments(parser)
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each row (default: %(default)s)")
    parser.add_argument("--rows", metavar="ROW,...", help="only these rows, such as baseline,both-3")
    parser.add_argument("--images", type=int, metavar="N", help="score the first N images (default: all)")
    parser.add_argument(
        "--clip",
        metavar="FILE",
        help="OpenAI's weights of the encoders, or download, or none; with --systems the folder of runs that holds "
        "those of shapes-clip and shapes-clip-vit",
    )
    parser.add_argument(
        "--systems", action="store_true", help="compare CRIS and RISCLIP, and RISCLIP without each of its parts"
    )
    parser.add_argument("--faithful", action="store_true", help="the published runs, with the slips of their code")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the runs (default: runs/ablate-DATASET)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of every run there")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    check_output(arguments.json)
    if arguments.seeds < 1 or (arguments.num_images is not None and arguments.num_images < 1):
        raise ConfigError("--seeds and --images must be at least 1")
    import sys

    from refseg.training.ablation import Stage, ablate, table
    from refseg.training.data import open_recipe
    from refseg.training.recipes import RECIPES, ROWS, SYSTEMS, recipe

    name = "shapes-ablation" if arguments.dataset == "shapes" else f"cris-r50-{arguments.dataset}"
    if name not in RECIPES:
        known = ["shapes", *(key.removeprefix("cris-r50-") for key in RECIPES if key.startswith("cris-r50-"))]
        raise UnknownNameError("data set of the ablation", arguments.dataset, known)
    if arguments.systems and arguments.dataset != "shapes":
        raise ConfigError("--systems compares on shapes alone")
    known_rows = SYSTEMS if arguments.systems else ROWS
    rows = list(known_rows) if arguments.rows is None else arguments.rows.split(",")
    changes = dict(change(text) for text in arguments.changes)

    def stages(row: str, seed: int) -> list[tuple[str, Recipe]]:
        if row not in known_rows:
            raise UnknownNameError("row of the ablation", row, known_rows)
        again = {**changes, "seed": seed}
        if not arguments.systems:
            return [(name, recipe(name, faithful=arguments.faithful, row=row, **again))]
        return [(stage, recipe(stage, faithful=arguments.faithful, **{**own, **again})) for stage, own in SYSTEMS[row]]

    def make(row: str, seed: int) -> list[Stage]:
        def start(named: str, made: Recipe, before: Path | None) -> Segmenter:
            import torch

            torch.manual_seed(seed)
            # The paper's rows may all start from a CLIP; of the systems some do, whose recipes say so.
            wanted = made.clip is not None or not arguments.systems
            init, clip = (None, arguments.clip if wanted else None) if before is None else (str(before), None)
            return starting_model(made, named, init, clip)

        return [Stage(made, partial(start, named, made)) for named, made in stages(row, seed)]

    for row in rows:
        stages(row, 0)  # refuse all before anything takes long
    cells = ablate(
        make,
        lambda made: open_recipe(made, arguments.data, arguments.images),
        arguments.out or Path("runs") / f"ablate-{'systems' if arguments.systems else arguments.dataset}",
        rows=rows,
        seeds=range(arguments.seeds),
        images=arguments.num_images,
        device=arguments.device,
        show=sys.stderr.isatty(),
    )
    if arguments.json is not None:
        from refseg.files import write_text

        write_text(arguments.json, json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")
    print(table(cells))
    return 0
