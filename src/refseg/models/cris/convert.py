"""The names of the reference's checkpoints and ours: one table, read in both directions.

The reference is DerrickWang005/CRIS.pytorch. Its files hold a dict with `state_dict` among training state, and every
key carries the prefix that data-parallel training gives it. `refseg.models.folder.convert` makes model folders of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from refseg.config import from_dict, to_dict
from refseg.encoders.clip_files import count_layers, infer_resnet, infer_text
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.errors import ConfigError, WeightsError
from refseg.models.cris.model import CRISConfig

__all__ = [
    "as_checkpoint",
    "config_from_reference",
    "from_reference",
    "infer_config",
    "is_reference",
    "parse_checkpoint",
    "to_reference",
]

PARALLEL = "module."

# Beginning of the reference's name, beginning of ours. The first that fits decides.
NAMES = (
    ("backbone.visual.", "visual."),
    ("backbone.", "text."),
    ("neck.txt_proj.", "neck.sentence."),
    ("neck.f1_v_proj.", "neck.project5."),
    ("neck.f2_v_proj.", "neck.project4."),
    ("neck.f3_v_proj.", "neck.project3."),
    ("neck.norm_layer.0.", "neck.norm5."),
    ("neck.f2_cat.", "neck.merge4."),
    ("neck.f3_cat.", "neck.merge3."),
    ("neck.f4_proj5.", "neck.smooth5."),
    ("neck.f4_proj4.", "neck.smooth4."),
    ("neck.f4_proj3.", "neck.smooth3."),
    ("neck.aggr.", "neck.aggregate."),
    ("neck.coordconv.0.conv1.", "neck.locate."),
    ("neck.coordconv.1.", "neck.refine."),
    ("proj.vis.4.", "projector.mix."),
    ("proj.vis.", "projector.pixels."),
    ("proj.txt.", "projector.kernel."),
    ("decoder.", "decoder."),
)
# Within a layer of the decoder.
LAYER_NAMES = (
    ("self_attn.", "self_attention."),
    ("self_attn_norm.", "self_attention_norm."),
    ("multihead_attn.", "cross_attention."),
    ("cross_attn_norm.", "cross_attention_norm."),
)
LAYER = re.compile(r"(decoder\.layers\.\d+\.)(.*)")


# The training state that the reference saves beside the weights, as far as it says what the weights are.
SCORES = ("epoch", "cur_iou", "best_iou", "prec")
# Our own entry in a file for the reference, which reads none but `state_dict`: no shape tells the heads, for example.
CONFIG = "refseg_config"


def parse_checkpoint(
    state: Mapping[str, Tensor], beside: Mapping[str, Any], path: Path
) -> tuple[dict[str, Tensor], CRISConfig, dict[str, Any]]:
    """Return what a checkpoint of the reference holds: weights under our names, sizes, and the scores beside them.

    Args:
        state: Its state dict, with or without the data-parallel prefix.
        beside: What is stored beside the state dict; nothing for a bare one.
        path: Of the file, for what there is to complain about.

    Raises:
        WeightsError: It is no CRIS.
    """
    if not is_reference(state):
        hint = ""
        if "visual.layer1.0.conv1.weight" in state:
            hint = ": it is CLIP alone" if "token_embedding.weight" in state else ": it has refseg's own names already"
        raise WeightsError(f"{path}: no CRIS of the reference{hint}; no name starts with 'backbone.visual.'")
    try:
        renamed = from_reference(state)
        config = infer_config(renamed)
        if CONFIG in beside:
            config = from_dict(CRISConfig, beside[CONFIG], where=CONFIG)
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{path}: {error}") from None
    return renamed, config, {key: plain for key in SCORES if (plain := _numbers(beside.get(key))) is not None}


def as_checkpoint(state: Mapping[str, Tensor], config: CRISConfig, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the reference's test program reads: its names, and the entries of its training state.

    The optimiser's state is empty, so that the reference can evaluate it and cannot resume it.

    Raises:
        WeightsError: The reference has no such model.
    """
    if not config.contrastive or not config.decoder_layers:
        lacking = "a decoder" if config.contrastive else "text-to-pixel contrastive learning"
        raise WeightsError(f"the reference has no CRIS without {lacking}, so that it could not load this one")
    scores = {key: plain for key in SCORES if (plain := _numbers(scores.get(key))) is not None}
    return (
        {"epoch": 0, "cur_iou": 0.0, "best_iou": 0.0, "prec": {}}
        | scores
        | {"state_dict": to_reference(state), "optimizer": {}, "scheduler": {}, CONFIG: to_dict(config)}
    )


def is_reference(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has the reference's names."""
    return any(key.removeprefix(PARALLEL).startswith("backbone.visual.") for key in state)


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the reference's weights to ours, with or without the data-parallel prefix.

    Raises:
        WeightsError: A name is not one of the reference's.
    """
    return {_renamed(key.removeprefix(PARALLEL), 0): value for key, value in state.items()}


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our weights to the reference's, with the data-parallel prefix that its files carry."""
    return {PARALLEL + _renamed(key, 1): value for key, value in state.items()}


def config_from_reference(state: Mapping[str, Tensor]) -> CRISConfig:
    """Find the sizes of a CRIS from the shapes of the reference's weights.

    What no shape tells is what all published runs share: 8 decoder heads, dropout 0.1, images of 416 pixels, 17
    tokens, threshold 0.35.

    Raises:
        WeightsError: A weight that tells a size is missing.
    """
    return infer_config(from_reference(state))


def infer_config(state: Mapping[str, Tensor]) -> CRISConfig:
    """Find the sizes of a CRIS from the shapes of its weights, under our names.

    Raises:
        WeightsError: A weight that tells a size is missing, or of an impossible shape.
        ConfigError: The sizes do not fit each other.
    """
    vision: ResNetConfig = infer_resnet(state, "visual.")
    text: TextConfig = infer_text(state, "text.")
    layers = count_layers(state, r"decoder\.layers\.(\d+)\.")
    try:
        neck = tuple(len(state[f"neck.project{level}.0.weight"]) for level in (3, 4, 5))
        kernel = state["projector.kernel.weight"]
        hidden = len(state["decoder.layers.0.ffn.0.weight"]) if layers else 2048
    except KeyError as error:
        raise WeightsError(f"these weights are no CRIS: {error.args[0]!r} is missing") from None
    except TypeError:
        raise WeightsError(
            "these weights are no CRIS: a weight of the neck or the decoder is a single number"
        ) from None
    return CRISConfig(
        vision=vision,
        text=text,
        neck_channels=(neck[0], neck[1], neck[2]),
        decoder_layers=layers,
        decoder_hidden=hidden,
        contrastive=kernel.ndim == 2,
    )


def _numbers(value: Any) -> Any:
    """Return a finite number, or an object of such, as JSON has them; None for anything else."""
    if isinstance(value, Mapping):
        return {str(key): plain for key, item in value.items() if (plain := _numbers(item)) is not None}
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def _renamed(key: str, source: int) -> str:
    target = 1 - source
    for pair in NAMES:
        if key.startswith(pair[source]):
            renamed = pair[target] + key.removeprefix(pair[source])
            break
    else:
        raise WeightsError(f"no weight of CRIS is called {key!r}")
    layer = LAYER.fullmatch(renamed)
    if layer:
        for pair in LAYER_NAMES:
            if layer[2].startswith(pair[source]):
                return layer[1] + pair[target] + layer[2].removeprefix(pair[source])
    return renamed
