"""The transformer of VLT (section 3.2), with the layers of the library keras-transformer that the authors' code uses.

Its attention has a ReLU after each of the four projections, blocks normalise after the residual sum, and the decoder's
self-attention is causal: a query attends to itself and to those before it.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.models.cris.decoder import sine_1d

__all__ = ["DecoderBlock", "EncoderBlock", "ReluAttention", "Transformer", "positioned"]

EPSILON = 1e-14
"""Of layer normalisation."""


def positioned(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """Return tokens with the code of their positions added."""
    return x + sine_1d(x.shape[2], x.shape[1]).to(x)


class ReluAttention(nn.Module):
    """Multi-head attention with a ReLU after each projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(
        self,
        query: Float[Tensor, "B T D"],
        key: Float[Tensor, "B U D"],
        value: Float[Tensor, "B U D"],
        *,
        causal: bool = False,
    ) -> Float[Tensor, "B T D"]:
        """Return what T queries take from U values."""
        q, k, v = (
            F.relu(layer(x)).reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for layer, x in ((self.query, query), (self.key, key), (self.value, value))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return F.relu(self.output(mixed.transpose(1, 2).flatten(2)))


class _Residual(nn.Module):
    """Adds what a layer computed to its input, with dropout, and normalises the sum."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=EPSILON)

    def forward(self, x: Float[Tensor, "B T D"], computed: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the normalised sum."""
        normalised: Tensor = self.norm(x + self.dropout(computed))
        return normalised


class _FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, and their residual."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.residual = _Residual(width, dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the tokens."""
        return self.residual(x, self.narrow(F.relu(self.widen(x))))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward part."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention, self.attention_residual = ReluAttention(width, heads), _Residual(width, dropout)
        self.feed_forward = _FeedForward(width, hidden, dropout)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the tokens."""
        return self.feed_forward(self.attention_residual(x, self.attention(x, x, x)))  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """Causal self-attention, attention to the encoder's tokens, and a feed-forward part."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention, self.self_residual = ReluAttention(width, heads), _Residual(width, dropout)
        self.cross_attention, self.cross_residual = ReluAttention(width, heads), _Residual(width, dropout)
        self.feed_forward = _FeedForward(width, hidden, dropout)

    def forward(self, x: Float[Tensor, "B T D"], encoded: Float[Tensor, "B U D"]) -> Float[Tensor, "B T D"]:
        """Return the tokens."""
        x = self.self_residual(x, self.self_attention(x, x, x, causal=True))
        x = self.cross_residual(x, self.cross_attention(x, encoded, encoded))
        return self.feed_forward(x)  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Encoder and decoder, each with its positions."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(EncoderBlock(width, heads, hidden, dropout) for _ in range(layers))
        self.decoder = nn.ModuleList(DecoderBlock(width, heads, hidden, dropout) for _ in range(layers))

    def forward(self, features: Float[Tensor, "B P D"], queries: Float[Tensor, "B Q D"]) -> Float[Tensor, "B Q D"]:
        """Return the response to each query."""
        encoded = positioned(features)
        for block in self.encoder:
            encoded = block(encoded)
        decoded: Tensor = positioned(queries)
        for block in self.decoder:
            decoded = block(decoded, encoded)
        return decoded
