"""The language encoder of MCN and VLT: word vectors, a bidirectional GRU, and attention over time for each channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.errors import ConfigError, WeightsError
from refseg.inputs.preprocessing import Inputs

__all__ = ["Language", "WordGRU", "WordGRUConfig", "check_vocabulary", "infer_word_gru"]


@dataclass(frozen=True, kw_only=True)
class WordGRUConfig:
    """Sizes of the language encoder."""

    vocabulary_size: int
    """The number of tokens: the words, and token 0, whose vector is zero."""
    vector_width: int = 300
    """Numbers of a word vector."""
    width: int = 1024
    """Channels of a word and of the sentence."""
    gates: Literal["sigmoid", "hard-sigmoid"] = "sigmoid"
    """The activation of the gates: Keras 2.3 has `sigmoid` (VLT), Keras 2.2 `hard-sigmoid` (MCN)."""
    dropout: float = 0.1
    """Probability that an input of the GRU, or an attention logit, is set to 0 in training."""

    def __post_init__(self) -> None:
        if min(self.vocabulary_size, self.vector_width, self.width) < 1:
            raise ConfigError("vocabulary_size, vector_width and width must be positive")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout must lie in 0..1, 1 excluded, got {self.dropout}")


def check_vocabulary(config: WordGRUConfig, inputs: Inputs) -> None:
    """Check that there is a vector for each word of the vocabulary.

    Raises:
        ConfigError: There is not.
    """
    if inputs.vocabulary and len(inputs.vocabulary) + 1 != config.vocabulary_size:
        raise ConfigError(
            f"text.vocabulary_size ({config.vocabulary_size}) must be one more than the words of the vocabulary "
            f"({len(inputs.vocabulary)})"
        )


class Language(NamedTuple):
    """The features of expressions, whose number of words is that of the model."""

    sequence: Float[Tensor, "B T D"]
    sentence: Float[Tensor, "B D"]


class _GRU(nn.Module):
    """A GRU in one direction, whose reset gate multiplies the state before the recurrent matrix (Cho et al., 2014).

    `torch.nn.GRU` applies it after the matrix. Gates are in the order update, reset, candidate.
    """

    def __init__(self, inputs: int, width: int, *, hard: bool) -> None:
        super().__init__()
        self.input = nn.Linear(inputs, 3 * width)
        self.recurrent = nn.Parameter(torch.empty(3 * width, width))
        nn.init.orthogonal_(self.recurrent)
        self.gate = _hard_sigmoid if hard else torch.sigmoid

    def forward(self, x: Float[Tensor, "B T I"]) -> Float[Tensor, "B T D"]:
        """Return the state after each input, starting from zero."""
        width = self.recurrent.shape[1]
        gates, candidates = _parts(self.input(x), -1, 2 * width)
        of_gates, of_candidate = _parts(self.recurrent, 0, 2 * width)
        state, states = torch.zeros_like(candidates[:, 0]), []
        for step in range(x.shape[1]):
            update, reset = self.gate(gates[:, step] + F.linear(state, of_gates)).chunk(2, dim=-1)
            candidate = torch.tanh(candidates[:, step] + F.linear(reset * state, of_candidate))
            state = update * state + (1 - update) * candidate
            states.append(state)
        return torch.stack(states, dim=1)


def _parts(x: Tensor, axis: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the first values along an axis, and the others."""
    return x.narrow(axis, 0, length), x.narrow(axis, length, x.shape[axis] - length)


def _hard_sigmoid(x: Tensor) -> Tensor:
    return (0.2 * x + 0.5).clamp(0, 1)


class WordGRU(nn.Module):
    """Word vectors, which are not trained, to the features of words and of the sentence.

    As in the authors' code padding is not masked: it is words whose vector is zero. Every expression therefore is
    padded, or cut, to the same number of words.

    Args:
        config: The sizes.
        length: T, the number of words.
    """

    vectors: Tensor

    def __init__(self, config: WordGRUConfig, length: int) -> None:
        super().__init__()
        self.length = length
        vectors = torch.randn(config.vocabulary_size, config.vector_width)
        vectors[0] = 0
        self.register_buffer("vectors", vectors)
        hard = config.gates == "hard-sigmoid"
        self.ahead = _GRU(config.vector_width, config.width, hard=hard)
        self.back = _GRU(config.vector_width, config.width, hard=hard)
        self.attention = nn.Linear(config.width, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def embed(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> Float[Tensor, "B T I"]:
        """Return the word vectors, zero where a token is padding."""
        vectors = F.embedding(tokens, self.vectors).masked_fill(padding[..., None], 0)
        zeros = vectors.new_zeros(tokens.shape[0], self.length, vectors.shape[-1])
        return torch.cat([vectors, zeros], dim=1)[:, : self.length]

    def forward(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> Language:
        """Return the features; `padding` is True where a token is padding."""
        vectors = self.embed(tokens, padding)
        # One mask for all words of an expression.
        vectors = vectors * self.dropout(torch.ones_like(vectors[:, :1]))
        sequence = self.ahead(vectors) + self.back(vectors.flip(1)).flip(1)
        weights = self.dropout(torch.tanh(self.attention(sequence))).softmax(dim=1)
        return Language(sequence, (weights * sequence).sum(dim=1))


def infer_word_gru(
    state: Mapping[str, Tensor], prefix: str, *, gates: Literal["sigmoid", "hard-sigmoid"]
) -> WordGRUConfig:
    """Infer the sizes of the language encoder from the shapes of its weights.

    Args:
        state: The weights of a model.
        prefix: Of the weights of the language encoder in it.
        gates: Weights do not tell it.

    Raises:
        WeightsError: A weight that determines a size is missing.
        ConfigError: A size is impossible.
    """
    try:
        words, numbers = state[f"{prefix}vectors"].shape
        width = len(state[f"{prefix}attention.weight"])
    except KeyError as error:
        raise WeightsError(f"these weights have no language encoder: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError):
        raise WeightsError("these weights have no language encoder: a weight has an impossible shape") from None
    return WordGRUConfig(vocabulary_size=words, vector_width=numbers, width=width, gates=gates)
