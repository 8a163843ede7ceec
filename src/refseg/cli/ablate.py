"""Train the rows of the paper's ablation alike, with several seeds, and print its table; go on where it was stopped."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.cli.evaluate import check_output
from refseg.cli.train import add_run_arguments, change, load_clip
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
    parser.add_argument("--pictures", type=int, metavar="N", help="score the first N pictures (default: all)")
    parser.add_argument("--clip", metavar="FILE", help="OpenAI's weights of the towers, or download, or none")
    parser.add_argument("--faithful", action="store_true", help="the published runs, with the slips of their code")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the runs (default: runs/ablate-DATASET)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers of every run there")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    check_output(arguments.json)
    if arguments.seeds < 1 or (arguments.pictures is not None and arguments.pictures < 1):
        raise ConfigError("--seeds and --pictures must be at least 1")
    from refseg.training.recipes import RECIPES, ROWS, recipe

    name = "shapes-ablation" if arguments.dataset == "shapes" else f"cris-r50-{arguments.dataset}"
    if name not in RECIPES:
        known = ["shapes", *(key.removeprefix("cris-r50-") for key in RECIPES if key.startswith("cris-r50-"))]
        raise UnknownNameError("data set of the ablation", arguments.dataset, known)
    rows = list(ROWS) if arguments.rows is None else arguments.rows.split(",")
    changes = dict(change(text) for text in arguments.changes)

    def make(row: str, seed: int) -> tuple[Recipe, Segmenter]:
        import torch

        from refseg.models.cris.model import CRIS

        made = recipe(name, faithful=arguments.faithful, row=row, **{**changes, "seed": seed})
        torch.manual_seed(seed)
        assert made.model is not None
        model = CRIS(made.model)
        if made.clip is not None:
            load_clip(model, made.clip, arguments.clip, name)
        return made, model

    for row in rows:
        recipe(name, faithful=arguments.faithful, row=row, **changes)  # refuse all before anything takes long

    import sys

    from refseg.training.ablation import ablate, table
    from refseg.training.sources import open_recipe

    cells = ablate(
        make,
        lambda made: open_recipe(made, arguments.data, arguments.images),
        arguments.out or Path("runs") / f"ablate-{arguments.dataset}",
        rows=rows,
        seeds=range(arguments.seeds),
        pictures=arguments.pictures,
        device=arguments.device,
        show=sys.stderr.isatty(),
    )
    if arguments.json is not None:
        from refseg.files import write_text

        write_text(arguments.json, json.dumps([asdict(cell) for cell in cells], indent=2) + "\n")
    print(table(cells))
    return 0
