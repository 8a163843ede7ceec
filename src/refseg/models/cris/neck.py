"""The cross-modal neck: fuses feature maps at three scales with the sentence into one map (CRIS, section 3.2).

It follows the reference's code, which differs from the paper's equations: every projection is a convolution with
batch normalisation and ReLU, the product of image and sentence is normalised, and two convolutions follow the
coordinates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.clip_resnet import Pyramid
from refseg.encoders.layers import BatchNorm1d, BatchNorm2d

__all__ = ["CrossModalNeck", "ProjectedPyramid", "conv_norm_relu"]


def conv_norm_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return a convolution that keeps the size of a map, batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ProjectedPyramid(NamedTuple):
    """The feature maps after the neck's first convolutions, which do not depend on the expression."""

    p3: Float[Tensor, "N C3 H16 W16"]
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
        self.merge4 = conv_norm_relu(c4 + c5, c4, 1)
        self.merge3 = conv_norm_relu(c3 + c4, c4, 1)
        self.smooth5 = conv_norm_relu(c5, c4, 3)
        self.smooth4 = conv_norm_relu(c4, c4, 3)
        self.smooth3 = conv_norm_relu(c4, c4, 3)
        self.aggregate = conv_norm_relu(3 * c4, c4, 1)
        self.locate = conv_norm_relu(c4 + 2, c4, 3)
        self.refine = conv_norm_relu(c4, c4, 3)

    def project(self, pyramid: Pyramid) -> ProjectedPyramid:
        """Compute the part that depends on the image alone."""
        return ProjectedPyramid(
            F.avg_pool2d(self.project3(pyramid.v3), 2), self.project4(pyramid.v4), self.project5(pyramid.v5)
        )

    def forward(self, image: ProjectedPyramid, sentence: Float[Tensor, "B E"]) -> Float[Tensor, "B D h w"]:
        """Return the image fused with the sentence, at stride 16."""
        f5 = F.relu(self.norm5(image.p5 * self.sentence(sentence)[:, :, None, None]), inplace=True)
        f4 = self.merge4(torch.cat([_for_each(image.p4, f5), _upsampled(f5)], dim=1))
        f3 = self.merge3(torch.cat([_for_each(image.p3, f5), f4], dim=1))
        fused = self.aggregate(torch.cat([self.smooth3(f3), self.smooth4(f4), _upsampled(self.smooth5(f5))], dim=1))
        located: Tensor = self.locate(torch.cat([fused, _coordinates(fused)], dim=1))
        return self.refine(located)  # type: ignore[no-any-return]


def _upsampled(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H2 W2"]:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def _for_each(image: Float[Tensor, "N C H W"], like: Float[Tensor, "B ..."]) -> Float[Tensor, "B C H W"]:
    """Repeat the map of a single image for each expression."""
    return image.expand(like.shape[0], -1, -1, -1)


def _coordinates(like: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 2 H W"]:
    """Return the x and y coordinates of each position, -1..1 from edge to edge."""
    batch, _, height, width = like.shape
    y = torch.linspace(-1, 1, height, device=like.device, dtype=like.dtype)
    x = torch.linspace(-1, 1, width, device=like.device, dtype=like.dtype)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)]).expand(batch, -1, -1, -1)
