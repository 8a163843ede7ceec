"""What a run needs to go on where it stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from refseg.config import to_dict
from refseg.errors import TrainingError
from refseg.models.base import Segmenter
from refseg.training.config import HOW, TrainingConfig
from refseg.training.processes import Team

__all__ = ["Progress", "restore", "store", "whole_weights"]

FILE = "state.pt"


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    """Steps done."""
    best: float = -1.0
    """The best validation mean IoU so far."""


def whole_weights(model: Segmenter) -> dict[str, Any]:
    """Return a model's weights, put together where processes hold parts of them; all processes have to ask."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def store(
    folder: Path,
    config: TrainingConfig,
    model: Segmenter,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    team: Team,
) -> None:
    """Write all of it to `state.pt`, at once: a run killed while it writes leaves the older file whole.

    All processes have to call this; the first one writes. Nothing in the file depends on how many they are.
    """
    # Of weights that are spread, the first process alone gets the whole, in the machine's memory.
    options = StateDictOptions(full_state_dict=True, cpu_offload=_spread(model))
    state = {
        "training": to_dict(config),
        "model_config": to_dict(model.config),
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
        "scaler": scaler.state_dict(),
        "step": progress.step,
        "best": progress.best,
    }
    if team.is_main:
        _write(state, folder / FILE)


def _write(state: dict[str, Any], path: Path) -> None:
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
    folder: Path,
    config: TrainingConfig,
    model: Segmenter,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Progress | None:
    """Continue from `state.pt`, if there is one: weights, optimizer, scaler and place in the data.

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
    different = sorted(key for key in wanted if wanted[key] != found.get(key) and key not in HOW)
    if different:
        raise TrainingError(
            f"{path}: belongs to a run with another {', '.join(different)}; choose another folder or delete it"
        )
    options = StateDictOptions(full_state_dict=True, cpu_offload=_spread(model))
    set_model_state_dict(model, state["model"], options=options)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
    scaler.load_state_dict(state["scaler"])
    return Progress(step=state["step"], best=state["best"])


def _spread(model: Segmenter) -> bool:
    """Whether processes hold parts of the weights."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
