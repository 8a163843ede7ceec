"""Infers a RISCLIP's sizes from its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.clip_sizes import count_layers, infer_text, infer_vit
from refseg.errors import WeightsError
from refseg.models.risclip.model import RISCLIPConfig

__all__ = ["infer_config"]


def infer_config(state: Mapping[str, Tensor]) -> RISCLIPConfig:
    """Infer the sizes of a RISCLIP from the shapes of its weights.

    They determine the number of fusions, but not their blocks.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
        ConfigError: The sizes do not fit each other.
    """

    def length(key: str, axis: int, otherwise: int) -> int:
        return state[key].shape[axis] if key in state and state[key].ndim > axis else otherwise

    vision, text = infer_vit(state), infer_text(state, "text.")
    fusions, layers = count_layers(state, r"cfe\.(\d+)\."), count_layers(state, r"ske\.(\d+)\.")
    if fusions > min(vision.layers, text.layers):
        raise WeightsError(f"these weights have more fusions ({fusions}) than blocks")
    first, second, third = (length(f"decoder.reduce.{step}.weight", 0, 0) for step in range(3))
    decodes = min(first, second, third) > 0 and vision.layers > 2
    return RISCLIPConfig(
        vision=vision,
        text=text,
        fusions=tuple((block, block) for block in range(1, fusions + 1)),
        cfe_width=length("cfe.0.vision_in.linear.weight", 0, 1),
        cfe_heads=1,
        ske_layers=layers,
        ske_heads=1,
        ske_hidden=length("ske.0.vision.mlp.0.weight", 0, 1),
        decoder_blocks=(3, 2, 1) if decodes else (),
        decoder_channels=(first, second, third) if decodes else (1, 1, 1),
    )
