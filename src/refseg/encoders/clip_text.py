"""CLIP's text transformer: from tokens to features of each token and of the whole expression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from refseg.encoders.layers import ResidualAttentionBlock
from refseg.errors import ConfigError

__all__ = ["Language", "TextConfig", "TextTransformer"]


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of a text transformer."""

    width: int
    heads: int
    layers: int
    output_dim: int
    """The dimension of CLIP's joint space."""
    context_length: int = 77
    """The number of positional embeddings, and the most tokens of an expression."""
    vocabulary_size: int = 49408

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.layers, self.output_dim, self.context_length, self.vocabulary_size) < 1:
            raise ConfigError("text: every size must be positive")
        if self.width % self.heads:
            raise ConfigError(f"text: {self.heads} heads do not divide a width of {self.width}")


class Language(NamedTuple):
    """The features of an expression."""

    words: Float[Tensor, "B L D"]
    """The features of each token, before the projection into the joint space."""
    sentence: Float[Tensor, "B E"]
    """The features of the whole expression: the end token's, in the joint space."""


class TextTransformer(nn.Module):
    """The text encoder, with OpenAI's key names.

    Attention is causal, so that padding after the end token does not affect the tokens before it and needs no mask.
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width = config.width
        self.token_embedding = nn.Embedding(config.vocabulary_size, width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, width))
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(
            ResidualAttentionBlock(width, config.heads) for _ in range(config.layers)
        )
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(torch.empty(width, config.output_dim))
        # Not used in segmentation; a part of every CLIP and every CRIS checkpoint.
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=width**-0.5)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's blocks, for models that run them one by one between `embed` and `ln_final`."""
        resblocks = self.transformer.resblocks
        assert isinstance(resblocks, nn.ModuleList)
        return resblocks

    @staticmethod
    def causal_mask(length: int, like: Float[Tensor, "..."]) -> Float[Tensor, "L L"]:
        """Return the causal mask that is added to attention logits, with the device and type of `like`."""
        return torch.full((length, length), float("-inf"), device=like.device, dtype=like.dtype).triu(1)

    @staticmethod
    def at(words: Float[Tensor, "B L D"], position: Int64[Tensor, "B"]) -> Float[Tensor, "B D"]:
        """Return the features of one token of each expression."""
        return words[torch.arange(words.shape[0], device=words.device), position]

    @staticmethod
    def sentence_of(words: Float[Tensor, "B L D"], tokens: Int64[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return the end token's features; it is the first token with the highest id."""
        return TextTransformer.at(words, tokens.argmax(dim=-1))

    def embed(self, tokens: Int64[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Return the input of the first block; L is at most `context_length`."""
        embedded: Tensor = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        return embedded

    def project(self, words: Float[Tensor, "*B D"]) -> Float[Tensor, "*B E"]:
        """Return the features of tokens (`Language.words`) in CLIP's joint space."""
        return words @ self.text_projection

    def forward(self, tokens: Int64[Tensor, "B L"]) -> Language:
        """Return the features of expressions; L is at most `context_length`."""
        x = self.embed(tokens)
        causal = self.causal_mask(tokens.shape[1], x)
        for block in self.blocks:
            x = block(x, causal)
        words = self.ln_final(x)
        # Only the end token of each expression is projected.
        return Language(words, self.project(self.sentence_of(words, tokens)))
