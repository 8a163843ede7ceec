"""The lightweight decoder: refines the patch-level map to a mask, with features of the image encoder (RISCLIP)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.layers import BatchNorm2d

__all__ = ["MaskDecoder"]


class MaskDecoder(nn.Module):
    """Joins the map with the features of three image blocks, the last one first, and upsamples twice by a factor of 2.

    Args:
        width: Channels of the image encoder.
        channels: Of the three steps, in their order.
    """

    def __init__(self, width: int, channels: tuple[int, int, int]) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Conv2d(width, out, 1) for out in channels)
        before = (1, *channels[:-1])
        self.merge = nn.ModuleList(
            nn.Sequential(*_convolution(above + out, out), *_convolution(out, out))
            for above, out in zip(before, channels, strict=True)
        )
        self.score = nn.Conv2d(channels[-1], 1, 1)

    def forward(
        self, logits: Float[Tensor, "B 1 g g"], features: tuple[Float[Tensor, "B D g g"], ...]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return logits, four times the size of the map."""
        x = logits
        for depth, (reduce, merge) in enumerate(zip(self.reduce, self.merge, strict=True)):
            if depth:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            reduced = reduce(features[depth])
            if depth:
                reduced = F.interpolate(reduced, size=x.shape[-2:], mode="bilinear", align_corners=False)
            x = merge(torch.cat((x.to(reduced.dtype), reduced), dim=1))
        scored: Tensor = self.score(x)
        return scored


def _convolution(channels: int, out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(channels, out, 3, padding=1, bias=False), BatchNorm2d(out), nn.ReLU(inplace=True)
