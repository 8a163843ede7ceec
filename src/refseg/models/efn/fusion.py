"""Encoder fusion: a feature map of the image encoder takes in the language, and goes on (EFN, section 3.1)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from refseg.models.efn.coattention import AsymmetricCoAttention, VanillaCoAttention
from refseg.models.efn.language import Language
from refseg.models.efn.layers import ConvNormPReLU, linear_norm_relu, unit

__all__ = ["EncoderFusion", "coordinates", "word_map"]

COORDINATES = 8


class EncoderFusion(nn.Module):
    """Fuses the feature map of one stage with the language; the result is the input of the next stage."""

    def __init__(self, channels: int, width: int, coattention: VanillaCoAttention | AsymmetricCoAttention) -> None:
        super().__init__()
        self.image = ConvNormPReLU(channels, width)
        self.joint = ConvNormPReLU(2 * width + COORDINATES, width)
        self.words = linear_norm_relu(width, width)
        self.attend = nn.Conv2d(width, width, 1)
        self.coattention = coattention
        self.mix = ConvNormPReLU(2 * width, channels)

    def project(self, features: Float[Tensor, "N C H W"]) -> Float[Tensor, "N D H W"]:
        """Compute the part that depends on the feature map alone."""
        return unit(self.image(features))

    def forward(
        self,
        features: Float[Tensor, "B C H W"],
        projected: Float[Tensor, "B D H W"],
        language: Language,
        padding: Bool[Tensor, "B L"],
    ) -> Float[Tensor, "B C H W"]:
        """Return the fused map.

        Args:
            features: Of length one at each position.
            projected: As `project` returns it.
            language: Of the expressions.
            padding: True where a token is padding.
        """
        sentence = language.sentence[:, :, None, None].expand(-1, -1, *projected.shape[-2:])
        joint = unit(self.joint(torch.cat([projected, sentence, coordinates(projected)], dim=1)))
        words = unit(self.words(language.words.flatten(0, 1))).reshape(language.words.shape)
        first, second = self.coattention(joint, word_map(self.attend(joint), words, padding))
        return features + unit(self.mix(unit(torch.cat([second, first], dim=1))))


def word_map(
    queries: Float[Tensor, "B D H W"], words: Float[Tensor, "B L D"], padding: Bool[Tensor, "B L"]
) -> Float[Tensor, "B D H W"]:
    """Return the mean of the words at each position, weighted by how well they fit its query."""
    fit = (words @ queries.flatten(2)).masked_fill(padding[..., None], float("-inf"))
    return (words.mT @ fit.softmax(dim=1)).reshape(queries.shape)


def coordinates(like: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 8 H W"]:
    """Return where each cell lies: the first and last edge of its row and column, its centre, and the cell's size.

    Edges and centres are -1..1 from edge to edge of the image; the size is a fraction of the image's. The order is row,
    column for each pair.
    """
    batch, _, height, width = like.shape
    rows = torch.arange(height, device=like.device, dtype=like.dtype)[:, None].expand(height, width)
    columns = torch.arange(width, device=like.device, dtype=like.dtype).expand(height, width)
    at = [2 * (place + part) / side - 1 for part in (0, 1, 0.5) for place, side in ((rows, height), (columns, width))]
    sizes = [torch.full_like(rows, 1 / height), torch.full_like(rows, 1 / width)]
    return torch.stack([*at, *sizes]).expand(batch, -1, -1, -1)
