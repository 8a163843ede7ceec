"""Layers that the encoders and the models share."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Attention",
    "BatchNorm1d",
    "BatchNorm2d",
    "CrossAttention",
    "Preparable",
    "QuickGELU",
    "ResidualAttentionBlock",
    "blocks_above",
    "resize_positions",
    "resized_to",
]


class BatchNorm1d(nn.BatchNorm1d):
    """Batch normalisation of vectors (B, C) that also works in training on a batch of one.

    A single value per channel has no variance: the running statistics are then used, and not updated.
    """

    def forward(self, input: Float[Tensor, "B C"]) -> Float[Tensor, "B C"]:
        """Normalise each channel."""
        return _normalise(self, input, super().forward)


class BatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation of maps (B, C, H, W) that also works in training on a single pixel (see `BatchNorm1d`)."""

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Normalise each channel."""
        return _normalise(self, input, super().forward)


def _normalise(norm: nn.BatchNorm1d | nn.BatchNorm2d, input: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    if norm.training and input.numel() == input.shape[1]:
        return nn.functional.batch_norm(
            input, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
        )
    return forward(input)


class Attention(nn.MultiheadAttention):
    """Multi-head attention with the parameters of `nn.MultiheadAttention`, computed batch-first throughout.

    `nn.MultiheadAttention` transposes its inputs, and a linear layer on a transposed tensor copies its weight once for
    each token under autocast on a CPU: in bfloat16 that took as long as in float32.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads, dropout=dropout, batch_first=True)

    def forward(  # type: ignore[override]
        self,
        query: Float[Tensor, "B T D"],
        key: Float[Tensor, "B U D"],
        value: Float[Tensor, "B U D"],
        *,
        padding: Bool[Tensor, "B U"] | None = None,
        mask: Float[Tensor, "T U"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Return the attention of T queries to U keys and values.

        Args:
            query: The queries.
            key: The keys.
            value: The values.
            padding: True for keys that are not attended to.
            mask: Added to the attention logits.
        """
        if key is query and value is query:
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        else:
            projected = self._projected(query, key, value)
        q, k, v = map(self._heads, projected)
        if padding is not None:
            padding = padding[:, None, None]
            mask = ~padding if mask is None else mask.masked_fill(padding, float("-inf"))
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)
        output: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return output

    def weights(
        self, query: Float[Tensor, "B T D"], key: Float[Tensor, "B U D"], padding: Bool[Tensor, "B U"]
    ) -> Float[Tensor, "B T U"]:
        """Return how much each query attends to each key, 0..1, averaged over the heads; of each query the sum is 1."""
        q, k = map(self._heads, self._projected(query, key))
        logits = (q @ k.mT).float() / math.sqrt(q.shape[-1])
        return logits.masked_fill(padding[:, None, None], float("-inf")).softmax(dim=-1).mean(dim=1)

    def _projected(self, *inputs: Float[Tensor, "B _ D"]) -> tuple[Float[Tensor, "B _ D"], ...]:
        """Return queries, keys and values, or the first of them."""
        return tuple(map(F.linear, inputs, self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)))

    def _heads(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B heads T d"]:
        return x.reshape(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class Preparable(nn.Module):
    """A module that can be changed so that it predicts with less work, such as one with encodings of positions."""

    def prepare(self, side: int) -> None:
        """Compute in advance what depends on the weights and the size of images alone.

        The module can neither be trained nor stored afterwards. Batch normalisations have been folded before.

        Args:
            side: Of the images, in pixels, for which alone the module is then.
        """
        raise NotImplementedError


class CrossAttention(Attention, Preparable):
    """Attention of many queries to few keys, such as the words of an expression.

    Prepared, it multiplies the weights of the queries with the keys, and those of the output with the values: with H
    heads and U keys, that leaves two products of each query with H x U vectors, instead of two with D x D weights.
    """

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(width, heads, dropout)
        self._prepared = False

    def prepare(self, side: int) -> None:
        """Compute the same with less work from now on, without dropout."""
        self._prepared = True

    def forward(  # type: ignore[override]
        self,
        query: Float[Tensor, "B T D"],
        key: Float[Tensor, "B U D"],
        value: Float[Tensor, "B U D"],
        *,
        padding: Bool[Tensor, "B U"],
    ) -> Float[Tensor, "B T D"]:
        """Return the attention of T queries to U keys and values; `padding` is true for keys not attended to."""
        if not self._prepared:
            return super().forward(query, key, value, padding=padding)
        of_queries, of_keys, of_values = self.in_proj_weight.chunk(3)
        query_bias, key_bias, value_bias = self.in_proj_bias.chunk(3)
        heads = self.num_heads
        keys = self._heads(F.linear(key, of_keys, key_bias)) / math.sqrt(self.head_dim)
        values = self._heads(F.linear(value, of_values, value_bias))
        to_logits = (keys @ of_queries.view(heads, -1, query.shape[-1])).flatten(1, 2)  # (batch, head key, channel)
        shift = (keys @ query_bias.view(heads, -1, 1)).flatten(1).unsqueeze(1)
        to_output = (values @ self.out_proj.weight.view(-1, heads, self.head_dim).permute(1, 2, 0)).flatten(1, 2)
        logits = (query @ to_logits.mT + shift).view(*query.shape[:2], heads, -1).float()
        weights = logits.masked_fill(padding[:, None, None], float("-inf")).softmax(dim=-1)
        output: Tensor = weights.flatten(2) @ to_output + self.out_proj.bias
        return output


class QuickGELU(nn.Module):
    """The activation that CLIP was trained with: x * sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation to each value."""
        return x * torch.sigmoid(1.702 * x)


def blocks_above(parameter: str, layers: int) -> int:
    """Return the number of a transformer's blocks from the block of a parameter to the last one, that block included.

    It is 0 for a parameter after the last block, and `layers + 1` for the embedding of tokens or patches. Parameters
    outside of blocks other than that embedding count as after the last block.

    Args:
        parameter: The parameter's name in the encoder.
        layers: The number of blocks of the transformer.
    """
    if parameter.startswith("transformer.resblocks."):
        return layers - int(parameter.split(".")[2])
    return layers + 1 if parameter.startswith(("token_embedding", "conv1")) else 0


def resize_positions(positions: Float[Tensor, "P D"], size: tuple[int, int]) -> Float[Tensor, "1 D h w"]:
    """Return positional embeddings of a square grid resized to another grid, without the pooled or class token's."""
    side = math.isqrt(len(positions) - 1)
    grid = positions[1:].T.reshape(1, -1, side, side)
    return grid if size == (side, side) else F.interpolate(grid, size=size, mode="bicubic", align_corners=False)


def resized_to(positions: Float[Tensor, "P D"], side: int) -> Float[Tensor, "T D"]:
    """Return positional embeddings of a square grid resized to another one, with the pooled or class token's first."""
    return torch.cat([positions[:1], resize_positions(positions, (side, side))[0].flatten(1).mT])


class ResidualAttentionBlock(nn.Module):
    """A pre-norm transformer block with CLIP's names: attention, then an MLP of four times the width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
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
        """Return the tokens after self-attention and MLP, both residual.

        Args:
            x: The tokens.
            mask: Added to the attention logits.
            adapters: Two residual layers from (B, T, D) to (B, T, D), one after the attention and one after the MLP.
        """
        h = self.ln_1(x)
        x = x + self.attn(h, h, h, mask=mask)
        if adapters is not None:
            x = x + adapters[0](x)
        mixed: Tensor = x + self.mlp(self.ln_2(x))
        return mixed if adapters is None else mixed + adapters[1](mixed)
