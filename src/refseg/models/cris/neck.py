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
from refseg.encoders.layers import BatchNorm1d, BatchNorm2d

__all__ = ["CrossModalNeck", "MergedConv", "ProjectedPyramid", "conv_norm_relu"]


def conv_norm_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size of a map, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class MergedConv(nn.Sequential):
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
        assert isinstance(conv, nn.Conv2d)
        kernels = conv.weight.split(self.inputs, dim=1)  # type: ignore[no-untyped-call]
        return F.conv2d(x, kernels[index], conv.bias if index == 0 else None)

    def finish(self, total: Float[Tensor, "B D H W"]) -> Float[Tensor, "B D H W"]:
        """Normalise the sum of all parts and apply ReLU."""
        return self[2](self[1](total))  # type: ignore[no-any-return]


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
        self.locate = conv_norm_relu(c4 + 2, c4, 3)
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
        located: Tensor = self.locate(torch.cat([fused, _coordinates(fused)], dim=1))
        return self.refine(located)  # type: ignore[no-any-return]


def _upsampled(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _coordinates(like: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2 H W"]:
    """Return the x and y coordinates of each position, -1..1 from edge to edge."""
    batch, _, height, width = like.shape
    y = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    x = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).expand(batch, -1, -1, -1)
