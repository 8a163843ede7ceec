"""Plain CLIP as a segmentation model: the similarity of each image patch to the expression, without training.

RISCLIP (NAACL 2024, figure 1) starts from this map. CLIP's ResNets have no patches after their attention pool; each
position of the last feature map passes its value and output projections alone (Zhou et al., "Extract Free Dense Labels
from CLIP", ECCV 2022, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F

from refseg.encoders.clip_resnet import ModifiedResNet, ResNetConfig
from refseg.encoders.clip_sizes import clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import ModelSpec, PatchMapModel, check_clip_sizes
from refseg.models.grid import STRIDE, to_quarter
from refseg.values import Decision

__all__ = ["CLIPMap", "CLIPMapConfig", "clip_map", "clip_map_compact", "default_spec"]

RESNET_STRIDE = 32


@dataclass(frozen=True, kw_only=True)
class CLIPMapConfig:
    """Sizes of a CLIP."""

    vision: ResNetConfig | ViTConfig
    """CLIP's image encoder."""
    text: TextConfig
    """CLIP's text encoder."""

    def __post_init__(self) -> None:
        check_clip_sizes(self.vision.output_dim, self.text.output_dim)

    @property
    def patch(self) -> int:
        """The side of a cell of the map in pixels."""
        return self.vision.patch if isinstance(self.vision, ViTConfig) else RESNET_STRIDE


class CLIPMap(PatchMapModel):
    """CLIP's image encoder and text encoder."""

    family = "clip-map"
    config: CLIPMapConfig

    def __init__(self, config: CLIPMapConfig, inputs: Inputs, decision: Decision) -> None:
        super().__init__(config, inputs, decision)
        self.visual: ModifiedResNet | VisionTransformer
        if isinstance(config.vision, ViTConfig):
            self.visual = VisionTransformer(config.vision)
        else:
            self.visual = ModifiedResNet(config.vision)
        self.text = TextTransformer(config.text)

    @staticmethod
    def side_step(config: CLIPMapConfig) -> int:
        """Return the number of pixels that `image_size` must be a multiple of."""
        return math.lcm(config.patch, STRIDE)

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Return `patches`, in CLIP's joint embedding space, (N, E, g, g)."""
        if isinstance(self.visual, ModifiedResNet):
            return {"patches": self.visual.values(pixels)}
        side = pixels.shape[-1] // self.config.patch
        return {"patches": self.visual(pixels).tokens[:, 1:].mT.unflatten(2, (side, side))}

    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Return the features of the `sentence`, in CLIP's joint embedding space."""
        return {"sentence": self.text(tokens).sentence}

    def compare(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B g g"]:
        """Return the cosine similarity of each patch and the sentence, -1..1."""
        sentence = F.normalize(text["sentence"].float(), dim=-1)
        patches = F.normalize(image["patches"].float(), dim=1)
        return torch.einsum("bdhw,bd->bhw", patches.expand(sentence.shape[0], -1, -1, -1), sentence)

    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Compute the logits of the map (see `map_logits`), resized to S/4 on a side."""
        cosines = self.compare(image, text, padding)
        return to_quarter(self.map_logits(cosines), cosines.shape[-1] * self.config.patch)

    def map_logits(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return logits that are positive where the cosine is over one standard deviation above the map's mean.

        CLIP's cosines can only be compared within an image: they differ by a few hundredths, around a mean that depends
        on the expression.
        """
        mean, deviation = cosines.mean(dim=(1, 2), keepdim=True), cosines.std(dim=(1, 2), keepdim=True, correction=0)
        return ((cosines - mean) / (deviation + 1e-6) - 1)[:, None]

    def embed(
        self, pixels: Float[Tensor, "N 3 S S"], tokens: Int64[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "N E"], Float[Tensor, "B E"]]:
        """Return CLIP's embeddings of whole images and of sentences, of length one."""
        image = (
            self.visual.pool(pixels) if isinstance(self.visual, ModifiedResNet) else self.visual(pixels).tokens[:, 0]
        )
        return F.normalize(image.float(), dim=-1), F.normalize(self.text(tokens).sentence.float(), dim=-1)


def clip_map(clip: str, **changes: Any) -> ModelSpec:
    """Return a published CLIP by OpenAI's name such as `ViT-B/16`, for images of twice the side of its training.

    Raises:
        UnknownNameError: There is no such CLIP.
        ConfigError: A change does not fit.
    """
    sizes = clip_sizes(clip)
    return default_spec(CLIPMapConfig(vision=sizes.vision, text=sizes.text)).changed(**changes)


def default_spec(config: CLIPMapConfig) -> ModelSpec:
    """Return the spec of a CLIP with images of twice the side of its training, and as many tokens."""
    inputs = Inputs(image_size=2 * config.vision.pretrained_size, word_length=config.text.context_length)
    return ModelSpec(config=config, inputs=inputs, decision=Decision(threshold=0.5))


def clip_map_compact(encoder: str, **changes: Any) -> ModelSpec:
    """Return a small CLIP for generated scenes, with the encoders of a compact model.

    Args:
        encoder: `resnet`, as in the compact CRIS, or `vit`, as in the compact RISCLIP.
        **changes: Fields of the spec.

    Raises:
        ConfigError: There is no such encoder, or a change does not fit.
    """
    joint = 96
    encoders: dict[str, ResNetConfig | ViTConfig] = {
        "resnet": ResNetConfig(layers=(1, 2, 2, 1), width=16, heads=8, output_dim=joint, pretrained_size=192),
        "vit": ViTConfig(patch=8, width=128, layers=6, heads=4, output_dim=joint, pretrained_size=192),
    }
    if encoder not in encoders:
        raise ConfigError(f"encoder must be one of {', '.join(encoders)}, got {encoder!r}")
    text = TextConfig(width=96, heads=4, layers=3, output_dim=joint)
    return ModelSpec(
        config=CLIPMapConfig(vision=encoders[encoder], text=text),
        inputs=Inputs(image_size=192, word_length=24),
        decision=Decision(threshold=0.5),
    ).changed(**changes)
