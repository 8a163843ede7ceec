"""The training loop: draw a batch, learn from it; validate, keep the best, and be ready to be killed."""

from __future__ import annotations

import io
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refseg.config import save_json, to_dict
from refseg.data.batches import ImageData, Share, TrainOrder, TrainTransform, batches
from refseg.errors import ConfigError, TrainingError
from refseg.evaluation.evaluate import Objects, evaluate
from refseg.evaluation.metrics import Outcome, summarise
from refseg.evaluation.protocols import PROTOCOLS, Protocol
from refseg.files import write_bytes
from refseg.models.base import Segmenter
from refseg.models.folder import save_model
from refseg.predictor import Predictor
from refseg.training.config import TrainingConfig, in_full
from refseg.training.engine import Engine
from refseg.training.optim import set_learning_rates
from refseg.training.processes import Team, assemble
from refseg.training.state import Progress, restore, store, whole_weights
from refseg.training.tracker import Tracker
from refseg.values import Batch, Prediction, Sample
from refseg.writers.overlay import overlay, panels

__all__ = ["Validation", "train"]

LOG_EVERY = 20
"""Steps between two lines of the log; on a GPU, where looking at a loss takes time, also between two looks."""
SHOWN = 6
"""Predictions that a validation shows as images."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What the best weights are chosen by, once an epoch."""

    data: ImageData
    objects: Objects | None = None
    """The masks of all objects in an image, to measure pointing (see `evaluate`)."""
    protocol: Protocol = PROTOCOLS["refseg"]
    """How masks are compared."""


def train(
    model: Segmenter,
    config: TrainingConfig,
    data: ImageData,
    validation: Validation,
    folder: Path,
    *,
    device: str = "auto",
    shard: bool = False,
    show: bool = True,
    wandb: str | None = None,
    about: dict[str, Any] | None = None,
) -> Path:
    """Train a model, or go on with the run in `folder`, and return the model folder of the last weights.

    `folder` holds `last` and `best` (model folders; the best by validation mean IoU), `state.pt` (to go on from),
    `log.jsonl`, `training.json` and `validation.jpg`. The run may be killed at any moment: it goes on from where its
    state was last stored, drawing what it would have drawn. On a CPU, in the same version of PyTorch and with as many
    processes, the weights come out as if it had not been killed. On SIGINT and SIGTERM the state is stored first.

    Where torchrun started several processes, they share the work of each step.

    Args:
        model: with the weights to start from.
        config: the numbers of the run.
        data: what to learn from; a sequence of samples too, where references are drawn.
        validation: what to choose the best weights by.
        folder: made if it is missing.
        device: where to train.
        shard: whether each process holds a part of the weights, for a model that does not fit otherwise.
        show: whether to show a progress bar on stderr.
        wandb: the project of Weights & Biases that the run is sent to.
        about: what else `training.json` is to tell.

    Raises:
        TrainingError: the folder holds another run or cannot be written, the loss is not finite, or a signal came.
        ConfigError: the numbers do not fit the data, the model or the processes.
        DataError: a sample cannot be read.
    """
    config = in_full(config, _items(config, data))
    with assemble(device) as team:
        engine = Engine(model, config, team, shard=shard)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            progress = restore(folder, config, engine.model, engine.optimizer, engine.scaler) or Progress()
            if team.is_main:
                save_json({**to_dict(config), **(about or {})}, folder / "training.json")
        except OSError as error:
            raise TrainingError(f"{folder}: cannot be written: {error.strerror}") from None
        tracker = None
        if team.is_main:
            tracker = Tracker(folder, config.steps, progress.step, show=show, images=config.batch_size, wandb=wandb)
        with tracker or nullcontext(), _signals() as asked, _lost_workers(config):
            _Run(engine, config, team, folder, progress, validation, tracker).go(data, asked)
    return folder / "last"


def _items(config: TrainingConfig, data: ImageData) -> int:
    if config.draw == "image":
        return data.num_images
    if not isinstance(data, Sequence):
        raise ConfigError("draw=reference needs data that is a sequence of samples")
    return len(data)


@dataclass
class _Run:
    """One process's part of a run."""

    engine: Engine
    config: TrainingConfig
    team: Team
    folder: Path
    progress: Progress
    validation: Validation
    tracker: Tracker | None
    """Of the process that is_main."""

    def go(self, data: ImageData, asked: list[int]) -> None:
        """Take all steps that are left."""
        config, progress = self.config, self.progress
        look_every = 1 if self.team.device.type == "cpu" else LOG_EVERY
        losses: list[Tensor] = []
        for pieces in self._drawn(data):
            rate = set_learning_rates(self.engine.optimizer, config, progress.step)
            losses.append(self.engine.step(pieces, progress.step))
            progress.step += 1
            ends = progress.step % config.steps_per_epoch == 0 or progress.step == config.steps
            saves = config.save_every > 0 and progress.step % config.save_every == 0
            stops = self._stops(asked, look=progress.step % look_every == 0)
            if progress.step % look_every == 0 or ends or saves or stops:
                self._look(losses)
            if self.tracker is not None and progress.step % LOG_EVERY == 0:
                mean = float(torch.stack(losses).mean())
                self.tracker.log(
                    progress.step, loss=mean, learning_rate=rate, images_per_second=self.tracker.speed(progress.step)
                )
            if progress.step % LOG_EVERY == 0:
                losses.clear()
            if ends:
                self._end_epoch()
            elif saves or stops:
                self._store()
            if stops and progress.step < config.steps:
                raise TrainingError(
                    f"stopped by {signal.Signals(stops).name} after step {progress.step}; the same command goes on"
                )

    def _drawn(self, data: ImageData) -> Iterator[list[Batch]]:
        """Yield the pieces of each step that is left, of this process."""
        config = self.config
        model_config = self.engine.model.config
        sizes = config.sizes or ((0.0, model_config.image_size),)
        order = TrainOrder(
            items=_items(config, data),
            batch_size=config.batch_size,
            expressions=config.expressions_per_image,
            sizes=tuple((round(share * config.steps), size) for share, size in sizes),
            seed=config.seed,
        )
        drawer = TrainTransform(
            data,
            model_config.word_length,
            config.target,
            dict(config.emphasis),
            mirror=config.mirror,
            zoom=config.zoom,
            by_reference=config.draw == "reference",
        )
        share = Share(self.team.rank, self.team.size, config.accumulate)
        drawn = batches(drawer, order, range(self.progress.step, config.steps), config.workers, share)
        while pieces := list(islice(drawn, config.accumulate)):
            yield pieces

    def _stops(self, asked: list[int], *, look: bool) -> int:
        """Return the signal that any process got, at the steps where all of them look, else 0."""
        return max(self.team.gather(asked[0] if asked else 0)) if look else 0

    def _look(self, losses: list[Tensor]) -> None:
        """Check the losses since the last look at them, and show the newest."""
        for back, loss in enumerate(reversed(losses)):
            value = float(loss)
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {self.progress.step - back}; lower learning_rate or set max_norm"
                )
        if self.tracker is not None and losses:
            self.tracker.advance(self.progress.step, float(losses[-1]))

    def _end_epoch(self) -> None:
        """Validate, keep the weights, and store the state, which comes last: what it promises is then there."""
        about = {"training": to_dict(self.config), "step": self.progress.step}
        model = self._whole_model()
        figures = self._validate(model)
        if figures.get("mean_iou", -1.0) > self.progress.best:
            self.progress.best = figures["mean_iou"]
            if self.team.is_main:
                save_model(model, self.folder / "best", extra=about | {"validation": figures})
        if self.team.is_main:
            save_model(model, self.folder / "last", extra=about)
        self._store()

    def _store(self) -> None:
        engine = self.engine
        store(self.folder, self.config, engine.model, engine.optimizer, engine.scaler, self.progress, self.team)
        self.team.wait()

    def _whole_model(self) -> Segmenter:
        """Return the model to look at: the trained one, or a copy put together where processes hold parts of it."""
        if not self.engine.sharded:
            return self.engine.model
        model: Segmenter = type(self.engine.model)(self.engine.model.config)
        model.load_state_dict(whole_weights(self.engine.model))
        model.clip = self.engine.model.clip
        return model

    def _validate(self, model: Segmenter) -> dict[str, float]:
        """Return the figures of the validation, which the processes share; empty without images."""
        validation, progress = self.validation, self.progress
        data = _FirstExpressions(validation.data) if self.config.validation_expressions == "first" else validation.data
        count = data.num_images if self.config.validation_images is None else self.config.validation_images
        images = range(min(count, data.num_images))
        if not images:
            return {}
        shown: list[tuple[Sample, Prediction]] = []

        def keep(sample: Sample, id: str, prediction: Prediction) -> None:
            if len(shown) < SHOWN:
                shown.append((sample, prediction))

        predictor = Predictor(model, self.team.device.type)
        mine: list[Outcome] = evaluate(
            predictor,
            data,
            images[self.team.rank :: self.team.size],
            validation.objects,
            protocol=validation.protocol,
            each=keep if self.tracker is not None else None,
        )
        summary = summarise([outcome for part in self.team.gather(mine) for outcome in part])
        wanted = ("mean_iou", "overall_iou", "pointing", "n_acc")
        figures = {key: float(value) for key in wanted if isinstance(value := summary[key], float)}
        if self.tracker is not None:
            self.tracker.log(progress.step, **figures)
            self.tracker.note(f"step {progress.step}: " + ", ".join(f"{key} {v:.4f}" for key, v in figures.items()))
            image = panels(
                [(overlay(sample.load_image(), prediction.mask), prediction.expression) for sample, prediction in shown]
            )
            drawn = io.BytesIO()
            image.save(drawn, "JPEG", quality=85)
            write_bytes(self.folder / "validation.jpg", drawn.getvalue())
            self.tracker.image(progress.step, image)
        return figures


@dataclass(frozen=True)
class _FirstExpressions:
    """A data set with the first expression of each reference alone."""

    data: ImageData

    @property
    def num_images(self) -> int:
        return self.data.num_images

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        return tuple(
            replace(sample, expressions=sample.expressions[:1], expression_ids=sample.expression_ids[:1])
            for sample in self.data.samples_of(index)
        )


@contextmanager
def _lost_workers(config: TrainingConfig) -> Iterator[None]:
    """Say in one line that a process which prepares batches was killed.

    PyTorch finds out in different ways, and raises wherever the training happens to be.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not config.workers or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
            raise
        raise TrainingError(
            "a process that prepares batches ended, perhaps for lack of memory; the same command goes on, and fewer "
            "workers need less"
        ) from None


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask a run to stop, so that it ends after a whole step; a second one ends it at once."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    usual = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
