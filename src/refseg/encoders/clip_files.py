"""Reads CLIP's weights from files of every kind, under OpenAI's names.

Supported are OpenAI's TorchScript archives (`RN50.pt`, `ViT-B-16.pt`), state dicts saved by `torch.save`, and
safetensors of open_clip and of transformers (which has no CLIP with a ResNet, and whose text encoder may be alone in a
file). Weights do not contain the activation function: the encoders here use OpenAI's `QuickGELU`, and some CLIPs that
others have trained use another one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from refseg.encoders.weights_file import prefix_hint, read_weights, rename
from refseg.errors import WeightsError

__all__ = ["clip_weights", "is_clip", "join_projections", "read_clip"]

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Numbers in OpenAI's state dicts."""


def read_clip(path: str | Path) -> dict[str, Tensor]:
    """Return CLIP's weights from a file, under OpenAI's names, in float32.

    Raises:
        WeightsError: The file is missing, broken or unsafe, or its weights are not those of a CLIP.
    """
    return clip_weights(read_weights(path), path)


def clip_weights(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Return CLIP's weights under OpenAI's names, in float32.

    Args:
        state: The state dict of a file, under the names of OpenAI, open_clip or transformers.
        path: The file, for error messages.

    Raises:
        WeightsError: The weights are not those of a CLIP, or two have the same name.
    """
    if any(key.startswith(("text_model.", "vision_model.")) for key in state):
        state = _from_transformers(state, path)
    else:  # open_clip's models with a text encoder of their own put `text.` before its names
        state = rename(state, lambda key: key.removeprefix("text."), path)
    if "token_embedding.weight" not in state:
        raise WeightsError(f"{path}: not a CLIP: 'token_embedding.weight' is missing{prefix_hint(state)}")
    # Some blocks contain the causal mask as a tensor, which is not a weight.
    weights = {
        key: value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key not in NOT_WEIGHTS and not key.endswith("attn_mask")
    }
    # A scalar in some files, and a vector of one value in others.
    if "logit_scale" in weights and weights["logit_scale"].numel() == 1:
        weights["logit_scale"] = weights["logit_scale"].reshape(())
    return weights


def is_clip(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict contains both encoders of a CLIP, under any supported names, and nothing else."""
    image = any(key.startswith(("visual.", "vision_model.")) for key in state)
    return (
        image
        and any(key.endswith("token_embedding.weight") for key in state)
        and not any(key.startswith(("neck.", "decoder.", "backbone.")) for key in state)
    )


# The names in transformers ("pre_layrnorm" is spelled so there) of weights outside of layers, and within layers.
TRANSFORMERS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
TRANSFORMERS_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
TRANSFORMERS_LAYER = r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)([._](?:weight|bias))"
TRANSFORMERS_LAYERS = {
    "self_attn.in_proj": "attn.in_proj",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _from_transformers(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Rename the weights of transformers' CLIP."""
    renamed = {}
    for key, value in join_projections(state, path).items():
        if key in TRANSFORMERS:
            renamed[TRANSFORMERS[key]] = value
        elif key in TRANSFORMERS_TRANSPOSED and value.ndim == 2:
            renamed[TRANSFORMERS_TRANSPOSED[key]] = value.mT.contiguous()
        elif (layer := re.fullmatch(TRANSFORMERS_LAYER, key)) and layer[3] in TRANSFORMERS_LAYERS:
            encoder = "visual." if layer[1] == "vision" else ""
            renamed[f"{encoder}transformer.resblocks.{layer[2]}.{TRANSFORMERS_LAYERS[layer[3]]}{layer[4]}"] = value
        elif not key.endswith("position_ids"):
            raise WeightsError(f"{path}: {key!r} is not a weight of transformers' CLIP")
    return renamed


def join_projections(state: Mapping[str, Tensor], path: str | Path) -> dict[str, Tensor]:
    """Return weights of transformers with each attention's projections of queries, keys and values as one `in_proj`.

    Raises:
        WeightsError: One of the three is missing, or they are of different shapes.
    """
    joined, parts = {}, ("q_proj", "k_proj", "v_proj")
    split: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if part := re.fullmatch(r"(.+\.)(q_proj|k_proj|v_proj)\.(weight|bias)", key):
            split.setdefault(f"{part[1]}in_proj_{part[3]}", {})[part[2]] = value
        else:
            joined[key] = value
    for key, values in split.items():
        if len(values) != len(parts):
            raise WeightsError(f"{path}: one of the projections of {key} is missing")
        try:
            joined[key] = torch.cat([values[part] for part in parts])
        except RuntimeError:
            raise WeightsError(f"{path}: the projections of {key} are of different shapes") from None
    return joined
