"""The sizes of CLIP's published pairs of towers."""

from __future__ import annotations

from dataclasses import dataclass

from refseg.clip.resnet import ResNetConfig
from refseg.clip.text import TextConfig
from refseg.errors import UnknownNameError

__all__ = ["TOWERS", "TowerSizes", "tower_sizes"]


@dataclass(frozen=True, kw_only=True)
class TowerSizes:
    """The sizes of an image tower and of the text tower that was trained with it."""

    vision: ResNetConfig
    text: TextConfig


def _pair(layers: tuple[int, int, int, int], width: int, joint: int, size: int, text_width: int) -> TowerSizes:
    # In all of CLIP a head has 64 channels, in either tower.
    return TowerSizes(
        vision=ResNetConfig(layers=layers, width=width, heads=width * 32 // 64, output_dim=joint, pretrained_size=size),
        text=TextConfig(width=text_width, heads=text_width // 64, layers=12, output_dim=joint),
    )


TOWERS = {
    "RN50": _pair((3, 4, 6, 3), 64, 1024, 224, 512),
    "RN101": _pair((3, 4, 23, 3), 64, 512, 224, 512),
    "RN50x4": _pair((4, 6, 10, 6), 80, 640, 288, 640),
    "RN50x16": _pair((6, 8, 18, 8), 96, 768, 384, 768),
    "RN50x64": _pair((3, 15, 36, 10), 128, 1024, 448, 1024),
}


def tower_sizes(name: str) -> TowerSizes:
    """Return the sizes of a published CLIP by OpenAI's name for it, such as `RN50`.

    Raises:
        UnknownNameError: There is no such CLIP here.
    """
    if name not in TOWERS:
        raise UnknownNameError("CLIP model", name, TOWERS)
    return TOWERS[name]
