"""Cross-modal Feature Extraction (CFE): fuses the tokens of both encoders between two of their blocks."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from refseg.encoders.layers import Attention

__all__ = ["CrossModalFeatureExtraction"]


class CrossModalFeatureExtraction(nn.Module):
    """Cross-attention between the tokens of both encoders, in a shared space, as a residual of each.

    With s a modality's tokens in the shared space and s' the other's, both modalities compute m = s + attention(s, s')
    at once, and f = f + W m. W is 0 at initialisation, so that the encoders' features are unchanged.
    """

    def __init__(self, vision_width: int, text_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.vision_in = _SharedSpace(vision_width, width)
        self.text_in = _SharedSpace(text_width, width)
        self.vision_attention = _CrossAttention(width, heads)
        self.text_attention = _CrossAttention(width, heads)
        self.vision_out = _zero_linear(width, vision_width)
        self.text_out = _zero_linear(width, text_width)

    def forward(
        self, vision: Float[Tensor, "B T D"], words: Float[Tensor, "B L W"], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B L W"]]:
        """Return the fused tokens of both encoders; words where `padding` is True are not attended to."""
        shared_vision, shared_words = self.vision_in(vision), self.text_in(words)
        vision = vision + self.vision_out(self.vision_attention(shared_vision, shared_words, padding))
        words = words + self.text_out(self.text_attention(shared_words, shared_vision, None))
        return vision, words


class _SharedSpace(nn.Module):
    """A layer norm and a projection into the shared space."""

    def __init__(self, width: int, shared: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, shared)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T C"]:
        shared: Tensor = self.linear(self.norm(x))
        return shared


class _CrossAttention(nn.Module):
    """Pre-norm attention of one modality to the other, as a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.other_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(
        self, x: Float[Tensor, "B T C"], other: Float[Tensor, "B U C"], padding: Bool[Tensor, "B U"] | None
    ) -> Float[Tensor, "B T C"]:
        other = self.other_norm(other)
        mixed: Tensor = x + self.attention(self.norm(x), other, other, padding=padding)
        return mixed


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
