"""An expression becomes the tokens that CLIP's text encoder reads.

The vocabulary beside this file, `bpe_merges.txt.gz`, is OpenAI's (MIT), taken by `scripts/build_vocabulary.py` from the
package open_clip_torch.
"""

from __future__ import annotations

import gzip
import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from tokenizers import Regex, models, pre_tokenizers
from tokenizers import Tokenizer as BytePairEncoder

from refseg.errors import ConfigError, ExpressionError

__all__ = [
    "END_TOKEN",
    "START_TOKEN",
    "VOCABULARY_SIZE",
    "WORD_LENGTH",
    "WORD_LENGTH_REFCOCOG",
    "Tokenizer",
    "Tokens",
    "check_expression",
]

START_TOKEN = 49_406
END_TOKEN = 49_407
VOCABULARY_SIZE = 49_408
WORD_LENGTH = 17
"""Tokens that CRIS reads of an expression of RefCOCO or RefCOCO+, start and end included."""
WORD_LENGTH_REFCOCOG = 22
"""The same for RefCOCOg, whose expressions are longer."""
LONGEST = 77
"""CLIP has no position embeddings beyond."""

# CLIP's own pattern, without its alternatives for "<|startoftext|>" and "<|endoftext|>": what a user writes is text.
PIECES = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORD_END = "</w>"


@dataclass(frozen=True, eq=False)
class Tokens:
    """Expressions as the text encoder takes them."""

    tokens: Int64[ndarray, "B L"]
    """Start token, the words' tokens, end token, then zeros."""
    padding: Bool[ndarray, "B L"]
    """True where a token is padding. Only this tells: 0 is also the token of an exclamation mark inside a word."""
    truncated: tuple[bool, ...]
    """For each expression, whether its end was cut off to fit."""


class Tokenizer:
    """Turns expressions into tokens as CLIP does: cleaned, lower-cased, byte pairs of bytes.

    The one deviation: `<|startoftext|>` and `<|endoftext|>` in an expression are plain text, where CLIP's own tokenizer
    lets them become the start and the end token. The vocabulary is read at first use, once for a process.

    Args:
        word_length: tokens of every expression, start and end included; 2 to 77.

    Raises:
        ConfigError: word_length is out of range.
    """

    def __init__(self, word_length: int = WORD_LENGTH) -> None:
        if isinstance(word_length, bool) or not isinstance(word_length, int) or not 2 <= word_length <= LONGEST:
            raise ConfigError(f"word_length is {word_length!r}; it must be a whole number from 2 to {LONGEST}")
        self.word_length = word_length

    def __repr__(self) -> str:
        return f"Tokenizer(word_length={self.word_length})"

    def __call__(self, expressions: Sequence[str]) -> Tokens:
        """Tokens of B expressions, each padded, or cut so that it still ends with the end token, to L = `word_length`.

        Raises:
            ExpressionError: an expression is not text, or a bare string stands where a list of them belongs.
        """
        if isinstance(expressions, str):
            raise ExpressionError("expressions must be a list of texts, but one text was given; put it into a list")
        length = self.word_length
        rows = [self._encode(text, most=length) for text in expressions]
        tokens = np.zeros((len(rows), length), np.int64)
        padding = np.ones((len(rows), length), bool)
        for number, row in enumerate(rows):
            kept = row if len(row) <= length else [*row[: length - 1], END_TOKEN]
            tokens[number, : len(kept)] = kept
            padding[number, : len(kept)] = False
        return Tokens(tokens, padding, tuple(len(row) > length for row in rows))

    def encode(self, text: str) -> list[int]:
        """All tokens of a text, 0 to 49407, from the start token to the end token, neither padded nor cut.

        Raises:
            ExpressionError: the text is not a str.
        """
        return self._encode(text)

    @staticmethod
    def _encode(text: str, most: int | None = None) -> list[int]:
        """All tokens, or, of a text that has more than `most`, at least the first `most` + 1."""
        cleaned = _clean(text)
        if most is not None:
            # No piece reaches across a space and every word has a token or more. So the first words alone give the same
            # tokens in the same places, and of a text as long as a book only a line is encoded.
            cleaned = " ".join(cleaned.split(" ", most)[:most])
        return [START_TOKEN, *_byte_pairs().encode(cleaned, add_special_tokens=False).ids, END_TOKEN]


def check_expression(text: str) -> str:
    """Return the text verbatim if there is something in it to look for.

    Raises:
        ExpressionError: it is not a str, or it is blank.
    """
    if not _clean(text):
        raise ExpressionError("the expression is blank; say in words what to look for, such as 'the cup on the left'")
    return text


def _clean(text: str) -> str:
    """Mended, unescaped, lower-cased, with single spaces: what CLIP does to a text before it cuts it into pieces."""
    if not isinstance(text, str):
        raise ExpressionError(f"an expression must be text, but a {type(text).__name__} was given")
    # Of printable ASCII without entities ftfy mends nothing: ordinary expressions need not wait for its import.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@cache
def _byte_pairs() -> BytePairEncoder:
    """Read the vocabulary: every byte, every byte that ends a word, one entry a merge, start, end."""
    packed = resources.files("refseg.inputs").joinpath("bpe_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    # CLIP numbers the printable bytes first, then the rest in the order of their stand-ins.
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    entries = [*alphabet, *(letter + WORD_END for letter in alphabet), *(first + second for first, second in merges)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    encoder = BytePairEncoder(models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=WORD_END))
    encoder.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return encoder
