"""The state of a run, from which it is resumed: weights, optimizer, loss scaler and step."""

from __future__ import annotations

from collections.abc import Mapping
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
from refseg.encoders.weights_file import save_checkpoint
from refseg.errors import TrainingError, one_line
from refseg.files import replacing
from refseg.models.base import Model
from refseg.training.config import HOW, TrainingConfig
from refseg.training.processes import Processes

__all__ = ["Progress", "restore", "store", "whole_weights"]

FILE = "state.pt"


@dataclass
class Progress:
    """The progress of a run."""

    step: int = 0
    """The number of steps done."""
    best: float = -1.0
    """The best validation mean IoU so far."""


def whole_weights(model: Model) -> dict[str, Any]:
    """Return a model's weights, gathered from the processes if they are sharded; all processes have to call this."""
    return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True))


def store(
    folder: Path,
    config: TrainingConfig,
    digests: Mapping[str, str],
    model: Model,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    progress: Progress,
    processes: Processes,
) -> None:
    """Write `state.pt` whole or not at all. Its content does not depend on the number of processes.

    All processes have to call this; rank 0 writes.

    Raises:
        TrainingError: it cannot be written; the earlier file is kept.
    """
    # Sharded weights are gathered by rank 0 alone, in the memory of the CPU.
    options = StateDictOptions(full_state_dict=True, cpu_offload=_is_sharded(model))
    state = {
        "training": to_dict(config),
        "digests": dict(digests),
        "spec": to_dict(model.spec),
        "model": get_model_state_dict(model, options=options),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
        "scaler": scaler.state_dict(),
        "step": progress.step,
        "best": progress.best,
    }
    if processes.is_main:
        _write(state, folder / FILE)


def _write(state: dict[str, Any], path: Path) -> None:
    for draft in path.parent.glob(f".{path.name}.*"):  # of a process that was killed while it wrote
        draft.unlink(missing_ok=True)
    try:
        with replacing(path) as draft:
            save_checkpoint(state, draft)
    except (OSError, RuntimeError) as error:
        raise TrainingError(f"{path}: the state of the run could not be written: {one_line(error)}") from None


def restore(
    folder: Path,
    config: TrainingConfig,
    digests: Mapping[str, str],
    model: Model,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> Progress | None:
    """Load `state.pt` into model, optimizer and scaler, and return the progress; None if there is no such file.

    Raises:
        TrainingError: the file is unreadable, or belongs to a run of another model or with other digests or settings.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        spec, training, made_of = state["spec"], dict(state["training"]), dict(state["digests"])
    except Exception as error:  # torch documents no type for a broken file
        raise TrainingError(
            f"{path}: cannot be read ({type(error).__name__}); remove the folder {folder} to start anew"
        ) from None
    wanted = to_dict(config)
    different = [
        *(["model"] if spec != to_dict(model.spec) else []),
        *sorted(name for name in made_of.keys() | digests.keys() if made_of.get(name) != digests.get(name)),
        *sorted(key for key in wanted if wanted[key] != training.get(key) and key not in HOW),
    ]
    if different:
        raise TrainingError(
            f"{folder}: holds a run with another {', '.join(different)}; name another folder with --out, or remove "
            "this one"
        )
    options = StateDictOptions(full_state_dict=True, cpu_offload=_is_sharded(model))
    set_model_state_dict(model, state["model"], options=options)
    set_optimizer_state_dict(model, optimizer, state["optimizer"], options=options)
    _match_layout(optimizer)
    scaler.load_state_dict(state["scaler"])
    return Progress(step=state["step"], best=state["best"])


def _match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give the averages of each parameter its memory layout.

    Those of a sharded run are stored contiguously, and parameters may be in channels_last: fused optimizers pair their
    elements by their place in memory.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def _is_sharded(model: Model) -> bool:
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in model.parameters())
