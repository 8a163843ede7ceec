"""Convolutions in another form compute what they computed before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refseg.runtimes.convolutions import (
    TiledConv2d,
    UpsampledConv2d,
    UpsampledConvGraph,
    tile_convolutions,
    upsample_after_mixing,
)


def error(found, expected):
    """The largest error in relation to the largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (13, 26), (1, 5), (3, 2)])
def test_a_convolution_in_tiles_is_as_exact_as_in_one(size, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(160, 130, 3, padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(2, 160, *size).relu()
    tiled, expected = TiledConv2d(conv), conv.double()(x.double())
    for memory in (torch.contiguous_format, torch.channels_last):
        assert error(tiled(x.contiguous(memory_format=memory)), expected) < 5e-6
    assert error(tiled(x[:1, :, :, :1]), conv(x[:1, :, :, :1].double())) < 5e-6  # another size


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(6, 6), (3, 7), (1, 2)])
@pytest.mark.parametrize("form", [UpsampledConv2d, UpsampledConvGraph])
def test_channels_are_mixed_before_the_map_is_enlarged(form, size, bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(160, 130, 3, padding=1, bias=bias).requires_grad_(False)
    x = torch.randn(2, 160, *size).relu()
    found = form(conv)(x)
    enlarged = nn.Upsample(scale_factor=2, mode="bilinear")(x.double())
    assert error(found, conv.double()(enlarged)) < 1e-6


def test_a_convolution_is_replaced_where_that_is_exact_and_faster():
    def wide(**options):
        return nn.Conv2d(128, 128, **({"kernel_size": 3, "padding": 1} | options))

    kept = (
        wide(kernel_size=1, padding=0),
        wide(stride=2),
        wide(padding=2, dilation=2),
        wide(groups=2),
        wide(padding=0),
        wide(padding_mode="reflect"),
        nn.Conv2d(64, 128, 3, padding=1),
    )
    model = nn.Sequential(
        *kept,
        nn.Sequential(wide(), nn.ReLU()),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Sequential(wide(), nn.ReLU()),
        nn.Upsample(scale_factor=2),
        nn.Sequential(wide(), nn.ReLU()),
    )
    upsample_after_mixing(model)
    tile_convolutions(model)
    assert [type(layer) for layer in model[: len(kept)]] == [nn.Conv2d] * len(kept)
    first, smooth, second, nearest, third = model[len(kept) :]
    assert isinstance(first[0], TiledConv2d)
    assert isinstance(smooth, nn.Identity)
    assert isinstance(second[0], UpsampledConv2d)
    assert isinstance(nearest, nn.Upsample)
    assert isinstance(third[0], TiledConv2d)


def test_a_graph_gets_a_form_that_can_be_traced():
    model = nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear"), nn.Sequential(nn.Conv2d(128, 128, 3, padding=1), nn.ReLU())
    )
    upsample_after_mixing(model, for_graph=True)
    assert [type(layer) for layer in (model[0], model[1][0])] == [nn.Identity, UpsampledConvGraph]
