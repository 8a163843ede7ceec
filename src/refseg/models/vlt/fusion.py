"""The image side of VLT: DarkNet's maps and the sentence joined at stride 16 (its figure 2, the convolutional part)."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from refseg.encoders.darknet import ConvNormLeaky
from refseg.models.first_fusion import enlarged, for_each, joined

__all__ = ["Fused", "ImageFusion"]


class Fused(NamedTuple):
    """Two maps at stride 16."""

    queries: Float[Tensor, "B C h w"]
    """Queries are made of it."""
    features: Float[Tensor, "B D h w"]
    """The input of the transformer's encoder."""


class ImageFusion(nn.Module):
    """A map for the queries and a map for the transformer, of the first fused map and the two finer maps of DarkNet.

    Args:
        channels: Of DarkNet's maps at strides 8, 16 and 32.
        width: Of the transformer; the maps before have twice as many channels.
        debiased: See `refseg.encoders.darknet.MapNorm`.
    """

    def __init__(self, channels: tuple[int, int, int], width: int, *, debiased: bool) -> None:
        super().__init__()
        c2, c1, c0 = channels
        wide = 2 * width

        def block(inputs: int, outputs: int, kernel: int = 1) -> ConvNormLeaky:
            return ConvNormLeaky(inputs, outputs, kernel, debiased=debiased)

        self.project1, self.merge1 = block(c1, wide), block(c0 + wide, wide)
        self.project2, self.merge2 = block(c2, width), block(wide + width, wide)
        self.deepen = nn.Sequential(block(wide, width), block(width, wide, 3))
        self.narrow, self.merge0, self.last = block(2 * wide, wide), block(c0 + wide, width), block(width, width)

    def forward(
        self, fused: Float[Tensor, "B C0 H32 W32"], f1: Float[Tensor, "N C1 h w"], f2: Float[Tensor, "N C2 h w"]
    ) -> Fused:
        """Return both maps; f1 and f2 are projected already, and f2 is at stride 16."""
        coarse = enlarged(fused)
        first = self.merge1(joined(coarse, for_each(f1, fused)))
        queries = self.merge2(joined(first, for_each(f2, fused)))
        both = joined(self.deepen(queries), first)
        return Fused(queries, self.last(self.merge0(joined(coarse, self.narrow(both)))))
