"""Cross-modal Feature Extraction: between two blocks, each encoder looks at what the other has found so far."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["CrossModalFeatureExtraction"]


class CrossModalFeatureExtraction(nn.Module):
    """One fusion: both encoders' tokens meet in a space of their own, and what they learn there is added to them.

    With s the tokens in the shared space, each modality asks the other: m = s + attention(s, other's s), both at once,
    and f = f + W m. Nothing is added at initialisation, since W is zero; W alone, so that every layer learns from the
    second step on.
    """

    def __init__(self, vision_width: int, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.vision_in = _Into(vision_width, width)
        self.text_in = _Into(text_width, width)
        self.vision_asks = _Ask(width, heads)
        self.text_asks = _Ask(width, heads)
        self.vision_out = _out_of(width, vision_width)
        self.text_out = _out_of(width, text_width)

    def forward(
        self, vision: Float[Tensor, "B T D"], words: Float[Tensor, "B L W"], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B L W"]]:
        """Return both encoders' tokens with what the other added; nobody looks at words where `padding` is True."""
        seen, said = self.vision_in(vision), self.text_in(words)
        vision = vision + self.vision_out(self.vision_asks(seen, said, padding))
        words = words + self.text_out(self.text_asks(said, seen, None))
        return vision, words


class _Into(nn.Module):
    def __init__(self, width: int, shared: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, shared)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T C"]:
        shared: Tensor = self.linear(self.norm(x))
        return shared


class _Ask(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.other_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(
        self, x: Float[Tensor, "B T C"], other: Float[Tensor, "B U C"], padding: Bool[Tensor, "B U"] | None
    ) -> Float[Tensor, "B T C"]:
        other = self.other_norm(other)
        asked, _ = self.attention(self.norm(x), other, other, key_padding_mask=padding, need_weights=False)
        changed: Tensor = x + asked
        return changed


def _out_of(shared: int, width: int) -> nn.Linear:
    linear = nn.Linear(shared, width)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
