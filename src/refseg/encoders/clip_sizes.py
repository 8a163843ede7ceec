"""The sizes of CLIP's encoders: the published ones, and those that weights have."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.errors import UnknownNameError, WeightsError

__all__ = ["CLIP_SIZES", "ClipSizes", "clip_sizes", "count_layers", "infer_resnet", "infer_text", "infer_vit"]


@dataclass(frozen=True, kw_only=True)
class ClipSizes:
    """The sizes of an image encoder and of the text encoder that was trained with it."""

    vision: ResNetConfig | ViTConfig
    text: TextConfig


def _text(width: int, joint: int) -> TextConfig:
    # A head has 64 channels in every encoder of every CLIP.
    return TextConfig(width=width, heads=width // 64, layers=12, output_dim=joint)


def _resnet(layers: tuple[int, int, int, int], width: int, joint: int, size: int, text_width: int) -> ClipSizes:
    return ClipSizes(
        vision=ResNetConfig(layers=layers, width=width, heads=width * 32 // 64, output_dim=joint, pretrained_size=size),
        text=_text(text_width, joint),
    )


def _vit(patch: int, layers: int, width: int, joint: int, size: int, text_width: int) -> ClipSizes:
    return ClipSizes(
        vision=ViTConfig(
            patch=patch, width=width, layers=layers, heads=width // 64, output_dim=joint, pretrained_size=size
        ),
        text=_text(text_width, joint),
    )


CLIP_SIZES = {
    "RN50": _resnet((3, 4, 6, 3), 64, 1024, 224, 512),
    "RN101": _resnet((3, 4, 23, 3), 64, 512, 224, 512),
    "RN50x4": _resnet((4, 6, 10, 6), 80, 640, 288, 640),
    "RN50x16": _resnet((6, 8, 18, 8), 96, 768, 384, 768),
    "RN50x64": _resnet((3, 15, 36, 10), 128, 1024, 448, 1024),
    "ViT-B/32": _vit(32, 12, 768, 512, 224, 512),
    "ViT-B/16": _vit(16, 12, 768, 512, 224, 512),
    "ViT-L/14": _vit(14, 24, 1024, 768, 224, 768),
    "ViT-L/14@336px": _vit(14, 24, 1024, 768, 336, 768),
}


def clip_sizes(name: str) -> ClipSizes:
    """Return the sizes of a published CLIP by OpenAI's name, such as `RN50` or `ViT-B/16`.

    Raises:
        UnknownNameError: There is no such CLIP.
    """
    if name not in CLIP_SIZES:
        raise UnknownNameError("CLIP model", name, CLIP_SIZES)
    return CLIP_SIZES[name]


def infer_resnet(state: Mapping[str, Tensor], prefix: str = "visual.") -> ResNetConfig:
    """Return the sizes of a ModifiedResNet inferred from the shapes of its weights.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
    """
    width = _shape(state, f"{prefix}layer1.0.conv1.weight", 4)[0]
    grid = _grid(state, f"{prefix}attnpool.positional_embedding")
    blocks = [count_layers(state, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    return ResNetConfig(
        layers=(blocks[0], blocks[1], blocks[2], blocks[3]),
        width=width,
        heads=max(1, width * 32 // 64),
        output_dim=_shape(state, f"{prefix}attnpool.c_proj.weight", 2)[0],
        pretrained_size=32 * grid,
    )


def infer_vit(state: Mapping[str, Tensor], prefix: str = "visual.") -> ViTConfig:
    """Return the sizes of a vision transformer inferred from the shapes of its weights.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
    """
    width, _, patch, _ = _shape(state, f"{prefix}conv1.weight", 4)
    return ViTConfig(
        patch=patch,
        width=width,
        layers=count_layers(state, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."),
        heads=max(1, width // 64),
        output_dim=_shape(state, f"{prefix}proj", 2)[1],
        pretrained_size=patch * _grid(state, f"{prefix}positional_embedding"),
    )


def infer_text(state: Mapping[str, Tensor], prefix: str = "") -> TextConfig:
    """Return the sizes of a text transformer inferred from the shapes of its weights.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
    """
    vocabulary, width = _shape(state, f"{prefix}token_embedding.weight", 2)
    return TextConfig(
        width=width,
        heads=max(1, width // 64),
        layers=count_layers(state, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."),
        output_dim=_shape(state, f"{prefix}text_projection", 2)[1],
        context_length=_shape(state, f"{prefix}positional_embedding", 2)[0],
        vocabulary_size=vocabulary,
    )


def count_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """Return the number of layers, whose indices are the first group of the pattern.

    Raises:
        WeightsError: The indices are not 0, 1, 2, ...: a single high one must not be taken for that many layers.
    """
    numbers = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    if numbers != set(range(len(numbers))):
        raise WeightsError(f"these weights are incomplete: some of the layers up to {max(numbers)} are missing")
    return len(numbers)


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    if key not in state:
        raise WeightsError(f"these weights are of another architecture: {key!r} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise WeightsError(f"these weights are of another architecture: {key!r} has the shape {list(shape)}")
    return shape


def _grid(state: Mapping[str, Tensor], key: str) -> int:
    """Return the side of a positional embedding's grid; its first vector belongs to the pooled or class token."""
    positions, _ = _shape(state, key, 2)
    return math.isqrt(max(positions - 1, 0))
