"""3x3 convolutions with a quarter of the multiplications, as products of matrices on a processor.

What they compute stays the same up to rounding, with errors as large as those of the convolution itself. Maps are read
and written with the channels of a pixel together (`torch.channels_last`).
"""

from __future__ import annotations

import itertools
from typing import TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TiledConv2d", "UpsampledConv2d", "UpsampledConvGraph", "tile_convolutions", "upsample_after_mixing"]

KERNEL = 3
TILE = 4
"""Rows and columns of the outputs that are computed together."""
PRODUCTS = TILE + KERNEL - 1
"""Multiplications for the outputs of a tile along one axis, which would otherwise be 12."""
POINTS = (0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5))
"""Where the polynomials are evaluated, beside infinity; with 0, 1, -1, 2 and -2 rounding errors are twice as large."""
LEAST_CHANNELS = 128
"""With fewer, moving the values takes longer than the multiplications that are saved."""


def tile_convolutions(model: nn.Module) -> None:
    """Replace the wide 3x3 convolutions of a model by `TiledConv2d`; it cannot be trained afterwards.

    Args:
        model: whose batch normalisations are folded, in float32.
    """
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if _replaceable(layer):
                setattr(module, name, TiledConv2d(layer))


def upsample_after_mixing(model: nn.Module, *, for_graph: bool = False) -> None:
    """Replace the wide 3x3 convolutions after an upsampling by `UpsampledConv2d`; the model cannot be trained then.

    Args:
        model: whose batch normalisations are folded.
        for_graph: whether the model is traced for another runtime; then they become `UpsampledConvGraph`.
    """
    for module in list(model.modules()):
        for (name, layer), (_, block) in itertools.pairwise(list(module.named_children())):
            if _doubles(layer) and isinstance(block, nn.Sequential) and _replaceable(conv := block[0]):
                setattr(module, name, nn.Identity())
                block[0] = UpsampledConvGraph(conv) if for_graph else UpsampledConv2d(conv)


def _doubles(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Upsample)
        and layer.scale_factor == 2
        and layer.mode == "bilinear"
        and not layer.align_corners
    )


def _replaceable(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (KERNEL, KERNEL)
        and layer.padding == (1, 1)
        and layer.padding_mode == "zeros"
        and layer.stride == layer.dilation == (1, 1)
        and layer.groups == 1
        and min(layer.in_channels, layer.out_channels) >= LEAST_CHANNELS
    )


class TiledConv2d(nn.Module):
    """A 3x3 convolution that keeps the size of a map, with 36 multiplications for the 16 outputs of a tile, not 144.

    Inputs and kernels are transformed along both axes, multiplied, and transformed back. The transforms are products
    with small matrices, and the multiplications are 36 products of matrices, which sum over the channels.

    Args:
        conv: the convolution.

    Source: Winograd's minimal filtering, F(4x4, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural
    Networks", CVPR 2016, section 4, with other points.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        _, kernel, _ = _transforms()
        both_axes = torch.einsum("ay,bx->bayx", kernel, kernel).reshape(PRODUCTS**2, KERNEL**2).float()
        weight = both_axes @ conv.weight.detach().permute(2, 3, 1, 0).reshape(KERNEL**2, -1)
        self.weight = nn.Parameter(weight.view(PRODUCTS**2, conv.in_channels, -1), requires_grad=False)
        self.bias = conv.bias
        self._matrices: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Return the convolved map."""
        batch, channels, height, width = x.shape
        (to_rows, from_rows), (to_columns, from_columns) = self._axis(height), self._axis(width)
        down, across = to_rows.shape[0] // PRODUCTS, to_columns.shape[0] // PRODUCTS  # numbers of tiles
        # a and b number the products along the vertical and the horizontal axis.
        split = torch.matmul(to_columns, x.permute(0, 2, 3, 1))  # (batch, y, b across, channel)
        split = split.view(batch, height, PRODUCTS, across * channels).transpose(1, 2)
        split = torch.matmul(to_rows, split)  # (batch, b, a down, across channel)
        split = split.view(batch, PRODUCTS**2, down * across, channels).transpose(0, 1).flatten(1, 2)
        summed = torch.bmm(split, self.weight)  # (b a, batch down across, channel)
        summed = summed.view(PRODUCTS, PRODUCTS, batch, down, -1).permute(2, 0, 1, 3, 4).flatten(2, 3)
        summed = torch.matmul(from_rows, summed)  # (batch, b, y, across channel)
        summed = summed.transpose(1, 2).reshape(batch, height, PRODUCTS * across, -1)
        result = torch.matmul(from_columns, summed)  # (batch, y, x, channel)
        return (result if self.bias is None else result.add_(self.bias)).permute(0, 3, 1, 2)

    def _axis(self, length: int) -> tuple[Float[Tensor, "Kt n"], Float[Tensor, "n Kt"]]:
        """Return the matrices that transform an axis of n values, in t tiles, to its products and back."""
        if length not in self._matrices:
            to, back = _axis_transforms(length)
            self._matrices[length] = to.to(self.weight), back.to(self.weight)
        return self._matrices[length]


class UpsampledConv2d(nn.Module):
    """A bilinear upsampling to twice the size, and a 3x3 convolution of its result.

    Channels are mixed before the map is enlarged, which makes no difference and costs a quarter: the result is the sum
    of the nine maps of the elements of the kernel, each enlarged and shifted. Both together are one matrix for each
    axis.

    Args:
        conv: the convolution, which keeps the size of a map.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(_rows(conv).contiguous(), requires_grad=False)
        self.bias = conv.bias
        self._matrices: dict[int, tuple[Tensor, Tensor]] = {}

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H2 W2"]:
        """Return the enlarged and convolved map."""
        batch, _, height, width = x.shape
        x = x.to(self.weight.dtype)
        rows, columns = self._axis(height)[0], self._axis(width)[1]
        channels = self.weight.shape[2] // KERNEL
        total = x.new_empty(batch, 2 * height, 2 * width * channels)
        for pixels, result in zip(x.permute(0, 2, 3, 1).flatten(1, 2), total, strict=True):
            mixed = torch.bmm(pixels.expand(KERNEL, -1, -1), self.weight)
            mixed = torch.matmul(columns, mixed.view(KERNEL * height, width * KERNEL, channels))
            torch.mm(rows, mixed.flatten(1), out=result)
        total = total.view(batch, 2 * height, 2 * width, channels)
        return (total if self.bias is None else total.add_(self.bias)).permute(0, 3, 1, 2)

    def _axis(self, length: int) -> tuple[Float[Tensor, "m kn"], Float[Tensor, "m nk"]]:
        """Return the matrix that enlarges and shifts an axis of n values for each element of the kernel.

        Its columns are the elements, each with its values; in the second form the values, each with its elements.
        """
        if length not in self._matrices:
            shifted = _enlarged_and_shifted(length).to(self.weight)
            self._matrices[length] = shifted.flatten(1), shifted.mT.flatten(1)
        return self._matrices[length]


class UpsampledConvGraph(nn.Module):
    """`UpsampledConv2d` as operations that can be traced, for all maps of a batch together.

    Args:
        conv: the convolution, which keeps the size of a map.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.rows = nn.ParameterList(nn.Parameter(row, requires_grad=False) for row in _rows(conv))
        self.bias = conv.bias

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H2 W2"]:
        """Return the enlarged and convolved map."""
        batch, _, height, width = x.shape
        # One for each map, as OpenVINO 2026.4 multiplies by constants on the left in float32, even if asked for less.
        enlarge_rows = _enlarged_and_shifted(height).flatten(1).to(x).expand(batch, -1, -1)
        enlarge_columns = _enlarged_and_shifted(width).mT.flatten(1).to(x).expand(batch, 1, -1, -1)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        mixed = [torch.matmul(pixels, row).view(batch, height, width * KERNEL, -1) for row in self.rows]
        wide = torch.cat([torch.matmul(enlarge_columns, one) for one in mixed], dim=1)  # (batch, row y, x, D)
        total = torch.matmul(enlarge_rows, wide.flatten(2)).view(batch, 2 * height, 2 * width, -1)
        return (total if self.bias is None else total + self.bias).permute(0, 3, 1, 2)


def _transforms() -> tuple[Float[Tensor, "K K"], Float[Tensor, "K 3"], Float[Tensor, "4 K"]]:
    """Return the matrices that transform the inputs and the kernel of a tile along one axis, and the products back.

    A product of two polynomials is interpolated from its values at points, the last of which is infinity. Exchanging
    the roles of inputs and outputs turns the product into a correlation.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)

    def values(terms: int) -> Tensor:
        at_infinity = torch.eye(terms, dtype=torch.float64)[-1:]
        return torch.cat([torch.linalg.vander(points, N=terms), at_infinity])

    return torch.linalg.inv(values(PRODUCTS)).T, values(KERNEL), values(TILE).T


def _axis_transforms(length: int) -> tuple[Float[Tensor, "Kt n"], Float[Tensor, "n Kt"]]:
    """Return the transforms of an axis of n values, in t tiles, to its products and back."""
    inputs, _, outputs = _transforms()
    tiles = -(-length // TILE)
    place = torch.arange(tiles)[:, None] * TILE + torch.arange(PRODUCTS)  # of the inputs, after one zero
    to = torch.zeros(PRODUCTS, tiles, tiles * TILE + KERNEL - 1, dtype=torch.float64)
    to.scatter_(2, place.expand(PRODUCTS, -1, -1), inputs[:, None].expand(-1, tiles, -1))
    back = torch.einsum("ok,tu->toku", outputs, torch.eye(tiles, dtype=torch.float64)).reshape(tiles * TILE, -1)
    return to[:, :, 1 : length + 1].reshape(-1, length), back[:length]


def _rows(conv: nn.Conv2d) -> Float[Tensor, "3 C kD"]:
    """Return the rows of a kernel, each as a matrix from the input channels to the outputs of each column."""
    return conv.weight.detach().permute(2, 1, 3, 0).flatten(2)


def _enlarged_and_shifted(length: int) -> Float[Tensor, "m 3 n"]:
    """Return the matrices that enlarge an axis of n values to twice the length m, and shift it by -1, 0 and 1."""
    values = torch.eye(length, dtype=torch.float64)[None]
    enlarged = F.interpolate(values, scale_factor=2.0, mode="linear", align_corners=False)[0].T
    padded = F.pad(enlarged, (0, 0, 1, 1))
    return torch.stack([padded[start : start + 2 * length] for start in range(KERNEL)], dim=1)
