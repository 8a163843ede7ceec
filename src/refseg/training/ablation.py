"""Ablations: the rows of CRIS' table 3, parts of RISCLIP, or five systems, trained alike and with several seeds."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from refseg.config import from_dict, load_json, save_json, to_dict
from refseg.errors import ConfigError, TrainingError, UnknownNameError
from refseg.evaluation.evaluate import target_of
from refseg.evaluation.metrics import count, summarise
from refseg.evaluation.thresholds import evaluate_with_own
from refseg.models.base import Model
from refseg.models.folder import load_model
from refseg.predictor import Predictor
from refseg.training.data import open_recipe
from refseg.training.loop import Validation, train
from refseg.training.recipes import FIRST_STAGE, RECIPES, ROWS, Recipe, recipe
from refseg.training.start import Start, start_of
from refseg.training.vocabulary import with_vocabulary
from refseg.writers.table import Table, markdown

__all__ = ["PARTS", "SYSTEMS", "Ablation", "Cell", "Stage", "ablate", "largest_object", "table"]

PRECISIONS = ("0.5", "0.6", "0.7", "0.8", "0.9")
MEANS = ("pointing", "chosen_mean_iou", "chosen_pointing")
EQUAL: Mapping[str, Any] = {
    "steps_per_epoch": 250,
    "batch_size": 8,
    "expressions_per_image": 6,
    "sizes": ((0.0, 96),),
    "warmup_steps": 100,
    "validation_images": 0,
    "model.image_size": 96,
}
"""What the rows of `PARTS` have in common: 1,500 steps in all, of equally many expressions."""
RunChanges = tuple[str, Mapping[str, Any]]
"""The name of a recipe, and its changes."""


def _two_stages(**changes: Any) -> tuple[RunChanges, ...]:
    return (
        ("shapes-risclip", {**EQUAL, "epochs": 4, **changes}),
        ("shapes-risclip-mask", {**EQUAL, "epochs": 2, **changes}),
    )


PARTS: Mapping[str, tuple[RunChanges, ...]] = MappingProxyType(
    {
        "cris": (("shapes-ablation", {**EQUAL, "epochs": 6}),),
        "cris-from-clip": (("shapes-ablation", {**EQUAL, "epochs": 6, "clip": "shapes-clip"}),),
        "risclip": _two_stages(),
        "risclip-without-cfe": _two_stages(**{"model.fusions": ()}),
        "risclip-without-ske": _two_stages(**{"model.ske_layers": 0}),
        "risclip-unfrozen": _two_stages(**{"model.frozen": False}),
        "risclip-one-stage": (
            (
                "shapes-risclip-mask",
                {**EQUAL, "epochs": 6, "freeze": (), "clip": "shapes-clip-vit", "init": None},
            ),
        ),
    }
)
"""CRIS and RISCLIP on generated scenes with equal budgets, and RISCLIP without each of its parts. A system may take
several runs, each of which starts from the weights of the one before."""
SYSTEMS: Mapping[str, tuple[RunChanges, ...]] = MappingProxyType(
    {
        "efn": (("shapes-easy-efn", {}),),
        "vlt": (("shapes-easy-vlt", {}),),
        "mcn": (("shapes-easy-mcn", {}),),
        "cris": (("shapes-easy", {}),),
        "risclip": (("shapes-easy-risclip", {}),),
        "cris-from-clip": (("shapes-easy", {"clip": "shapes-easy-clip"}),),
        "risclip-from-clip": (
            (
                "shapes-easy-risclip",
                {
                    "objective": "grounding",
                    "epochs": 14,
                    "clip": "shapes-easy-clip-vit",
                    "model.frozen": True,
                    "model.decoder_blocks": (),
                },
            ),
            ("shapes-easy-risclip", {"epochs": 6, "freeze": FIRST_STAGE, "model.frozen": True}),
        ),
    }
)
"""Compact systems with about as many parameters, those of words apart, and equal budgets, on any data. The first five
start from random weights, the last two from a small CLIP, which is frozen in RISCLIP: it has its two stages."""
TABLES: Mapping[str, Mapping[str, object]] = MappingProxyType({"rows": ROWS, "parts": PARTS, "systems": SYSTEMS})
"""The rows of each table."""
GENERATED_ROWS = MappingProxyType({"shapes": "shapes-ablation", "shapes-easy": "shapes-easy"})
"""The recipes of CRIS' rows on generated scenes."""


class Stage(NamedTuple):
    """One run of a row."""

    name: str
    """Of the recipe."""
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """What is compared, and on which data.

    Raises:
        ConfigError: parts are asked for on other data than Shapes, a row that starts from a CLIP without one, or a
            change does not fit.
        UnknownNameError: there is no ablation on this data set, no such table, or no such row.
    """

    dataset: str
    """`shapes` or `shapes-easy`, or a public data set, on which the rows of CRIS are those of CRIS R50."""
    rows: tuple[str, ...] = ()
    """Names of rows; empty: all, but those in `left_out`."""
    table: str = "rows"
    """`rows`: those of CRIS' ablation (`ROWS`). `parts`: CRIS, RISCLIP, and RISCLIP without its parts (`PARTS`).
    `systems`: EFN, VLT, MCN, CRIS and RISCLIP (`SYSTEMS`)."""
    faithful: bool = False
    """Whether the runs are the published ones (see `recipe`)."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Of all runs (see `Recipe.changed`)."""
    split: str | None = None
    """The split that is scored; None: the validation images of the runs."""
    clip: str | None = None
    """The CLIP of all rows; of parts and systems, the folder of runs that has those they name (see `load_clip`)."""
    root: Path | None = None
    """The folder that holds the public data sets."""
    image_folder: Path | None = None
    """The folder of the images, if they are not with the data."""
    left_out: tuple[str, ...] = field(default=(), init=False)
    """Rows that start from a CLIP, if none is given and `rows` does not name them."""

    def __post_init__(self) -> None:
        if self._recipe not in RECIPES:
            prefix = "cris-r50-"
            public = [key.removeprefix(prefix) for key in RECIPES if key.startswith(prefix)]
            raise UnknownNameError("data set of the ablation", self.dataset, [*GENERATED_ROWS, *public])
        if self.table not in TABLES:
            raise UnknownNameError("table", self.table, TABLES)
        if self.table == "parts" and self.dataset != "shapes":
            raise ConfigError("--table parts compares on shapes only")
        known = TABLES[self.table]
        for row in self.rows:
            if row not in known:
                raise UnknownNameError("row of the ablation", row, known)
        rows = self.rows or tuple(known)
        without_clip = tuple(row for row in rows if self.clip is None and self._needs_clip(row))
        if self.rows and without_clip:
            raise ConfigError(f"{', '.join(without_clip)}: start from a CLIP; give it with --clip, or --clip none")
        object.__setattr__(self, "left_out", without_clip)
        object.__setattr__(self, "rows", tuple(row for row in rows if row not in without_clip))
        for row in self.rows:
            self.stages(row, 0)  # raises for changes that do not fit, before anything takes long

    @property
    def _recipe(self) -> str:
        return GENERATED_ROWS.get(self.dataset, f"cris-r50-{self.dataset}")

    def _needs_clip(self, row: str) -> bool:
        """Return whether a row of `parts` or `systems` starts from a CLIP."""
        if self.table == "rows":
            return False
        return any(stage.recipe.clip is not None for stage in self.stages(row, 0))

    @property
    def validates(self) -> bool:
        """Whether the last stages of all rows validate during training."""
        return all(self.stages(row, 0)[-1].recipe.training.validation_images != 0 for row in self.rows)

    def stages(self, row: str, seed: int) -> list[Stage]:
        """Return the runs of a row and a seed."""
        changes = {**self.changes, "seed": seed}
        if self.table == "rows":
            return [Stage(self._recipe, recipe(self._recipe, faithful=self.faithful, row=row, **changes))]
        runs = PARTS[row] if self.table == "parts" else SYSTEMS[row]
        data = {"data": f"{self.dataset}:train", "validation": f"{self.dataset}:val"}
        return [Stage(name, recipe(name, faithful=self.faithful, **{**data, **own, **changes})) for name, own in runs]

    def open_scored(self, recipe: Recipe) -> Validation:
        """Return the data that is scored, of a run with this recipe."""
        if self.split is not None:
            recipe = replace(recipe, validation=f"{self.dataset}:{self.split}")
        return open_recipe(recipe, self.root, self.image_folder).validation

    def start(self, stage: Stage, before: Path | None) -> Start:
        """Return the model to train, from the model folder of the stage before, if there was one."""
        # All rows of the paper may start from a CLIP; of the others, those whose recipe names one.
        needed = stage.recipe.clip is not None or self.table == "rows"
        clip = self.clip if needed and before is None else None
        return start_of(stage.recipe, stage.name, None if before is None else str(before), clip)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The result of one row and seed."""

    row: str
    seed: int
    mean_iou: float
    precision: tuple[float, float, float, float, float]
    """At IoU 0.5, 0.6, 0.7, 0.8 and 0.9."""
    pointing: float | None
    """None if the data do not know all objects of an image."""
    chosen_mean_iou: float | None
    """With thresholds chosen for this run, for each half of the images on the other one: after a short training few
    probabilities exceed a fixed threshold. None if a half has no target to choose by."""
    chosen_pointing: float | None
    expressions: int
    parameters: int
    learnt: int
    """The number of parameters that learn in at least one stage."""
    frames_per_second: float
    """Images per second with one expression each, one at a time."""
    seconds: float
    """Of the training."""
    curve: tuple[tuple[int, float], ...] = ()
    """Step, counted over all stages, and mean IoU of each validation during the last stage; empty if it validated on no
    image."""


def ablate(
    ablation: Ablation,
    folder: Path,
    *,
    seeds: Sequence[int] = (0,),
    limit: int | None = None,
    device: str = "auto",
    show: bool = True,
) -> list[Cell]:
    """Train and score every row with every seed, or resume an earlier call that was stopped.

    The rows of one seed come one after the other, so that an unfinished ablation compares all rows.

    Args:
        ablation: the rows.
        folder: gets a folder for each run, `ROW-SEED`, with `cell.json` when the run is done.
        seeds: of the runs.
        limit: the number of images that are scored, the first ones; all if None.
        device: `auto`, `cpu`, `cuda` or `mps`.
        show: whether to show progress on stderr.

    Raises:
        TrainingError: the folder holds runs with other settings.
    """
    return [
        _run(ablation, folder / f"{row}-{seed}", row, seed, limit, device, show=show)
        for seed in seeds
        for row in ablation.rows
    ]


def _run(ablation: Ablation, folder: Path, row: str, seed: int, limit: int | None, device: str, *, show: bool) -> Cell:
    stages = ablation.stages(row, seed)
    datasets = [open_recipe(stage.recipe, ablation.root, ablation.image_folder) for stage in stages]
    stages = [
        Stage(stage.name, with_vocabulary(stage.recipe, data.training))
        for stage, data in zip(stages, datasets, strict=True)
    ]
    scored = ablation.open_scored(stages[-1].recipe)  # raises for an unknown split, before anything takes long
    start = ablation.start(stages[0], None)
    made_of = {
        "stages": [
            {
                "training": to_dict(stage.recipe.training),
                "model": to_dict(stage.recipe.model) if stage.recipe.model is not None else None,
                "digests": dict(data.digests),
            }
            for stage, data in zip(stages, datasets, strict=True)
        ],
        "start": dict(start.digests),
        "split": ablation.split,
        "limit": limit,
    }
    done = folder / "cell.json"
    if done.exists():
        kept = load_json(done)
        if {key: kept.get(key) for key in made_of} != made_of:
            raise TrainingError(
                f"{done}: is of a run with other settings, data, CLIP, --split or --limit; name another folder with "
                "--out, or remove this one"
            )
        return from_dict(Cell, kept["cell"], where=str(done))
    started, last, learnt = time.monotonic(), None, set[str]()
    for number, (stage, data) in enumerate(zip(stages, datasets, strict=True), start=1):
        model, digests = start if last is None else ablation.start(stage, last)
        last = train(
            model,
            stage.recipe.training,
            data.training,
            data.validation,
            folder if len(stages) == 1 else folder / str(number),
            device=device,
            show=show,
            digests={**data.digests, **digests},
            about={"row": row},
        )
        learnt |= {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert last is not None
    seconds = time.monotonic() - started
    model = load_model(last)
    predictor = Predictor.from_model(model, device)
    protocol = scored.protocol
    outcomes, again = evaluate_with_own(
        predictor, scored.data, _count(scored, limit), scored.objects, protocol=protocol, progress=show
    )
    summary, chosen = summarise(outcomes, protocol), summarise(again, protocol) if again else {}
    if summary["mean_iou"] is None:
        raise ConfigError("no expression of the scored images has a target, so nothing can be scored")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    cell = Cell(
        row=row,
        seed=seed,
        mean_iou=summary["mean_iou"],
        precision=tuple(summary["precision"][key] for key in PRECISIONS),
        pointing=summary["pointing"],
        chosen_mean_iou=chosen.get("mean_iou"),
        chosen_pointing=chosen.get("pointing"),
        expressions=summary["n"],
        parameters=sum(sizes.values()),
        learnt=sum(sizes[name] for name in learnt),
        frames_per_second=_speed(model),
        seconds=round(seconds, 1),
        curve=_curve(last.with_name("log.jsonl"), sum(stage.recipe.training.steps for stage in stages[:-1])),
    )
    save_json({**made_of, "cell": asdict(cell)}, done)
    return cell


def largest_object(ablation: Ablation, limit: int | None = None) -> float | None:
    """Return the mean IoU of an answer that reads no words, the largest object of each image that is scored.

    It is None if the data do not know all objects of an image.
    """
    scored = ablation.open_scored(ablation.stages(ablation.rows[0], 0)[-1].recipe)
    ious = []
    for index in range(_count(scored, limit)):
        objects = None if scored.objects is None else scored.objects(index)
        if objects is None or not len(objects):
            return None
        largest = objects[objects.sum(axis=(1, 2)).argmax()]
        for sample in scored.data.samples_of(index):
            target, ignored = target_of(sample, scored.protocol)
            if target is not None:
                counts = count(largest, target, ignored)
                ious += [counts["intersection"] / counts["union"]] * len(sample.expressions)
    return statistics.mean(ious)


def _count(scored: Validation, limit: int | None) -> int:
    return scored.data.num_images if limit is None else min(limit, scored.data.num_images)


def _curve(log: Path, before: int) -> tuple[tuple[int, float], ...]:
    """Return step and mean IoU of the validations in a log; a step that was repeated counts once.

    Args:
        log: of a stage.
        before: the steps of the stages before.
    """
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return tuple(
        {before + line["step"]: line["mean_iou"] for line in lines if line.get("mean_iou") is not None}.items()
    )


@torch.inference_mode()
def _speed(model: Model, repeats: int = 15) -> float:
    """Return the images per second of the model alone, one at a time with one expression each: a median."""
    device = next(model.parameters()).device
    side, length = model.inputs.image_size, model.inputs.word_length
    pixels = torch.zeros(1, 3, side, side, device=device)
    tokens = torch.ones(1, length, dtype=torch.int64, device=device)
    padding = torch.zeros(1, length, dtype=torch.bool, device=device)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        model(pixels, tokens, padding).cpu()
        times.append(time.perf_counter() - started)
    return 1 / statistics.median(times)


def table(cells: Iterable[Cell]) -> str:
    """Return the table of the authors' talk in Markdown: means over the seeds, and the standard deviation of the IoU.

    Systems have their name and the number of learnt parameters as their first columns. The columns with "own" are those
    with thresholds chosen for the run (`Cell.chosen_mean_iou`).
    """
    by_row: dict[str, list[Cell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row, []).append(cell)
    are_rows = set(by_row) <= set(ROWS)
    first = ["Con.", "Dec.", "n"] if are_rows else ["system", "learnt (M)"]
    titles = [
        *first,
        "IoU",
        *(f"Pr@{part}" for part in (50, 60, 70, 80, 90)),
        "pointing",
        "IoU (own)",
        "pointing (own)",
        "params (M)",
        "FPS",
        "runs",
    ]
    rows = []
    for row, found in by_row.items():
        ious = [100 * cell.mean_iou for cell in found]
        spread = f" ± {statistics.stdev(ious):.2f}" if len(ious) > 1 else ""
        precision = [f"{100 * statistics.mean(cell.precision[i] for cell in found):.2f}" for i in range(5)]
        columns = [
            *(_switches(row) if are_rows else (row, f"{found[0].learnt / 1e6:.2f}")),
            f"{statistics.mean(ious):.2f}{spread}",
            *precision,
            *(_mean([getattr(cell, name) for cell in found]) for name in MEANS),
            f"{found[0].parameters / 1e6:.2f}",
            f"{statistics.median(cell.frames_per_second for cell in found):.1f}",
            str(len(found)),
        ]
        rows.append(tuple(columns))
    return markdown(Table(columns=tuple(titles), rows=tuple(rows)))


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{100 * statistics.mean(known):.2f}" if known else "-"


def _switches(row: str) -> tuple[str, str, str]:
    layers, contrastive = ROWS[row]["decoder_layers"], ROWS[row]["contrastive"]
    return "yes" if contrastive else "-", "yes" if layers else "-", str(layers) if layers else "-"
