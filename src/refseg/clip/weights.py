"""CLIP's weights, from whichever file they come in, under OpenAI's names."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from refseg.clip.resnet import ResNetConfig
from refseg.clip.text import TextConfig
from refseg.errors import WeightsError

__all__ = ["infer_resnet", "infer_text"]


def infer_resnet(state: Mapping[str, Tensor], prefix: str = "visual.") -> ResNetConfig:
    """Find the sizes of a ModifiedResNet from the shapes of its weights.

    Raises:
        WeightsError: A weight that tells a size is missing.
    """
    width = _shape(state, f"{prefix}layer1.0.conv1.weight")[0]
    positions, _ = _shape(state, f"{prefix}attnpool.positional_embedding")
    blocks = [_count(state, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    return ResNetConfig(
        layers=(blocks[0], blocks[1], blocks[2], blocks[3]),
        width=width,
        heads=max(1, width * 32 // 64),
        output_dim=_shape(state, f"{prefix}attnpool.c_proj.weight")[0],
        pretrained_size=32 * round((positions - 1) ** 0.5),
    )


def infer_text(state: Mapping[str, Tensor], prefix: str = "") -> TextConfig:
    """Find the sizes of a text transformer from the shapes of its weights.

    Raises:
        WeightsError: A weight that tells a size is missing.
    """
    vocabulary, width = _shape(state, f"{prefix}token_embedding.weight")
    return TextConfig(
        width=width,
        heads=max(1, width // 64),
        layers=_count(state, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."),
        output_dim=_shape(state, f"{prefix}text_projection")[1],
        context_length=_shape(state, f"{prefix}positional_embedding")[0],
        vocabulary_size=vocabulary,
    )


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    if key not in state:
        raise WeightsError(f"these weights are of another architecture: {key!r} is missing")
    return tuple(state[key].shape)


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    numbers = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    return max(numbers, default=-1) + 1
