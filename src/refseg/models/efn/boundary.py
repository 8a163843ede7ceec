"""The decoder with boundary enhancement: object bodies and edges, apart and together again (EFN, section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.layers import BatchNorm2d
from refseg.models.efn.layers import ConvNormPReLU, enlarged

__all__ = ["BoundaryDecoder", "BoundaryHeads", "Decoded", "Levels", "SqueezeBodyEdge", "at_full_side"]

HIDDEN = 32
"""Channels between the pooled map and the six numbers of its warp."""


class SqueezeBodyEdge(nn.Module):
    """Splits a map into the body of objects, a warped copy of it, and their edge, the rest."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shrink = nn.Sequential(*(layer for _ in range(2) for layer in _shrink(width)))
        self.context = nn.Conv2d(2 * width, width, 3, padding=1, bias=False)
        self.warp = nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 6))
        last = self.warp[2]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.eye(2, 3).flatten())

    def affine(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 6"]:
        """Return the affine warp of a map: a matrix of 2 x 3, row by row."""
        around = enlarged(self.shrink(x), x.shape[-2:])
        context = self.context(torch.cat([x, around], dim=1))
        return self.warp(context.mean(dim=(2, 3)))  # type: ignore[no-any-return]

    def forward(self, x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
        """Return body and edge, whose sum is the map."""
        # Sizes as a list, since those of an exported graph may be free.
        grid = F.affine_grid(self.affine(x).reshape(-1, 2, 3), list(x.shape), align_corners=False)
        body = F.grid_sample(x, grid, align_corners=False)
        return body, x - body


def _shrink(width: int) -> tuple[nn.Module, ...]:
    """Return a convolution of each channel with stride 2, batch normalisation and ReLU."""
    return nn.Conv2d(width, width, 3, 2, padding=1, groups=width), BatchNorm2d(width), nn.ReLU(inplace=True)


class Decoded(NamedTuple):
    """What the decoder computes, the coarsest first."""

    maps: list[Float[Tensor, "B C h w"]]
    """The inputs of the levels; after the last level follows the map of `logits`."""
    bodies: list[Float[Tensor, "B C h w"]]
    edges: list[Float[Tensor, "B C h w"]]
    """Joined with the next finer feature map."""
    logits: Float[Tensor, "B 1 h w"]
    """Of the mask, at half the side of the image."""


class BoundaryDecoder(nn.Module):
    """Enlarges a pyramid of feature maps to a mask, in four levels.

    Args:
        widths: The channels of the five lateral maps, the finest first.
    """

    def __init__(self, widths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        inner = widths[:4][::-1]
        after = (*inner[1:], inner[-1])
        self.start = ConvNormPReLU(widths[4], inner[0])
        self.split = nn.ModuleList(SqueezeBodyEdge(width) for width in inner)
        self.sharpen = nn.ModuleList(nn.Conv2d(2 * width, width, 1, bias=False) for width in inner)
        self.join = nn.ModuleList(
            ConvNormPReLU(2 * width, outputs) for width, outputs in zip(inner, after, strict=True)
        )
        self.mask = nn.Conv2d(after[-1], 1, 3, padding=1)

    def forward(self, laterals: list[Float[Tensor, "B _ _ _"]]) -> Decoded:
        """Decode five lateral maps, the finest first."""
        *finer, coarsest = laterals
        x = self.start(coarsest)
        maps, bodies, edges = [], [], []
        for split, sharpen, join, lateral in zip(self.split, self.sharpen, self.join, finer[::-1], strict=True):
            size = lateral.shape[-2:]
            body, edge = split(x)
            edge = sharpen(torch.cat([enlarged(edge, size), lateral], dim=1))
            maps.append(x)
            bodies.append(body)
            edges.append(edge)
            x = join(torch.cat([enlarged(x, size), edge + enlarged(body, size)], dim=1))
        return Decoded(maps, bodies, edges, self.mask(x))


class Levels(NamedTuple):
    """The logits that the loss is computed of, at the side of the image, the coarsest of four levels first."""

    masks: list[Float[Tensor, "B 1 S S"]]
    bodies: list[Float[Tensor, "B 1 S S"]]
    edges: list[Float[Tensor, "B 1 S S"]]


class BoundaryHeads(nn.Module):
    """Reads masks, bodies and edges off the maps of the decoder's levels, for the loss alone."""

    def __init__(self, widths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        inner = widths[:4][::-1]
        self.masks = nn.ModuleList(_head(width, inner[-1]) for width in inner[1:])
        self.bodies = nn.ModuleList(_head(width, inner[-1]) for width in inner)
        self.edges = nn.ModuleList(_head(width, inner[-1]) for width in inner)

    def forward(self, decoded: Decoded) -> Levels:
        """Return the logits of all levels at the side of the image; the finest mask is the decoder's own."""

        def read(heads: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
            return [at_full_side(head(x), decoded.logits) for head, x in zip(heads, maps, strict=True)]

        return Levels(
            [*read(self.masks, decoded.maps[1:]), at_full_side(decoded.logits, decoded.logits)],
            read(self.bodies, decoded.bodies),
            read(self.edges, decoded.edges),
        )


def _head(inputs: int, finest: int) -> nn.Sequential:
    hidden = max(inputs // 2, finest)
    return nn.Sequential(ConvNormPReLU(inputs, hidden), nn.Conv2d(hidden, 1, 1, bias=False))


def at_full_side(x: Float[Tensor, "B 1 h w"], half: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 1 S S"]:
    """Return a map at twice the side of another one."""
    rows, columns = half.shape[-2:]
    return enlarged(x, (2 * rows, 2 * columns))
