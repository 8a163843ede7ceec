"""CLIPSeg: Image Segmentation Using Text and Image Prompts (Lüddecke and Ecker, CVPR 2022, arXiv 2112.10003).

The part that reads text: a frozen CLIP, and a decoder of 1.1 million parameters. Prompts that are images are not
supported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from refseg.encoders.clip_sizes import clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import Model, ModelSpec, check_clip_sizes
from refseg.models.clipseg.decoder import CLIPSegDecoder
from refseg.values import Decision

__all__ = ["CLIPSeg", "CLIPSegConfig", "clipseg", "default_spec"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet: CLIPSeg was trained with these, not with CLIP's own."""
REFINED_PATCH = 16
"""The only side of a patch that the two transposed convolutions of the refined decoder, by 4 each, can enlarge."""


@dataclass(frozen=True, kw_only=True)
class CLIPSegConfig:
    """Sizes of a CLIPSeg. Blocks are counted from 1."""

    vision: ViTConfig
    """CLIP's image encoder."""
    text: TextConfig
    """CLIP's text encoder."""
    frozen: bool = True
    """Whether the weights of CLIP are not trained."""
    decoder_blocks: tuple[int, ...] = (10, 7, 4)
    """Image blocks with the input features of the decoder, the last one first; later blocks are not computed."""
    decoder_width: int = 64
    """Channels of the decoder."""
    decoder_heads: int = 4
    """Attention heads of a block of the decoder."""
    decoder_hidden: int = 2048
    """Hidden channels of the feed-forward part of a block of the decoder."""
    refined: bool = True
    """Whether the decoder enlarges its result in two steps after a 3x3 convolution, for finer edges."""

    def __post_init__(self) -> None:
        check_clip_sizes(self.vision.output_dim, self.text.output_dim)
        blocks, layers = self.decoder_blocks, self.vision.layers
        if not blocks or sorted({*blocks}, reverse=True) != [*blocks] or not 1 <= blocks[-1] <= blocks[0] <= layers:
            raise ConfigError(f"decoder_blocks must fall and lie in 1..{layers}, got {list(blocks)}")
        if min(self.decoder_width, self.decoder_heads, self.decoder_hidden) < 1:
            raise ConfigError("decoder_width, decoder_heads and decoder_hidden must be positive")
        if self.decoder_width % self.decoder_heads:
            raise ConfigError(f"decoder_heads must divide decoder_width ({self.decoder_width})")
        if self.refined and (self.vision.patch != REFINED_PATCH or self.decoder_width < 2):
            raise ConfigError(
                f"a refined decoder needs patches of {REFINED_PATCH} and two channels, got patches of "
                f"{self.vision.patch} and {self.decoder_width}"
            )

    @property
    def decoder_sizes(self) -> tuple[int, ...]:
        """The sizes of the decoder that weights determine: blocks, channels, hidden channels, and whether refined."""
        return (len(self.decoder_blocks), self.decoder_width, self.decoder_hidden, int(self.refined))


class CLIPSeg(Model):
    """CLIP's image encoder and text encoder, and a decoder."""

    family = "clipseg"
    stride = 1
    config: CLIPSegConfig

    def __init__(self, config: CLIPSegConfig, inputs: Inputs, decision: Decision) -> None:
        super().__init__(config, inputs, decision)
        self.visual = VisionTransformer(config.vision)
        self.text = TextTransformer(config.text)
        if config.frozen:
            self.frozen_parts = ("visual", "text")
        self.decoder = CLIPSegDecoder(
            vision_width=config.vision.width,
            sentence=config.text.output_dim,
            levels=len(config.decoder_blocks),
            width=config.decoder_width,
            heads=config.decoder_heads,
            hidden=config.decoder_hidden,
            patch=config.vision.patch,
            refined=config.refined,
        )

    @staticmethod
    def side_step(config: CLIPSegConfig) -> int:
        """Return the number of pixels that `image_size` must be a multiple of."""
        return config.vision.patch

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Return the features of each block that the decoder needs, in its channels, (N, T, D), as `block10`."""
        blocks, tokens, kept = self.config.decoder_blocks, self.visual.embed(pixels), {}
        for number in range(1, blocks[0] + 1):
            kept[number] = tokens = self.visual.blocks[number - 1](tokens)
        projected = self.decoder.project([kept[block] for block in blocks])
        return {f"block{block}": features for block, features in zip(blocks, projected, strict=True)}

    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Return the features of the `sentence`."""
        return {"sentence": self.text(tokens).sentence}

    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 S S"]:
        """Compute the logits of the mask, one for each pixel of the square."""
        projected = [image[f"block{block}"] for block in self.config.decoder_blocks]
        logits: Tensor = self.decoder(projected, text["sentence"])
        return logits


def clipseg(**changes: Any) -> ModelSpec:
    """Return the published CLIPSeg on CLIP's ViT-B/16; `refined=False` is the one of the paper.

    Raises:
        ConfigError: A change is unknown or does not fit.
    """
    sizes = clip_sizes("ViT-B/16")
    assert isinstance(sizes.vision, ViTConfig)
    return default_spec(CLIPSegConfig(vision=sizes.vision, text=sizes.text)).changed(**changes)


def default_spec(config: CLIPSegConfig) -> ModelSpec:
    """Return the spec of a CLIPSeg with the published preprocessing, and the threshold of the paper's table 3."""
    inputs = Inputs(image_size=352, word_length=config.text.context_length, mean=MEAN, std=STD)
    return ModelSpec(config=config, inputs=inputs, decision=Decision(threshold=0.3))
