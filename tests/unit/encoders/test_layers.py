"""The block that both transformers are made of, with and without adapters."""

import pytest
import torch
from torch import nn

from refseg.encoders.layers import ResidualAttentionBlock


@pytest.fixture
def block():
    torch.manual_seed(0)
    return ResidualAttentionBlock(8, 2).eval()


def test_adapters_stand_after_the_attention_and_after_the_mlp(block):
    x, first, second = torch.randn(2, 5, 8), nn.Linear(8, 8), nn.Linear(8, 8)
    mask = torch.full((5, 5), float("-inf")).triu(1)
    h = block.ln_1(x)
    h = x + block.attn(h, h, h, attn_mask=mask, need_weights=False)[0]
    h = h + first(h)
    h = h + block.mlp(block.ln_2(h))
    torch.testing.assert_close(block(x, mask, (first, second)), h + second(h))


def test_adapters_that_give_nothing_change_nothing(block):
    x, adapter = torch.randn(2, 5, 8), nn.Linear(8, 8)
    nn.init.zeros_(adapter.weight)
    nn.init.zeros_(adapter.bias)
    assert torch.equal(block(x, adapters=(adapter, adapter)), block(x))


def test_adapters_learn_where_the_block_does_not(block):
    block.requires_grad_(False)
    adapters = nn.Linear(8, 8), nn.Linear(8, 8)
    block(torch.randn(2, 5, 8), adapters=adapters).sum().backward()
    assert all(adapter.weight.grad.abs().sum() > 0 for adapter in adapters)
    assert all(parameter.grad is None for parameter in block.parameters())
