"""The vision-language decoder: a transformer decoder from the word features to each pixel (CRIS, section 3.3).

As in the reference's code, there is a layer norm after each attention, and one inside the feed-forward network; the
paper's equations have neither.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from refseg.encoders.layers import Attention, CrossAttention, Preparable
from refseg.models.cris.neck import STRIDE

__all__ = ["DecoderLayer", "VisionLanguageDecoder", "sine_1d", "sine_2d"]


class DecoderLayer(nn.Module):
    """Self-attention of the image, cross-attention to the words, and a feed-forward network."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads, dropout)
        self.self_attention_norm = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = CrossAttention(width, heads, dropout)
        self.cross_attention_norm = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.ffn = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, width),
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        vision: Float[Tensor, "B T D"],
        words: Float[Tensor, "B L D"],
        vision_position: Float[Tensor, "T D"],
        word_position: Float[Tensor, "L D"],
        padding: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B T D"]:
        """Transform the T positions of the feature map.

        Positional encodings are added to queries and keys, but not to values.
        """
        return self.read(*self.look(vision, vision_position), words, word_position, padding)

    def look(
        self, vision: Float[Tensor, "B T D"], vision_position: Float[Tensor, "T D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        """Return the positions after self-attention, and their queries to the words."""
        a = self.norm1(vision)
        q = a + vision_position
        a = self.self_attention(q, q, a)
        vision = vision + self.dropout(self.self_attention_norm(a))
        q = self.norm2(vision) + vision_position
        return vision, q

    def read(
        self,
        vision: Float[Tensor, "B T D"],
        query: Float[Tensor, "B T D"],
        words: Float[Tensor, "B L D"],
        word_position: Float[Tensor, "L D"],
        padding: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B T D"]:
        """Return the positions after the cross-attention of the queries to the words, and the feed-forward network."""
        a = self.cross_attention(query, words + word_position, words, padding=padding)
        vision = vision + self.dropout(self.cross_attention_norm(a))
        mixed: Tensor = vision + self.dropout(self.ffn(self.norm3(vision)))
        return mixed


class VisionLanguageDecoder(Preparable):
    """A stack of decoder layers and a final layer norm."""

    positions: Tensor | None
    """The encoding of the only grid, if there is one."""

    def __init__(self, layers: int, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(width, heads, hidden, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.register_buffer("positions", None, persistent=False)

    def prepare(self, side: int) -> None:
        """Compute the encodings for square images of one size in advance."""
        cells = side // STRIDE
        self.positions = sine_2d(self.norm.normalized_shape[0], cells, cells).to(self.norm.weight)

    def forward(
        self,
        vision: Float[Tensor, "B D H W"],
        words: Float[Tensor, "B L D"],
        padding: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B D H W"]:
        """Let each position of the feature map attend to the words that are not padding."""
        rows, columns = vision.shape[2:]
        x, vision_position, word_position = self._sequences(vision, words)
        for layer in self.layers:
            x = layer(x, words, vision_position, word_position, padding)
        return self.norm(x).mT.unflatten(-1, (rows, columns))  # type: ignore[no-any-return]

    def attend(
        self,
        vision: Float[Tensor, "B D H W"],
        words: Float[Tensor, "B L D"],
        padding: Bool[Tensor, "B L"],
    ) -> tuple[Float[Tensor, "B D H W"], Float[Tensor, "B L H W"]]:
        """Return what `forward` does, and the cross-attention of the last layer, 0..1, averaged over its heads."""
        x, vision_position, word_position = self._sequences(vision, words)
        *layers, last = self.layers
        for layer in layers:
            x = layer(x, words, vision_position, word_position, padding)
        assert isinstance(last, DecoderLayer)
        x, query = last.look(x, vision_position)
        attention = last.cross_attention.weights(query, words + word_position, padding)
        x = self.norm(last.read(x, query, words, word_position, padding))
        rows, columns = vision.shape[2:]
        x, attention = (part.mT.unflatten(-1, (rows, columns)) for part in (x, attention))
        return x, attention

    def _sequences(
        self, vision: Float[Tensor, "B D H W"], words: Float[Tensor, "B L D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "T D"], Float[Tensor, "L D"]]:
        """Return the positions of the feature map as a sequence, their encodings, and those of the words."""
        _, width, rows, columns = vision.shape
        vision_position = sine_2d(width, rows, columns).to(vision) if self.positions is None else self.positions
        # Contiguous: a linear layer on a transposed tensor copies its weight for each position in bfloat16 on a CPU.
        return vision.flatten(2).mT.contiguous(), vision_position, sine_1d(width, words.shape[1]).to(words)


def sine_1d(width: int, length: int) -> Float[Tensor, "L D"]:
    """Return the sinusoidal encoding of positions 0..length-1 (Vaswani et al., 2017, section 3.5).

    Even channels are sines, odd ones cosines.
    """
    frequency = torch.exp(torch.arange(0, width, 2) * (-torch.log(torch.tensor(10_000.0)) / width))
    angle = torch.arange(length)[:, None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def sine_2d(width: int, rows: int, columns: int) -> Float[Tensor, "T D"]:
    """Return the encoding of a grid, row by row: half of the channels encodes x, then half of them y, in cells."""
    x = sine_1d(width // 2, columns).expand(rows, -1, -1)
    y = sine_1d(width // 2, rows)[:, None].expand(-1, columns, -1)
    return torch.cat([x, y], dim=-1).flatten(0, 1)
