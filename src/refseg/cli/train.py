"""Train a model by a named recipe, or resume a run: the same command does both."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from refseg.cli.options import add_device
from refseg.errors import ConfigError

__all__ = ["EXAMPLE", "add_arguments", "add_run_arguments", "change", "parse", "run"]

EXAMPLE = "refseg train shapes-1 epochs=1 --dry-run"

HELP = ("-h", "--help")
OF_VALIDATION = frozenset({"validation", "protocol", "validation_expressions"})
"""Settings of the validation."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", nargs="?", help="the name of a recipe; --list shows them")
    parser.add_argument(
        "changes",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings of the recipe to change; `refseg train RECIPE --help` explains all of them",
    )
    parser.add_argument("--list", action="store_true", help="list the recipes with their commands, costs and scores")
    parser.add_argument("--faithful", action="store_true", help="the published run, with the bugs of its code")
    parser.add_argument("--row", metavar="NAME", help="a row of the ablation, such as baseline or both-3")
    add_run_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start from the weights of a model (its name, folder or Hub name), or none for random weights",
    )
    parser.add_argument(
        "--clip", metavar="FILE", help="OpenAI's weights of the encoders, or download, or none for random ones"
    )
    parser.add_argument(
        "--backbone", metavar="FILE", help="pretrained weights of the image encoder, or none for random ones"
    )
    parser.add_argument(
        "--vectors", metavar="FILE", help="word vectors: a text file of GloVe or a spaCy model, or none for random ones"
    )
    parser.add_argument("--shard", action="store_true", help="shard the weights over torchrun's processes (FSDP)")
    parser.add_argument("--wandb", metavar="PROJECT", help="send the run to Weights & Biases too")
    parser.add_argument("--dry-run", action="store_true", help="print the settings and the memory needed, and stop")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that `train` and `ablate` share."""
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument("--images", type=Path, metavar="DIR", help="the folder of the images, if not with the data")
    add_device(parser)


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    """Parse the command's arguments; the help of a named recipe explains its settings."""
    others = [word for word in words if word not in HELP]
    if len(others) < len(words) and (name := parser.parse_intermixed_args(others).recipe) is not None:
        from refseg.training.recipes import settings

        parser.epilog = "\n\n".join(filter(None, (parser.epilog, settings(name))))
    return parser.parse_intermixed_args(words)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from refseg.training.recipes import RECIPES, describe, recipe

    if arguments.list:
        print("\n".join(describe(name) for name in RECIPES))
        return 0
    if arguments.recipe is None:
        raise ConfigError(f"which recipe? known are: {', '.join(RECIPES)}")
    changes = dict(change(text) for text in arguments.changes)
    chosen = recipe(arguments.recipe, faithful=arguments.faithful, row=arguments.row, **changes)
    if chosen.training.validation_images == 0 and (without_effect := sorted(OF_VALIDATION & changes.keys())):
        raise ConfigError(
            f"{without_effect[0]} has no effect, since the run validates on no image: add validation_images=N, or "
            "validation_images=null for all"
        )

    from refseg.config import to_dict
    from refseg.evaluation.distributed import rank_and_size
    from refseg.training.data import check_own_data, open_recipe
    from refseg.training.loop import train
    from refseg.training.memory import estimate
    from refseg.training.start import start_of, with_vectors
    from refseg.training.vocabulary import with_vocabulary

    rank, processes = rank_and_size()

    def report(text: str) -> None:
        if rank == 0:
            print(f"refseg: {text}", file=sys.stderr)

    chosen, vectors = with_vectors(chosen, arguments.recipe, arguments.vectors, arguments.init)
    if not arguments.dry_run:
        check_own_data(chosen, arguments.images, report)
        data = open_recipe(chosen, arguments.data, arguments.images, report=report)
        chosen = with_vocabulary(chosen, data.training)
    model, digests = start_of(chosen, arguments.recipe, arguments.init, arguments.clip, arguments.backbone, vectors)
    if rank == 0:
        report(f"memory: {estimate(model, chosen.training, processes=processes, shard=arguments.shard)}")
    if arguments.dry_run:
        print(json.dumps({"training": to_dict(chosen.training), "model": to_dict(model.spec)}, indent=2))
        return 0
    last = train(
        model,
        chosen.training,
        data.training,
        data.validation,
        arguments.out or Path("runs") / arguments.recipe,
        device=arguments.device,
        shard=arguments.shard,
        wandb=arguments.wandb,
        show=True,
        digests={**data.digests, **digests},
        about={"recipe": arguments.recipe, "data": chosen.data, "validation": chosen.validation},
        report=report,
    )
    if rank == 0:
        print(f"the model folder is {last}; try: refseg predict IMAGE EXPRESSION --model {last}")
    return 0


def change(text: str) -> tuple[str, Any]:
    """Return key and value of KEY=VALUE; the value is read as JSON if it is JSON.

    Raises:
        ConfigError: there is no `=`.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not KEY=VALUE, such as epochs=10")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value
