"""CLIP's tokenizer: converts expressions to the tokens of CLIP's text encoder.

The vocabulary, `bpe_merges.txt.gz`, is OpenAI's (MIT); `scripts/build_vocabulary.py` extracts it from the package
open_clip_torch.
"""

from __future__ import annotations

import gzip
import html
from collections.abc import Iterable, Mapping, Set
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
    "expression_list",
    "token_places",
]

START_TOKEN = 49_406
END_TOKEN = 49_407
VOCABULARY_SIZE = 49_408
WORD_LENGTH = 17
"""The tokens per expression of CRIS on RefCOCO and RefCOCO+, start and end token included."""
WORD_LENGTH_REFCOCOG = 22
"""The same on RefCOCOg, whose expressions are longer."""
LONGEST = 77
"""The number of position embeddings of CLIP, and therefore the largest number of tokens."""

# CLIP's own pattern without "<|startoftext|>" and "<|endoftext|>", which are ordinary text in a user's expression.
PIECES = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORD_END = "</w>"


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of B expressions, each of length L."""

    tokens: Int64[ndarray, "B L"]
    """Start token, the tokens of the expression, end token, then zeros."""
    padding: Bool[ndarray, "B L"]
    """True where a token is padding. Token 0 alone does not mean padding: it is also an exclamation mark in a word."""
    truncated: tuple[bool, ...]
    """Whether the end of each expression was cut off to fit."""


class Tokenizer:
    """Converts expressions to tokens as CLIP does: clean the text, lower-case it, apply byte pair encoding to UTF-8.

    One deviation from CLIP's tokenizer: `<|startoftext|>` and `<|endoftext|>` in an expression are ordinary text and do
    not become the start and the end token. The vocabulary is read at first use, once per process.

    Args:
        word_length: L, the tokens per expression, start and end token included; 2 to 77.

    Raises:
        ConfigError: word_length is out of range.
    """

    def __init__(self, word_length: int = WORD_LENGTH) -> None:
        if isinstance(word_length, bool) or not isinstance(word_length, int) or not 2 <= word_length <= LONGEST:
            raise ConfigError(f"word_length is {word_length!r}; it must be a whole number from 2 to {LONGEST}")
        self.word_length = word_length

    def __repr__(self) -> str:
        return f"Tokenizer(word_length={self.word_length})"

    def __call__(self, expressions: Iterable[str]) -> Tokens:
        """Return the tokens of B expressions, padded or cut to L = `word_length`; the last kept token is the end token.

        Raises:
            ExpressionError: an expression is not text, or one string was given instead of a list.
        """
        length = self.word_length
        rows = [self._encode(text, most=length) for text in expression_list(expressions)]
        tokens = np.zeros((len(rows), length), np.int64)
        padding = np.ones((len(rows), length), bool)
        for number, row in enumerate(rows):
            kept = row if len(row) <= length else [*row[: length - 1], END_TOKEN]
            tokens[number, : len(kept)] = kept
            padding[number, : len(kept)] = False
        return Tokens(tokens, padding, tuple(len(row) > length for row in rows))

    def encode(self, text: str) -> list[int]:
        """Return all tokens of a text, 0 to 49407, from the start token to the end token, neither padded nor cut.

        Raises:
            ExpressionError: the text is not a str.
        """
        return self._encode(text)

    def words(self, text: str) -> list[tuple[str, range]]:
        """Return the words of an expression as written, each with the places of its tokens in a row of `tokens`.

        Words are separated by spaces. Those whose tokens are all cut off are left out.

        Raises:
            ExpressionError: the text is not a str.
        """
        counted = [(word, len(self._encode(word)) - 2) for word in _repaired(text).split()[: self.word_length]]
        return token_places(counted, range(1, self.word_length - 1))

    @staticmethod
    def _encode(text: str, most: int | None = None) -> list[int]:
        """Return all tokens of a text; if it has more than `most`, at least the first `most` + 1."""
        cleaned = _clean(text)
        if most is not None:
            # Every word has at least one token, and no token spans a space: the first `most` words give the same first
            # tokens, and the rest of a very long text need not be encoded.
            cleaned = " ".join(cleaned.split(" ", most)[:most])
        return [START_TOKEN, *_byte_pairs().encode(cleaned, add_special_tokens=False).ids, END_TOKEN]


def expression_list(expressions: Iterable[str]) -> list[str]:
    """Return several expressions as a list; the expressions themselves are not checked.

    Raises:
        ExpressionError: one text was given, whose letters would be taken for expressions, or what has no order.
    """
    if isinstance(expressions, str | bytes):
        raise ExpressionError(f"expressions come as a list, also a single one: [{expressions!r:.80}]")
    if isinstance(expressions, Set | Mapping) or not isinstance(expressions, Iterable):
        raise ExpressionError(f"expressions come as a list of texts, not as {type(expressions).__name__}")
    return list(expressions)


def token_places(words: Iterable[tuple[str, int]], places: range) -> list[tuple[str, range]]:
    """Return words with the places of their tokens, without words that have none.

    Args:
        words: pairs of a word and the number of its tokens, in order.
        places: of all tokens that are kept.
    """
    found = []
    for word, count in words:
        own, places = places[:count], places[count:]
        if own:
            found.append((word, own))
    return found


def check_expression(text: str) -> str:
    """Return the text verbatim if it can be used as an expression.

    Raises:
        ExpressionError: the text is not a str, or it is blank.
    """
    if not _clean(text):
        raise ExpressionError("the expression is blank; say in words what to look for, such as 'the cup on the left'")
    return text


def _clean(text: str) -> str:
    """Return a text as CLIP cleans it: repaired, lower-cased, with single spaces."""
    return " ".join(_repaired(text).split()).lower()


def _repaired(text: str) -> str:
    """Return a text with its encoding repaired by ftfy, and HTML unescaped."""
    if not isinstance(text, str):
        raise ExpressionError(f"an expression must be text, but a {type(text).__name__} was given")
    # ftfy does not change printable ASCII without HTML entities, so most expressions do not need its slow import.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return text


@cache
def _byte_pairs() -> BytePairEncoder:
    """Return the byte pair encoder. Its vocabulary: all bytes, all bytes at the end of a word, one entry per merge."""
    packed = resources.files("refseg.inputs").joinpath("bpe_merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    # CLIP numbers the printable bytes first, then the others in the order of the characters that represent them.
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
