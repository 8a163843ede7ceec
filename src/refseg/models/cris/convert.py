"""Renames the weights of the reference's checkpoints to ours and back, and infers a CRIS' sizes from its weights.

The reference is DerrickWang005/CRIS.pytorch. Its checkpoints contain a `state_dict` beside the state of training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from refseg.encoders.clip_sizes import count_layers, infer_resnet, infer_text
from refseg.encoders.efficientnet import EfficientNetConfig, infer_efficientnet
from refseg.encoders.weights_file import prefix_hint, rename
from refseg.errors import ConfigError, WeightsError
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import ModelSpec
from refseg.models.cris.model import CRISConfig
from refseg.values import Decision

__all__ = ["Checkpoint", "as_checkpoint", "from_reference", "infer_config", "parse_checkpoint", "to_reference"]

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
"""Prefixes of the reference's names, and ours; the first match applies."""
LAYER_NAMES = (
    ("self_attn.", "self_attention."),
    ("self_attn_norm.", "self_attention_norm."),
    ("multihead_attn.", "cross_attention."),
    ("cross_attn_norm.", "cross_attention_norm."),
)
"""The same within a layer of the decoder."""
LAYER = re.compile(r"(decoder\.layers\.\d+\.)(.*)")
PARALLEL = "module."
"""The prefix of all names in the reference's checkpoints, from data-parallel training."""
SCORES = ("epoch", "cur_iou", "best_iou", "prec")
"""Entries of the reference's checkpoints about the quality of the weights."""
SPEC = "refseg_spec"
"""Our entry in a checkpoint for the reference, which ignores it: weights do not determine the whole spec."""
INPUTS, DECISION = Inputs(image_size=416, word_length=17), Decision(threshold=0.35)
"""Of the published models; those of RefCOCOg have 22 tokens."""


class Checkpoint(NamedTuple):
    """The contents of a checkpoint of the reference."""

    state: dict[str, Tensor]
    """The weights under our names."""
    spec: ModelSpec
    scores: dict[str, Any]
    """The entries named in `SCORES`, as JSON values."""


def parse_checkpoint(state: Mapping[str, Tensor], others: Mapping[str, Any], path: Path) -> Checkpoint:
    """Parse a checkpoint of the reference.

    Args:
        state: Its state dict, without the prefixes of wrappers, as `read_file` returns it.
        others: The other entries of the file, if any.
        path: The file, for error messages.

    Raises:
        WeightsError: It is not a CRIS of the reference, or our own entry in it is broken.
    """
    if not any(key.startswith("backbone.visual.") for key in state):
        hint = prefix_hint(state)
        if "visual.layer1.0.conv1.weight" in state:
            hint = f"; its names are those of {'a CLIP' if 'token_embedding.weight' in state else 'refseg'}"
        raise WeightsError(f"{path}: not a CRIS of the reference: no name starts with 'backbone.visual.'{hint}")
    try:
        renamed = from_reference(state)
        spec = ModelSpec(config=infer_config(renamed), inputs=INPUTS, decision=DECISION)
        if SPEC in others:
            stored = others[SPEC]
            if not isinstance(stored, Mapping):
                raise ConfigError(f"{SPEC} must be an object")
            spec = ModelSpec.from_dict(CRISConfig, stored, where=SPEC)
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{path}: {error}") from None
    return Checkpoint(renamed, spec, _scores(others))


def as_checkpoint(state: Mapping[str, Tensor], spec: ModelSpec, scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint that the reference's test program can load.

    The state of its optimizer is empty: the reference can evaluate the checkpoint, but not resume it.

    Args:
        state: Weights under our names.
        spec: Of the model; it is stored too.
        scores: A mapping with some of the entries named in `SCORES`; others are ignored.

    Raises:
        WeightsError: The reference has no such model.
    """
    if isinstance(spec.config.vision, EfficientNetConfig):
        raise WeightsError("the reference has no CRIS on an EfficientNet, so it could not load this one")
    if not spec.config.contrastive or not spec.config.decoder_layers:
        part = "a decoder" if spec.config.contrastive else "text-to-pixel contrastive learning"
        raise WeightsError(f"the reference has no CRIS without {part}, so it could not load this one")
    return {
        "epoch": 0,
        "cur_iou": 0.0,
        "best_iou": 0.0,
        "prec": {},
        **_scores(scores),
        "state_dict": {PARALLEL + key: value for key, value in to_reference(state).items()},
        "optimizer": {},
        "scheduler": {},
        SPEC: spec.to_dict(),
    }


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the reference's weights, without the prefixes of wrappers, to ours.

    Raises:
        WeightsError: A name is not one of the reference's, or two weights would have the same name.
    """
    return rename(state, lambda key: _renamed(key, 0))


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our weights to the reference's, without the prefix of data-parallel training."""
    return {_renamed(key, 1): value for key, value in state.items()}


def infer_config(state: Mapping[str, Tensor]) -> CRISConfig:
    """Infer the sizes of a CRIS from the shapes of its weights, under our names.

    The number of the decoder's heads and the dropout, which shapes do not determine, are those of the published models.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
        ConfigError: The sizes do not fit each other.
    """
    layers = count_layers(state, r"decoder\.layers\.(\d+)\.")
    infer_vision = infer_efficientnet if "visual.stem.0.weight" in state else infer_resnet
    vision, text = infer_vision(state, "visual."), infer_text(state, "text.")
    try:
        neck = tuple(len(state[f"neck.project{level}.0.weight"]) for level in (3, 4, 5))
        kernel = state["projector.kernel.weight"]
        hidden = len(state["decoder.layers.0.ffn.0.weight"]) if layers else CRISConfig.decoder_hidden
    except KeyError as error:
        raise WeightsError(f"these weights are not a CRIS: {error.args[0]!r} is missing") from None
    except TypeError:
        raise WeightsError("these weights are not a CRIS: a matrix of the neck or decoder is a single number") from None
    return CRISConfig(
        vision=vision,
        text=text,
        neck_channels=(neck[0], neck[1], neck[2]),
        decoder_layers=layers,
        decoder_hidden=hidden,
        contrastive=kernel.ndim == 2,
    )


def _scores(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key in SCORES if (value := _json(entries.get(key))) is not None}


def _json(value: Any) -> Any:
    """Return a finite number, or an object of such; None for anything else."""
    if isinstance(value, Mapping):
        return {str(key): item for key, entry in value.items() if (item := _json(entry)) is not None}
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None


def _renamed(key: str, source: int) -> str:
    """Return the other name of a weight whose name is that of the reference (source 0) or ours (source 1)."""
    target = 1 - source
    for pair in NAMES:
        if key.startswith(pair[source]):
            renamed = pair[target] + key.removeprefix(pair[source])
            break
    else:
        raise WeightsError(f"CRIS has no weight {key!r}")
    if layer := LAYER.fullmatch(renamed):
        for pair in LAYER_NAMES:
            if layer[2].startswith(pair[source]):
                return layer[1] + pair[target] + layer[2].removeprefix(pair[source])
    return renamed
