"""The processes that train one model together: one of them alone, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from refseg.errors import ConfigError, TrainingError
from refseg.predictor import pick_device

__all__ = ["Team", "assemble"]

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """One process's view of all of them."""

    device: torch.device
    """What this process computes on."""
    rank: int = 0
    """Which of them this is, 0..size-1; the first one writes and talks."""
    size: int = 1
    """How many there are."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and shows the progress."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def gather(self, value: T) -> list[T]:
        """Return what each process holds, in the order of their ranks."""
        if self.size == 1:
            return [value]
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, value)
        return parts

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def assemble(device: str = "auto") -> Iterator[Team]:
    """Join the processes that torchrun started, each on a device of its own; alone where it started none.

    Raises:
        ConfigError: the device is unknown or not there.
        TrainingError: the processes do not find each other.
    """
    place = pick_device(device)
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        yield Team(place)
        return
    if place.type == "cuda":
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(f"torchrun started more processes than this machine has GPUs ({there})")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    elif place.type != "cpu":
        raise ConfigError(f"several processes train on GPUs of NVIDIA's kind or on processors, not on {place.type}")
    try:
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes do not find each other: {' '.join(str(error).split())[:200]}") from None
    yield Team(place, rank, size)
    # After an error the others may be in the middle of a message: there the end of the process is the end of the group.
    distributed.destroy_process_group()
