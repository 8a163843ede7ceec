"""CRIS: CLIP-Driven Referring Image Segmentation (Wang et al., CVPR 2022, arXiv 2111.15174)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from refseg.encoders.clip_resnet import ModifiedResNet, ResNetConfig
from refseg.encoders.clip_sizes import clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.efficientnet import IMAGENET_MEAN, IMAGENET_STD, EfficientNet, EfficientNetConfig
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.models.base import AttentionModel, ModelSpec, check_clip_sizes
from refseg.models.cris.decoder import VisionLanguageDecoder
from refseg.models.cris.neck import CrossModalNeck, ProjectedPyramid
from refseg.models.cris.presence import PresenceHead
from refseg.models.cris.projector import Projector
from refseg.values import Decision

__all__ = ["CRIS", "CRISConfig", "cris", "cris_compact", "cris_photos"]


@dataclass(frozen=True, kw_only=True)
class CRISConfig:
    """Sizes of a CRIS."""

    vision: ResNetConfig | EfficientNetConfig
    """CLIP's ResNet, as published, or an EfficientNet, whose weights come from ImageNet: then the text encoder has no
    pretrained weights."""
    text: TextConfig
    """The text encoder, as wide as the middle one of `neck_channels`."""
    neck_channels: tuple[int, int, int] = (256, 512, 1024)
    """Channels of the neck at strides 8, 16 and 32; the second is also the width of the decoder and of the words."""
    decoder_layers: int = 3
    """Layers of the decoder; 0: there is none, as in the baseline of the ablation."""
    decoder_heads: int = 8
    """Attention heads of a layer of the decoder."""
    decoder_hidden: int = 2048
    """Hidden channels of the feed-forward part of a layer of the decoder."""
    dropout: float = 0.1
    """Probability that an activation of the decoder is set to 0 in training."""
    contrastive: bool = True
    """Whether text-to-pixel contrastive learning is used, or a mask head that does not depend on the sentence."""
    presence: int = 0
    """Hidden channels of the head that lowers all logits where nothing fits; 0: there is none, as published."""

    def __post_init__(self) -> None:
        width = self.neck_channels[1]
        if self.text.width != width:
            raise ConfigError(f"text.width ({self.text.width}) and neck_channels[1] ({width}) must be equal")
        if min(self.neck_channels) < 1 or width % 4:
            raise ConfigError(f"neck_channels must be positive, and the middle one ({width}) a multiple of 4")
        if self.decoder_layers < 0 or self.decoder_hidden < 1 or self.decoder_heads < 1 or width % self.decoder_heads:
            raise ConfigError("decoder_layers must be at least 0, and decoder_heads must divide neck_channels[1]")
        if self.presence < 0:
            raise ConfigError(f"presence must be at least 0, got {self.presence}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in 0..1, 1 excluded, got {self.dropout}")
        if isinstance(self.vision, ResNetConfig):
            check_clip_sizes(self.vision.output_dim, self.text.output_dim)


class CRIS(AttentionModel):
    """Two encoders, a neck, a decoder and a projector, in the order of the paper's figure 3, and a head of ours."""

    family = "cris"
    config: CRISConfig

    def __init__(self, config: CRISConfig, inputs: Inputs, decision: Decision) -> None:
        super().__init__(config, inputs, decision)
        width, sentence = config.neck_channels[1], config.text.output_dim
        self.visual: ModifiedResNet | EfficientNet
        if isinstance(config.vision, EfficientNetConfig):
            self.visual = EfficientNet(config.vision)
            self.unrounded = ("visual", "neck", "projector")
        else:
            self.visual = ModifiedResNet(config.vision)
            self.unrounded = ("neck", "projector")
        self.text = TextTransformer(config.text)
        self.neck = CrossModalNeck(config.vision.channels, config.neck_channels, sentence)
        self.decoder: VisionLanguageDecoder | None = None
        if config.decoder_layers:
            self.decoder = VisionLanguageDecoder(
                config.decoder_layers, width, config.decoder_heads, config.decoder_hidden, config.dropout
            )
        self.projector = Projector(width, sentence, contrastive=config.contrastive)
        self.presence = PresenceHead(width, sentence, config.presence) if config.presence else None

    @staticmethod
    def side_step(config: CRISConfig) -> int:
        """Return the number of pixels that `image_size` must be a multiple of: the greatest stride."""
        return 32

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Compute everything that depends on the images alone: the projected feature maps `p3`, `p4` and `p5`."""
        return self.neck.project(self.visual(pixels))._asdict()

    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Return the features of the `words`, and of the `sentence`."""
        return self.text(tokens)._asdict()  # type: ignore[no-any-return]

    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Compute the logits: neck, decoder, projector, and the head for presence."""
        return self._logits(self.fuse(image, text, padding), text["sentence"])

    def fuse(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B D H W"]:
        """Return the map that the projector reads: neck and decoder."""
        vision: Tensor = self.neck(ProjectedPyramid(**image), text["sentence"])
        if self.decoder is not None:
            vision = self.decoder(vision, text["words"], padding)
        return vision

    def _logits(self, vision: Float[Tensor, "B D H W"], sentence: Float[Tensor, "B E"]) -> Float[Tensor, "B 1 h w"]:
        logits: Tensor = self.projector(vision, sentence)
        if self.presence is not None:
            logits = self.presence(logits, vision, sentence)
        return logits

    @property
    def attends(self) -> bool:
        """Whether there is a decoder."""
        return self.decoder is not None

    def attend(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B 1 h w"], Float[Tensor, "B L g g"]]:
        """Return the logits, and the cross-attention of the decoder's last layer, averaged over its heads.

        It is the softmax by which the layer mixes the features of the tokens into each position. It is no explanation
        of the mask: tokens of the text encoder contain those before them, the layers before and the kernel of the
        projector read the expression too, and the mask may stay the same where a word with much attention is left out.

        Source: CRIS, section 3.3, equation 5: the softmax of the multi-head cross-attention.
        """
        assert self.decoder is not None
        vision, attention = self.decoder.attend(
            self.neck(ProjectedPyramid(**image), text["sentence"]), text["words"], padding
        )
        return self._logits(vision, text["sentence"]), attention


def cris(clip: str, **changes: Any) -> ModelSpec:
    """Return the CRIS on one of CLIP's ResNets, by OpenAI's name such as `RN50`.

    Those on RN50 and RN101 are published. A wider text encoder makes the neck and the decoder wider in proportion.

    Raises:
        UnknownNameError: There is no such CLIP.
        ConfigError: It has a vision transformer, and CRIS needs feature maps at three scales.
    """
    sizes = clip_sizes(clip)
    if not isinstance(sizes.vision, ResNetConfig):
        raise ConfigError(f"CLIP's {clip} has a vision transformer, and CRIS needs one of CLIP's ResNets, such as RN50")
    width = sizes.text.width
    return ModelSpec(
        config=CRISConfig(vision=sizes.vision, text=sizes.text, neck_channels=(width // 2, width, 2 * width)),
        inputs=Inputs(image_size=416, word_length=17),
        decision=Decision(threshold=0.35),
    ).changed(**changes)


def cris_compact(**changes: Any) -> ModelSpec:
    """Return a small CRIS for generated scenes, which can be trained on a laptop."""
    width, joint = 96, 96
    return ModelSpec(
        config=CRISConfig(
            vision=ResNetConfig(layers=(1, 2, 2, 1), width=16, heads=8, output_dim=joint, pretrained_size=192),
            text=TextConfig(width=width, heads=4, layers=3, output_dim=joint),
            neck_channels=(64, width, 96),
            decoder_heads=4,
            decoder_hidden=256,
            dropout=0.0,
        ),
        inputs=Inputs(image_size=192, word_length=24),
        decision=Decision(threshold=0.35),
    ).changed(**changes)


def cris_photos(**changes: Any) -> ModelSpec:
    """Return a small CRIS for photos, on EfficientNet-Lite0."""
    width = 96
    return ModelSpec(
        config=CRISConfig(
            vision=EfficientNetConfig(),
            text=TextConfig(width=width, heads=4, layers=3, output_dim=width),
            neck_channels=(64, width, 96),
            decoder_heads=4,
            decoder_hidden=256,
            dropout=0.0,
        ),
        inputs=Inputs(image_size=320, word_length=20, mean=IMAGENET_MEAN, std=IMAGENET_STD),
        decision=Decision(threshold=0.35),
    ).changed(**changes)
