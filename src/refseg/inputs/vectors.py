"""Reads word vectors that a user has: text files of GloVe and word2vec, and the vectors of a spaCy model."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refseg.errors import ConfigError, InputError, one_line

__all__ = ["MOST_WORDS", "WordVectors", "read_vectors", "spacy_hash"]

MOST_WORDS = 200_000
"""Words that are read by default; the files of GloVe begin with the most frequent."""
MASK = 2**64 - 1
FACTOR = 0xC6A4A7935BD1E995
"""Of MurmurHash64A (Austin Appleby, public domain), by which spaCy numbers its words, with the seed 1."""


class WordVectors(NamedTuple):
    """Words and their vectors."""

    words: tuple[str, ...]
    vectors: Float[ndarray, "V D"]


def read_vectors(path: Path, most: int = MOST_WORDS) -> WordVectors:
    """Read word vectors; of words that differ in case alone, the one in lower case.

    Args:
        path: A text file with a word and its numbers in each line, such as `glove.840B.300d.txt`, or the folder of a
            spaCy model with vectors, such as `en_vectors_web_lg`.
        most: The first words that are read.

    Raises:
        InputError: There is none, or it is broken.
        ConfigError: A spaCy model needs the extra `refseg[keras]`.
    """
    if not path.exists():
        raise InputError(
            f"{path}: no such file; download vectors, such as https://nlp.stanford.edu/data/glove.840B.300d.zip, "
            "unpack them and give the file"
        )
    try:
        pairs = _of_spacy(path) if path.is_dir() else _of_text(path)
        found = dict(islice(((word, vector) for word, vector in pairs if word == word.lower()), most))
        vectors = np.stack(list(found.values())).astype(np.float32)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as word vectors: {one_line(error)}") from None
    if vectors.ndim != 2 or not vectors.size or not np.isfinite(vectors).all():
        raise InputError(f"{path}: cannot be read as word vectors: a number is missing or not finite")
    return WordVectors(tuple(found), vectors)


def _of_text(path: Path) -> Iterator[tuple[str, ndarray]]:
    with path.open(encoding="utf-8", errors="strict") as file:
        first = file.readline().rstrip().split(" ")
        width = int(first[1]) if len(first) == 2 else len(first) - 1  # word2vec starts with the two sizes
        if len(first) != 2:
            yield first[0], np.array(first[1:], np.float32)
        for line in file:
            parts = line.rstrip().rsplit(" ", width)  # a few words of GloVe contain spaces
            yield parts[0], np.array(parts[1:], np.float32)


def _of_spacy(folder: Path) -> Iterator[tuple[str, ndarray]]:
    vocabulary = next((path.parent for path in sorted(folder.rglob("key2row"))), None)
    if vocabulary is None:
        raise ValueError("no file key2row in this folder, which a spaCy model with vectors has")
    try:
        msgpack = importlib.import_module("msgpack")
    except ImportError:
        raise ConfigError("vectors of spaCy need the library msgpack: pip install 'refseg[keras]'") from None
    table = np.load(vocabulary / "vectors", mmap_mode="r", allow_pickle=False)
    rows = msgpack.unpackb((vocabulary / "key2row").read_bytes(), strict_map_key=False)
    strings = next(path for path in (vocabulary / "strings.json", vocabulary.parent / "strings.json") if path.is_file())
    for word in json.loads(strings.read_text(encoding="utf-8")):
        row = rows.get(spacy_hash(word))
        if row is not None and 0 <= row < len(table):
            yield word, np.array(table[row])


def spacy_hash(word: str) -> int:
    """Return spaCy's number of a word: MurmurHash64A of its UTF-8 bytes."""
    data = word.encode()
    value = 1 ^ (len(data) * FACTOR & MASK)
    whole = len(data) // 8 * 8
    for start in range(0, whole, 8):
        part = int.from_bytes(data[start : start + 8], "little") * FACTOR & MASK
        value = (value ^ ((part ^ part >> 47) * FACTOR & MASK)) * FACTOR & MASK
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * FACTOR & MASK
    value = (value ^ value >> 47) * FACTOR & MASK
    return value ^ value >> 47
