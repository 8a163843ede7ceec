"""Train a model by a named recipe, or go on with a run that was stopped: the same command does both."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from refseg.errors import ConfigError

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", nargs="?", help="a recipe's name; --list shows them")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="settings of the recipe to change")
    parser.add_argument("--list", action="store_true", help="list the recipes with what they cost and give")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help=("start from the weights of a model folder, of the recipe's sizes, instead of random ones"),
    )
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from refseg.training.recipes import RECIPES, recipe

    if arguments.list:
        for name, make in RECIPES.items():
            print(f"{name}\n  {' '.join((make.__doc__ or '').split())}")
        return 0
    if arguments.recipe is None:
        raise ConfigError(f"which recipe? known are: {', '.join(RECIPES)}")
    chosen = recipe(arguments.recipe, **dict(_change(text) for text in arguments.changes))

    import torch

    from refseg.checkpoint import load_model, resolve
    from refseg.config import replace
    from refseg.data.shapes import Shapes
    from refseg.models.cris.model import CRIS
    from refseg.training.loop import train

    torch.manual_seed(chosen.training.seed)
    model = CRIS(chosen.model)
    if arguments.init is not None:
        start = load_model(resolve(arguments.init))
        # What says how a model is used is in its config too, and no reason to refuse its weights.
        use = {
            key: getattr(chosen.model, key)
            for key in ("image_size", "word_length", "threshold", "calibration", "dropout")
        }
        if replace(start.config, **use) != chosen.model:
            raise ConfigError(f"{arguments.init}: is another model than the recipe {arguments.recipe} trains")
        model.load_state_dict(start.state_dict())
    validation = Shapes("val")
    folder = arguments.out or Path("runs") / arguments.recipe
    last = train(
        model,
        chosen.training,
        Shapes("train", drill=chosen.training.drill),
        validation,
        folder,
        objects=validation.masks,
        device=arguments.device,
    )
    print(f"the model folder is {last}; try: refseg predict PICTURE EXPRESSION --model {last}")
    return 0


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"{text!r} is not KEY=VALUE, such as epochs=10")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError):
        return key, value
