"""The cross-modal neck: fuses feature maps at three scales with the sentence into one map (CRIS, section 3.2).

It follows the reference's code, which differs from the paper's equations: every projection is a convolution with
batch normalisation and ReLU, the product of image and sentence is normalised, and two convolutions follow the
coordinates.

A 1x1 convolution of several maps side by side is computed as a sum of one for each map: the part of the image is then
the same for all expressions, and a coarse map is convolved before it is enlarged; the order makes no difference.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.clip_resnet import Pyramid
from refseg.encoders.layers import BatchNorm1d, BatchNorm2d, Preparable

__all__ = ["STRIDE", "CrossModalNeck", "LocatedConv", "MergedConv", "ProjectedPyramid", "conv_norm_relu"]

STRIDE = 16
"""Side in pixels of the image region that one cell of the fused map stands for."""


def conv_norm_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size of a map, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class MergedConv(nn.Sequential, Preparable):
    """A 1x1 convolution of the concatenation of several maps, batch normalisation and ReLU.

    Args:
        inputs: The channels of each map.
        outputs: The channels of the result.
    """

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__(*conv_norm_relu(sum(inputs), outputs, 1))
        self.inputs = inputs

    def part(self, index: int, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Return what the map of this index adds to the convolution."""
        conv = self[0]
        if isinstance(conv, nn.ModuleList):
            return conv[index](x)  # type: ignore[no-any-return]
        assert isinstance(conv, nn.Conv2d)
        return F.conv2d(x, self._kernels(conv)[index], conv.bias if index == 0 else None)

    def finish(self, total: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        """Normalise the sum of all parts and apply ReLU."""
        return self[2](self[1](total))  # type: ignore[no-any-return]

    def prepare(self, side: int) -> None:
        """Make a convolution of each part."""
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        self[0] = nn.ModuleList(
            _with_weights(kernel, conv.bias if index == 0 else None) for index, kernel in enumerate(self._kernels(conv))
        )

    def _kernels(self, conv: nn.Conv2d) -> tuple[Tensor, ...]:
        return conv.weight.split(self.inputs, dim=1)  # type: ignore[no-untyped-call, no-any-return]


class LocatedConv(nn.Sequential, Preparable):
    """A 3x3 convolution of a map and the coordinates of its cells, batch normalisation and ReLU.

    Args:
        inputs: The channels of the map.
        outputs: The channels of the result.
    """

    places: Tensor | None
    """What the coordinates add to the convolution, for maps of one size; None: not computed yet."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(*conv_norm_relu(inputs + 2, outputs, 3))
        self.register_buffer("places", None, persistent=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Return the located map."""
        conv, norm, relu = self
        if self.places is not None:
            total = conv(x)
            return relu(norm(total + self.places.to(total.dtype)))  # type: ignore[no-any-return]
        coordinates = _coordinates(*x.shape[-2:]).to(x).expand(len(x), -1, -1, -1)
        return relu(norm(conv(torch.cat([x, coordinates], dim=1))))  # type: ignore[no-any-return]

    def prepare(self, side: int) -> None:
        """Compute what the coordinates add in advance, so that the convolution is of the map alone."""
        conv = self[0]
        assert isinstance(conv, nn.Conv2d)
        of_map, of_places = conv.weight.detach().split((conv.in_channels - 2, 2), dim=1)  # type: ignore[no-untyped-call]
        coordinates = _coordinates(side // STRIDE, side // STRIDE).to(conv.weight)
        self.places = F.conv2d(coordinates, of_places, conv.bias, padding=1)
        self[0] = _with_weights(of_map, None)


class ProjectedPyramid(NamedTuple):
    """What the feature maps add to the neck, which does not depend on the expression."""

    p3: Float[Tensor, "N C4 H16 W16"]
    p4: Float[Tensor, "N C4 H16 W16"]
    p5: Float[Tensor, "N C5 H32 W32"]


class CrossModalNeck(nn.Module):
    """A feature pyramid network whose coarsest map is multiplied by the sentence."""

    def __init__(self, pyramid: tuple[int, int, int], channels: tuple[int, int, int], sentence: int) -> None:
        super().__init__()
        (in3, in4, in5), (c3, c4, c5) = pyramid, channels
        self.sentence = nn.Sequential(nn.Linear(sentence, c5, bias=False), BatchNorm1d(c5), nn.ReLU(inplace=True))
        self.project5 = conv_norm_relu(in5, c5, 1)
        self.project4 = conv_norm_relu(in4, c4, 3)
        self.project3 = conv_norm_relu(in3, c3, 3)
        self.norm5 = BatchNorm2d(c5)
        self.merge4 = MergedConv((c4, c5), c4)
        self.merge3 = MergedConv((c3, c4), c4)
        self.smooth5 = conv_norm_relu(c5, c4, 3)
        self.smooth4 = conv_norm_relu(c4, c4, 3)
        self.smooth3 = conv_norm_relu(c4, c4, 3)
        self.aggregate = MergedConv((c4, c4, c4), c4)
        self.locate = LocatedConv(c4, c4)
        self.refine = conv_norm_relu(c4, c4, 3)

    def project(self, pyramid: Pyramid) -> ProjectedPyramid:
        """Compute the part that depends on the image alone."""
        f3, f4 = F.avg_pool2d(self.project3(pyramid.v3), 2), self.project4(pyramid.v4)
        return ProjectedPyramid(self.merge3.part(0, f3), self.merge4.part(0, f4), self.project5(pyramid.v5))

    def forward(self, image: ProjectedPyramid, sentence: Float[Tensor, "B E"]) -> Float[Tensor, "B D h w"]:
        """Return the image fused with the sentence, at stride 16."""
        f5 = F.relu(self.norm5(image.p5 * self.sentence(sentence)[:, :, None, None]), inplace=True)
        f4 = self.merge4.finish(image.p4 + _upsampled(self.merge4.part(1, f5)))
        f3 = self.merge3.finish(image.p3 + self.merge3.part(1, f4))
        q3, q4 = self.aggregate.part(0, self.smooth3(f3)), self.aggregate.part(1, self.smooth4(f4))
        fused = self.aggregate.finish(q3 + q4 + _upsampled(self.aggregate.part(2, self.smooth5(f5))))
        return self.refine(self.locate(fused))  # type: ignore[no-any-return]


def _with_weights(weight: Float[Tensor, "D C K K"], bias: Float[Tensor, "D"] | None) -> nn.Conv2d:
    """Return a convolution that keeps the size of a map and cannot be trained."""
    outputs, inputs, kernel, _ = weight.shape
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    conv.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return conv


def _upsampled(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _coordinates(height: int, width: int) -> Float[Tensor, "1 2 H W"]:
    """Return the x and y coordinates of each cell, -1..1 from edge to edge."""
    x, y = torch.linspace(-1, 1, width), torch.linspace(-1, 1, height)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]
