"""Maps of patches to the grid that all logits lie on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["STRIDE", "to_quarter"]

STRIDE = 4
"""Pixels of the square to a logit, on a side."""


def to_quarter(maps: Float[Tensor, "B C g g"], side: int) -> Float[Tensor, "B C h w"]:
    """Resize maps whose cells tile a square of `side` pixels to a quarter of the side, linearly.

    Logits are enlarged with aligned corners: logit i of n comes to lie at pixel i * (side - 1) / (n - 1), and the value
    of a cell belongs to its middle.
    """
    count = side // STRIDE
    # Where each logit lies, in the coordinates of `grid_sample`: -1 and 1 are the edges of the square.
    line = (torch.linspace(0, side - 1, count, device=maps.device) + 0.5) * (2 / side) - 1
    places = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    places = places.to(maps.dtype).expand(len(maps), count, count, 2)
    return F.grid_sample(maps, places, mode="bilinear", padding_mode="border", align_corners=False)
