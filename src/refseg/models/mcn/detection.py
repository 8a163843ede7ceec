"""The branch of MCN for the box, and the geometry of its boxes, which is that of YOLOv3 (arXiv 1804.02767)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.darknet import ConvNormLeaky
from refseg.models.first_fusion import joined
from refseg.models.mcn.garan import GARAN
from refseg.models.mcn.segmentation import Segmented

__all__ = ["ANCHOR_SIDE", "VALUES", "Detected", "DetectionBranch", "best_box", "decoded_boxes", "per_anchor"]

ANCHOR_SIDE = 416
"""The side in pixels of the square that anchors are given for; they scale with the square."""
VALUES = 5
"""Numbers of each anchor: x, y, width, height, and whether it is the object."""


class Detected(NamedTuple):
    """What the branch returns."""

    logits: Float[Tensor, "B A5 h w"]
    """Of the anchors, at stride 32."""
    attended: Float[Tensor, "B C h w"]


class DetectionBranch(nn.Module):
    """From the maps of the branch for the mask back to stride 32, attention, and the values of the anchors.

    Args:
        fused: Channels of the first fused map.
        width: Channels of the branch.
        sentence: Width of the sentence.
        anchors: The number of anchors.
        debiased: See `refseg.encoders.darknet.MapNorm`.
    """

    def __init__(self, fused: int, width: int, sentence: int, anchors: int, *, debiased: bool) -> None:
        super().__init__()
        half = width // 2
        self.fine = nn.Sequential(
            ConvNormLeaky(width, half, 1, debiased=debiased), ConvNormLeaky(half, width, 3, debiased=debiased)
        )
        self.mix = ConvNormLeaky(2 * width, width, 1, debiased=debiased)
        self.middle = nn.Sequential(
            ConvNormLeaky(width, half, 1, debiased=debiased), ConvNormLeaky(half, width, 3, debiased=debiased)
        )
        self.merge = ConvNormLeaky(width + fused, width, 1, debiased=debiased)
        self.attention = GARAN(width, sentence, debiased=debiased)
        self.logits = nn.Conv2d(width, VALUES * anchors, 1)

    def forward(
        self, fused: Float[Tensor, "B C0 h w"], segmented: Segmented, sentence: Float[Tensor, "B D"]
    ) -> Detected:
        """Return the values of the anchors."""
        middle = joined(self.fine(F.avg_pool2d(segmented.fine, 2)), segmented.middle)
        coarse = joined(self.middle(F.avg_pool2d(self.mix(middle), 2)), fused)
        output, attended = self.attention(self.merge(coarse), sentence)
        return Detected(self.logits(output), attended)


def per_anchor(logits: Float[Tensor, "B A5 h w"]) -> Float[Tensor, "B h w A 5"]:
    """Return the five values of each anchor at each position."""
    batch, _, height, width = logits.shape
    return logits.reshape(batch, -1, VALUES, height, width).permute(0, 3, 4, 1, 2)


def decoded_boxes(values: Float[Tensor, "B h w A 5"], anchors: Float[Tensor, "A 2"]) -> Float[Tensor, "B h w A 4"]:
    """Return the box of each anchor: middle (x, y), width and height, as fractions of the side.

    Args:
        values: Of the anchors.
        anchors: Width and height, as fractions of the side.
    """
    side = values.shape[1]
    at = torch.arange(side, device=values.device, dtype=values.dtype)
    grid = torch.stack([at.expand(side, -1), at[:, None].expand(-1, side)], dim=-1)
    middle = (values[..., :2].sigmoid() + grid[:, :, None]) / side
    return torch.cat([middle, values[..., 2:4].exp() * anchors.to(values)], dim=-1)


def best_box(
    logits: Float[Tensor, "B A5 h w"], anchors: Float[Tensor, "A 2"]
) -> tuple[Float[Tensor, "B 4"], Float[Tensor, "B"]]:
    """Return the box (x0, y0, x1, y1) of the highest score as fractions of the side, and that score, 0..1."""
    values = per_anchor(logits)
    boxes = decoded_boxes(values, anchors).flatten(1, 3)
    scores, best = values[..., 4].flatten(1).max(dim=1)
    middle, size = boxes[torch.arange(boxes.shape[0], device=boxes.device), best].chunk(2, dim=-1)
    return torch.cat([middle - size / 2, middle + size / 2], dim=-1), scores.sigmoid()
