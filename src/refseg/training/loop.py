"""The training loop: steps, validation, the best weights, and a state from which a killed run is resumed."""

from __future__ import annotations

import io
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refseg.config import save_json, to_dict
from refseg.data.batches import Batch, ByReference, Shard, TrainOrder, TrainTransform, batches
from refseg.data.dataset import ImageData
from refseg.errors import ConfigError, StoppedError, TrainingError, counted
from refseg.evaluation.evaluate import Objects, evaluate
from refseg.evaluation.metrics import Outcome, summarise
from refseg.evaluation.protocols import PROTOCOLS, Protocol
from refseg.files import write_bytes
from refseg.models.base import BoxModel, Model
from refseg.models.folder import save_model
from refseg.predictor import Predictor
from refseg.training.config import TrainingConfig, in_full
from refseg.training.engine import Engine
from refseg.training.optim import set_learning_rates
from refseg.training.processes import Processes, join_processes
from refseg.training.state import Progress, restore, store, whole_weights
from refseg.training.tracker import Tracker
from refseg.values import Expression, Prediction, Sample
from refseg.writers.overlay import overlay, panels

__all__ = ["Validation", "train"]

LOG_EVERY = 20
"""Steps between two lines of the log; on a GPU, which has to be waited for, also between two checks of the loss."""
SHOWN = 6
"""Predictions in `validation.jpg`."""
FIGURES = ("mean_iou", "overall_iou", "pointing", "n_acc", "box_accuracy")
"""What a validation logs."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The data by which the best weights are chosen, once an epoch."""

    data: ImageData
    objects: Objects | None = None
    """The masks of all objects in an image, to measure pointing (see `evaluate`)."""
    protocol: Protocol = PROTOCOLS["refseg"]
    """How masks are compared."""


def train(
    model: Model,
    config: TrainingConfig,
    data: ImageData,
    validation: Validation,
    folder: Path,
    *,
    device: str = "auto",
    shard: bool = False,
    show: bool = True,
    wandb: str | None = None,
    digests: Mapping[str, str] = MappingProxyType({}),
    about: Mapping[str, Any] = MappingProxyType({}),
    report: Callable[[str], None] | None = None,
) -> Path:
    """Train a model, or resume the run in `folder`, and return the model folder of the last weights.

    `folder` gets `last` and `best` (model folders; the best by validation mean IoU), `state.pt`, `log.jsonl`,
    `training.json` and `validation.jpg`. The run may be killed at any moment: it is resumed from its last stored state,
    and goes on with the same images and expressions. On a CPU, with the same version of PyTorch and the same number of
    processes, the weights are bit for bit those of a run that was not killed. On SIGINT and SIGTERM the state is stored
    first. A finished run is left as it is.

    The calibration and the relative threshold of the model are dropped, as they were measured with other weights.

    If torchrun started several processes, they share the work of each step.

    Args:
        model: with the weights to start from.
        config: the numbers of the run.
        data: the training images; also a sequence of samples if `sample_by` is `reference`.
        validation: the data by which the best weights are chosen.
        folder: created if it is missing.
        device: `auto`, `cpu`, `cuda` or `mps`.
        shard: whether each process holds a part of the weights, for a model that does not fit otherwise.
        show: whether to show a progress bar on stderr.
        wandb: the project of Weights & Biases that the run is sent to.
        digests: of what the run is made of, by name, such as `training data` and `start`; they are stored, and a run is
            only resumed with the same ones.
        about: more entries for `training.json`.
        report: is called with lines about the run: what is dropped, how many images it has, where it resumes.

    Raises:
        TrainingError: the folder holds another run or cannot be made, or the loss is not finite.
        StoppedError: a signal came.
        OutputError: a file cannot be written.
        ConfigError: the numbers do not fit the data, the model or the processes.
        DataError: a sample cannot be read.
    """
    say = report or (lambda _: None)
    _say_images(data, validation, config, say)
    if config.sample_by == "reference":
        if not isinstance(data, Sequence):
            raise ConfigError(
                "sample_by=reference needs a single split, from which no images are held out: name it as "
                "data=NAME:SPLIT, and the others as validation=NAME:SPLIT; or take sample_by=image"
            )
        data = ByReference(data)
    config = in_full(config, data.num_images)
    _check_protocol(validation, config)
    if config.chosen_by == "box_accuracy" and not isinstance(model, BoxModel):
        raise ConfigError("chosen_by=box_accuracy: this model answers with no boxes; take chosen_by=mean_iou")
    if model.decision != model.decision.unmeasured():
        say(
            "note: the calibration and the relative threshold of the start are dropped, which were measured with its "
            "weights; `refseg calibrate --thresholds` measures those of the trained model"
        )
        model.decision = model.decision.unmeasured()
    with join_processes(device) as processes:
        engine = Engine(model, config, processes, shard=shard)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(f"{folder}: cannot be written: {error.strerror}") from None
        progress = restore(folder, config, digests, engine.model, engine.optimizer, engine.scaler) or Progress()
        if progress.step >= config.last_step and (folder / "last").is_dir():
            say(f"{folder}: this run is finished ({progress.step:,} steps); nothing is trained")
            return folder / "last"
        if progress.step:
            say(f"{folder}: resumes after step {progress.step:,} of {config.last_step:,}")
        if processes.is_main:
            save_json({**to_dict(config), **about, "digests": dict(digests)}, folder / "training.json")
        tracker = None
        if processes.is_main:
            tracker = Tracker(
                folder, config.last_step, progress.step, show=show, images_per_step=config.batch_size, wandb=wandb
            )
        with tracker or nullcontext(), _stop_signals() as signals, _lost_workers(config):
            _Run(engine, config, digests, processes, folder, progress, validation, tracker).go(data, signals)
    return folder / "last"


def _say_images(data: ImageData, validation: Validation, config: TrainingConfig, say: Callable[[str], None]) -> None:
    count = len(_validation_images(validation, config))
    same = " of the same" if validation.data is data else ""
    say(f"learns from {counted(data.num_images, 'image')}, validates on {counted(count, 'image')}{same}")


def _check_protocol(validation: Validation, config: TrainingConfig) -> None:
    """Check that the protocol has a rule for all validation expressions, before the first epoch is trained."""
    if validation.protocol.no_target:
        return
    for index in _validation_images(validation, config):
        if any(sample.load_mask is None for sample in validation.data.samples_of(index)):
            raise ConfigError(
                f"the protocol {validation.protocol.name} has no rule for expressions that nothing fits, and the "
                "validation images have some; take protocol=refseg"
            )


def _validation_images(validation: Validation, config: TrainingConfig) -> range:
    count = validation.data.num_images
    return range(count if config.validation_images is None else min(count, config.validation_images))


@dataclass
class _Run:
    """The part of one process in a run."""

    engine: Engine
    config: TrainingConfig
    digests: Mapping[str, str]
    processes: Processes
    folder: Path
    progress: Progress
    validation: Validation
    tracker: Tracker | None
    """Of rank 0."""

    def go(self, data: ImageData, signals: list[int]) -> None:
        """Take all remaining steps."""
        config, progress = self.config, self.progress
        check_every = 1 if self.processes.device.type == "cpu" else LOG_EVERY
        losses: list[Tensor] = []
        if progress.step >= config.last_step:  # only the weights of a finished run were removed
            self._end_epoch()
        for pieces in self._steps(data):
            rate = set_learning_rates(self.engine.optimizer, config, progress.step)
            losses.append(self.engine.step(pieces, progress.step))
            progress.step += 1
            ends = progress.step % config.steps_per_epoch == 0 or progress.step == config.last_step
            saves = config.save_every > 0 and progress.step % config.save_every == 0
            stops = self._stops(signals, check=progress.step % check_every == 0)
            if progress.step % check_every == 0 or ends or saves or stops:
                self._check(losses)
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
            if stops and progress.step < config.last_step:
                raise StoppedError(stops, progress.step)

    def _steps(self, data: ImageData) -> Iterator[list[Batch]]:
        """Yield the batches of each remaining step, of this process: one for each piece."""
        config, inputs = self.config, self.engine.model.inputs
        sizes = config.sizes or ((0.0, inputs.image_size),)
        order = TrainOrder(
            num_images=data.num_images,
            batch_size=config.batch_size,
            expressions=config.expressions_per_image,
            sizes=tuple((round(fraction * config.steps), size) for fraction, size in sizes),
            seed=config.seed,
        )
        transform = TrainTransform(
            data,
            inputs,
            config.target,
            dict(config.emphasis),
            mirror=config.mirror,
            zoom=config.zoom,
            stride=self.engine.model.stride,
        )
        shard = Shard(self.processes.rank, self.processes.size, config.accumulate)
        stream = batches(transform, order, range(self.progress.step, config.last_step), config.workers, shard)
        while pieces := list(islice(stream, config.accumulate)):
            yield pieces

    def _stops(self, signals: list[int], *, check: bool) -> int:
        """Return the signal that any process received, at the steps where all of them check, else 0."""
        return max(self.processes.gather(signals[0] if signals else 0)) if check else 0

    def _check(self, losses: list[Tensor]) -> None:
        """Check that all losses since the last line of the log are finite, and show the newest."""
        for back, loss in enumerate(reversed(losses)):
            value = float(loss)
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} at step {self.progress.step - back}; lower learning_rate or set max_norm"
                )
        if self.tracker is not None and losses:
            self.tracker.advance(self.progress.step, float(losses[-1]))

    def _end_epoch(self) -> None:
        """Validate, write the weights, and store the state last: whatever it refers to is then written."""
        about = {"training": to_dict(self.config), "step": self.progress.step}
        model = self._whole_model()
        figures = self._validate(model)
        if (reached := figures.get(self.config.chosen_by, -1.0)) > self.progress.best:
            self.progress.best = reached
            if self.processes.is_main:
                save_model(model, self.folder / "best", extra=about | {"validation": figures})
        if self.processes.is_main:
            save_model(model, self.folder / "last", extra=about)
        self._store()

    def _store(self) -> None:
        engine = self.engine
        store(
            self.folder,
            self.config,
            self.digests,
            engine.model,
            engine.optimizer,
            engine.scaler,
            self.progress,
            self.processes,
        )
        self.processes.wait()

    def _whole_model(self) -> Model:
        """Return the trained model, or a copy gathered from the processes if its weights are sharded."""
        if not self.engine.sharded:
            return self.engine.model
        model = self.engine.model.untrained()
        model.load_state_dict(whole_weights(self.engine.model))
        model.clip = self.engine.model.clip
        return model

    def _validate(self, model: Model) -> dict[str, float]:
        """Return the figures of the validation, whose images the processes share; empty without images."""
        validation, progress = self.validation, self.progress
        data = _FirstExpressions(validation.data) if self.config.validation_expressions == "first" else validation.data
        images = _validation_images(validation, self.config)
        if not images:
            return {}
        shown: list[tuple[Sample, Prediction]] = []

        def keep(sample: Sample, expression: Expression, prediction: Prediction) -> None:
            if len(shown) < SHOWN:
                shown.append((sample, prediction))

        own: list[Outcome] = evaluate(
            Predictor.from_model(model, self.processes.device.type),
            data,
            images[self.processes.rank :: self.processes.size],
            validation.objects,
            protocol=validation.protocol,
            each=keep if self.tracker is not None else None,
        )
        outcomes = [outcome for part in self.processes.gather(own) for outcome in part]
        summary = summarise(outcomes, validation.protocol)
        figures = {key: float(value) for key in FIGURES if (value := summary.get(key)) is not None}
        if self.tracker is not None:
            self.tracker.log(progress.step, **figures)
            self.tracker.note(f"step {progress.step}: " + ", ".join(f"{key} {v:.4f}" for key, v in figures.items()))
            image = panels([panel for pair in shown for panel in _target_and_prediction(*pair)], columns=4)
            encoded = io.BytesIO()
            image.save(encoded, "JPEG", quality=85)
            write_bytes(self.folder / "validation.jpg", encoded.getvalue())
            self.tracker.image(progress.step, image)
        return figures


def _target_and_prediction(sample: Sample, prediction: Prediction) -> list[tuple[Image.Image, str]]:
    """Return the panels of one expression: its target mask, and beside it the predicted one."""
    image, predicted = sample.load_image(), prediction.mask
    if sample.load_mask is None:
        target, note = np.zeros_like(predicted), " (nothing fits)"
    else:
        target, note = sample.load_mask(), ""
    return [(overlay(image, target), f"{prediction.expression}{note}"), (overlay(image, predicted), "predicted")]


@dataclass(frozen=True)
class _FirstExpressions:
    """A data set with only the first expression of each reference."""

    data: ImageData

    @property
    def num_images(self) -> int:
        return self.data.num_images

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        return tuple(replace(sample, expressions=sample.expressions[:1]) for sample in self.data.samples_of(index))


@contextmanager
def _lost_workers(config: TrainingConfig) -> Iterator[None]:
    """Raise TrainingError if a process that prepares batches was killed.

    PyTorch notices it in several ways, and raises from wherever the training is.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not config.workers or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
            raise
        raise TrainingError(
            "a process that prepares batches ended, perhaps for lack of memory; the same command resumes the run, and "
            "fewer workers need less"
        ) from None


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the run ends after a whole step; a second signal has its usual effect."""
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return

    def receive(number: int, frame: object) -> None:
        if signals:
            signal.signal(number, usual[signal.Signals(number)])
            signal.raise_signal(number)
        signals.append(number)

    usual = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
