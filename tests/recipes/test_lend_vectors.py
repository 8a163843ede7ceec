"""Unread words get the embeddings of similar read words."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import torch

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "lend_vectors.py"))


def test_an_unread_word_gets_the_embeddings_of_similar_words_that_were_read():
    rng = np.random.default_rng(0)
    read = ["dog", "cat", "car", "cup", "hat", "left"]
    vectors = {word: rng.standard_normal(50).astype(np.float32) for word in read}
    vectors["puppy"] = 3 * vectors["dog"] + 0.1 * vectors["cat"]
    vectors["truck"] = vectors["car"]
    tokens = {word: number for number, word in enumerate(vectors)}
    table = torch.randn(10, 8)
    changed = SCRIPT["lent"](table, vectors, tokens, read, ["puppy", "truck"])
    for word, other in (("puppy", "dog"), ("truck", "car")):
        distances = (table[: len(read)] - changed[tokens[word]]).norm(dim=1)
        assert read[int(distances.argmin())] == other
        assert distances.min() < 0.1 * distances.max()
    kept = [number for number in range(10) if number not in (tokens["puppy"], tokens["truck"])]
    assert torch.equal(changed[kept], table[kept])


def test_words_of_several_tokens_are_left_out():
    assert SCRIPT["single_tokens"](("dog", "dogxyzzy", "dogs2", "don't", "żółw")) == {"dog": 1929}
