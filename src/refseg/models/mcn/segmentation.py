"""The branch of MCN for the mask: two fusions with finer maps, attention, and atrous spatial pyramid pooling."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from refseg.encoders.darknet import ConvNormLeaky
from refseg.models.first_fusion import enlarged, for_each, joined
from refseg.models.mcn.garan import GARAN

__all__ = ["SegmentationBranch", "Segmented"]

RATES = (6, 12, 18)
"""Dilations of the pyramid (Chen et al., 2017, arXiv 1706.05587)."""


class Segmented(NamedTuple):
    """What the branch returns."""

    middle: Float[Tensor, "B C H16 W16"]
    """The map at stride 16, which the branch for the box reads too."""
    fine: Float[Tensor, "B C H8 W8"]
    """The map at stride 8 after the attention, the same."""
    attended: Float[Tensor, "B C H8 W8"]
    logits: Float[Tensor, "B 1 H8 W8"]


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: the mean of the map, a 1x1 and three dilated 3x3 convolutions, joined."""

    def __init__(self, inputs: int, outputs: int, *, debiased: bool) -> None:
        super().__init__()
        self.point = ConvNormLeaky(inputs, outputs, 1, debiased=debiased)
        self.dilated = nn.ModuleList(
            ConvNormLeaky(inputs, outputs, 3, dilation=rate, debiased=debiased) for rate in RATES
        )
        self.pooled = ConvNormLeaky(inputs, outputs, 1, debiased=debiased)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Return five maps as one."""
        mean = self.pooled(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, x.shape[2], x.shape[3])
        return joined(mean, self.point(x), *(convolution(x) for convolution in self.dilated))


class SegmentationBranch(nn.Module):
    """From the first fused map to the logits of the mask, at stride 8.

    Args:
        channels: Of DarkNet's maps at strides 8, 16 and 32.
        width: Channels of the branch.
        sentence: Width of the sentence.
        debiased: See `refseg.encoders.darknet.MapNorm`.
    """

    def __init__(self, channels: tuple[int, int, int], width: int, sentence: int, *, debiased: bool) -> None:
        super().__init__()
        c2, c1, c0 = channels
        self.project1 = ConvNormLeaky(c1, width, 1, debiased=debiased)
        self.merge1 = ConvNormLeaky(c0 + width, width, 1, debiased=debiased)
        self.project2 = ConvNormLeaky(c2, width // 2, 1, debiased=debiased)
        self.merge2 = ConvNormLeaky(width + width // 2, width, 1, debiased=debiased)
        self.attention = GARAN(width, sentence, debiased=debiased)
        self.pyramid = _Pyramid(width, width // 2, debiased=debiased)
        self.logit = nn.Conv2d(5 * (width // 2), 1, 1)

    def forward(
        self,
        fused: Float[Tensor, "B C0 H32 W32"],
        f1: Float[Tensor, "N C1 H16 W16"],
        f2: Float[Tensor, "N C2 H8 W8"],
        sentence: Float[Tensor, "B D"],
    ) -> Segmented:
        """Return the logits, and the maps that the other task reads; f1 and f2 are projected already."""
        middle = self.merge1(joined(enlarged(fused), for_each(f1, fused)))
        fine, attended = self.attention(self.merge2(joined(enlarged(middle), for_each(f2, fused))), sentence)
        return Segmented(middle, fine, attended, self.logit(self.pyramid(fine)))
