"""Ablations: the rows of CRIS' table 3, or systems side by side, each trained alike and with several seeds."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from refseg.config import from_dict, load_json, to_dict
from refseg.errors import ConfigError, TrainingError
from refseg.evaluation.metrics import summarise
from refseg.evaluation.thresholds import evaluate_with_own
from refseg.files import write_text
from refseg.models.base import Segmenter
from refseg.models.folder import load_model
from refseg.predictor import Predictor
from refseg.training.loop import Validation, train
from refseg.training.recipes import ROWS, Recipe

__all__ = ["Cell", "Stage", "ablate", "table"]

PRECISIONS = ("0.5", "0.6", "0.7", "0.8", "0.9")
MEANS = ("pointing", "chosen_mean_iou", "chosen_pointing")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of the ablation: a row, a seed, and what came out."""

    row: str
    seed: int
    mean_iou: float
    precision: tuple[float, float, float, float, float]
    """At IoU 0.5, 0.6, 0.7, 0.8 and 0.9."""
    pointing: float | None
    """Where the data know all objects of an image."""
    chosen_mean_iou: float | None
    """With thresholds that were chosen for this run, for each half of the images on the other one. A fixed threshold
    finds nothing where a model has not become sure of anything yet. None where a half has nothing to choose by."""
    chosen_pointing: float | None
    expressions: int
    parameters: int
    learnt: int
    """How many of them learn in one of the stages."""
    frames_per_second: float
    """Images a second with one expression each, one at a time."""
    seconds: float
    """Of the training."""


class Stage(NamedTuple):
    """One run of a row."""

    recipe: Recipe
    start: Callable[[Path | None], Segmenter]
    """Returns the model to train, from what the stage before gave, if there was one."""


def ablate(
    make: Callable[[str, int], Sequence[Stage]],
    open_data: Callable[[Recipe], tuple[Any, Validation]],
    folder: Path,
    *,
    rows: Sequence[str] = tuple(ROWS),
    seeds: Sequence[int] = (0,),
    images: int | None = None,
    device: str = "auto",
    show: bool = True,
) -> list[Cell]:
    """Train and score every row with every seed, or go on where an earlier call was stopped.

    The rows of one seed come one after the other, so that a part of the work compares all rows.

    Args:
        make: returns the stages of a row and a seed.
        open_data: opens what a recipe learns from and is scored on.
        folder: holds a folder for each run, `ROW-SEED`, with its `cell.json` once it is done.
        rows: their names.
        seeds: of the runs.
        images: how many images of the validation are scored; all if None.
        device: where to train.
        show: whether to show progress on stderr.

    Raises:
        TrainingError: the folder holds runs of another budget.
    """
    return [
        _run(make, open_data, folder / f"{row}-{seed}", row, seed, images, device, show=show)
        for seed in seeds
        for row in rows
    ]


def _run(
    make: Callable[[str, int], Sequence[Stage]],
    open_data: Callable[[Recipe], tuple[Any, Validation]],
    folder: Path,
    row: str,
    seed: int,
    images: int | None,
    device: str,
    *,
    show: bool,
) -> Cell:
    stages = make(row, seed)
    asked = {
        "stages": [
            {"training": to_dict(stage.recipe.training), "model": to_dict(stage.recipe.model)} for stage in stages
        ]
    }
    done = folder / "cell.json"
    if done.exists():
        kept = load_json(done)
        if {key: kept.get(key) for key in asked} != asked:
            raise TrainingError(f"{done}: is of a run with other settings; choose another folder")
        return from_dict(Cell, kept["cell"], where=str(done))
    begun, last, learnt = time.monotonic(), None, set[str]()
    for number, stage in enumerate(stages, start=1):
        recipe, model = stage.recipe, stage.start(last)
        data, validation = open_data(recipe)
        place = folder if len(stages) == 1 else folder / str(number)
        last = train(model, recipe.training, data, validation, place, device=device, show=show, about={"row": row})
        learnt |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert last is not None
    seconds = time.monotonic() - begun
    predictor = Predictor(load_model(last), device)
    count = validation.data.num_images if images is None else min(images, validation.data.num_images)
    protocol = validation.protocol
    outcomes, again = evaluate_with_own(
        predictor, validation.data, count, validation.objects, protocol=protocol, progress=show
    )
    summary, chosen = summarise(outcomes, protocol), summarise(again, protocol) if again else {}
    if summary["mean_iou"] is None:
        raise ConfigError(f"{recipe.validation}: no expression of it means anything, so that nothing can be scored")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    cell = Cell(
        row=row,
        seed=seed,
        mean_iou=summary["mean_iou"],
        precision=tuple(summary["precision"][key] for key in PRECISIONS),
        pointing=summary.get("pointing"),
        chosen_mean_iou=chosen.get("mean_iou"),
        chosen_pointing=chosen.get("pointing"),
        expressions=summary["n"],
        parameters=sum(sizes.values()),
        learnt=sum(sizes[name] for name in learnt),
        frames_per_second=_speed(predictor),
        seconds=round(seconds, 1),
    )
    write_text(done, json.dumps({**asked, "cell": asdict(cell)}, indent=2) + "\n")
    return cell


@torch.inference_mode()
def _speed(predictor: Predictor, repeats: int = 15) -> float:
    """Return how many images a second the model alone segments, one at a time, each by one expression: a median."""
    model, device = predictor.model, predictor.device
    side, length = model.config.image_size, model.config.word_length
    pixels = torch.zeros(1, 3, side, side, device=device)
    tokens = torch.ones(1, length, dtype=torch.int64, device=device)
    padding = torch.zeros(1, length, dtype=torch.bool, device=device)
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        model(pixels, tokens, padding).cpu()
        times.append(time.perf_counter() - begun)
    return 1 / float(np.median(times))


def table(cells: Iterable[Cell]) -> str:
    """Return the table of the authors' talk in Markdown: means over the seeds, and the spread of the mean IoU.

    For rows that are systems, their names and how many parameters learn take the place of the talk's first columns.
    The columns of "own" are those with thresholds that were chosen for the run (`Cell.chosen_mean_iou`).
    """
    by_row: dict[str, list[Cell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row, []).append(cell)
    of_paper = set(by_row) <= set(ROWS)
    first = ["Con.", "Dec.", "n"] if of_paper else ["system", "learnt (M)"]
    heads = [
        *first,
        "IoU",
        *(f"Pr@{part}" for part in (50, 60, 70, 80, 90)),
        "points right",
        "IoU (own)",
        "points right (own)",
        "params (M)",
        "FPS",
        "runs",
    ]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row, found in by_row.items():
        ious = [100 * cell.mean_iou for cell in found]
        spread = f" ± {statistics.stdev(ious):.2f}" if len(ious) > 1 else ""
        precision = [f"{100 * statistics.mean(cell.precision[i] for cell in found):.2f}" for i in range(5)]
        cells_of_row = [
            *(_parts(row) if of_paper else (row, f"{found[0].learnt / 1e6:.2f}")),
            f"{statistics.mean(ious):.2f}{spread}",
            *precision,
            *(_mean([getattr(cell, name) for cell in found]) for name in MEANS),
            f"{found[0].parameters / 1e6:.2f}",
            f"{statistics.median(cell.frames_per_second for cell in found):.1f}",
            str(len(found)),
        ]
        lines.append(f"| {' | '.join(cells_of_row)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * statistics.mean(known):.2f}" if known else "-"


def _parts(row: str) -> tuple[str, str, str]:
    layers, contrastive = ROWS[row]["decoder_layers"], ROWS[row]["contrastive"]
    return "yes" if contrastive else "-", "yes" if layers else "-", str(layers) if layers else "-"
