"""VLT: Vision-Language Transformer and Query Generation for Referring Segmentation.

Ding et al., ICCV 2021, arXiv 2108.05565. Sizes and order of the layers are those of the authors' code,
henghuiding/Vision-Language-Transformer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.darknet import ConvNormLeaky, DarkNet, DarkNetConfig, ResidualBlock
from refseg.encoders.word_gru import WordGRU, WordGRUConfig, check_vocabulary
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.inputs.words import LONGEST
from refseg.models.base import Model, ModelSpec
from refseg.models.first_fusion import FirstFusion, enlarged
from refseg.models.vlt.fusion import ImageFusion
from refseg.models.vlt.queries import QueryBalance, QueryGeneration
from refseg.models.vlt.transformer import Transformer
from refseg.values import Decision

__all__ = ["CELL", "VLT", "VLTConfig", "default_spec", "vlt", "vlt_compact"]

FROZEN = ("visual.stem", "visual.stages", *(f"visual.top.{number}" for number in range(4)))
"""The first 56 of DarkNet's 58 convolutions."""
CELL = 16
"""Side in pixels of the image region that a token stands for."""


@dataclass(frozen=True, kw_only=True)
class VLTConfig:
    """Sizes of a VLT."""

    vision: DarkNetConfig
    """The image encoder."""
    text: WordGRUConfig
    """The language encoder."""
    frozen: bool = True
    """Whether DarkNet stays as it was pretrained, but for its last two convolutions."""
    queries: int = 16
    """The number of queries, each of which weighs the words in its own way."""
    width: int = 256
    """Channels of the transformer."""
    layers: int = 2
    """Blocks of the transformer's encoder, and of its decoder."""
    heads: int = 8
    """Attention heads of a block."""
    hidden: int = 256
    """Hidden channels of the feed-forward part of a block."""
    dropout: float = 0.1
    """Probability that an activation of the transformer is set to 0 in training."""

    def __post_init__(self) -> None:
        if min(self.queries, self.width, self.layers, self.heads, self.hidden) < 1:
            raise ConfigError("queries, width, layers, heads and hidden must be positive")
        if self.width % self.heads or self.width % 2:
            raise ConfigError(f"heads and 2 must divide width ({self.width})")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in 0..1, 1 excluded, got {self.dropout}")


class _MaskHead(nn.Module):
    """One map for each query to logits at eight times the side."""

    def __init__(self, queries: int, width: int, *, debiased: bool) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            *(ConvNormLeaky(queries if not number else width, width, 3, debiased=debiased) for number in range(3))
        )
        self.enlarge = nn.ModuleList(ConvNormLeaky(width, width, 3, debiased=debiased) for _ in range(3))
        self.logit = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, maps: Float[Tensor, "B Q h w"]) -> Float[Tensor, "B 1 H W"]:
        """Return the logits."""
        x = self.convolutions(maps)
        for convolution in self.enlarge:
            x = convolution(enlarged(x))
        logits: Tensor = self.logit(x)
        return logits


class VLT(Model):
    """Two encoders, their fusion, queries, a transformer, and a mask head, in the order of the paper's figure 2.

    The first fusion multiplies DarkNet's coarsest map by the sentence. What depends on the image alone is therefore
    DarkNet, the residual block above its coarsest map and the projections of its two finer ones; all else is computed
    for each expression. Linear layers read and write whole maps: a model has images of one size.
    """

    family = "vlt"
    stride = 2
    any_size = False
    config: VLTConfig

    def __init__(self, config: VLTConfig, inputs: Inputs, decision: Decision) -> None:
        super().__init__(config, inputs, decision)
        check_vocabulary(config.text, inputs)
        self.frozen_parts = FROZEN if config.frozen else ()
        width, channels, words = config.width, config.vision.channels, config.text.width
        coarsest, debiased = channels[-1], config.vision.debiased
        self.side = inputs.image_size // CELL
        self.visual = DarkNet(config.vision)
        self.text = WordGRU(config.text, inputs.word_length)
        self.refine = ResidualBlock(coarsest, debiased=debiased)
        self.fuse = FirstFusion(coarsest, words, debiased=debiased)
        self.fusion = ImageFusion(channels, width, debiased=debiased)
        self.generate = QueryGeneration(
            2 * width, self.side**2, words, config.queries, width, config.heads, debiased=debiased
        )
        self.transformer = Transformer(config.layers, width, config.heads, config.hidden, config.dropout)
        self.balance = QueryBalance(width)
        self.maps = nn.Linear(width, self.side**2)
        self.head = _MaskHead(config.queries, width, debiased=debiased)

    @staticmethod
    def side_step(config: VLTConfig) -> int:
        """Return the number of pixels that `image_size` must be a multiple of: the greatest stride."""
        return 32

    @staticmethod
    def longest_expression(config: VLTConfig) -> int:
        """Return the largest number of words that the model can read; its recurrent encoder sets no limit."""
        return LONGEST

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Compute everything that depends on the images alone: the maps `f0`, `f1` and `f2`, ready to be fused."""
        maps = self.visual(pixels)
        return {
            "f0": self.refine(maps.f0),
            "f1": self.fusion.project1(maps.f1),
            "f2": self.fusion.project2(F.avg_pool2d(maps.f2, 2)),
        }

    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Return the features of the words as a `sequence`, and those of the `sentence`."""
        return self.text(tokens, padding)._asdict()  # type: ignore[no-any-return]

    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Compute the logits, at stride 2."""
        for_queries, features = self.fusion(self.fuse(image["f0"], text["sentence"]), image["f1"], image["f2"])
        queries = self.generate(for_queries, text["sequence"])
        responses = self.transformer(features.flatten(2).mT, queries)
        maps = F.relu(self.maps(responses * self.balance(queries, responses)))
        return self.head(maps.reshape(*maps.shape[:2], self.side, self.side))  # type: ignore[no-any-return]


def vlt(**changes: Any) -> ModelSpec:
    """Return the published VLT, on DarkNet-53; without words, whose vectors are not part of it.

    Raises:
        ConfigError: A change is unknown or does not fit.
    """
    config = VLTConfig(vision=DarkNetConfig(), text=WordGRUConfig(vocabulary_size=1))
    return default_spec(config).changed(**changes)


def default_spec(config: VLTConfig) -> ModelSpec:
    """Return the spec of a VLT with the published preprocessing: 416 pixels, values of 0..1, 15 words."""
    inputs = Inputs(
        image_size=416,
        word_length=15,
        fit="pad-cubic",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        tokenizer="words",
    )
    return ModelSpec(config=config, inputs=inputs, decision=Decision(threshold=0.35))


def vlt_compact(**changes: Any) -> ModelSpec:
    """Return a small VLT for generated scenes, which learns as a whole; without words."""
    config = VLTConfig(
        vision=DarkNetConfig(width=6, depths=(1, 1, 1, 1, 1), debiased=True),
        text=WordGRUConfig(vocabulary_size=1, vector_width=64, width=64),
        frozen=False,
        queries=8,
        width=32,
        heads=4,
        hidden=64,
    )
    return default_spec(config).changed(image_size=96, word_length=12).changed(**changes)
