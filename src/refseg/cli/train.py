"""Train a model by a named recipe, or go on with a run that was stopped: the same command does both."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.errors import ConfigError, DataError

if TYPE_CHECKING:
    from refseg.models.base import Segmenter
    from refseg.training.recipes import Recipe

__all__ = ["add_arguments", "add_run_arguments", "change", "load_clip", "run", "starting_model"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("recipe", nargs="?", help="a recipe's name; --list shows them")
    parser.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="settings of the recipe to change")
    parser.add_argument("--list", action="store_true", help="list the recipes with what they cost and give")
    parser.add_argument("--faithful", action="store_true", help="the published run, with the slips of its code")
    parser.add_argument("--row", metavar="NAME", help="a row of the ablation, such as baseline or both-3")
    add_run_arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="the run's folder (default: runs/RECIPE)")
    parser.add_argument(
        "--init",
        metavar="MODEL",
        help="start from the weights of a model: a zoo name, a model folder or a Hub name",
    )
    parser.add_argument(
        "--clip", metavar="FILE", help="OpenAI's weights of the encoders, or download, or none for random ones"
    )
    parser.add_argument("--shard", action="store_true", help="spread the weights over torchrun's processes (FSDP)")
    parser.add_argument("--wandb", metavar="PROJECT", help="send the run to Weights & Biases too")
    parser.add_argument("--dry-run", action="store_true", help="tell the settings and the memory needed, and stop")


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `train` and `ablate` share."""
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the folder that holds the public data sets")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are, if not with the data")
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
    chosen = recipe(
        arguments.recipe,
        faithful=arguments.faithful,
        row=arguments.row,
        **dict(change(text) for text in arguments.changes),
    )
    is_main = os.environ.get("RANK", "0") == "0"

    import torch

    from refseg.config import to_dict
    from refseg.training.data import open_recipe
    from refseg.training.loop import train
    from refseg.training.memory import estimate

    torch.manual_seed(chosen.training.seed)
    if not arguments.dry_run:
        _check_own_data(chosen, arguments.images, show=is_main)
        data, validation = open_recipe(chosen, arguments.data, arguments.images)
    model = starting_model(chosen, arguments.recipe, arguments.init, arguments.clip)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if is_main:
        needed = estimate(model, chosen.training, processes=processes, shard=arguments.shard)
        print(f"refseg: memory: {needed}", file=sys.stderr)
    if arguments.dry_run:
        print(json.dumps({"training": to_dict(chosen.training), "model": to_dict(model.config)}, indent=2))
        return 0
    last = train(
        model,
        chosen.training,
        data,
        validation,
        arguments.out or Path("runs") / arguments.recipe,
        device=arguments.device,
        shard=arguments.shard,
        wandb=arguments.wandb,
        show=True,
        about={"recipe": arguments.recipe, "data": chosen.data, "validation": chosen.validation},
    )
    if is_main:
        print(f"the model folder is {last}; try: refseg predict IMAGE EXPRESSION --model {last}")
    return 0


def starting_model(chosen: Recipe, name: str, init: str | None, clip: str | None) -> Segmenter:
    """Return the model of a recipe with the weights that it starts from.

    Args:
        chosen: the recipe.
        name: of the recipe.
        init: the model whose weights it starts from: a zoo name, a model folder or a Hub name.
        clip: what `--clip` gives (see `load_clip`).

    Raises:
        ConfigError: it is not said where they come from, or they are another model's.
    """
    from refseg.models.families import build
    from refseg.models.folder import load_model, resolve

    if init is not None:
        start = load_model(resolve(init))
        if chosen.model is None:
            return start
        if not _goes_on_from(chosen.model, start.config):
            raise ConfigError(f"{init}: is another model than the recipe {name} trains")
        model = build(chosen.model)
        model.clip = start.clip
        # A second stage adds a decoder to what the first one has trained.
        model.load_state_dict(model.state_dict() | start.state_dict())
        if clip is not None:
            load_clip(model, chosen.clip, clip, name)
        return model
    if chosen.model is None:
        raise ConfigError(f"{name}: which model to start from? give --init, such as --init shapes")
    model = build(chosen.model)
    if chosen.clip is not None or clip is not None:
        load_clip(model, chosen.clip, clip, name)
    return model


def _goes_on_from(config: Any, start: Any) -> bool:
    """Return whether a run of one config may start from weights of another: they differ in how they are used alone.

    The first stage of RISCLIP has no decoder yet.
    """
    from refseg.config import replace

    if type(start) is not type(config):
        return False
    used = ("image_size", "word_length", "threshold", "relative_threshold", "calibration", "dropout")
    values = {key: getattr(config, key) for key in used if hasattr(config, key)}
    if not getattr(start, "decoder_blocks", True):
        values["decoder_blocks"] = config.decoder_blocks
    return bool(replace(start, **values) == config)


def load_clip(model: Segmenter, name: str | None, given: str | None, recipe: str) -> None:
    """Load CLIP's encoders from what `--clip` gives.

    That is a file, a model folder with the encoders, a folder of runs that has `NAME/last`, `download`, or `none`.

    Raises:
        ConfigError: it gives nothing.
        WeightsError, DownloadError: the file is broken, does not fit, or cannot be fetched.
    """
    from refseg.encoders.clip_files import archive_name, download_clip
    from refseg.encoders.clip_sizes import CLIP_SIZES
    from refseg.models.folder import adopt_clip

    if given is None:
        how = f"the folder that `refseg train {name}` gives with --clip runs/{name}/last"
        if name in CLIP_SIZES:
            how = f"its file with --clip {archive_name(name)}, or --clip download"
        raise ConfigError(
            f"{recipe}: starts from CLIP's {name}: give {how}, or --clip none to start from random weights"
        )
    if given == "none":
        return
    if given == "download":
        if name not in CLIP_SIZES:
            raise ConfigError(f"{recipe}: nobody offers its encoders for download; give a file or a folder with --clip")
        adopt_clip(model, download_clip(name), name=name)
    else:
        run = Path(given) / (name or "") / "last"
        adopt_clip(model, run if run.is_dir() else Path(given), name=name if name in CLIP_SIZES else None)


def _check_own_data(chosen: Recipe, images: Path | None, *, show: bool) -> None:
    """Look through a folder of the user's own before anything takes long, as `refseg data check` does.

    Raises:
        DataError: it has errors.
    """
    name = chosen.data if Path(chosen.data).is_dir() else chosen.data.rpartition(":")[0]
    if not name or not Path(name).is_dir():
        return
    from refseg.data.check import check, table

    findings = check(name, images=images, progress=show and sys.stderr.isatty())
    errors = [finding for finding in findings if finding.severity == "error"]
    if findings and show:
        print(table(findings, most=5, folder=Path(name)), file=sys.stderr)
    if errors:
        raise DataError(f"{name}: {len(errors)} errors, the first: {errors[0].message}; see: refseg data check {name}")


def change(text: str) -> tuple[str, Any]:
    """Return key and value of KEY=VALUE, the value read as JSON where it is JSON.

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
