"""The contract: what every segmenter takes, returns and declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from refseg.encoders.clip_files import ClipSource
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.errors import ConfigError
from refseg.values import Calibration

__all__ = ["LARGEST_SIDE", "Grounder", "Segmenter", "SegmenterConfig", "check_inputs"]

LARGEST_SIDE = 4096
"""Of `image_size`: a config from an untrusted source must not make a predictor take all memory."""


def check_inputs(config: SegmenterConfig, step: int) -> None:
    """Refuse a config whose inputs its model cannot take.

    Args:
        config: with the two encoders' configs.
        step: what the side of an image has to be a multiple of.

    Raises:
        ConfigError: the encoders do not fit each other, or a number is out of range.
    """
    vision, text = config.vision, config.text
    if text.output_dim != vision.output_dim:
        raise ConfigError("text.output_dim and vision.output_dim must be equal: both are CLIP's joint space")
    if not step <= config.image_size <= LARGEST_SIDE or config.image_size % step:
        raise ConfigError(f"image_size must be a multiple of {step} up to {LARGEST_SIDE}, got {config.image_size}")
    if not 2 <= config.word_length <= text.context_length:
        raise ConfigError(f"word_length must lie in 2..{text.context_length}, got {config.word_length}")
    for name in ("threshold", "relative_threshold"):
        value = getattr(config, name)
        if value is not None and not 0 < value < 1:
            raise ConfigError(f"{name} must lie between 0 and 1, got {value}")


class SegmenterConfig(Protocol):
    """What the config of any segmenter says about its encoders, its inputs and its outputs."""

    @property
    def vision(self) -> ResNetConfig | ViTConfig:
        """Sizes of the image encoder."""
        ...

    @property
    def text(self) -> TextConfig:
        """Sizes of the text encoder."""
        ...

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the square that images are letterboxed into."""
        ...

    @property
    def word_length(self) -> int:
        """L, the tokens that an expression is padded or cut to, start and end token included."""
        ...

    @property
    def threshold(self) -> float:
        """The probability above which a pixel belongs to the mask; where none exceeds it, nothing is found."""
        ...

    @property
    def relative_threshold(self) -> float | None:
        """A fraction of the highest probability, which decides instead where something is found; None: it does not.

        A model in doubt gives all of a thing a lower probability, and a fixed threshold would cut off its border.
        """
        ...

    @property
    def calibration(self) -> Calibration | None:
        """What the model's confidence in its masks is worth, where that was measured."""
        ...


class Segmenter(nn.Module, ABC):
    """A referring segmentation model: pixels and tokens in, logits out, in every mode.

    The work splits into what depends on the image alone and what depends on the words, so that an image is encoded
    once for many expressions: `forward` is `segment(encode_image(pixels), tokens, padding)`.
    """

    family: ClassVar[str]
    """The name of the model family, as a model folder's config gives it."""
    objectives: ClassVar[tuple[str, ...]] = ("text-to-pixel", "mask")
    """What the family can be trained to do (see `refseg.training.losses`)."""
    unused: frozenset[str] = frozenset()
    """Parameters that no gradient reaches: they are there because checkpoints hold them."""
    borrowed: tuple[str, ...] = ()
    """Parts that are a pretrained CLIP's and stay as they are: they never learn."""
    clip: ClipSource | None = None
    """Which CLIP the encoders were loaded from, where that is known."""
    cell: int
    """Pixels to a side of what attends to each other: of a patch, or of a cell of a map."""
    config: Any

    def silent(self, objective: str) -> frozenset[str]:
        """Return the parameters that no gradient reaches when the model is trained to do this."""
        return self.unused

    @abstractmethod
    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> tuple[Tensor, ...]:
        """Compute all that depends on the images alone: tensors whose first axis is the image."""

    @abstractmethod
    def segment(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Segment B encoded images by B expressions; a first axis of one is shared by all expressions."""

    def forward(
        self, pixels: Float[Tensor, "B 3 S S"], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return logits at a quarter of the side; `padding` is True where a token is padding."""
        return self.segment(self.encode_image(pixels), tokens, padding)

    @abstractmethod
    def is_backbone(self, parameter: str) -> bool:
        """Whether a parameter belongs to the pretrained encoders, which train at a lower learning rate."""

    @abstractmethod
    def layers_above(self, parameter: str) -> int:
        """Return how many layers of its encoder lie between a parameter of the backbone and the encoder's output."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return the parts that most of the work is done in, none inside another.

        Training may compute them twice to save the memory of what is inside, or spread them over machines.
        """


class Grounder(Segmenter):
    """A segmenter that compares patches with the sentence, so that it has a patch-level map to show as well."""

    @abstractmethod
    def ground(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B g g"]:
        """Return the cosine of each patch of B encoded images (or of one for all) and its sentence, -1..1."""

    @abstractmethod
    def map_logits(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return the logits of a map of cosines: positive where a patch is taken to be meant."""
