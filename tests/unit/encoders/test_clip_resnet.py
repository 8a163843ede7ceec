"""CLIP's ResNet: the attention pool of CRIS, and CLIP's pooled image embedding."""

import pytest
import torch
from torch.nn import functional

from refseg.encoders.clip_resnet import AttentionPool2d, ModifiedResNet, ResNetConfig

SMALL = ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=12, pretrained_size=96)


def as_tokens(pool, x):
    """Return a map as tokens (H*W, B, C) with positional embeddings."""
    position = functional.interpolate(
        pool.positional_embedding[1:].reshape(3, 3, x.shape[1]).permute(2, 0, 1)[None], size=x.shape[2:], mode="bicubic"
    )
    return (x + position).flatten(2).permute(2, 0, 1)


def attended_by_torch(pool, query, tokens):
    """Return torch's multi-head attention with the weights of the pool."""
    attended, _ = functional.multi_head_attention_forward(
        query=query,
        key=tokens,
        value=tokens,
        embed_dim_to_check=tokens.shape[-1],
        num_heads=pool.heads,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        training=False,
    )
    return attended


def pooled_by_torch(pool, x):
    """Return the attention of the mean to itself and all positions."""
    tokens = torch.cat([(x.mean(dim=(2, 3)) + pool.positional_embedding[0])[None], as_tokens(pool, x)])
    return attended_by_torch(pool, tokens[:1], tokens)[0]


@pytest.mark.parametrize("size", [(3, 3), (5, 4)])
def test_the_attention_pool_equals_torchs_attention_and_a_convolution(size):
    torch.manual_seed(0)
    pool = AttentionPool2d(grid=3, channels=16, heads=4, output_dim=12).eval()
    x = torch.randn(2, 16, *size)
    tokens = as_tokens(pool, x)
    attended = attended_by_torch(pool, tokens, tokens)
    expected = torch.relu(attended.permute(1, 2, 0).reshape(2, 12, *size) + pool.connect(x))
    torch.testing.assert_close(pool(x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (2, 4)])
def test_pooled_features_equal_torchs(size):
    torch.manual_seed(0)
    pool = AttentionPool2d(grid=3, channels=16, heads=4, output_dim=12).eval()
    x = torch.randn(2, 16, *size)
    torch.testing.assert_close(pool.pool(x), pooled_by_torch(pool, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("side", [96, 64])
def test_pooled_features_of_an_image(side):
    torch.manual_seed(0)
    resnet = ModifiedResNet(SMALL).eval()
    pixels, last = torch.randn(2, 3, side, side), []
    resnet.layer4.register_forward_hook(lambda *values: last.append(values[-1]))
    found = resnet.pool(pixels)
    assert found.shape == (2, 12)
    torch.testing.assert_close(found, pooled_by_torch(resnet.attnpool, last[0]), rtol=0, atol=1e-5)


def test_pooled_features_do_not_depend_on_the_layer_of_cris():
    resnet = ModifiedResNet(SMALL)
    resnet.pool(torch.randn(2, 3, 96, 96)).sum().backward()
    assert all(parameter.grad is None for parameter in resnet.attnpool.connect.parameters())
    assert resnet.attnpool.positional_embedding.grad.abs().sum(dim=1).all()
