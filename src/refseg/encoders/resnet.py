"""ResNet as torchvision has it, an image encoder pretrained on ImageNet: feature maps at strides 2 to 16.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with the stride in the 3x3 convolution of a
bottleneck; the wide one is that of Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.clip_sizes import count_layers
from refseg.encoders.layers import BatchNorm2d
from refseg.errors import ConfigError, WeightsError

__all__ = ["Bottleneck", "WideResNet", "WideResNetConfig", "infer_wide_resnet", "without_classifier"]

EXPANSION = 4
STAGES = (1, 2, 3, 4)
STRIDES = (1, 2, 2, 1)
"""Of the four stages, after a stem of stride 4: the last one keeps its size, so that small objects stay visible."""


@dataclass(frozen=True, kw_only=True)
class WideResNetConfig:
    """Sizes of a wide ResNet; the defaults are those of torchvision's `wide_resnet101_2`."""

    layers: tuple[int, int, int, int] = (3, 4, 23, 3)
    """Bottlenecks in each of the four stages."""
    width: int = 64
    """Channels after the stem; stage i (from 0) has 4 * 2**i * width output channels."""
    factor: int = 2
    """How many times as wide as in a plain ResNet the 3x3 convolution of a bottleneck is."""

    def __post_init__(self) -> None:
        if min(*self.layers, self.width, self.factor) < 1:
            raise ConfigError("vision: layers, width and factor must be positive")

    @property
    def channels(self) -> tuple[int, int, int, int, int]:
        """Channels after the stem and after each stage."""
        stages = [EXPANSION * 2**number * self.width for number in range(4)]
        return self.width, stages[0], stages[1], stages[2], stages[3]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), BatchNorm2d(outputs))

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Return the feature map; a stride of 2 halves its sides."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


class WideResNet(nn.Module):
    """A stem and four stages; a model may change the feature map between them. The classifier is left out."""

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(3, config.width, 7, 2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(config.width)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            self._stage(number, depth, stride)
            for number, (depth, stride) in enumerate(zip(config.layers, STRIDES, strict=True))
        )

    def _stage(self, number: int, depth: int, stride: int) -> nn.Sequential:
        inputs, outputs = self.config.channels[number : number + 2]
        inner = outputs * self.config.factor // EXPANSION
        first = Bottleneck(inputs, inner, outputs, stride)
        return nn.Sequential(first, *(Bottleneck(outputs, inner, outputs, 1) for _ in range(depth - 1)))

    def stem(self, pixels: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N C h w"]:
        """Return the feature map at stride 2."""
        return F.relu(self.bn1(self.conv1(pixels)), inplace=True)

    def stage1(self, stem: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Return the feature map at stride 4, from that of the stem."""
        pooled: Tensor = self.layer1(F.max_pool2d(stem, 3, 2, padding=1))
        return pooled


def infer_wide_resnet(state: Mapping[str, Tensor], prefix: str) -> WideResNetConfig:
    """Infer the sizes of a wide ResNet from the shapes of its weights.

    Raises:
        WeightsError: A weight that determines a size is missing.
        ConfigError: A size is impossible.
    """
    depths = [count_layers(state, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in STAGES]
    try:
        width = len(state[f"{prefix}conv1.weight"])
        inner = len(state[f"{prefix}layer1.0.conv1.weight"])
    except KeyError as error:
        raise WeightsError(f"these weights have no ResNet: {error.args[0]!r} is missing") from None
    except TypeError:
        raise WeightsError("these weights have no ResNet: a convolution is a single number") from None
    layers = (depths[0], depths[1], depths[2], depths[3])
    return WideResNetConfig(layers=layers, width=width, factor=inner // max(width, 1))


def without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's weights of a ResNet, whose names are ours, without the classifier of ImageNet."""
    return {key: value for key, value in state.items() if not key.startswith("fc.")}
