"""A head that says whether anything in the image fits the sentence; ours, not part of the published CRIS."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.layers import BatchNorm1d

__all__ = ["PresenceHead"]

DROPOUT = 0.4
"""Probability that an input or a hidden channel is set to 0 in training: a training set has few thousand images."""
STEEPNESS = 4.0
"""Factor of the evidence, a logit, before its sigmoid is taken as a probability."""


class PresenceHead(nn.Module):
    """Compares what a map contains, wherever it is, with what the sentence asks for."""

    def __init__(self, width: int, sentence: int, hidden: int) -> None:
        super().__init__()
        self.norm = BatchNorm1d(2 * width)
        self.found = nn.Linear(2 * width, hidden)
        self.wanted = nn.Linear(sentence, hidden)
        self.logit = nn.Linear(hidden, 1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(
        self, logits: Float[Tensor, "B 1 h w"], vision: Float[Tensor, "B D H W"], sentence: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Add the logarithm of the probability that anything fits.

        It lowers the logits where nothing seems to, and leaves them nearly as they are where something does.
        """
        evidence = logits.amax(dim=(1, 2, 3)) + self.judge(self.pool(vision), sentence)
        return logits + F.logsigmoid(STEEPNESS * evidence)[:, None, None, None]

    @staticmethod
    def pool(vision: Float[Tensor, "B D H W"]) -> Float[Tensor, "B K"]:
        """Return the mean and the greatest value of each channel (K = 2 D)."""
        return torch.cat([vision.mean(dim=(2, 3)), vision.amax(dim=(2, 3))], dim=1)

    def judge(self, pooled: Float[Tensor, "B K"], sentence: Float[Tensor, "B E"]) -> Float[Tensor, "B"]:
        """Return the evidence for presence, of which the highest logit knows nothing.

        Each hidden channel is the product of an evidence in the map and of a weight that depends on the sentence.
        """
        found = self.found(self.dropout(self.norm(pooled))).relu()
        wanted = self.wanted(self.dropout(sentence)).tanh()
        logit: Tensor = self.logit(self.dropout(found * wanted))
        return logit[:, 0]
