"""CRIS: CLIP-Driven Referring Image Segmentation (Wang et al., CVPR 2022, arXiv 2111.15174)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from refseg.encoders.clip_resnet import Bottleneck, ModifiedResNet, ResNetConfig
from refseg.encoders.clip_sizes import clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.layers import ResidualAttentionBlock, blocks_above
from refseg.errors import ConfigError
from refseg.models.base import Segmenter, check_inputs
from refseg.models.cris.decoder import DecoderLayer, VisionLanguageDecoder
from refseg.models.cris.neck import CrossModalNeck, ProjectedPyramid
from refseg.models.cris.projector import Projector
from refseg.values import Calibration

__all__ = ["CRIS", "CRISConfig", "cris", "cris_compact"]


@dataclass(frozen=True, kw_only=True)
class CRISConfig:
    """Sizes of a CRIS, and the inputs that it was trained for."""

    vision: ResNetConfig
    text: TextConfig
    neck_channels: tuple[int, int, int] = (256, 512, 1024)
    """Channels of the neck at strides 8, 16 and 32; the middle one is the decoder's width, and the words'."""
    decoder_layers: int = 3
    """0 leaves the decoder out, as the ablation's baseline does."""
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    dropout: float = 0.1
    contrastive: bool = True
    """False replaces text-to-pixel contrastive learning with a plain mask head, as the ablation's baseline does."""
    image_size: int = 416
    word_length: int = 17
    threshold: float = 0.35
    relative_threshold: float | None = None
    calibration: Calibration | None = None

    def __post_init__(self) -> None:
        width = self.neck_channels[1]
        if self.text.width != width:
            raise ConfigError(f"text.width ({self.text.width}) and neck_channels[1] ({width}) must be equal")
        if min(self.neck_channels) < 1 or width % 4:
            raise ConfigError(f"neck_channels must be positive, and the middle one ({width}) a multiple of 4")
        if self.decoder_layers < 0 or self.decoder_hidden < 1 or self.decoder_heads < 1 or width % self.decoder_heads:
            raise ConfigError("decoder_layers must be at least 0, and decoder_heads must divide neck_channels[1]")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in 0..1, 1 excluded, got {self.dropout}")
        check_inputs(self, step=32)


class CRIS(Segmenter):
    """Five stages: two encoders, a neck, a decoder and a projector. The paper's figure 3, in its order."""

    family = "cris"
    unused = frozenset({"text.logit_scale"})
    cell = 16

    def __init__(self, config: CRISConfig) -> None:
        super().__init__()
        self.config = config
        width, sentence = config.neck_channels[1], config.text.output_dim
        self.visual = ModifiedResNet(config.vision)
        self.text = TextTransformer(config.text)
        self.neck = CrossModalNeck(config.vision.channels, config.neck_channels, sentence)
        self.decoder: VisionLanguageDecoder | None = None
        if config.decoder_layers:
            self.decoder = VisionLanguageDecoder(
                config.decoder_layers, width, config.decoder_heads, config.decoder_hidden, config.dropout
            )
        self.projector = Projector(width, sentence, contrastive=config.contrastive)

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> ProjectedPyramid:
        """Compute all that depends on the images alone, nearly half of the work."""
        return self.neck.project(self.visual(pixels))

    def segment(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return logits, S/4 on a side, of B encoded images (or of one for all) and B expressions."""
        words, sentence = self.text(tokens)
        vision = self.neck(ProjectedPyramid(*image), sentence)
        if self.decoder is not None:
            vision = self.decoder(vision, words, padding)
        return self.projector(vision, sentence)  # type: ignore[no-any-return]

    def is_backbone(self, parameter: str) -> bool:
        """Whether a parameter is CLIP's, as the published recipe groups them.

        Both encoders, without their positional embeddings: those train at the rate of the new layers.
        """
        return parameter.startswith(("visual.", "text.")) and "positional_embedding" not in parameter

    def layers_above(self, parameter: str) -> int:
        """Return how many layers of its encoder lie above a parameter: stages of the image's, blocks of the words'."""
        encoder, _, rest = parameter.partition(".")
        if encoder == "visual":
            stages = ("attnpool", "layer4", "layer3", "layer2", "layer1")
            return next((above for above, stage in enumerate(stages) if rest.startswith(stage)), len(stages))
        return blocks_above(rest, self.config.text.layers)

    def blocks(self) -> list[nn.Module]:
        """Return the bottlenecks, the blocks of the text encoder and of the decoder, and the projector's convolutions."""
        found = [m for m in self.modules() if isinstance(m, Bottleneck | ResidualAttentionBlock | DecoderLayer)]
        return [*found, self.projector.pixels]


def cris(clip: str, **changes: Any) -> CRISConfig:
    """Return the published CRIS on one of CLIP's ResNets, by OpenAI's name such as `RN50`.

    Only RN50 and RN101 are published. For wider text encoders the neck grows in proportion, since the decoder has the
    words' width.

    Raises:
        UnknownNameError: There is no such CLIP.
        ConfigError: It has a vision transformer, and CRIS needs maps at three scales.
    """
    sizes = clip_sizes(clip)
    if not isinstance(sizes.vision, ResNetConfig):
        raise ConfigError(f"CLIP's {clip} has a vision transformer, and CRIS needs one of CLIP's ResNets, such as RN50")
    width = sizes.text.width
    values: dict[str, Any] = {"neck_channels": (width // 2, width, 2 * width)} | changes
    return CRISConfig(vision=sizes.vision, text=sizes.text, **values)


def cris_compact(**changes: Any) -> CRISConfig:
    """Return a small CRIS for generated scenes: the same classes with smaller numbers, made to train on a laptop."""
    width, joint = 96, 96
    values: dict[str, Any] = {
        "vision": ResNetConfig(layers=(1, 2, 2, 1), width=16, heads=8, output_dim=joint, pretrained_size=192),
        "text": TextConfig(width=width, heads=4, layers=3, output_dim=joint),
        "neck_channels": (64, width, 96),
        "decoder_layers": 3,
        "decoder_heads": 4,
        "decoder_hidden": 256,
        "dropout": 0.0,
        "image_size": 192,
        "word_length": 24,
    } | changes
    return CRISConfig(**values)
