"""The patch-level grounding map: the similarity of each image patch to the sentence (RISCLIP)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GroundingMap", "cosine_map"]


def cosine_map(
    patches: Float[Tensor, "B T E"], sentence: Float[Tensor, "B E"], side: int
) -> Float[Tensor, "B {side} {side}"]:
    """Return the cosine similarity of side x side patches to the sentence, -1..1, float32."""
    patches, sentence = F.normalize(patches.float(), dim=-1), F.normalize(sentence.float(), dim=-1)
    cosines: Tensor = torch.einsum("bte,be->bt", patches, sentence)
    return cosines.reshape(-1, side, side)


class GroundingMap(nn.Module):
    """Maps cosines to logits by a learned scale and bias; cosines alone would give probabilities near 0.5."""

    def __init__(self, scale: float, bias: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return the logit of each patch."""
        logits: Tensor = (self.log_scale.exp() * cosines + self.bias)[:, None]
        return logits
