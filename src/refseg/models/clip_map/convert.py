"""Infers a CLIP's sizes from its weights."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_sizes import infer_resnet, infer_text, infer_vit
from refseg.encoders.clip_vit import ViTConfig
from refseg.models.clip_map.model import CLIPMapConfig

__all__ = ["infer_config"]


def infer_config(state: Mapping[str, Tensor]) -> CLIPMapConfig:
    """Infer the sizes of a CLIP from the shapes of its weights, under our names.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
        ConfigError: The sizes do not fit each other.
    """
    vision: ResNetConfig | ViTConfig = infer_vit(state) if "visual.proj" in state else infer_resnet(state)
    return CLIPMapConfig(vision=vision, text=infer_text(state, "text."))
