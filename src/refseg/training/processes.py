"""The processes that train one model together: a single one, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from refseg.errors import ConfigError, TrainingError, one_line
from refseg.evaluation.distributed import rank_and_size
from refseg.runtimes.torch import pick_device

__all__ = ["Processes", "join_processes"]

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """All processes of a run, as one of them sees them."""

    device: torch.device
    """The device of this process."""
    rank: int = 0
    """The number of this process, 0..size-1."""
    size: int = 1
    """The number of processes."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and shows the progress."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
        return value

    def gather(self, value: T) -> list[T]:
        """Return the value of each process, in the order of their ranks."""
        if self.size == 1:
            return [value]
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, value)
        return parts

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            distributed.barrier()


@contextmanager
def join_processes(device: str = "auto") -> Iterator[Processes]:
    """Join the processes that torchrun started, each on a device of its own.

    Raises:
        ConfigError: the device is unknown or not available.
        TrainingError: the processes cannot connect to each other.
    """
    place = pick_device(device)
    rank, size = rank_and_size()
    if size == 1:
        yield Processes(place)
        return
    if place.type == "cuda":
        local, available = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= available:
            raise ConfigError(f"torchrun started more processes than this machine has GPUs ({available})")
        place = torch.device("cuda", local)
        torch.cuda.set_device(place)
    elif place.type != "cpu":
        raise ConfigError(f"several processes train on CUDA GPUs or on CPUs, not on {place.type}")
    try:
        distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes cannot connect: {one_line(error)}") from None
    yield Processes(place, rank, size)
    # After an error the others may be in the middle of a message: then the group ends with the process.
    distributed.destroy_process_group()
