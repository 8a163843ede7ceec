"""What a model takes in, as data: how an image becomes pixels and an expression becomes tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refseg.errors import ConfigError
from refseg.inputs.clip_bpe import Tokenizer, Tokens, check_expression, expression_list
from refseg.inputs.frame import Fit, Frame, letterbox, pad, squash
from refseg.inputs.read import ImageSource, read_image
from refseg.inputs.words import WordTokenizer
from refseg.masks import MAX_PIXELS

__all__ = ["LARGEST_SIDE", "Inputs"]

LARGEST_SIDE = 4096
"""Of `image_size`: an untrusted config must not make a predictor take all memory."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The preprocessing of a model; it is stored in the model folder's `config.json`."""

    image_size: int
    """S, the side in pixels of the square that images are placed in."""
    word_length: int
    """L, the tokens that an expression is padded or cut to; of CLIP's, start and end token included."""
    fit: Fit = "letterbox"
    """How an image is placed in the square."""
    channels: Literal["rgb", "bgr"] = "rgb"
    """The order of the three channels."""
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    """Subtracted from RGB values in 0..1; the default is that of CLIP's training images."""
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    """What they are divided by; with 1/255 and a mean of 0 pixels have values of 0..255."""
    tokenizer: Literal["clip", "words"] = "clip"
    """CLIP's byte pair encoding, or whole words."""
    vocabulary: tuple[str, ...] = ()
    """The words, of the tokenizer `words`; the first is token 1 (see `WordTokenizer`). Empty: they are not known, and
    the model can be given tokens alone."""

    def __post_init__(self) -> None:
        if not 1 <= self.image_size <= LARGEST_SIDE:
            raise ConfigError(f"image_size must lie in 1..{LARGEST_SIDE}, got {self.image_size}")
        if not all(0 <= value <= 1 for value in self.mean) or not all(0 < value <= 10 for value in self.std):
            raise ConfigError(f"mean must lie in 0..1 and std in 0..10, 0 excluded, got {self.mean} and {self.std}")
        if self.tokenizer == "clip" and self.vocabulary:
            raise ConfigError("the tokenizer clip has its own vocabulary; leave vocabulary empty")
        if self.tokenizer == "clip":
            Tokenizer(self.word_length)  # raises for an impossible length
        else:
            WordTokenizer((), self.word_length)

    def pixels(self, image: ImageSource, *, max_pixels: int = MAX_PIXELS) -> tuple[Float[ndarray, "3 S S"], Frame]:
        """Read an image, place it in the square and normalise it.

        Args:
            image: see `read_image`.
            max_pixels: the largest width times height that is accepted.

        Returns:
            The pixels, float32, and the frame that restores scores of the square to the image's own size.

        Raises:
            ImageError: the image is missing, broken or too large.
        """
        opened, size = read_image(image, max_pixels=max_pixels), self.image_size
        if self.fit == "letterbox":
            pixels, frame = letterbox(opened, size, mean=self.mean, std=self.std)
        else:
            frame = Frame(opened.height, opened.width, size, self.fit)
            pixels = squash(opened, size) if self.fit == "squash" else pad(opened, size, self.fit)
            pixels -= np.array(self.mean, np.float32)[:, None, None]
            pixels /= np.array(self.std, np.float32)[:, None, None]
        return (pixels if self.channels == "rgb" else np.ascontiguousarray(pixels[::-1])), frame

    def tokens(self, expressions: Iterable[str]) -> Tokens:
        """Return the tokens of expressions.

        Raises:
            ExpressionError: an expression is blank or not text, or one text was given instead of a list.
            ConfigError: the model reads whole words, and its vocabulary is not known.
        """
        texts = [check_expression(expression) for expression in expression_list(expressions)]
        return self._tokenizer(texts)

    def words(self, expression: str) -> list[tuple[str, range]]:
        """Return the words of an expression as written, each with the places of its tokens in a row of `tokens`.

        Words whose tokens are all cut off are left out.

        Raises:
            ExpressionError: the expression is blank or not text.
            ConfigError: the model reads whole words, and its vocabulary is not known.
        """
        return self._tokenizer.words(check_expression(expression))

    @cached_property
    def _tokenizer(self) -> Tokenizer | WordTokenizer:
        if self.tokenizer == "clip":
            return Tokenizer(self.word_length)
        if not self.vocabulary:
            raise ConfigError(
                "this model reads whole words, and its vocabulary is not known: give it to `refseg convert` with "
                "--vocabulary FILE"
            )
        return WordTokenizer(self.vocabulary, self.word_length)
