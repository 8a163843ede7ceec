"""Expressions to the numbers of their words, for models that read whole words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np

from refseg.errors import ConfigError
from refseg.inputs.clip_bpe import Tokens, expression_list

__all__ = ["LONGEST", "UNKNOWN", "WordTokenizer", "split_words"]

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
        rows = [split_words(text) for text in expression_list(expressions)]
        tokens = np.zeros((len(rows), self.length), np.int64)
        padding = np.ones((len(rows), self.length), bool)
        for number, row in enumerate(rows):
            kept = row[: self.length]
            tokens[number, : len(kept)] = [self.numbers.get(word, self.unknown) for word in kept]
            padding[number, : len(kept)] = False
        return Tokens(tokens, padding, tuple(len(row) > self.length for row in rows))


def split_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation marks; hyphens and slashes separate words.

    The texts of RefCOCO's `sent`, which MCN and VLT split at spaces, have no such marks.
    """
    return MARKS.sub("", JOINTS.sub(" ", text.lower())).split()
