"""Layers that the encoders and the models on top of them share."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BatchNorm1d", "BatchNorm2d", "QuickGELU", "ResidualAttentionBlock", "blocks_above", "resize_positions"]


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation over a batch of vectors, (B, C), that can also train on a batch of one.

    One value has no variance: where a channel holds a single one, the running statistics are used and left as they are.
    """

    def forward(self, input: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Normalise each channel."""
        return _normalise(self, input, super().forward)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over maps, (B, C, H, W), that can also train on a single pixel (see `BatchNorm1d`)."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise each channel."""
        return _normalise(self, input, super().forward)


def _normalise(norm: nn.BatchNorm1d | nn.BatchNorm2d, input: Tensor, usual: object) -> Tensor:
    if norm.training and input.numel() == input.shape[1]:
        return nn.functional.batch_norm(
            input, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
        )
    assert callable(usual)
    output: Tensor = usual(input)
    return output


class QuickGELU(nn.Module):
    """The activation that CLIP was trained with: x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each value."""
        return x * torch.sigmoid(1.702 * x)


def blocks_above(parameter: str, layers: int) -> int:
    """Return how many blocks of a transformer of `layers` lie above one of its parameters, by its name in the encoder.

    The embedding, of words or of patches, lies below all of them; what belongs to no block counts as above them.
    """
    if parameter.startswith("transformer.resblocks."):
        return layers - int(parameter.split(".")[2])
    return layers + 1 if parameter.startswith(("token_embedding", "conv1")) else 0


def resize_positions(positions: Float[Tensor, "P D"], size: tuple[int, int]) -> Float[Tensor, "1 D h w"]:
    """Return the positions of a square grid resized to another one; the first, of a pooled or class token, is left."""
    side = math.isqrt(len(positions) - 1)
    grid = positions[1:].T.reshape(1, -1, side, side)
    return F.interpolate(grid, size=size, mode="bicubic", align_corners=False)


class ResidualAttentionBlock(nn.Module):
    """A pre-norm transformer block with CLIP's names: attention, then an MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        self.ln_2 = nn.LayerNorm(width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Float[Tensor, "T T"] | None = None,
        adapters: tuple[nn.Module, nn.Module] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Let T tokens attend to each other; `mask` is added to the attention logits.

        The two `adapters` of a model that trains nothing else, from (B, T, D) to (B, T, D), are residual layers too:
        one after the attention, one after the MLP.
        """
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
        if adapters is not None:
            x = x + adapters[0](x)
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed if adapters is None else mixed + adapters[1](mixed)
