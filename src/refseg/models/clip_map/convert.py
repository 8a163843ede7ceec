"""Sizes of a plain CLIP from the shapes of its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.clip_files import infer_resnet, infer_text, infer_vit
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.models.clip_map.model import CLIPMapConfig

__all__ = ["infer_config"]


def infer_config(state: Mapping[str, Tensor]) -> CLIPMapConfig:
    """Find the sizes of a CLIP, under our names.

    Raises:
        WeightsError: these are the weights of something else.
    """
    vision: ResNetConfig | ViTConfig = infer_vit(state) if "visual.proj" in state else infer_resnet(state)
    step = vision.patch if isinstance(vision, ViTConfig) else 32
    return CLIPMapConfig(vision=vision, text=infer_text(state, "text."), image_size=4 * step, word_length=2)
