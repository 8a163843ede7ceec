"""The language encoder of EFN: features of the words and of the sentence (EFN, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.models.efn.layers import linear_norm_relu, unit

__all__ = ["Language", "LanguageEncoder"]


class Language(NamedTuple):
    """The features of B expressions."""

    words: Float[Tensor, "B L D"]
    sentence: Float[Tensor, "B D"]
    """Of length one."""


class LanguageEncoder(nn.Module):
    """Word embeddings, and a GRU in both directions that is read at the last word.

    At the last word the GRU from right to left has read that word alone, from a state of zeros: one cell is enough, and
    its recurrent weights are never used.
    """

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.project = nn.Linear(width, width)
        self.forwards = nn.GRU(width, width, batch_first=True)
        self.backwards = nn.GRUCell(width, width)
        self.words = linear_norm_relu(width, width)
        self.sentence = linear_norm_relu(2 * width, width)

    def embed(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Return the embeddings of tokens; those of padding are zero."""
        return F.relu(self.project(self.embedding(tokens))).masked_fill(padding[..., None], 0)

    def read(self, embedded: Float[Tensor, "B L D"], padding: Bool[Tensor, "B L"]) -> Float[Tensor, "B 2*D"]:
        """Return the states of both directions at the last word; padding is behind it."""
        states, _ = self.forwards(embedded)
        row = torch.arange(embedded.shape[0], device=embedded.device)
        last = ((~padding).sum(dim=1) - 1).clamp(min=0)
        return torch.cat([states[row, last], self.backwards(embedded[row, last])], dim=1)

    def forward(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> Language:
        """Encode expressions. Their padding counts in the batch normalisation of words, as in the authors' code."""
        embedded = self.embed(tokens, padding)
        words = self.words(embedded.flatten(0, 1)).unflatten(0, embedded.shape[:2])
        return Language(words, unit(self.sentence(self.read(embedded, padding))))
