"""Evaluation in several processes that `torchrun` starts, each with a part of the images."""

from __future__ import annotations

import os

from refseg.evaluation.metrics import Outcome

__all__ = ["gather", "rank_and_size"]


def rank_and_size() -> tuple[int, int]:
    """Return the number of this process, from 0, and how many processes there are; (0, 1) without `torchrun`."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def gather(outcomes: list[Outcome]) -> list[Outcome]:
    """Return the outcomes of all processes; each process must call it once."""
    if rank_and_size()[1] == 1:
        return outcomes
    from torch import distributed

    distributed.init_process_group("gloo")
    parts: list[list[Outcome]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, outcomes)
    distributed.destroy_process_group()
    return [outcome for part in parts for outcome in part]
