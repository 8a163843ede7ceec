"""QGM and QBM: the query generation and the query balance module of VLT (sections 3.3 and 3.4)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.encoders.darknet import ConvNormLeaky
from refseg.models.first_fusion import joined
from refseg.models.vlt.transformer import ReluAttention, positioned

__all__ = ["QueryBalance", "QueryGeneration", "located"]

COORDINATES = 6
"""Channels with the position: x three times, then y three times."""


def located(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C6 H W"]:
    """Return a map with the position of each cell in further channels, -1..1 from edge to edge."""
    batch, _, height, width = x.shape
    across = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype).expand(batch, 3, height, width)
    down = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)[:, None].expand(batch, 3, height, width)
    return joined(x, across, down)


class QueryGeneration(nn.Module):
    """Makes queries of the image, each of which weighs the words in its own way.

    Args:
        channels: Of the map that queries are made of.
        positions: Of that map.
        words: Width of a word.
        queries: Their number.
        width: Of a query.
        heads: Of the attention.
        debiased: See `refseg.encoders.darknet.MapNorm`.
    """

    def __init__(
        self, channels: int, positions: int, words: int, queries: int, width: int, heads: int, *, debiased: bool
    ) -> None:
        super().__init__()
        inner = channels + COORDINATES
        self.convolutions = nn.Sequential(*(ConvNormLeaky(inner, inner, 3, debiased=debiased) for _ in range(3)))
        self.maps = nn.Conv2d(inner, queries, 1)
        self.of_image, self.of_words = nn.Linear(positions, width), nn.Linear(words, width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attention = ReluAttention(width, heads)

    def forward(self, x: Float[Tensor, "B C H W"], words: Float[Tensor, "B T D"]) -> Float[Tensor, "B Q E"]:
        """Return the queries."""
        maps = self.maps(self.convolutions(located(x))).flatten(2)
        of_image, of_words = F.relu(self.of_image(maps)), F.relu(self.of_words(words))
        query, others = F.relu(self.query(positioned(of_image))), positioned(of_words)
        weighed = self.attention(query, F.relu(self.key(others)), F.relu(self.value(others)))
        return of_image + weighed  # type: ignore[no-any-return]


class QueryBalance(nn.Module):
    """Weighs the response to each query by how much it is to be trusted."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.response = nn.Linear(width, width), nn.Linear(width, width)
        self.both, self.weight = nn.Linear(2 * width, width), nn.Linear(width, 1)

    def forward(self, queries: Float[Tensor, "B Q E"], responses: Float[Tensor, "B Q E"]) -> Float[Tensor, "B Q 1"]:
        """Return the weights, 0..1."""
        both = torch.cat([F.relu(self.response(responses)), F.relu(self.query(queries))], dim=-1)
        return self.weight(F.relu(self.both(both))).sigmoid()  # type: ignore[no-any-return]
