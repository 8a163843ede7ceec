"""Resizes patch-level maps to the grid of all logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["STRIDE", "to_quarter"]

STRIDE = 4
"""Side in pixels of the image region that one logit stands for."""


def to_quarter(maps: Float[Tensor, "B C g g"], side: int) -> Float[Tensor, "B C h w"]:
    """Resize maps bilinearly to a quarter of the image's side.

    The value of a cell belongs to its centre. Logit i of n is placed at pixel i * (side - 1) / (n - 1), as logits are
    later resized to pixels with aligned corners.

    Args:
        maps: Their g x g cells tile the image.
        side: The side of the image in pixels.
    """
    count = side // STRIDE
    # The positions of the logits in the coordinates of `grid_sample`: -1 and 1 are the edges of the image.
    line = (torch.linspace(0, side - 1, count, device=maps.device) + 0.5) * (2 / side) - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), dim=-1)
    grid = grid.to(maps.dtype).expand(maps.shape[0], count, count, 2)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
