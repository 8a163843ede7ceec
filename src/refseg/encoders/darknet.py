"""DarkNet-53 as YOLOv3 uses it (Redmon and Farhadi, 2018, arXiv 1804.02767): the image encoder of MCN and VLT."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.clip_sizes import count_layers
from refseg.encoders.layers import BatchNorm1d, BatchNorm2d
from refseg.errors import ConfigError, WeightsError

__all__ = [
    "ConvNormLeaky",
    "DarkNet",
    "DarkNetConfig",
    "DarkNetMaps",
    "MapNorm",
    "ResidualBlock",
    "VectorNorm",
    "infer_darknet",
    "leaky",
]

EPSILON, MOMENTUM = 1e-3, 0.01
"""Of batch normalisation in Keras, whose momentum of 0.99 is the weight of the old value."""
SLOPE = 0.1
"""Of the leaky ReLU for negative values."""


def leaky(x: Tensor) -> Tensor:
    """Return the leaky ReLU of DarkNet."""
    return F.leaky_relu(x, SLOPE)


class MapNorm(BatchNorm2d):
    """Batch normalisation of maps with the numbers of Keras.

    Args:
        channels: Of the maps.
        debiased: Whether the running statistics are the weighted mean of the batches that were seen alone, so that
            those of the first batch replace the stored ones, as TensorFlow does under Keras 2.2 (MCN).
    """

    def __init__(self, channels: int, *, debiased: bool) -> None:
        super().__init__(channels, eps=EPSILON, momentum=MOMENTUM)
        self.debiased = debiased

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise each channel."""
        _set_momentum(self, self.debiased)
        return super().forward(input)


class VectorNorm(BatchNorm1d):
    """The same of vectors (see `MapNorm`)."""

    def __init__(self, channels: int, *, debiased: bool) -> None:
        super().__init__(channels, eps=EPSILON, momentum=MOMENTUM)
        self.debiased = debiased

    def forward(self, input: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Normalise each channel."""
        _set_momentum(self, self.debiased)
        return super().forward(input)


def _set_momentum(norm: nn.BatchNorm1d | nn.BatchNorm2d, debiased: bool) -> None:
    # A momentum of 0 is set from outside while activations are recomputed, and stays.
    if debiased and norm.training and norm.momentum and norm.num_batches_tracked is not None:
        norm.momentum = MOMENTUM / (1 - (1 - MOMENTUM) ** (int(norm.num_batches_tracked) + 1))


class ConvNormLeaky(nn.Module):
    """A convolution, batch normalisation, and leaky ReLU.

    A stride of two pads the left and the top edge alone, as DarkNet does.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, dilation: int = 1, debiased: bool
    ) -> None:
        super().__init__()
        padding = dilation * (kernel // 2) if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.norm = MapNorm(outputs, debiased=debiased)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """Return the map, of half the side with a stride of two."""
        if self.conv.stride != (1, 1):
            x = F.pad(x, (1, 0, 1, 0))
        return leaky(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """A 1x1 convolution to half of the channels and a 3x3 convolution back, added to the input."""

    def __init__(self, channels: int, *, debiased: bool) -> None:
        super().__init__()
        self.reduce = ConvNormLeaky(channels, channels // 2, 1, debiased=debiased)
        self.expand = ConvNormLeaky(channels // 2, channels, 3, debiased=debiased)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the sum."""
        added: Tensor = x + self.expand(self.reduce(x))
        return added


@dataclass(frozen=True, kw_only=True)
class DarkNetConfig:
    """Sizes of a DarkNet; the default is that of YOLOv3."""

    width: int = 32
    """Channels of the first convolution; each stage doubles them."""
    depths: tuple[int, int, int, int, int] = (1, 2, 8, 8, 4)
    """Residual blocks of the five stages."""
    debiased: bool = False
    """How running statistics are kept (see `MapNorm`)."""

    def __post_init__(self) -> None:
        if self.width < 1 or min(self.depths) < 1:
            raise ConfigError("width and depths must be positive")

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels at strides 8, 16 and 32."""
        return 8 * self.width, 16 * self.width, 32 * self.width


class DarkNetMaps(NamedTuple):
    """The feature maps of three strides."""

    f2: Float[Tensor, "N C2 H8 W8"]
    f1: Float[Tensor, "N C1 H16 W16"]
    f0: Float[Tensor, "N C0 H32 W32"]


class DarkNet(nn.Module):
    """The 52 convolutions of DarkNet-53, and the first six of YOLOv3's head at stride 32."""

    def __init__(self, config: DarkNetConfig) -> None:
        super().__init__()
        debiased, width = config.debiased, config.width
        self.stem = ConvNormLeaky(3, width, 3, debiased=debiased)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvNormLeaky(width << level, width << (level + 1), 3, stride=2, debiased=debiased),
                *(ResidualBlock(width << (level + 1), debiased=debiased) for _ in range(depth)),
            )
            for level, depth in enumerate(config.depths)
        )
        last = 32 * width
        self.top = nn.Sequential(
            *(
                layer
                for _ in range(3)
                for layer in (
                    ConvNormLeaky(last, last // 2, 1, debiased=debiased),
                    ConvNormLeaky(last // 2, last, 3, debiased=debiased),
                )
            )
        )

    def forward(self, pixels: Float[Tensor, "N 3 S S"]) -> DarkNetMaps:
        """Return the feature maps at strides 8, 16 and 32, of pixels in 0..1."""
        x, maps = self.stem(pixels), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return DarkNetMaps(maps[2], maps[3], self.top(maps[4]))


def infer_darknet(state: Mapping[str, Tensor], prefix: str, *, debiased: bool) -> DarkNetConfig:
    """Infer the sizes of a DarkNet from the shapes of its weights.

    Args:
        state: The weights of a model.
        prefix: Of the weights of the DarkNet in it.
        debiased: Weights do not tell it.

    Raises:
        WeightsError: A weight that determines a size is missing.
        ConfigError: A size is impossible.
    """
    first = f"{prefix}stem.conv.weight"
    if first not in state or not state[first].ndim:
        raise WeightsError(f"these weights have no DarkNet: {first!r} is missing")
    # The first layer of a stage is a convolution, the others are blocks.
    depths = [count_layers(state, rf"{re.escape(prefix)}stages\.{stage}\.(\d+)\.") - 1 for stage in range(5)]
    one, two, three, four, five = depths
    return DarkNetConfig(width=len(state[first]), depths=(one, two, three, four, five), debiased=debiased)
