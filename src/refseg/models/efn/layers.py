"""The convolution that EFN is built of, and how its maps are enlarged and normalised."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.layers import BatchNorm1d, BatchNorm2d

__all__ = ["ConvNormPReLU", "enlarged", "linear_norm_relu", "unit"]


class ConvNormPReLU(nn.Module):
    """A convolution that keeps the size of a map, batch normalisation, and PReLU with one slope."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.norm = BatchNorm2d(outputs)
        self.prelu = nn.PReLU()

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Transform the map."""
        return self.prelu(self.norm(self.conv(x)))  # type: ignore[no-any-return]


def linear_norm_relu(inputs: int, outputs: int) -> nn.Sequential:
    """Return a linear layer of vectors, batch normalisation and ReLU."""
    return nn.Sequential(nn.Linear(inputs, outputs), BatchNorm1d(outputs), nn.ReLU())


def unit(x: Float[Tensor, "B C ..."]) -> Float[Tensor, "B C ..."]:
    """Return vectors along the channels with length one."""
    return F.normalize(x, dim=1)


def enlarged(x: Float[Tensor, "B C h w"], size: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Return a map at a greater size, (H, W): bilinear, between the centres of cells."""
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)
