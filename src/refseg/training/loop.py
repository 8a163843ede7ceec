"""The training loop: draw a batch, segment, compare, step; validate, keep the best, and be ready to be killed."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from refseg.checkpoint import save_model
from refseg.config import save_json, to_dict
from refseg.data.batches import Drawer, DrawOrder, PictureData, batches, to_device
from refseg.errors import TrainingError
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.metrics import summarise
from refseg.models.base import Segmenter
from refseg.predictor import Predictor, pick_device
from refseg.training.config import TrainingConfig
from refseg.training.losses import contrastive_loss
from refseg.training.optim import build_optimizer, set_learning_rates
from refseg.training.state import Progress, restore, store
from refseg.training.tracker import Tracker
from refseg.types import Batch

__all__ = ["train"]

LOG_EVERY = 20


def train(
    model: Segmenter,
    config: TrainingConfig,
    data: PictureData,
    validation: PictureData,
    folder: Path,
    *,
    objects: Callable[[int], Bool[ndarray, "N H W"]] | None = None,
    device: str = "auto",
    show: bool = True,
) -> Path:
    """Train a model, or go on with the run in `folder`, and return the model folder of the last weights.

    `folder` holds `last` and `best` (model folders; the best by validation mean IoU), `state.pt` (to go on from) and
    `log.jsonl`. The run may be killed at any moment: it goes on from the end of the last epoch, drawing what it would
    have drawn. On a CPU, in the same version of PyTorch, the weights come out as if it had not been killed.

    Args:
        model: with the weights to start from.
        config: the numbers of the run.
        data: what to learn from.
        validation: what to choose the best weights by, once an epoch.
        folder: made if it is missing.
        objects: the masks of all objects in a validation picture, to measure pointing (see `evaluate`).
        device: where to train.
        show: whether to show a progress bar on stderr.

    Raises:
        TrainingError: the folder holds another run, cannot be written, or the loss is not finite.
    """
    place = pick_device(device)
    torch.manual_seed(config.seed)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        model = model.to(device=place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(model, config)
        progress = restore(folder, config, model, optimizer) or Progress()
        save_json(to_dict(config), folder / "training.json")
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be written: {error.strerror}") from None
    sizes = config.sizes or ((0.0, model.config.image_size),)
    order = DrawOrder(
        pictures=data.pictures,
        batch_size=config.batch_size,
        expressions=config.expressions_per_picture,
        sizes=tuple((round(share * config.steps), size) for share, size in sizes),
        seed=config.seed,
    )
    loader = batches(
        Drawer(data, model.config.word_length, config.target, dict(config.emphasis)),
        order,
        range(progress.step, config.steps),
        config.workers,
    )
    with Tracker(folder, config.steps, progress.step, show=show) as tracker:
        model.train()
        losses: list[float] = []
        for batch in loader:
            rate = set_learning_rates(optimizer, config, progress.step)
            loss = float(_step(model, optimizer, config, to_device(batch, place)))
            progress.step += 1
            if not math.isfinite(loss):
                raise TrainingError(f"the loss is {loss} at step {progress.step}; lower learning_rate or set max_norm")
            losses.append(loss)
            if progress.step % LOG_EVERY == 0:
                tracker.log(progress.step, loss=sum(losses) / len(losses), learning_rate=rate)
                losses.clear()
            tracker.advance(loss)
            if progress.step % config.steps_per_epoch == 0 or progress.step == config.steps:
                _end_epoch(model, config, validation, folder, objects, optimizer, progress, tracker, device)
                model.train()
    return folder / "last"


def _step(model: Segmenter, optimizer: torch.optim.Optimizer, config: TrainingConfig, batch: Batch) -> Tensor:
    """Learn from one batch and return its loss."""
    pixels = batch.pixels.contiguous(memory_format=torch.channels_last)
    # The fused attention of a CPU is slow backwards: written out, it takes two thirds of the time of a whole step.
    attention = sdpa_kernel(SDPBackend.MATH) if pixels.device.type == "cpu" else nullcontext()
    with attention, torch.autocast(pixels.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
        image = tuple(_for_each(features, batch.image_index) for features in model.encode_image(pixels))
        logits = model.segment(image, batch.tokens, batch.padding)
    loss = contrastive_loss(logits, batch.target, batch.weight if config.emphasis else None)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    if config.max_norm:
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_norm)
    optimizer.step()
    return loss.detach()


def _for_each(features: Float[Tensor, "N C H W"], image_index: Tensor) -> Float[Tensor, "B C H W"]:
    """Repeat each picture's features for its expressions."""
    return features.index_select(0, image_index)


def _end_epoch(
    model: Segmenter,
    config: TrainingConfig,
    validation: PictureData,
    folder: Path,
    objects: Callable[[int], Bool[ndarray, "N H W"]] | None,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    tracker: Tracker,
    device: str,
) -> None:
    """Validate, keep the weights, and store the state, which comes last: what it promises is then there."""
    pictures = range(min(config.validation_pictures, validation.pictures))
    about = {"training": to_dict(config), "step": progress.step}
    if pictures:
        summary = summarise(evaluate(Predictor(model, device), validation, pictures, objects))
        figures = {
            key: float(value) for key in ("mean_iou", "pointing", "n_acc") if isinstance(value := summary[key], float)
        }
        tracker.log(progress.step, **figures)
        tracker.note(f"step {progress.step}: " + ", ".join(f"{key} {value:.4f}" for key, value in figures.items()))
        if figures.get("mean_iou", -1.0) > progress.best:
            progress.best = figures["mean_iou"]
            save_model(model, folder / "best", extra=about | {"validation": figures})
    save_model(model, folder / "last", extra=about)
    store(folder, config, model, optimizer, progress)
