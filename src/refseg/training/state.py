"""What a run needs to go on where it stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from refseg.config import to_dict
from refseg.errors import TrainingError
from refseg.models.base import Segmenter
from refseg.training.config import TrainingConfig

__all__ = ["Progress", "restore", "store"]

FILE = "state.pt"


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Batches done."""
    best: float = -1.0
    """The best validation mean IoU so far."""


def store(
    folder: Path, config: TrainingConfig, model: Segmenter, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Write all of it to `state.pt`, at once: a run killed while it writes leaves the older file whole."""
    state = {
        "training": to_dict(config),
        "model_config": to_dict(model.config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "best": progress.best,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    path = folder / FILE
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise TrainingError(f"{path}: the run's state could not be written: {error}") from None


def restore(
    folder: Path, config: TrainingConfig, model: Segmenter, optimizer: torch.optim.Optimizer
) -> Progress | None:
    """Continue from `state.pt`, if there is one: weights, optimizer, random states and place in the data.

    Raises:
        TrainingError: the file is unreadable or belongs to a run with other settings.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        found_model, found = state["model_config"], dict(state["training"])
    except Exception as error:  # torch names no one exception for a broken file
        raise TrainingError(f"{path}: cannot be read ({type(error).__name__}); delete it to start anew") from None
    if found_model != to_dict(model.config):
        raise TrainingError(f"{path}: belongs to a run of another model; choose another folder or delete it")
    wanted = to_dict(config)
    # How batches are prepared, and how often one validates, changes no weight.
    different = sorted(
        key for key in wanted if wanted[key] != found.get(key) and key not in {"workers", "validation_pictures"}
    )
    if different:
        raise TrainingError(
            f"{path}: belongs to a run with another {', '.join(different)}; choose another folder or delete it"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    if state["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["random_cuda"])
    return Progress(step=state["step"], best=state["best"])
