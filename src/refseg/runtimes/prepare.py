"""Changes a loaded model so that it predicts with less work; what it computes stays the same up to rounding.

A model that is trained is left as it is: prepared models have no batch normalisation to train.
"""

from __future__ import annotations

import itertools

import torch
from torch import nn

from refseg.encoders.layers import Preparable
from refseg.models.base import Model
from refseg.runtimes.convolutions import UpsampledConv2d

__all__ = ["fold_norms", "prepare", "round_factors"]

FACTORS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.MultiheadAttention, UpsampledConv2d)
"""Layers whose matrices and kernels are factors of products."""


def prepare(model: Model) -> None:
    """Change a model in place, in evaluation mode; it can neither be trained nor saved as a model folder afterwards.

    Batch normalisations are folded, and what depends on the weights and the model's own size of images alone, such as
    positional encodings, is computed.
    """
    model.eval().requires_grad_(False)
    fold_norms(model)
    for module in model.modules():
        if isinstance(module, Preparable):
            module.prepare(model.inputs.image_size)


def fold_norms(model: nn.Module) -> None:
    """Fold each batch normalisation that is registered directly after a convolution or linear layer into that layer.

    In evaluation it multiplies each channel by a constant and adds another one, and so do the weights and the bias of
    the layer. Its place is taken by an identity.
    """
    for module in model.modules():
        for (_, layer), (name, norm) in itertools.pairwise(list(module.named_children())):
            if isinstance(layer, nn.Conv2d | nn.Linear) and isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                _fold(layer, norm)
                setattr(module, name, nn.Identity())


def round_factors(model: nn.Module) -> None:
    """Store the weights that are factors of products in bfloat16, so that autocast need not convert them each time."""
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if isinstance(module, FACTORS) and weight.ndim > 1:
                setattr(module, name, nn.Parameter(weight.bfloat16(), requires_grad=False))


@torch.no_grad()
def _fold(layer: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * factor
    if layer.bias is not None:
        shift = shift + layer.bias * factor
    layer.weight *= factor.reshape(-1, *[1] * (layer.weight.ndim - 1))
    layer.bias = nn.Parameter(shift, requires_grad=False)
