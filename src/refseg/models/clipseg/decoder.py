"""CLIPSeg's decoder: a transformer over the image features of a few blocks, the last block first (figure 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from refseg.encoders.layers import Attention

__all__ = ["CLIPSegDecoder", "PostNormBlock"]


class PostNormBlock(nn.Module):
    """A transformer block with the layer norms of the original transformer, after each residual."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Return the tokens after self-attention and MLP."""
        x = self.norm1(x + self.attn(x, x, x))
        mixed: Tensor = self.norm2(x + self.mlp(x))
        return mixed


class CLIPSegDecoder(nn.Module):
    """Projects the features of each image block, adds them up between transformer blocks, and enlarges the result.

    Args:
        vision_width: Channels of the image features.
        sentence: The dimension of the sentence.
        levels: The number of image blocks that it uses.
        width: Its own channels.
        heads: Attention heads of a block.
        hidden: Hidden channels of the feed-forward part of a block.
        patch: The side of a patch in pixels, which is the factor of the enlargement.
        refined: Whether a 3x3 convolution and two transposed convolutions enlarge it, or a single transposed one.
    """

    def __init__(
        self,
        vision_width: int,
        sentence: int,
        levels: int,
        width: int,
        heads: int,
        hidden: int,
        patch: int,
        refined: bool,
    ) -> None:
        super().__init__()
        self.reduce = nn.ModuleList(nn.Linear(vision_width, width) for _ in range(levels))
        self.film_mul, self.film_add = nn.Linear(sentence, width), nn.Linear(sentence, width)
        self.layers = nn.ModuleList(PostNormBlock(width, heads, hidden) for _ in range(levels))
        self.upsample: nn.Module = nn.ConvTranspose2d(width, 1, patch, stride=patch)
        if refined:
            step = math.isqrt(patch)
            self.upsample = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
                nn.ConvTranspose2d(width, width // 2, step, stride=step),
                nn.ReLU(),
                nn.ConvTranspose2d(width // 2, 1, step, stride=step),
            )

    def project(self, features: Sequence[Float[Tensor, "N T V"]]) -> list[Float[Tensor, "N T D"]]:
        """Return the features of each image block in the decoder's channels; they do not depend on the expression."""
        return [reduce(tokens) for reduce, tokens in zip(self.reduce, features, strict=True)]

    def forward(
        self, projected: Sequence[Float[Tensor, "N T D"]], sentence: Float[Tensor, "B E"]
    ) -> Float[Tensor, "B 1 S S"]:
        """Return the logit of each pixel.

        Args:
            projected: From `project`, of B images or of one for all sentences.
            sentence: Of the expressions, in CLIP's joint space; it scales and shifts the first features (FiLM).
        """
        first, *others = projected
        x = self.layers[0](self.film_mul(sentence)[:, None] * first + self.film_add(sentence)[:, None])
        for layer, level in zip(self.layers[1:], others, strict=True):
            x = layer(level + x)
        side = math.isqrt(x.shape[1] - 1)
        # Contiguous: a convolution on a transposed tensor is slow in bfloat16 on a CPU.
        logits: Tensor = self.upsample(x[:, 1:].mT.unflatten(2, (side, side)).contiguous())
        return logits
