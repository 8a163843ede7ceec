"""A model that is prepared to predict computes what it computed before."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from refseg.models.cris.neck import LocatedConv, MergedConv, conv_norm_relu
from refseg.runtimes.prepare import fold_norms, prepare


def with_statistics(module):
    """Give batch normalisations statistics, factors and shifts of their own."""
    torch.manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (norm.running_mean, norm.weight.data, norm.bias.data):
                values.normal_()
            norm.running_var.uniform_(0.2, 2)
    return module.eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_a_batch_normalisation_is_folded(kind, bias):
    layers = {
        "convolution": (nn.Conv2d(6, 8, 3, groups=2, bias=bias), nn.BatchNorm2d(8)),
        "linear": (nn.Linear(6, 8, bias=bias), nn.BatchNorm1d(8)),
    }
    module = with_statistics(nn.Sequential(*layers[kind]))
    x = torch.randn(3, 6, 5, 5) if kind == "convolution" else torch.randn(3, 6)
    expected = module(x)
    fold_norms(module)
    assert [type(layer) for layer in module] == [type(layers[kind][0]), nn.Identity]
    torch.testing.assert_close(module(x), expected, rtol=1e-5, atol=1e-5)


def test_a_batch_normalisation_that_follows_no_layer_stays():
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU(), nn.BatchNorm2d(2))
    fold_norms(module)
    assert isinstance(module[2], nn.BatchNorm2d)


def test_all_of_cris_is_folded_but_the_normalisation_of_the_product(make_tiny):
    model = make_tiny()
    prepare(model)
    left = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert left == ["neck.norm5"]
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("change", ["none", "folded", "prepared"])
def test_a_merged_convolution_is_the_convolution_of_the_concatenation(change):
    torch.manual_seed(0)
    merged = with_statistics(MergedConv((3, 5), 4))
    plain = conv_norm_relu(8, 4, 1).eval()
    plain.load_state_dict(merged.state_dict())
    fine, coarse = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    enlarge = nn.Upsample(scale_factor=2, mode="bilinear")
    expected = plain(torch.cat([fine, enlarge(coarse)], dim=1))
    if change != "none":
        fold_norms(merged)
    if change == "prepared":
        merged.prepare(128)
    found = merged.finish(merged.part(0, fine) + enlarge(merged.part(1, coarse)))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_convolution_with_coordinates_is_split_into_map_and_coordinates():
    located = with_statistics(LocatedConv(6, 5))
    plain = conv_norm_relu(8, 5, 3).eval()
    plain.load_state_dict(located.state_dict())
    x, steps = torch.randn(2, 6, 4, 4), torch.tensor([-1, -1 / 3, 1 / 3, 1])
    coordinates = torch.stack([steps.expand(4, 4), steps[:, None].expand(4, 4)]).expand(2, -1, -1, -1)
    expected = plain(torch.cat([x, coordinates], dim=1))
    torch.testing.assert_close(located(x), expected, rtol=1e-5, atol=1e-5)
    fold_norms(located)
    located.prepare(64)
    assert located[0].in_channels == 6
    torch.testing.assert_close(located(x), expected, rtol=1e-5, atol=1e-5)
