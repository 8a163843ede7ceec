"""The sizes of CLIP's published pairs of encoders."""

from __future__ import annotations

from dataclasses import dataclass

from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.errors import UnknownNameError

__all__ = ["CLIP_SIZES", "ClipSizes", "clip_sizes"]


@dataclass(frozen=True, kw_only=True)
class ClipSizes:
    """The sizes of an image encoder and of the text encoder that was trained with it."""

    vision: ResNetConfig | ViTConfig
    text: TextConfig


def _text(width: int, joint: int) -> TextConfig:
    # In all of CLIP a head has 64 channels, in every encoder.
    return TextConfig(width=width, heads=width // 64, layers=12, output_dim=joint)


def _resnet(layers: tuple[int, int, int, int], width: int, joint: int, size: int, text_width: int) -> ClipSizes:
    return ClipSizes(
        vision=ResNetConfig(layers=layers, width=width, heads=width * 32 // 64, output_dim=joint, pretrained_size=size),
        text=_text(text_width, joint),
    )


def _vit(patch: int, layers: int, width: int, joint: int, size: int, text_width: int) -> ClipSizes:
    return ClipSizes(
        vision=ViTConfig(
            patch=patch, width=width, layers=layers, heads=width // 64, output_dim=joint, pretrained_size=size
        ),
        text=_text(text_width, joint),
    )


CLIP_SIZES = {
    "RN50": _resnet((3, 4, 6, 3), 64, 1024, 224, 512),
    "RN101": _resnet((3, 4, 23, 3), 64, 512, 224, 512),
    "RN50x4": _resnet((4, 6, 10, 6), 80, 640, 288, 640),
    "RN50x16": _resnet((6, 8, 18, 8), 96, 768, 384, 768),
    "RN50x64": _resnet((3, 15, 36, 10), 128, 1024, 448, 1024),
    "ViT-B/32": _vit(32, 12, 768, 512, 224, 512),
    "ViT-B/16": _vit(16, 12, 768, 512, 224, 512),
    "ViT-L/14": _vit(14, 24, 1024, 768, 224, 768),
    "ViT-L/14@336px": _vit(14, 24, 1024, 768, 336, 768),
}


def clip_sizes(name: str) -> ClipSizes:
    """Return the sizes of a published CLIP by OpenAI's name for it, such as `RN50` or `ViT-B/16`.

    Raises:
        UnknownNameError: There is no such CLIP here.
    """
    if name not in CLIP_SIZES:
        raise UnknownNameError("CLIP model", name, CLIP_SIZES)
    return CLIP_SIZES[name]
