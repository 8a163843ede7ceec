"""Shared-space Knowledge Exploitation (SKE): fuses patches and words in CLIP's joint embedding space."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from refseg.encoders.layers import Attention, QuickGELU

__all__ = ["SharedSpaceKnowledgeExploitation"]


class SharedSpaceKnowledgeExploitation(nn.Module):
    """One layer: each modality attends to the other, then to itself, then passes an MLP; all as residuals.

    Both attend to the other's input to the layer. At initialisation the layer is the identity.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.vision = _Modality(width, heads, hidden)
        self.words = _Modality(width, heads, hidden)

    def forward(
        self, vision: Float[Tensor, "B T E"], words: Float[Tensor, "B L E"], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B L E"]]:
        """Return the fused patches and words; words where `padding` is True are not attended to."""
        return self.vision(vision, words, None, padding), self.words(words, vision, padding, None)


class _Modality(nn.Module):
    """A layer's part for one modality: three pre-norm residual branches, whose last weights are 0 at initialisation."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.cross_norm = nn.LayerNorm(width)
        self.other_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
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
        x = x + self.cross_attention(self.cross_norm(x), other, other, padding=other_padding)
        own = self.self_norm(x)
        x = x + self.self_attention(own, own, own, padding=padding)
        mixed: Tensor = x + self.mlp(self.mlp_norm(x))
        return mixed
