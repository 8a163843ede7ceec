"""RISCLIP: a frozen CLIP, its image-text alignment extended (Kim et al., NAACL 2024, arXiv 2306.08498).

What is published is the idea, its figure and its parts: adapters in a frozen CLIP, Cross-modal Feature Extraction
between the encoders, Shared-space Knowledge Exploitation on top of them, a patch-level grounding map, a lightweight
decoder, two stages of training. There is no official code. What the authors do not say is a field of the config here,
and `docs/models.md` tells of each which of the two it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from refseg.encoders.clip_sizes import clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.encoders.layers import ResidualAttentionBlock, blocks_above
from refseg.errors import ConfigError
from refseg.models.base import Grounder, check_inputs
from refseg.models.grid import STRIDE, to_quarter
from refseg.models.risclip.adapter import adapter_pair
from refseg.models.risclip.cfe import CrossModalFeatureExtraction
from refseg.models.risclip.decoder import MaskDecoder
from refseg.models.risclip.grounding import GroundingMap, cosine_map
from refseg.models.risclip.ske import SharedSpaceKnowledgeExploitation
from refseg.values import Calibration

__all__ = ["RISCLIP", "RISCLIPConfig", "risclip", "risclip_compact"]


@dataclass(frozen=True, kw_only=True)
class RISCLIPConfig:
    """Sizes of a RISCLIP, and the inputs that it was trained for. Layers are counted from 1."""

    vision: ViTConfig
    text: TextConfig
    frozen: bool = True
    """Whether CLIP stays as it is."""
    adapter_reduction: int = 2
    """An adapter is as wide as its block divided by this; 0 leaves the adapters out."""
    fusions: tuple[tuple[int, int], ...] = ((7, 7), (8, 8), (9, 9), (10, 10), (11, 11), (12, 12))
    """Pairs (image block, word block) before which the encoders meet (CFE)."""
    cfe_width: int = 512
    cfe_heads: int = 8
    ske_layers: int = 6
    ske_heads: int = 8
    ske_hidden: int = 256
    map_scale: float = 10.0
    """What cosines are multiplied with at first; it is learnt. CLIP's own 100 would saturate the map."""
    map_bias: float = -2.0
    """What is added to them at first: most patches are not meant."""
    decoder_blocks: tuple[int, ...] = (12, 9, 6)
    """The image blocks whose features the decoder reads, the last first; empty leaves the decoder out: the map,
    enlarged, is the answer of the first stage."""
    decoder_channels: tuple[int, int, int] = (256, 128, 64)
    image_size: int = 640
    word_length: int = 20
    threshold: float = 0.5
    relative_threshold: float | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        vision, text = self.vision, self.text
        check_inputs(self, math.lcm(vision.patch, STRIDE))
        for layers, places, what in (
            (vision.layers, [pair[0] for pair in self.fusions], "image blocks of fusions"),
            (text.layers, [pair[1] for pair in self.fusions], "word blocks of fusions"),
            (vision.layers, list(reversed(self.decoder_blocks)), "decoder_blocks, read backwards,"),
        ):
            if any(not 1 <= place <= layers for place in places) or sorted(set(places)) != places:
                raise ConfigError(f"the {what} must rise and lie in 1..{layers}, got {places}")
        if self.decoder_blocks and len(self.decoder_blocks) != len(self.decoder_channels):
            raise ConfigError(f"decoder_blocks must be {len(self.decoder_channels)} blocks or none")
        sizes = (self.cfe_width, self.cfe_heads, self.ske_heads, self.ske_hidden, *self.decoder_channels)
        if min(sizes) < 1 or self.ske_layers < 0 or self.adapter_reduction < 0:
            raise ConfigError("sizes must be positive; ske_layers and adapter_reduction at least 0")
        if self.cfe_width % self.cfe_heads or vision.output_dim % self.ske_heads:
            raise ConfigError("cfe_heads must divide cfe_width, and ske_heads the joint space")
        if self.map_scale <= 0:
            raise ConfigError(f"map_scale must be positive, got {self.map_scale}")

    @property
    def cfe_sizes(self) -> tuple[int, ...]:
        """How often the encoders meet, and in how many channels; empty where they never do."""
        return (len(self.fusions), self.cfe_width) if self.fusions else ()

    @property
    def ske_sizes(self) -> tuple[int, ...]:
        """Layers of SKE, and channels inside their MLPs; empty where there are none."""
        return (self.ske_layers, self.ske_hidden) if self.ske_layers else ()

    @property
    def decoder_sizes(self) -> tuple[int, ...]:
        """Channels of the decoder; empty where there is none."""
        return self.decoder_channels if self.decoder_blocks else ()

    @property
    def alone(self) -> int:
        """How many image blocks know nothing of the words: those before the first fusion."""
        return self.fusions[0][0] - 1 if self.fusions else self.vision.layers


class RISCLIP(Grounder):
    """Two frozen encoders with adapters, fused on the way (CFE) and at their end (SKE), a map, and a decoder."""

    family = "risclip"
    objectives = ("grounding", "mask")
    unused = frozenset({"text.logit_scale"})
    config: RISCLIPConfig

    def __init__(self, config: RISCLIPConfig) -> None:
        super().__init__()
        self.config, self.cell = config, config.vision.patch
        vision, text, joint = config.vision, config.text, config.text.output_dim
        self.visual = VisionTransformer(vision)
        self.text = TextTransformer(text)
        if config.frozen:
            self.borrowed = ("visual", "text")
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

    def silent(self, objective: str) -> frozenset[str]:
        """Return the parameters that no gradient reaches: the map does not ask the decoder, which may be there."""
        decoder = [name for name, _ in self.named_parameters() if name.startswith("decoder.")]
        return self.unused | frozenset(decoder if objective == "grounding" else ())

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> tuple[Tensor, ...]:
        """Run the image blocks before the first fusion, half of the encoder: the rest depends on the words.

        Returns:
            The tokens after them, and those of the blocks on the way that the decoder reads: (N, 1 + g * g, D).
        """
        tokens, kept = self._see(self.visual.embed(pixels), range(self.config.alone), {})
        return tokens, *kept.values()

    def segment(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return logits of the mask, S/4 on a side; those of the map, enlarged, where there is no decoder."""
        cosines, kept = self._align(image, tokens, padding)
        logits = self.map(cosines)
        if self.decoder is not None:
            side = cosines.shape[-1]
            features = tuple(
                kept[block][:, 1:].mT.reshape(len(tokens), -1, side, side) for block in self.config.decoder_blocks
            )
            logits = self.decoder(logits, features)
        return to_quarter(logits.float(), cosines.shape[-1] * self.config.vision.patch)

    def ground(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B g g"]:
        """Return the cosine of each patch and the end token, -1..1, after all that extends their alignment."""
        return self._align(image, tokens, padding)[0]

    def map_logits(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return the logits of a map, by its learnt scale and bias."""
        logits: Tensor = self.map(cosines)
        return logits

    def _align(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B g g"], dict[int, Tensor]]:
        """Return the map of cosines, and the tokens of the image blocks that the decoder reads."""
        config = self.config
        count = len(tokens)
        early = [block for block in sorted(config.decoder_blocks) if block <= config.alone]
        kept = {block: _for_each(features, count) for block, features in zip(early, image[1:], strict=True)}
        vision, words, seen, said = _for_each(image[0], count), self.text.embed(tokens), config.alone, 0
        for fuse, (image_block, word_block) in zip(self.cfe, config.fusions, strict=True):
            vision, kept = self._see(vision, range(seen, image_block - 1), kept)
            words = self._read(words, range(said, word_block - 1))
            vision, words = fuse(vision, words, padding)
            seen, said = image_block - 1, word_block - 1
        vision, kept = self._see(vision, range(seen, config.vision.layers), kept)
        words = self._read(words, range(said, config.text.layers))
        patches, words = self.visual.project(vision), self.text.project(self.text.ln_final(words))
        for layer in self.ske:
            patches, words = layer(patches, words, padding)
        return cosine_map(
            patches[:, 1:], self.text.sentence_of(words, tokens), round((patches.shape[1] - 1) ** 0.5)
        ), kept

    def _see(
        self, x: Float[Tensor, "B T D"], blocks: Iterable[int], kept: dict[int, Tensor]
    ) -> tuple[Float[Tensor, "B T D"], dict[int, Tensor]]:
        for index in blocks:
            x = self.visual.blocks[index](x, None, _pair(self.visual_adapters, index))
            if index + 1 in self.config.decoder_blocks:
                kept = {**kept, index + 1: x}
        return x, kept

    def _read(self, x: Float[Tensor, "B L W"], blocks: Iterable[int]) -> Float[Tensor, "B L W"]:
        mask = self.text.causal_mask(x.shape[1], x)
        for index in blocks:
            x = self.text.blocks[index](x, mask, _pair(self.text_adapters, index))
        return x

    def is_backbone(self, parameter: str) -> bool:
        """Whether a parameter is CLIP's."""
        return parameter.startswith(("visual.", "text."))

    def layers_above(self, parameter: str) -> int:
        """Return how many blocks of its encoder lie above a parameter."""
        encoder, _, rest = parameter.partition(".")
        return blocks_above(rest, (self.config.vision if encoder == "visual" else self.config.text).layers)

    def blocks(self) -> list[nn.Module]:
        """Return the blocks of both encoders, and the modules between and above them."""
        kinds = ResidualAttentionBlock | CrossModalFeatureExtraction | SharedSpaceKnowledgeExploitation
        return [module for module in self.modules() if isinstance(module, kinds)]


def _pair(adapters: nn.ModuleList, index: int) -> tuple[nn.Module, nn.Module] | None:
    if not adapters:
        return None
    first, second = adapters[index].children()
    return first, second


def _for_each(features: Float[Tensor, "N T D"], count: int) -> Float[Tensor, "B T D"]:
    return features.expand(count, -1, -1)


def risclip(clip: str, **changes: Any) -> RISCLIPConfig:
    """Return RISCLIP on one of CLIP's vision transformers, by OpenAI's name: `ViT-B/16` (-B) or `ViT-L/14` (-L).

    For -B the sizes are those that readers of the paper found in it; for -L only the CLIP is known, and the rest is in
    proportion: six fusions over twice as many image blocks, everything as wide as the joint space.

    Raises:
        ConfigError: the CLIP has no vision transformer of these proportions.
    """
    sizes = clip_sizes(clip)
    vision = sizes.vision
    if not isinstance(vision, ViTConfig):
        raise ConfigError(f"RISCLIP needs a CLIP with a vision transformer, such as ViT-B/16, and {clip} has none")
    joint, ratio = vision.output_dim, vision.layers // sizes.text.layers
    values: dict[str, Any] = {
        "fusions": tuple((ratio * block + 1, block + 1) for block in range(6, 12)),
        "cfe_width": joint,
        "cfe_heads": joint // 64,
        "ske_heads": joint // 64,
        "ske_hidden": joint // 2,
        "decoder_blocks": (vision.layers, 3 * vision.layers // 4, vision.layers // 2),
        # 40 x 40 patches.
        "image_size": 40 * vision.patch,
    } | changes
    return RISCLIPConfig(vision=vision, text=sizes.text, **values)


def risclip_compact(**changes: Any) -> RISCLIPConfig:
    """Return a small RISCLIP for generated scenes: the same classes with smaller numbers, made to train on a laptop."""
    joint = 96
    values: dict[str, Any] = {
        "vision": ViTConfig(patch=8, width=128, layers=6, heads=4, output_dim=joint, pretrained_size=192),
        "text": TextConfig(width=96, heads=4, layers=3, output_dim=joint),
        "fusions": ((4, 1), (5, 2), (6, 3)),
        "cfe_width": 96,
        "cfe_heads": 4,
        "ske_layers": 3,
        "ske_heads": 4,
        "ske_hidden": 96,
        "decoder_blocks": (6, 4, 2),
        "decoder_channels": (64, 48, 32),
        "image_size": 192,
        "word_length": 24,
    } | changes
    return RISCLIPConfig(**values)
