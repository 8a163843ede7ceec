"""The contract: what every segmenter takes, returns and declares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from refseg.clip.weights import ClipSource
from refseg.types import Calibration

__all__ = ["LARGEST_SIDE", "Grounder", "Segmenter", "SegmenterConfig"]

LARGEST_SIDE = 4096
"""Of `image_size`: a config from a stranger must not make a predictor take all memory."""


class SegmenterConfig(Protocol):
    """What the config of any segmenter says about its inputs and outputs."""

    @property
    def image_size(self) -> int:
        """S, the side in pixels of the square that pictures are letterboxed into."""
        ...

    @property
    def word_length(self) -> int:
        """L, the tokens that an expression is padded or cut to, start and end token included."""
        ...

    @property
    def threshold(self) -> float:
        """The probability above which a pixel belongs to the mask."""
        ...

    @property
    def calibration(self) -> Calibration | None:
        """What the model's belief in its masks is worth, where that was measured."""
        ...


class Segmenter(nn.Module, ABC):
    """A referring segmentation model: pixels and tokens in, logits out, in every mode.

    The work splits into what depends on the picture alone and what depends on the words, so that a picture is encoded
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
    """Which CLIP the towers were loaded from, where that is known."""
    config: Any

    @abstractmethod
    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> tuple[Tensor, ...]:
        """Compute all that depends on the pictures alone: tensors whose first axis is the picture."""

    @abstractmethod
    def segment(
        self, image: tuple[Tensor, ...], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Segment B encoded pictures by B expressions; a first axis of one is shared by all expressions."""

    def forward(
        self, pixels: Float[Tensor, "B 3 S S"], tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Return logits at a quarter of the side; `padding` is True where a token is padding."""
        return self.segment(self.encode_image(pixels), tokens, padding)

    @abstractmethod
    def is_backbone(self, parameter: str) -> bool:
        """Whether a parameter belongs to the pretrained towers, which train at a lower learning rate."""

    @abstractmethod
    def layers_above(self, parameter: str) -> int:
        """Return how many layers of its tower lie between a parameter of the backbone and the tower's output."""

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
        """Return the cosine of each patch of B encoded pictures (or of one for all) and its sentence, -1..1."""

    @abstractmethod
    def map_logits(self, cosines: Float[Tensor, "B g g"]) -> Float[Tensor, "B 1 g g"]:
        """Return the logits of a map of cosines: positive where a patch is taken to be meant."""
