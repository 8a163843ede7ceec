"""Sizes of a RISCLIP from the shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.clip_files import count_layers, infer_text, infer_vit
from refseg.errors import WeightsError
from refseg.models.risclip.model import RISCLIPConfig

__all__ = ["infer_config"]


def infer_config(state: Mapping[str, Tensor]) -> RISCLIPConfig:
    """Find the sizes of a RISCLIP as far as shapes tell them: how many fusions there are, but not where.

    Raises:
        WeightsError: these are the weights of something else.
    """

    def length(key: str, axis: int, otherwise: int) -> int:
        return state[key].shape[axis] if key in state and state[key].ndim > axis else otherwise

    vision, text = infer_vit(state), infer_text(state, "text.")
    fusions = count_layers(state, r"cfe\.(\d+)\.") if any(key.startswith("cfe.") for key in state) else 0
    layers = count_layers(state, r"ske\.(\d+)\.") if any(key.startswith("ske.") for key in state) else 0
    if fusions > min(vision.layers, text.layers):
        raise WeightsError(f"these weights have {fusions} fusions, and fewer blocks to fuse")
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
        image_size=4 * vision.patch,
        word_length=2,
    )
