"""GARAN: global attentive reasoning unit, the language-guided attention of MCN (section 3.1 of its supplement)."""

from __future__ import annotations

import math
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from refseg.encoders.darknet import MapNorm, leaky

__all__ = ["GARAN", "Attended"]

GROUPS = 2
"""Groups of channels, each with its own part of the sentence, and with projections that both share."""


class Attended(NamedTuple):
    """What an attention returns."""

    output: Float[Tensor, "B C H W"]
    attended: Float[Tensor, "B C H W"]
    """What was added to the input; the energies of both tasks are computed from it."""


class GARAN(nn.Module):
    """Collects one vector from all positions by their similarity to the sentence, and distributes it to them again.

    Args:
        channels: Of the map.
        sentence: Width of the sentence.
        debiased: See `refseg.encoders.darknet.MapNorm`.
    """

    def __init__(self, channels: int, sentence: int, *, debiased: bool) -> None:
        super().__init__()
        width = channels // GROUPS
        # Before the linear layers: a norm registered after one would be folded into it (see `runtimes.prepare`).
        self.norm = MapNorm(channels, debiased=debiased)
        self.collect_key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.distribute_key = nn.Linear(width, width)
        self.query = nn.Linear(sentence // GROUPS, width)
        self.scale = 1 / math.sqrt(channels)

    def forward(self, x: Float[Tensor, "B C H W"], sentence: Float[Tensor, "B D"]) -> Attended:
        """Return the map after the attention."""
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        positions = x.reshape(batch, GROUPS, -1, height * width).mT
        query = self.query(sentence.reshape(batch, GROUPS, -1))[..., None]
        collect = (self.collect_key(positions) @ query * self.scale).softmax(dim=-2)
        collected = collect.mT @ self.value(positions)
        distribute = (self.distribute_key(positions) @ query * self.scale).sigmoid()
        attended = (distribute * collected).mT.reshape(batch, -1, height, width)
        return Attended(leaky(self.norm(x + attended)), attended)
