"""The co-attention modules of EFN: two maps, each rewritten by how alike their positions are (EFN, section 3.2).

The authors' code differs from the paper's equations: the values of each sum come from the map whose positions the
softmax has *not* normalised, so the weights of a sum do not add up to one. It is reproduced here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.layers import BatchNorm2d

__all__ = ["AsymmetricCoAttention", "VanillaCoAttention"]

POOLED_SIDES = (1, 3, 6, 8)
"""Sides of the grids that the asymmetric module pools a map to: 110 positions in all."""
Pair = tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]


class VanillaCoAttention(nn.Module):
    """Compares each position of one map with each of the other."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(width, inner, 1, bias=False)
        self.key = nn.Conv2d(width, inner, 1, bias=False)
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        for conv in (self.query, self.key, self.first, self.second):
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, image: Float[Tensor, "B C H W"], words: Float[Tensor, "B C H W"]) -> Pair:
        """Return a map of sums of `words`, and one of sums of `image`."""
        size = image.shape[-2:]
        affinity = self.query(image).flatten(2).mT @ self.key(words).flatten(2)
        of_words = words.flatten(2) @ affinity.softmax(dim=2)
        of_image = image.flatten(2) @ affinity.softmax(dim=1).mT
        return self.first(of_words.unflatten(2, size)), self.second(of_image.unflatten(2, size))


class AsymmetricCoAttention(nn.Module):
    """Compares each position with 110 pooled ones; both maps share the weights."""

    def __init__(self, width: int, inner: int, value: int) -> None:
        super().__init__()
        self.image_query, self.words_query = _project(width, inner), _project(width, inner)
        self.image_key, self.words_key = _project(width, inner), _project(width, inner)
        self.image_value, self.words_value = nn.Conv2d(width, value, 1), nn.Conv2d(width, value, 1)
        self.first, self.second = nn.Conv2d(value, width, 1), nn.Conv2d(value, width, 1)
        self.scale = inner**-0.5

    def forward(self, image: Float[Tensor, "B C H W"], words: Float[Tensor, "B C H W"]) -> Pair:
        """Return the maps of both, in this order."""
        size = image.shape[-2:]
        affinity = self.image_query(image).flatten(2).mT @ _pooled(self.image_key(image))
        affinity = affinity + self.words_query(words).flatten(2).mT @ _pooled(self.words_key(words))
        shared = (affinity * self.scale).softmax(dim=-1).mT
        of_image = _pooled(self.image_value(image)) @ shared
        of_words = _pooled(self.words_value(words)) @ shared
        return self.first(of_image.unflatten(2, size)), self.second(of_words.unflatten(2, size))


def _project(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), BatchNorm2d(outputs), nn.ReLU())


def _pooled(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C P"]:
    """Return the means of a map over the cells of four grids."""
    return torch.cat([F.adaptive_avg_pool2d(x, side).flatten(2) for side in POOLED_SIDES], dim=2)
