"""Expressions to the numbers of their words, for models that read whole words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from refseg.errors import ConfigError, one_line
from refseg.inputs.clip_bpe import Tokens, expression_list, token_places

__all__ = ["LONGEST", "UNKNOWN", "WordTokenizer", "read_vocabulary", "split_words"]

LONGEST = 77
"""The largest number of words: an untrusted config must not make a model read thousands."""
UNKNOWN = "<unk>"
"""The entry of a vocabulary that stands for all words that are not in it."""
JOINTS = re.compile(r"[-/]")
MARKS = re.compile(r"[^\w\s]")


class WordTokenizer:
    """Converts expressions to the numbers of their words in a vocabulary.

    Args:
        vocabulary: the words. The first is number 1; number 0 is padding, and a word that is not in the vocabulary, if
            that has no entry `UNKNOWN`.
        length: L, the words that an expression is padded or cut to; 1 to `LONGEST`.

    Raises:
        ConfigError: the length is out of range.
    """

    def __init__(self, vocabulary: Sequence[str], length: int) -> None:
        if not 1 <= length <= LONGEST:
            raise ConfigError(f"word_length must lie in 1..{LONGEST} words, got {length}")
        self.numbers = {word: number for number, word in enumerate(vocabulary, start=1)}
        self.unknown, self.length = self.numbers.get(UNKNOWN, 0), length

    def __call__(self, expressions: Iterable[str]) -> Tokens:
        """Return the words of B expressions, (B, L).

        Raises:
            ExpressionError: one text was given instead of a list.
        """
        # A text without words is one that is not known: an expression has at least one word.
        rows = [split_words(text) or [""] for text in expression_list(expressions)]
        tokens = np.zeros((len(rows), self.length), np.int64)
        padding = np.ones((len(rows), self.length), bool)
        for number, row in enumerate(rows):
            kept = row[: self.length]
            tokens[number, : len(kept)] = [self.numbers.get(word, self.unknown) for word in kept]
            padding[number, : len(kept)] = False
        return Tokens(tokens, padding, tuple(len(row) > self.length for row in rows))

    def words(self, text: str) -> list[tuple[str, range]]:
        """Return the words of an expression as written, each with the places of its tokens in a row of `tokens`.

        Words are separated by spaces; one with a hyphen has several tokens, a punctuation mark none. Those without
        tokens, or whose tokens are all cut off, are left out.
        """
        return token_places([(word, len(split_words(word))) for word in text.split()], range(self.length))


def read_vocabulary(path: Path, size: int) -> tuple[str, ...]:
    """Return the words of a text file, one a line, whose numbers start at 1.

    Args:
        path: the file; its first line is token 0, padding, if it has as many lines as the model has tokens.
        size: the number of tokens of the model, with token 0.

    Raises:
        ConfigError: it cannot be read, or has another number of lines.
    """
    try:
        words = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a list of words: {one_line(error)}") from None
    if len(words) not in (size - 1, size):
        raise ConfigError(
            f"{path}: has {len(words)} lines, and the model has {size} tokens: give one word a line, with or without "
            "padding in the first"
        )
    return tuple(words[-(size - 1) :])


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation marks; hyphens and slashes separate words.

    The texts of RefCOCO's `sent`, which MCN and VLT split at spaces, have no such marks.
    """
    return MARKS.sub("", JOINTS.sub(" ", text.lower())).split()
