"""What every segmenter of this package shares: one image or several in, and expressions that are checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias, overload

from refseg.errors import ConfigError, InputError
from refseg.inputs.clip_bpe import check_expression, expression_list
from refseg.inputs.read import BinaryFile, ImageSource
from refseg.masks import MAX_PIXELS
from refseg.values import Decision, Encoding, PatchMap, Prediction, WordMap, WordSource

__all__ = ["BaseSegmenter"]

Images: TypeAlias = list[ImageSource] | tuple[ImageSource, ...] | Iterator[ImageSource]
"""The types that are accepted as several images."""


class BaseSegmenter(ABC):
    """A model ready to answer (see `values.Segmenter`); its methods may be called from several threads at once.

    Args:
        decision: how its scores become masks.
        domain: the kind of images that it was trained on, such as `photos`; None: not known.
        family: of the model, such as `cris`; None: not known.
    """

    def __init__(self, decision: Decision, domain: str | None = None, family: str | None = None) -> None:
        self.decision, self.domain, self.family = decision, domain, family

    @property
    @abstractmethod
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""

    @property
    def runtime_name(self) -> str:
        """The runtime that computes it, as in `refseg.load`: PyTorch, if nothing else is said."""
        return "torch"

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Identifies weights and preprocessing: encodings of the same fingerprint are interchangeable."""

    @overload
    def encode(self, images: Images, /, *, max_pixels: int = MAX_PIXELS) -> list[Encoding]: ...
    @overload
    def encode(self, images: ImageSource, /, *, max_pixels: int = MAX_PIXELS) -> Encoding: ...
    def encode(self, images: ImageSource | Images, /, *, max_pixels: int = MAX_PIXELS) -> Encoding | list[Encoding]:
        """Encode an image, or several at once.

        Args:
            images: a path, an open file, its bytes, a PIL image or an array (see `inputs.read.read_image`); or a list,
                a tuple or a generator of them.
            max_pixels: the largest width times height that is accepted, against files that fill the memory.

        Returns:
            One encoding for one image; a list of them, in the same order, for several.

        Raises:
            ImageError: an image is missing, broken or too large, or is none.
        """
        if isinstance(images, list | tuple) or (isinstance(images, Iterator) and not isinstance(images, BinaryFile)):
            return self._encode(list(images), max_pixels)
        return self._encode([images], max_pixels)[0]

    def segment(
        self, image: Encoding, expressions: Iterable[str], /, *, threshold: float | None = None
    ) -> list[Prediction]:
        """Segment the image region that each expression refers to.

        Args:
            image: from `encode`, of this segmenter or of one with the same fingerprint.
            expressions: a list of texts, one for each target, at any number; a generator is fine too.
            threshold: the probability above which a pixel is in the mask, between 0 and 1. It replaces the model's own
                decision, with its calibration, which was measured with other thresholds. By default the model's own.

        Returns:
            The predictions, in the order of the expressions.

        Raises:
            ExpressionError: an expression is blank or not text, or one text was given instead of a list.
            InputError: the image is not encoded, or by another model.
            ConfigError: the threshold is out of range.
            WeightsError: the model computes probabilities that are not finite.
        """
        self._check(image)
        decision = self.decision if threshold is None else self.decision.at(threshold)
        return self._answer(image, [check_expression(text) for text in expression_list(expressions)], decision)

    def ground(self, image: Encoding, expression: str, /) -> PatchMap:
        """Return the patch-level map of an expression, from a model that has one: RISCLIP, or plain CLIP.

        Raises:
            ExpressionError: the expression is blank or not text.
            InputError: the image is not encoded, or by another model.
            ConfigError: the model has no such map.
        """
        raise ConfigError("this model has no patch-level map; those of the families risclip and clip-map do")

    @property
    def word_source(self) -> WordSource | None:
        """What `word_maps` returns: attention, or patch-level maps; None: the model has neither."""
        return None

    def word_maps(self, image: Encoding, expression: str, /) -> list[WordMap]:
        """Return where each word of an expression looks, from a model that can tell.

        Of CRIS it is the attention of the decoder's last layer to the tokens of the word, added up (`CRIS.attend` says
        what that is, and is not); the sum over all words is at most 1 in each cell, since the start and the end of the
        expression have the rest. Of RISCLIP and plain CLIP it is the probability by the patch-level map of the word
        alone, as if it were the expression.

        Returns:
            The words in their order, as written and separated by spaces; those beyond what the model reads are left
            out.

        Raises:
            ExpressionError: the expression is blank or not text.
            InputError: the image is not encoded, or by another model.
            ConfigError: the model has no such maps.
        """
        raise ConfigError(
            "this model cannot tell where each word looks; those of the families cris, risclip and clip-map can, and "
            "older graphs of them once you export it again"
        )

    @abstractmethod
    def _encode(self, images: Sequence[ImageSource], max_pixels: int) -> list[Encoding]:
        """Encode several images."""

    @abstractmethod
    def _answer(self, image: Encoding, expressions: Sequence[str], decision: Decision) -> list[Prediction]:
        """Answer checked expressions about an image that this segmenter can read."""

    def _check(self, image: Encoding) -> None:
        if not isinstance(image, Encoding):
            raise InputError(
                f"an image is segmented once it is encoded: give encode(image), not {type(image).__name__}"
            )
        if image.fingerprint != self.fingerprint:
            raise InputError("this image was encoded by another model; encode it with the one that segments it")
