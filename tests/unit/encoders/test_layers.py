"""Attention, transformer blocks with and without adapters, and the number of blocks after a parameter."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refseg.encoders.layers import Attention, CrossAttention, ResidualAttentionBlock, blocks_above

INF = float("inf")


@pytest.fixture
def block():
    torch.manual_seed(0)
    return ResidualAttentionBlock(8, 2).eval()


@pytest.fixture
def attentions():
    """Attention, and torch's with the same weights."""
    torch.manual_seed(0)
    own, reference = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    nn.init.normal_(own.in_proj_bias)
    nn.init.normal_(own.out_proj.bias)
    reference.load_state_dict(own.state_dict())
    return own.eval(), reference.eval()


PADDING = torch.tensor([[False, False, False, True, True], [False] * 5])
MASK = torch.full((5, 5), -INF).triu(1)


@pytest.mark.parametrize("padding", [None, PADDING], ids=["", "padding"])
@pytest.mark.parametrize("mask", [None, MASK], ids=["", "mask"])
def test_self_attention_equals_torchs(attentions, padding, mask):
    own, reference = attentions
    x = torch.randn(2, 5, 8)
    added = None if padding is None else torch.zeros(2, 5).masked_fill(padding, -INF)
    expected = reference(x, x, x, key_padding_mask=added, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(own(x, x, x, padding=padding, mask=mask), expected)


def test_cross_attention_equals_torchs(attentions):
    own, reference = attentions
    query, key, value = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    expected = reference(query, key, value, key_padding_mask=PADDING, need_weights=False)[0]
    torch.testing.assert_close(own(query, key, value, padding=PADDING), expected)


def test_dropout_is_for_training():
    torch.manual_seed(0)
    attention, x = Attention(8, 2, dropout=0.5), torch.randn(2, 5, 8)
    assert not torch.equal(attention(x, x, x), attention(x, x, x))
    attention.eval()
    assert torch.equal(attention(x, x, x), attention(x, x, x))


def test_adapters_follow_the_attention_and_the_mlp(block):
    x, first, second = torch.randn(2, 5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
    h = block.ln_1(x)
    h = x + block.attn(h, h, h, mask=MASK)
    h = h + first(h)
    h = h + block.mlp(block.ln_2(h))
    torch.testing.assert_close(block(x, MASK, (first, second)), h + second(h))


def test_adapters_of_zeros_change_nothing(block):
    x, adapter = torch.randn(2, 5, 8), nn.Linear(8, 8)
    nn.init.zeros_(adapter.weight)
    nn.init.zeros_(adapter.bias)
    assert torch.equal(block(x, adapters=(adapter, adapter)), block(x))


def test_adapters_get_gradients_in_a_frozen_block(block):
    block.requires_grad_(False)
    adapters = nn.Linear(8, 8), nn.Linear(8, 8)
    block(torch.randn(2, 5, 8), adapters=adapters).sum().backward()
    assert all(adapter.weight.grad.abs().sum() > 0 for adapter in adapters)
    assert all(parameter.grad is None for parameter in block.parameters())


@pytest.mark.parametrize(
    ("parameter", "blocks"),
    [
        ("token_embedding.weight", 13),
        ("conv1.weight", 13),
        ("transformer.resblocks.0.ln_1.weight", 12),
        ("transformer.resblocks.11.mlp.c_fc.bias", 1),
        ("ln_final.weight", 0),
        ("text_projection", 0),
    ],
)
def test_blocks_above_a_parameter(parameter, blocks):
    assert blocks_above(parameter, 12) == blocks


@pytest.mark.parametrize("keys", [1, 5, 40])
def test_prepared_cross_attention_computes_the_same(keys):
    torch.manual_seed(0)
    attention = CrossAttention(24, 3).eval().requires_grad_(False)
    for bias in (attention.in_proj_bias, attention.out_proj.bias):
        bias.normal_()
    query, key, value = torch.randn(2, 30, 24), torch.randn(2, keys, 24), torch.randn(2, keys, 24)
    padding = torch.zeros(2, keys, dtype=torch.bool)
    padding[1, 1:] = True
    expected = attention(query, key, value, padding=padding)
    attention.prepare(64)
    torch.testing.assert_close(attention(query, key, value, padding=padding), expected, rtol=1e-5, atol=1e-6)
