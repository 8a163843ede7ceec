"""Plain CLIP as a segmenter: how similar each patch of an image is to the words, with no training at all.

RISCLIP (NAACL 2024, figure 1) starts from this map and shows what it lacks. For CLIP's ResNets a position is taken
through the attention pool alone, its value and output projections (Zhou et al., "Extract Free Dense Labels from CLIP",
ECCV 2022, section 3.2): their pool leaves no patches behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.clip_resnet import Bottleneck, ModifiedResNet, ResNetConfig
from refseg.encoders.clip_sizes import clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.encoders.layers import ResidualAttentionBlock
from refseg.errors import ConfigError
from refseg.models.base import Grounder, check_inputs
from refseg.models.grid import STRIDE, to_quarter
from refseg.values import Calibration

__all__ = ["CLIPMap", "CLIPMapConfig", "clip_map", "clip_map_compact"]

RESNET_STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class CLIPMapConfig:
    """Sizes of a CLIP, and the inputs that it is asked with."""

    vision: ResNetConfig | ViTConfig
    text: TextConfig
    image_size: int = 224
    word_length: int = 77
    threshold: float = 0.5
    relative_threshold: float | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        check_inputs(self, math.lcm(self.patch, STRIDE))

    @property
    def patch(self) -> int:
        """Pixels to a cell of the map, on a side."""
        return self.vision.patch if isinstance(self.vision, ViTConfig) else RESNET_STRIDE


class CLIPMap(Grounder):
    """CLIP's two encoders and nothing else."""

    family = "clip-map"
    objectives = ("image-text",)

    def __init__(self, config: CLIPMapConfig) -> None:
        super().__init__()
        self.config, self.cell = config, config.patch
        self.visual: ModifiedResNet | VisionTransformer
        if isinstance(config.vision, ViTConfig):
            self.visual = VisionTransformer(config.vision)
        else:
            self.visual = ModifiedResNet(config.vision)
            self.unused = frozenset(f"visual.attnpool.connect.{name}" for name in ("0.weight", "1.weight", "1.bias"))
        self.text = TextTransformer(config.text)

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> tuple[Tensor, ...]:
        """Return the patches in CLIP's joint space, (N, E, g, g)."""
        if isinstance(self.visual, ModifiedResNet):
            return (self.visual.values(pixels),)
        side = pixels.shape[-1] // self.config.patch
        return (self.visual(pixels).tokens[:, 1:].mT.unflatten(2, (side, side)),)

    def ground(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B g g"]:
        """Return the cosine of each patch and the sentence, -1..1."""
        sentence = F.normalize(self.text(tokens).sentence.float(), dim=-1)
        patches = F.normalize(image[0].float(), dim=1)
        return torch.einsum("bdhw,bd->bhw", patches.expand(len(tokens), -1, -1, -1), sentence)

    def segment(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return the logits of the map (see `map_logits`), enlarged to S/4 on a side."""
        cosines = self.ground(image, tokens, padding)
        return to_quarter(self.map_logits(cosines), cosines.shape[-1] * self.config.patch)

    def map_logits(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return logits that are positive where the cosine is a standard deviation above the map's mean.

        CLIP's cosines mean something beside each other only: from "no" to "yes" they differ by a few hundredths, and
        where that lies depends on the words.
        """
        mean, deviation = cosines.mean(dim=(1, 2), keepdim=True), cosines.std(dim=(1, 2), keepdim=True, correction=0)
        return ((cosines - mean) / (deviation + 1e-6) - 1)[:, None]

    def embed(
        self, pixels: Float[Tensor, "N 3 S S"], tokens: Int64[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "N E"], Float[Tensor, "B E"]]:
        """Return what CLIP compares: images and sentences in the joint space, of length one."""
        image = (
            self.visual.pool(pixels) if isinstance(self.visual, ModifiedResNet) else self.visual(pixels).tokens[:, 0]
        )
        return F.normalize(image.float(), dim=-1), F.normalize(self.text(tokens).sentence.float(), dim=-1)

    def is_backbone(self, parameter: str) -> bool:
        """All of CLIP trains alike."""
        return False

    def layers_above(self, parameter: str) -> int:
        """Nothing here is a backbone."""
        return 0

    def blocks(self) -> list[nn.Module]:
        """Return the bottlenecks and the transformers' blocks."""
        return [m for m in self.modules() if isinstance(m, Bottleneck | ResidualAttentionBlock)]


def clip_map(clip: str, **changes: Any) -> CLIPMapConfig:
    """Return a published CLIP by OpenAI's name such as `ViT-B/16`, at twice the side that it was trained at."""
    sizes = clip_sizes(clip)
    values: dict[str, Any] = {"image_size": 2 * sizes.vision.pretrained_size} | changes
    return CLIPMapConfig(vision=sizes.vision, text=sizes.text, **values)


def clip_map_compact(encoder: str, **changes: Any) -> CLIPMapConfig:
    """Return a small CLIP of generated scenes, with the encoders of a compact model.

    Args:
        encoder: `resnet`, that of the compact CRIS, or `vit`, that of the compact RISCLIP.
        **changes: fields of the config.

    Raises:
        ConfigError: there is no such encoder.
    """
    joint = 96
    encoders: dict[str, ResNetConfig | ViTConfig] = {
        "resnet": ResNetConfig(layers=(1, 2, 2, 1), width=16, heads=8, output_dim=joint, pretrained_size=192),
        "vit": ViTConfig(patch=8, width=128, layers=6, heads=4, output_dim=joint, pretrained_size=192),
    }
    if encoder not in encoders:
        raise ConfigError(f"encoder must be one of {', '.join(encoders)}, got {encoder!r}")
    values: dict[str, Any] = {
        "text": TextConfig(width=96, heads=4, layers=3, output_dim=joint),
        "image_size": 192,
        "word_length": 24,
    } | changes
    return CLIPMapConfig(vision=encoders[encoder], **values)
