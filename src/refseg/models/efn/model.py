"""EFN: Encoder Fusion Network with Co-Attention Embedding for Referring Image Segmentation (Feng et al., CVPR 2021).

arXiv 2105.01839. Sizes and order of the layers are those of the authors' code, which has a wide ResNet-101.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from refseg.encoders.layers import BatchNorm2d
from refseg.encoders.resnet import WideResNet, WideResNetConfig
from refseg.errors import ConfigError
from refseg.inputs.clip_bpe import VOCABULARY_SIZE
from refseg.inputs.preprocessing import Inputs
from refseg.inputs.words import LONGEST
from refseg.models.base import Model, ModelSpec
from refseg.models.efn.boundary import BoundaryDecoder, BoundaryHeads, Decoded, Levels, at_full_side
from refseg.models.efn.coattention import AsymmetricCoAttention, VanillaCoAttention
from refseg.models.efn.fusion import EncoderFusion
from refseg.models.efn.language import Language, LanguageEncoder
from refseg.models.efn.layers import ConvNormPReLU, unit
from refseg.values import Decision

__all__ = ["EFN", "EFNConfig", "default_spec", "efn", "efn_compact"]

PUBLISHED_VOCABULARY = 12_112
"""Tokens of the published models, of which 0 is padding."""


@dataclass(frozen=True, kw_only=True)
class EFNConfig:
    """Sizes of an EFN."""

    vision: WideResNetConfig
    """The image encoder, whose weights come from ImageNet."""
    vocabulary_size: int = PUBLISHED_VOCABULARY
    """The number of tokens; the embeddings of words are learnt."""
    width: int = 512
    """Channels of words, of sentences and of fused features."""
    coattention: Literal["vanilla", "asymmetric"] = "vanilla"
    """`vanilla` compares all positions, `asymmetric` compares them with pooled ones."""
    coattention_width: int = 256
    """Channels in which positions are compared."""
    decoder_widths: tuple[int, int, int, int, int] = (32, 64, 128, 256, 512)
    """Channels of the decoder's five lateral maps, the finest first."""

    def __post_init__(self) -> None:
        if min(self.vocabulary_size, self.width, self.coattention_width, *self.decoder_widths) < 1:
            raise ConfigError("vocabulary_size, width, coattention_width and decoder_widths must be positive")


class EFN(Model):
    """An image encoder that takes in the language after its last three stages, and a decoder with boundary enhancement.

    The language enters inside the image encoder. What depends on the image alone is therefore the encoder up to stride
    8, and the first convolution of the first fusion; the last two stages, with most of the work, are computed for each
    expression.
    """

    family = "efn"
    stride = 1
    config: EFNConfig

    def __init__(self, config: EFNConfig, inputs: Inputs, decision: Decision) -> None:
        super().__init__(config, inputs, decision)
        needed = VOCABULARY_SIZE if inputs.tokenizer == "clip" else len(inputs.vocabulary) + 1
        if needed > config.vocabulary_size:
            raise ConfigError(f"the tokenizer has {needed} tokens, and vocabulary_size is {config.vocabulary_size}")
        channels = config.vision.channels
        self.visual = WideResNet(config.vision)
        self.pixel_norm = BatchNorm2d(3)
        self.text = LanguageEncoder(config.vocabulary_size, config.width)
        self.fusion3, self.fusion4, self.fusion5 = (_fusion(config, width) for width in channels[2:])
        self.lateral = nn.ModuleList(
            ConvNormPReLU(width, outputs) for width, outputs in zip(channels, config.decoder_widths, strict=True)
        )
        self.decoder = BoundaryDecoder(config.decoder_widths)
        self.heads = BoundaryHeads(config.decoder_widths)

    @staticmethod
    def side_step(config: EFNConfig) -> int:
        """Return the number of pixels that `image_size` must be a multiple of: the greatest stride."""
        return 16

    @staticmethod
    def longest_expression(config: EFNConfig) -> int:
        """Return the largest number of tokens that the model can read; its recurrent encoder sets no limit."""
        return LONGEST

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Compute everything that depends on the images alone.

        Returns:
            The features at stride 8, of length one (`c3`), what the first fusion reads of them (`f3`), and the two
            finest maps of the decoder (`lateral1`, `lateral2`).
        """
        c1 = self.visual.stem(self.pixel_norm(pixels))
        c2 = self.visual.stage1(c1)
        c3 = self.visual.layer2(c2)
        return {
            "lateral1": self.lateral[0](c1),
            "lateral2": self.lateral[1](c2),
            "c3": unit(c3),
            "f3": self.fusion3.project(c3),
        }

    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Return the features of the `words`, (B, L, D), and of the `sentence`, (B, D)."""
        return self.text(tokens, padding)._asdict()  # type: ignore[no-any-return]

    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 S S"]:
        """Compute the logits, at the side of the image."""
        half = self.fuse(image, text, padding).logits
        return at_full_side(half, half)

    def levels(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]) -> Levels:
        """Compute the logits of masks, bodies and edges at four levels, which the loss needs."""
        return self.heads(self.fuse(image, text, padding))  # type: ignore[no-any-return]

    def fuse(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]) -> Decoded:
        """Run the rest of the image encoder, with the language in it, and the decoder."""
        language = Language(**text)
        batch = padding.shape[0]
        lateral1, lateral2, c3, f3 = (
            image[name].expand(batch, -1, -1, -1) for name in ("lateral1", "lateral2", "c3", "f3")
        )
        c3 = self.fusion3(c3, f3, language, padding)
        c4 = self.visual.layer3(c3)
        c4 = self.fusion4(unit(c4), self.fusion4.project(c4), language, padding)
        c5 = self.visual.layer4(c4)
        c5 = self.fusion5(unit(c5), self.fusion5.project(c5), language, padding)
        coarser = [self.lateral[2](c3), self.lateral[3](c4), self.lateral[4](c5)]
        return self.decoder([lateral1, lateral2, *coarser])  # type: ignore[no-any-return]


def _fusion(config: EFNConfig, channels: int) -> EncoderFusion:
    coattention: VanillaCoAttention | AsymmetricCoAttention
    if config.coattention == "vanilla":
        coattention = VanillaCoAttention(config.width, config.coattention_width)
    else:
        coattention = AsymmetricCoAttention(config.width, config.coattention_width, config.coattention_width)
    return EncoderFusion(channels, config.width, coattention)


def efn(**changes: Any) -> ModelSpec:
    """Return the published EFN.

    The authors' list of words is not part of their code: `vocabulary` takes one, and without it the model reads tokens
    alone.

    Raises:
        ConfigError: A change is unknown or does not fit.
    """
    return default_spec(EFNConfig(vision=WideResNetConfig())).changed(**changes)


def default_spec(config: EFNConfig) -> ModelSpec:
    """Return the spec of an EFN with the published preprocessing: 320 pixels, blue first, values of 0..255."""
    inputs = Inputs(
        image_size=320,
        word_length=20,
        fit="squash",
        channels="bgr",
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),
        tokenizer="words",
    )
    return ModelSpec(config=config, inputs=inputs, decision=Decision(threshold=0.5))


def efn_compact(**changes: Any) -> ModelSpec:
    """Return a small EFN for generated scenes; without words."""
    config = EFNConfig(
        vision=WideResNetConfig(layers=(1, 1, 1, 1), width=12, factor=1),
        vocabulary_size=1,
        width=48,
        coattention_width=24,
        decoder_widths=(8, 16, 24, 32, 48),
    )
    return default_spec(config).changed(image_size=96, word_length=12).changed(**changes)
