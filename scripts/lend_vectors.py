"""Give the words that a model has never read the embeddings of words of similar meaning that it has read.

    python scripts/lend_vectors.py runs/photos-4/last glove.6B.100d.txt runs/photos-words --data PHOTOS:train

A text encoder that is trained on generated expressions has random embeddings for all other words, so that they answer
anything. Word vectors (GloVe: Pennington et al., EMNLP 2014; its files are in the public domain) say which words are
used alike. The embedding of an unread word becomes the mean of those of its `NEAREST` read words, weighted by the
exponential of their cosine. Only words that are a single token are lent one.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor
from tqdm import tqdm

from refseg.data.catalogue import open_data
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.vectors import read_vectors
from refseg.models.folder import load_model, read_folder, save_model

MOST_WORDS = 60_000
"""Of the vectors: the most frequent ones."""
READ = 20
"""Times that a word has to be in the expressions to count as read."""
NEAREST, SHARPNESS = 5, 12.0
"""Read words that an embedding is the mean of, and the factor of their cosines."""


def count_words(data: list[str]) -> Counter[str]:
    """Return how often each word is in the expressions of data sets."""
    words: Counter[str] = Counter()
    for name in data:
        found = open_data(name)
        for index in tqdm(range(found.num_images), name, leave=False):
            for sample in found.samples_of(index):
                for expression in sample.expressions:
                    words.update(expression.text.lower().split())
    return words


def single_tokens(words: tuple[str, ...]) -> dict[str, int]:
    """Return the token of each word that is one token."""
    tokenizer = Tokenizer()
    tokens = {word: tokenizer.encode(word)[1:-1] for word in words if word.isascii() and word.isalpha()}
    return {word: found[0] for word, found in tokens.items() if len(found) == 1}


def lent(
    embedding: Float[Tensor, "V D"],
    vectors: Mapping[str, ndarray],
    tokens: Mapping[str, int],
    read: list[str],
    unread: list[str],
) -> Float[Tensor, "V D"]:
    """Return a table of embeddings in which the unread words have those of similar read words."""
    known = torch.from_numpy(np.stack([vectors[word] for word in read]))
    asked = torch.from_numpy(np.stack([vectors[word] for word in unread]))
    known, asked = (one / one.norm(dim=1, keepdim=True) for one in (known, asked))
    nearest = (asked @ known.T).topk(NEAREST, dim=1)
    weights = (nearest.values * SHARPNESS).softmax(dim=1)
    of_read = embedding[[tokens[word] for word in read]]
    changed = embedding.clone()
    changed[[tokens[word] for word in unread]] = (weights[..., None] * of_read[nearest.indices]).sum(dim=1)
    return changed


def lend(source: Path, file: Path, out: Path, data: list[str]) -> None:
    """Write a model folder in which unread words have the embeddings of similar read words.

    Args:
        source: the folder of the trained model.
        file: a text file of word vectors.
        out: the folder to write.
        data: the data sets that it was trained on.
    """
    model, stored = load_model(source), read_folder(source)
    found = read_vectors(file, MOST_WORDS)
    vectors = dict(zip(found.words, found.vectors, strict=True))
    tokens, counts = single_tokens(found.words), count_words(data)
    read = [word for word in tokens if counts[word] >= READ]
    unread = [word for word in tokens if not counts[word]]
    table = model.text.token_embedding.weight
    with torch.no_grad():
        table.copy_(lent(table, vectors, tokens, read, unread))
    about = {**stored.about, "lent_words": {"read": len(read), "unread": len(unread)}}
    save_model(model, out, name=stored.about.get("name"), domain=stored.domain, extra=about)


def main() -> None:
    """Write the model folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a model folder")
    parser.add_argument("vectors", type=Path, help="a text file of word vectors")
    parser.add_argument("out", type=Path, help="the model folder to write")
    parser.add_argument("--data", nargs="+", required=True, metavar="DATASET:SPLIT", help="what it was trained on")
    arguments = parser.parse_args()
    lend(arguments.model, arguments.vectors, arguments.out, arguments.data)


if __name__ == "__main__":
    main()
