"""Projector: a map and a sentence -> logits (CRIS, section 3.4).

Text-to-pixel contrastive learning scores each pixel against the sentence. In the published code the score is a 3x3
convolution whose kernel and bias are a linear function of the sentence. Without it the kernel is a learned one.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.models.cris.neck import conv_norm_relu

__all__ = ["Projector"]

KERNEL = 3


class Projector(nn.Module):
    """Upsamples a map from stride 16 to stride 4 and compares every pixel with the sentence."""

    def __init__(self, width: int, sentence: int, *, contrastive: bool) -> None:
        super().__init__()
        self.channels = width // 2
        self.pixels = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear"),
            conv_norm_relu(width, width, 3),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            conv_norm_relu(width, self.channels, 3),
        )
        self.mix = nn.Conv2d(self.channels, self.channels, 1)
        self.kernel: nn.Linear | nn.Conv2d
        if contrastive:
            self.kernel = nn.Linear(sentence, self.channels * KERNEL**2 + 1)
        else:
            self.kernel = nn.Conv2d(self.channels, 1, KERNEL, padding=KERNEL // 2)

    def forward(self, vision: Float[Tensor, "B D H W"], sentence: Float[Tensor, "B E"]) -> Float[Tensor, "B 1 h w"]:
        """Return logits, four times the sides of `vision`."""
        pixels = self.pixels(vision)
        if isinstance(self.kernel, nn.Conv2d):
            logits: Tensor = self.kernel(self.mix(pixels))
            return logits
        predicted: Tensor = self.kernel(sentence)
        kernel = predicted[:, :-1].reshape(-1, self.channels, KERNEL**2).mT
        return _correlate(pixels, kernel, self.mix) + predicted[:, -1, None, None, None]


def _correlate(
    pixels: Float[Tensor, "B C H W"], kernel: Float[Tensor, "B K C"], mix: nn.Conv2d
) -> Float[Tensor, "B 1 H W"]:
    """Convolve each image, mixed by a 1x1 convolution, with a kernel of its own, K = 3 * 3 taps.

    A grouped convolution would do it, slowly. Every tap is one dot product a pixel: nine maps from one batched matrix
    product, which are then shifted and summed. The 1x1 convolution before it is folded into that matrix.
    """
    height, width = pixels.shape[-2:]
    assert mix.bias is not None
    taps = torch.baddbmm(kernel @ mix.bias[None, :, None], kernel @ mix.weight[:, :, 0, 0], pixels.flatten(2))
    # `fold` adds tap (i, j) at the pixel's own place plus (i - 1, j - 1); a correlation wants minus: hence the flip.
    logits: Tensor = F.fold(taps.flip(1), (height, width), KERNEL, padding=KERNEL // 2)
    return logits
