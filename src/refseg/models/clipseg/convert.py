"""Reads CLIPSeg's weights and config as transformers writes them, and infers sizes from weights."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from refseg.encoders.clip_files import clip_weights, join_projections
from refseg.encoders.clip_sizes import count_layers, infer_text, infer_vit
from refseg.encoders.pretrained import in_a_model
from refseg.encoders.weights_file import rename
from refseg.errors import ConfigError, WeightsError
from refseg.models.clipseg.model import CLIPSegConfig

__all__ = ["config_of_transformers", "from_transformers", "infer_config", "is_clipseg"]

MODEL_TYPE = "clipseg"
"""In transformers' `config.json`."""
CLIP, DECODER = "clip.", "decoder."
PUBLISHED_BLOCKS = (10, 7, 4)
NAMES = (
    (r"\.reduces\.", ".reduce."),
    (r"\.transposed_convolution\.", ".upsample."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
)
"""Patterns of transformers' names in the decoder, and what stands there in ours."""


def is_clipseg(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is that of transformers' CLIPSeg."""
    return "decoder.film_mul.weight" in state and any(key.startswith(CLIP) for key in state)


def from_transformers(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the weights of transformers' CLIPSeg under our names, in float32.

    Args:
        state: The state dict of a file.
        path: The file, for error messages.

    Raises:
        WeightsError: A weight is missing, unknown, or is there twice.
    """
    for key in state:
        if not key.startswith((CLIP, DECODER)):
            raise WeightsError(f"{path}: {key!r} is not a weight of transformers' CLIPSeg")
    of_clip = {key.removeprefix(CLIP): value for key, value in state.items() if key.startswith(CLIP)}
    of_decoder = {key: value.float() for key, value in state.items() if key.startswith(DECODER)}
    return in_a_model(clip_weights(of_clip, path)) | rename(join_projections(of_decoder, path), _our_name, path)


def infer_config(state: Mapping[str, Tensor]) -> CLIPSegConfig:
    """Infer the sizes of a CLIPSeg from the shapes of its weights, under our names.

    They determine the number of image blocks that the decoder uses, but not which: the published ones, or the last.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
        ConfigError: The sizes do not fit each other.
    """

    def length(key: str) -> int:
        if key not in state or not state[key].ndim:
            raise WeightsError(f"these weights are of another architecture: {key!r} is missing")
        return state[key].shape[0]

    vision, text = infer_vit(state), infer_text(state, "text.")
    levels = count_layers(state, r"decoder\.layers\.(\d+)\.")
    published = levels == len(PUBLISHED_BLOCKS) and vision.layers >= PUBLISHED_BLOCKS[0]
    return CLIPSegConfig(
        vision=vision,
        text=text,
        decoder_blocks=PUBLISHED_BLOCKS if published else tuple(range(vision.layers, vision.layers - levels, -1)),
        decoder_width=(width := length("decoder.film_mul.weight")),
        decoder_heads=4 if width % 4 == 0 else 1,
        decoder_hidden=length("decoder.layers.0.mlp.0.weight"),
        refined="decoder.upsample.0.weight" in state,
    )


def config_of_transformers(inferred: CLIPSegConfig, values: Mapping[str, Any], *, where: str) -> CLIPSegConfig:
    """Return sizes inferred from weights, completed by those of transformers' `config.json`.

    Args:
        inferred: From `infer_config`.
        values: The content of the file.
        where: The file, for error messages.

    Raises:
        ConfigError: It is not the config of a CLIPSeg, or of one that computes something else.
    """
    if values.get("model_type") != MODEL_TYPE:
        raise ConfigError(f"{where}: model_type is {values.get('model_type')!r}, and {MODEL_TYPE!r} is expected")
    vision, text = _part(values, "vision_config", where), _part(values, "text_config", where)
    # transformers leaves out what has its default.
    for part, name, computed in (
        (values, "conditional_layer", 0),
        (vision, "hidden_act", "quick_gelu"),
        (text, "hidden_act", "quick_gelu"),
    ):
        if (found := part.get(name, computed)) != computed:
            raise ConfigError(f"{where}: {name} is {found!r}, and CLIPSeg is computed with {computed!r} here")
    layers = values.get("extract_layers", [block - 1 for block in reversed(PUBLISHED_BLOCKS)])
    if not isinstance(layers, list) or not all(type(layer) is int for layer in layers):
        raise ConfigError(f"{where}: extract_layers must be a list of whole numbers, got {layers!r}")
    try:
        return dataclasses.replace(
            inferred,
            vision=dataclasses.replace(inferred.vision, heads=_number(vision, "num_attention_heads", 12)),
            text=dataclasses.replace(inferred.text, heads=_number(text, "num_attention_heads", 8)),
            decoder_blocks=tuple(layer + 1 for layer in reversed(layers)),
            decoder_heads=_number(values, "decoder_num_attention_heads", 4),
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _our_name(key: str) -> str:
    for pattern, ours in NAMES:
        key = re.sub(pattern, ours, key)
    return key


def _part(values: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    part = values.get(name, {})
    if not isinstance(part, dict):
        raise ConfigError(f"{where}: {name} must be an object")
    return part


def _number(values: Mapping[str, Any], name: str, default: int) -> int:
    number = values.get(name, default)
    if type(number) is not int or number < 1:
        raise ConfigError(f"{name} must be a positive whole number, got {number!r}")
    return number
