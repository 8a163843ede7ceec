"""What MCN and VLT share after their encoders: DarkNet's coarsest map multiplied by the sentence."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.darknet import MapNorm, VectorNorm, leaky

__all__ = ["FirstFusion", "enlarged", "for_each", "joined"]


class FirstFusion(nn.Module):
    """The product of each position of a map and the sentence, each normalised (MCN, section 3.1)."""

    def __init__(self, channels: int, sentence: int, *, debiased: bool) -> None:
        super().__init__()
        self.sentence = nn.Linear(sentence, channels)
        self.sentence_norm = VectorNorm(channels, debiased=debiased)
        self.norm = MapNorm(channels, debiased=debiased)

    def forward(self, image: Float[Tensor, "N C H W"], sentence: Float[Tensor, "B D"]) -> Float[Tensor, "B C H W"]:
        """Return the fused map of B images, or of a single one, and B sentences."""
        factor = leaky(self.sentence_norm(self.sentence(sentence)))
        return leaky(self.norm(image * factor[:, :, None, None]))


def enlarged(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
    """Return a map of twice the side, each position repeated."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def for_each(image: Float[Tensor, "N C H W"], like: Float[Tensor, "B ..."]) -> Float[Tensor, "B C H W"]:
    """Return the map of a single image for each expression."""
    return image.expand(like.shape[0], -1, -1, -1)


def joined(*maps: Float[Tensor, "B ..."]) -> Float[Tensor, "B C H W"]:
    """Return the channels of several maps of one size, one after the other."""
    return torch.cat(maps, dim=1)
