"""The names of the reference's checkpoints and ours: one table, read in both directions.

The reference is DerrickWang005/CRIS.pytorch. Its files hold a dict with `state_dict` among training state, and every
key carries the prefix that data-parallel training gives it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from refseg.clip.resnet import ResNetConfig
from refseg.clip.text import TextConfig
from refseg.clip.weights import infer_resnet, infer_text
from refseg.errors import WeightsError
from refseg.models.cris.model import CRISConfig

__all__ = ["config_from_reference", "from_reference", "is_reference", "to_reference"]

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

    What no shape tells is what all published runs share: 8 decoder heads, dropout 0.1, pictures of 416 pixels, 17
    tokens, threshold 0.35.

    Raises:
        WeightsError: A weight that tells a size is missing.
    """
    return infer_config(from_reference(state))


def infer_config(state: Mapping[str, Tensor]) -> CRISConfig:
    """Find the sizes of a CRIS from the shapes of its weights, under our names."""
    vision: ResNetConfig = infer_resnet(state, "visual.")
    text: TextConfig = infer_text(state, "text.")
    try:
        neck = tuple(len(state[f"neck.project{level}.0.weight"]) for level in (3, 4, 5))
        kernel = state["projector.kernel.weight"]
        layers = {int(key.split(".")[2]) for key in state if key.startswith("decoder.layers.")}
        hidden = len(state["decoder.layers.0.ffn.0.weight"]) if layers else 2048
    except KeyError as error:
        raise WeightsError(f"these weights are no CRIS: {error.args[0]!r} is missing") from None
    return CRISConfig(
        vision=vision,
        text=text,
        neck_channels=(neck[0], neck[1], neck[2]),
        decoder_layers=max(layers, default=-1) + 1,
        decoder_hidden=hidden,
        contrastive=kernel.ndim == 2,
    )


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
