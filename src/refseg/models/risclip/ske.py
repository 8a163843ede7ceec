"""Shared-space Knowledge Exploitation: patches and words talk in CLIP's joint space, after both projections."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from refseg.encoders.layers import QuickGELU

__all__ = ["SharedSpaceKnowledgeExploitation"]


class SharedSpaceKnowledgeExploitation(nn.Module):
    """One layer: each modality asks the other, then itself, then thinks; all of it added to CLIP's own features.

    Both read what the other was before the layer. Nothing is added at initialisation.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.vision = _Side(width, heads, hidden)
        self.words = _Side(width, heads, hidden)

    def forward(
        self, vision: Float[Tensor, "B T E"], words: Float[Tensor, "B L E"], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B L E"]]:
        """Return both modalities, changed; nobody looks at words where `padding` is True."""
        return self.vision(vision, words, None, padding), self.words(words, vision, padding, None)


class _Side(nn.Module):
    """One modality's part of a layer: three branches, each with a norm before it and zeros at its end."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_norm = nn.LayerNorm(width)
        self.other_norm = nn.LayerNorm(width)
        self.cross_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), QuickGELU(), nn.Linear(hidden, width))
        for last in (self.cross_attention.out_proj, self.self_attention.out_proj, self.mlp[2]):
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self,
        x: Float[Tensor, "B T E"],
        other: Float[Tensor, "B U E"],
        padding: Bool[Tensor, "B T"] | None,
        other_padding: Bool[Tensor, "B U"] | None,
    ) -> Float[Tensor, "B T E"]:
        other = self.other_norm(other)
        x = (
            x
            + self.cross_attention(
                self.cross_norm(x), other, other, key_padding_mask=other_padding, need_weights=False
            )[0]
        )
        own = self.self_norm(x)
        x = x + self.self_attention(own, own, own, key_padding_mask=padding, need_weights=False)[0]
        mixed: Tensor = x + self.mlp(self.mlp_norm(x))
        return mixed
