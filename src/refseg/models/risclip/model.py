"""RISCLIP: Extending CLIP's Image-Text Alignment to RIS (Kim et al., NAACL 2024, arXiv 2306.08498).

A frozen CLIP with adapters, Cross-modal Feature Extraction between its encoders, Shared-space Knowledge Exploitation
after them, a patch-level grounding map and a lightweight decoder. There is no official code. Sizes that the paper does
not state are fields of the config; `docs/models.md` lists which are stated and which are our choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from refseg.encoders.clip_sizes import clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import ModelSpec, PatchMapModel, check_clip_sizes
from refseg.models.grid import STRIDE, to_quarter
from refseg.models.risclip.adapter import adapter_pair
from refseg.models.risclip.cfe import CrossModalFeatureExtraction
from refseg.models.risclip.decoder import MaskDecoder
from refseg.models.risclip.grounding import GroundingMap, cosine_map
from refseg.models.risclip.ske import SharedSpaceKnowledgeExploitation
from refseg.values import Decision

__all__ = ["RISCLIP", "RISCLIPConfig", "risclip", "risclip_compact"]


@dataclass(frozen=True, kw_only=True)
class RISCLIPConfig:
    """Sizes of a RISCLIP. Blocks are counted from 1."""

    vision: ViTConfig
    """CLIP's image encoder."""
    text: TextConfig
    """CLIP's text encoder."""
    frozen: bool = True
    """Whether the weights of CLIP are not trained."""
    adapter_reduction: int = 2
    """The width of a block divided by that of its adapters; 0: there are no adapters."""
    fusions: tuple[tuple[int, int], ...] = ((7, 7), (8, 8), (9, 9), (10, 10), (11, 11), (12, 12))
    """Pairs (image block, text block) before which the tokens of both encoders are fused (CFE); may be empty."""
    cfe_width: int = 512
    """Channels in which CFE fuses the tokens."""
    cfe_heads: int = 8
    """Attention heads of CFE."""
    ske_layers: int = 6
    """Layers of SKE; 0: there is none."""
    ske_heads: int = 8
    """Attention heads of a layer of SKE."""
    ske_hidden: int = 256
    """Hidden channels of the feed-forward part of a layer of SKE."""
    map_scale: float = 10.0
    """Initial factor of the cosines, which is learned. CLIP's own, 100, would saturate the map."""
    map_bias: float = -2.0
    """Initial bias of the map, which is learned; negative, as most patches do not belong to the target."""
    decoder_blocks: tuple[int, ...] = (12, 9, 6)
    """Image blocks with the input features of the decoder, the last one first. Empty: there is no decoder, as in the
    first stage of training, and the logits are those of the map, resized."""
    decoder_channels: tuple[int, int, int] = (256, 128, 64)
    """Output channels of the stages of the decoder, the first one first."""

    def __post_init__(self) -> None:
        vision, text = self.vision, self.text
        check_clip_sizes(vision.output_dim, text.output_dim)
        for layers, blocks, field in (
            (vision.layers, [pair[0] for pair in self.fusions], "image blocks of fusions"),
            (text.layers, [pair[1] for pair in self.fusions], "text blocks of fusions"),
            (vision.layers, list(reversed(self.decoder_blocks)), "decoder_blocks, in reverse,"),
        ):
            if any(not 1 <= block <= layers for block in blocks) or sorted(set(blocks)) != blocks:
                raise ConfigError(f"the {field} must rise and lie in 1..{layers}, got {blocks}")
        if self.decoder_blocks and len(self.decoder_blocks) != len(self.decoder_channels):
            raise ConfigError(f"decoder_blocks must be {len(self.decoder_channels)} blocks or none")
        sizes = (self.cfe_width, self.cfe_heads, self.ske_heads, self.ske_hidden, *self.decoder_channels)
        if min(sizes) < 1 or self.ske_layers < 0 or self.adapter_reduction < 0:
            raise ConfigError("sizes must be positive; ske_layers and adapter_reduction at least 0")
        if self.cfe_width % self.cfe_heads or vision.output_dim % self.ske_heads:
            raise ConfigError("cfe_heads must divide cfe_width, and ske_heads must divide output_dim")
        if self.map_scale <= 0:
            raise ConfigError(f"map_scale must be positive, got {self.map_scale}")

    @property
    def cfe_sizes(self) -> tuple[int, ...]:
        """The sizes of CFE that weights determine: its number and its width; empty if there is none."""
        return (len(self.fusions), self.cfe_width) if self.fusions else ()

    @property
    def ske_sizes(self) -> tuple[int, ...]:
        """The sizes of SKE that weights determine: layers and hidden channels; empty if there is none."""
        return (self.ske_layers, self.ske_hidden) if self.ske_layers else ()

    @property
    def decoder_sizes(self) -> tuple[int, ...]:
        """The channels of the decoder; empty if there is none."""
        return self.decoder_channels if self.decoder_blocks else ()

    @property
    def image_only_blocks(self) -> int:
        """The number of image blocks that do not depend on the expression: those before the first fusion."""
        return self.fusions[0][0] - 1 if self.fusions else self.vision.layers

    @property
    def text_only_blocks(self) -> int:
        """The number of text blocks that do not depend on the image: those before the first fusion."""
        return self.fusions[0][1] - 1 if self.fusions else self.text.layers


class RISCLIP(PatchMapModel):
    """CLIP's encoders with adapters, fused between blocks (CFE) and after them (SKE), a map, and a decoder."""

    family = "risclip"
    config: RISCLIPConfig

    def __init__(self, config: RISCLIPConfig, inputs: Inputs, decision: Decision) -> None:
        super().__init__(config, inputs, decision)
        vision, text, joint = config.vision, config.text, config.text.output_dim
        self.visual = VisionTransformer(vision)
        self.text = TextTransformer(text)
        if config.frozen:
            self.frozen_parts = ("visual", "text")
        self.visual_adapters, self.text_adapters = nn.ModuleList(), nn.ModuleList()
        if config.adapter_reduction:
            for adapters, sizes in ((self.visual_adapters, vision), (self.text_adapters, text)):
                hidden = max(1, sizes.width // config.adapter_reduction)
                adapters.extend(adapter_pair(sizes.width, hidden) for _ in range(sizes.layers))
        self.cfe = nn.ModuleList(
            CrossModalFeatureExtraction(vision.width, text.width, config.cfe_width, config.cfe_heads)
            for _ in config.fusions
        )
        self.ske = nn.ModuleList(
            SharedSpaceKnowledgeExploitation(joint, config.ske_heads, config.ske_hidden)
            for _ in range(config.ske_layers)
        )
        self.map = GroundingMap(config.map_scale, config.map_bias)
        self.decoder: MaskDecoder | None = None
        if config.decoder_blocks:
            self.decoder = MaskDecoder(vision.width, config.decoder_channels)

    @staticmethod
    def side_step(config: RISCLIPConfig) -> int:
        """Return the number of pixels that `image_size` must be a multiple of."""
        return math.lcm(config.vision.patch, STRIDE)

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Run the image blocks before the first fusion, half of the encoder; all others depend on the expression.

        Returns:
            `tokens`, (N, 1 + g * g, D), and, for each of these blocks that the decoder needs, its tokens, as `block3`.
        """
        kept: dict[int, Tensor] = {}
        tokens = self._image_blocks(self.visual.embed(pixels), range(self.config.image_only_blocks), kept)
        return {"tokens": tokens, **{f"block{block}": features for block, features in kept.items()}}

    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Run the text blocks before the first fusion; all others depend on the image.

        Returns:
            The `words`, (B, L, W), and the position of the end token, as `end`, (B,).
        """
        words = self._text_blocks(self.text.embed(tokens), range(self.config.text_only_blocks))
        return {"words": words, "end": tokens.argmax(dim=-1)}

    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Compute the logits of the mask; without a decoder, those of the map, resized."""
        cosines, kept = self._align(image, text, padding)
        logits = self.map(cosines)
        if self.decoder is not None:
            side = cosines.shape[-1]
            features = tuple(
                kept[block][:, 1:].mT.reshape(cosines.shape[0], -1, side, side) for block in self.config.decoder_blocks
            )
            logits = self.decoder(logits, features)
        return to_quarter(logits.float(), cosines.shape[-1] * self.config.vision.patch)

    def compare(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B g g"]:
        """Return the cosine similarity of each patch and the end token after SKE, -1..1."""
        return self._align(image, text, padding)[0]

    def map_logits(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return the logits of a map, by its learned scale and bias."""
        logits: Tensor = self.map(cosines)
        return logits

    def _align(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B g g"], dict[int, Tensor]]:
        """Return the map of cosines, and the tokens of the image blocks that the decoder needs."""
        config, count = self.config, padding.shape[0]
        # The blocks that ran so far, and their tokens.
        image_blocks, text_blocks = config.image_only_blocks, config.text_only_blocks
        vision, words = _for_each(image["tokens"], count), text["words"]
        kept = {
            block: _for_each(image[f"block{block}"], count) for block in config.decoder_blocks if block <= image_blocks
        }
        for fuse, (image_block, text_block) in zip(self.cfe, config.fusions, strict=True):
            vision = self._image_blocks(vision, range(image_blocks, image_block - 1), kept)
            words = self._text_blocks(words, range(text_blocks, text_block - 1))
            vision, words = fuse(vision, words, padding)
            image_blocks, text_blocks = image_block - 1, text_block - 1
        vision = self._image_blocks(vision, range(image_blocks, config.vision.layers), kept)
        words = self._text_blocks(words, range(text_blocks, config.text.layers))
        patches, words = self.visual.project(vision), self.text.project(self.text.ln_final(words))
        for layer in self.ske:
            patches, words = layer(patches, words, padding)
        sentence = self.text.at(words, text["end"])
        return cosine_map(patches[:, 1:], sentence, math.isqrt(patches.shape[1] - 1)), kept

    def _image_blocks(
        self, x: Float[Tensor, "B T D"], blocks: Iterable[int], kept: dict[int, Tensor]
    ) -> Float[Tensor, "B T D"]:
        """Run blocks, by index, and add the tokens that the decoder needs to `kept`, by block."""
        for index in blocks:
            x = self.visual.blocks[index](x, None, _adapters(self.visual_adapters, index))
            if index + 1 in self.config.decoder_blocks:
                kept[index + 1] = x
        return x

    def _text_blocks(self, x: Float[Tensor, "B L W"], blocks: Iterable[int]) -> Float[Tensor, "B L W"]:
        mask = self.text.causal_mask(x.shape[1], x)
        for index in blocks:
            x = self.text.blocks[index](x, mask, _adapters(self.text_adapters, index))
        return x


def _adapters(adapters: nn.ModuleList, index: int) -> tuple[nn.Module, nn.Module] | None:
    if not adapters:
        return None
    first, second = adapters[index].children()
    return first, second


def _for_each(features: Float[Tensor, "N T D"], count: int) -> Float[Tensor, "B T D"]:
    return features.expand(count, -1, -1)


def risclip(clip: str, **changes: Any) -> ModelSpec:
    """Return RISCLIP on one of CLIP's vision transformers, by OpenAI's name: `ViT-B/16` (-B) or `ViT-L/14` (-L).

    The sizes of -B are second-hand. Of -L only the CLIP is known; all other sizes are in proportion: six fusions over
    twice as many image blocks, and modules as wide as the joint embedding space.

    Raises:
        UnknownNameError: There is no such CLIP.
        ConfigError: It has no vision transformer.
    """
    sizes = clip_sizes(clip)
    vision = sizes.vision
    if not isinstance(vision, ViTConfig):
        raise ConfigError(f"RISCLIP needs a CLIP with a vision transformer, such as ViT-B/16, and {clip} has none")
    joint, ratio = vision.output_dim, vision.layers // sizes.text.layers
    return ModelSpec(
        config=RISCLIPConfig(
            vision=vision,
            text=sizes.text,
            fusions=tuple((ratio * block + 1, block + 1) for block in range(6, 12)),
            cfe_width=joint,
            cfe_heads=joint // 64,
            ske_heads=joint // 64,
            ske_hidden=joint // 2,
            decoder_blocks=(vision.layers, 3 * vision.layers // 4, vision.layers // 2),
        ),
        inputs=Inputs(image_size=40 * vision.patch, word_length=20),  # 40 x 40 patches
        decision=Decision(threshold=0.5),
    ).changed(**changes)


def risclip_compact(**changes: Any) -> ModelSpec:
    """Return a small RISCLIP for generated scenes, which can be trained on a laptop."""
    joint = 96
    return ModelSpec(
        config=RISCLIPConfig(
            vision=ViTConfig(patch=8, width=128, layers=6, heads=4, output_dim=joint, pretrained_size=192),
            text=TextConfig(width=96, heads=4, layers=3, output_dim=joint),
            fusions=((4, 1), (5, 2), (6, 3)),
            cfe_width=96,
            cfe_heads=4,
            ske_layers=3,
            ske_heads=4,
            ske_hidden=96,
            decoder_blocks=(6, 4, 2),
            decoder_channels=(64, 48, 32),
        ),
        inputs=Inputs(image_size=192, word_length=24),
        decision=Decision(threshold=0.5),
    ).changed(**changes)
