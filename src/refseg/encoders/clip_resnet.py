"""CLIP's ModifiedResNet as CRIS uses it: from pixels to feature maps at strides 8, 16 and 32.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", section 2.4: a ResNet-D with
three stem convolutions, average pooling before every strided convolution, and attention pooling at its end. CRIS
(Wang et al., CVPR 2022, section 3.1) keeps the grid: its attention pool is self-attention over all positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.layers import BatchNorm2d, Preparable, resize_positions, resized_to
from refseg.errors import ConfigError

__all__ = ["AttentionPool2d", "Bottleneck", "ModifiedResNet", "Pyramid", "ResNetConfig"]

STRIDE = 32
"""Of the last feature map, in pixels."""


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Sizes of a ModifiedResNet."""

    layers: tuple[int, int, int, int]
    """Bottlenecks in each of the four stages."""
    width: int
    """Channels after the stem; stage i (from 0) has 4 * 2**i * width output channels."""
    heads: int
    """Heads of the attention pool."""
    output_dim: int
    """Channels of the last map: the dimension of CLIP's joint space."""
    pretrained_size: int = 224
    """Side in pixels of the images in pretraining; the grid of the positional embedding has a 32nd of it."""

    def __post_init__(self) -> None:
        if min(*self.layers, self.width, self.heads, self.output_dim) < 1 or self.width % 2:
            raise ConfigError("vision: layers, heads and output_dim must be positive, width positive and even")
        if self.pretrained_size < 32 or self.pretrained_size % 32:
            raise ConfigError(f"vision: pretrained_size must be a multiple of 32, got {self.pretrained_size}")
        if self.width * 32 % self.heads:
            raise ConfigError(f"vision: {self.heads} heads do not divide {self.width * 32} channels")

    @property
    def channels(self) -> tuple[int, int, int]:
        """Channels of the three feature maps."""
        return self.width * 8, self.width * 16, self.output_dim


class Pyramid(NamedTuple):
    """The feature maps of an image at strides 8, 16 and 32."""

    v3: Float[Tensor, "B C3 H8 W8"]
    v4: Float[Tensor, "B C4 H16 W16"]
    v5: Float[Tensor, "B C5 H32 W32"]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut; average pooling takes the place of strided convolutions."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        outplanes = planes * self.expansion
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(planes)
        self.avgpool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(planes, outplanes, 1, bias=False)
        self.bn3 = BatchNorm2d(outplanes)
        self.downsample: nn.Sequential | None = None
        if stride > 1 or inplanes != outplanes:
            self.downsample = nn.Sequential()
            # In CLIP's names the pooling is "-1", and the convolution "0".
            self.downsample.add_module("-1", nn.AvgPool2d(stride))
            self.downsample.add_module("0", nn.Conv2d(inplanes, outplanes, 1, bias=False))
            self.downsample.add_module("1", BatchNorm2d(outplanes))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H2 W2"]:
        """Return the feature map; a stride of 2 halves its sides."""
        h = F.relu(self.bn1(self.conv1(x)), inplace=True)
        h = F.relu(self.bn2(self.conv2(h)), inplace=True)
        h = self.bn3(self.conv3(self.avgpool(h)))
        shortcut = x if self.downsample is None else self.downsample(x)
        return F.relu(h + shortcut, inplace=True)


class AttentionPool2d(Preparable):
    """CLIP's attention pool as self-attention over all positions, with a convolutional shortcut.

    The first positional embedding belongs to the pooled token and is used by `pool` only; the others are resized to the
    grid. The shortcut `connect` is CRIS', is not part of CLIP's weights, and is not used by `pool`.
    """

    def __init__(self, grid: int, channels: int, heads: int, output_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, channels) / channels**0.5)
        self.k_proj = nn.Linear(channels, channels)
        self.q_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, output_dim)
        self.connect = nn.Sequential(nn.Conv2d(channels, output_dim, 1, bias=False), BatchNorm2d(output_dim))

    def prepare(self, side: int) -> None:
        """Resize the embeddings to the grid of square images of one size."""
        resized = resized_to(self.positional_embedding, side // STRIDE)
        self.positional_embedding = nn.Parameter(resized, requires_grad=False)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D H W"]:
        """Return the features of all positions in CLIP's joint space."""
        batch, _, height, width = x.shape
        tokens = self._tokens(x)
        pooled = self._attend(tokens, tokens).mT.reshape(batch, -1, height, width)
        return F.relu(pooled + self.connect(x), inplace=True)

    def pool(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E"]:
        """Return CLIP's pooled features: the mean over positions attends to itself and to all of them."""
        mean = x.mean(dim=(2, 3)) + self.positional_embedding[0].to(x.dtype)
        tokens = torch.cat([mean[:, None], self._tokens(x)], dim=1)
        return self._attend(tokens[:, :1], tokens)[:, 0]

    def values(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B E H W"]:
        """Return the features of each position in CLIP's joint space if it attends to itself only."""
        tokens: Tensor = self.c_proj(self.v_proj(self._tokens(x)))
        return tokens.mT.reshape(x.shape[0], -1, *x.shape[2:])

    def _tokens(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H*W C"]:
        """Return a map as a sequence with positional embeddings."""
        position = resize_positions(self.positional_embedding, (x.shape[2], x.shape[3]))
        return (x + position.to(x.dtype)).flatten(2).mT

    def _attend(self, queries: Float[Tensor, "B Q C"], tokens: Float[Tensor, "B T C"]) -> Float[Tensor, "B Q E"]:
        """Return the attention of queries to tokens, projected into CLIP's joint space."""

        def split(projected: Tensor) -> Tensor:
            return projected.reshape(*projected.shape[:2], self.heads, -1).transpose(1, 2)

        query, key, value = split(self.q_proj(queries)), split(self.k_proj(tokens)), split(self.v_proj(tokens))
        # Not F.scaled_dot_product_attention: the grid is small, and its backward pass on a CPU is slower.
        attention = (query @ key.mT * query.shape[-1] ** -0.5).softmax(dim=-1)
        mixed: Tensor = self.c_proj((attention @ value).transpose(1, 2).flatten(2))
        return mixed


class ModifiedResNet(nn.Module):
    """The image encoder, with OpenAI's key names."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        width = config.width
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = BatchNorm2d(width)
        self.avgpool = nn.AvgPool2d(2)
        stages, inplanes = [], width
        for index, blocks in enumerate(config.layers):
            planes = width * 2**index
            stage = [Bottleneck(inplanes, planes, stride=1 if index == 0 else 2)]
            inplanes = planes * Bottleneck.expansion
            stage += [Bottleneck(inplanes, planes) for _ in range(1, blocks)]
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.attnpool = AttentionPool2d(config.pretrained_size // 32, inplanes, config.heads, config.output_dim)

    def forward(self, pixels: Float[Tensor, "B 3 S S"]) -> Pyramid:
        """Return the feature maps of normalised pixels; S is a multiple of 32."""
        v3, v4, last = self._stages(pixels)
        return Pyramid(v3, v4, self.attnpool(last))

    def pool(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E"]:
        """Return CLIP's image embedding of normalised pixels; S is a multiple of 32."""
        pooled: Tensor = self.attnpool.pool(self._stages(pixels)[-1])
        return pooled

    def values(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B E H32 W32"]:
        """Return the map of `AttentionPool2d.values` of normalised pixels; S is a multiple of 32."""
        values: Tensor = self.attnpool.values(self._stages(pixels)[-1])
        return values

    def _stages(self, pixels: Float[Tensor, "B 3 S S"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return the outputs of the last three stages, before the attention pool."""
        x = F.relu(self.bn1(self.conv1(pixels)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        x = F.relu(self.bn3(self.conv3(x)), inplace=True)
        v3 = self.layer2(self.layer1(self.avgpool(x)))
        v4 = self.layer3(v3)
        return v3, v4, self.layer4(v4)
