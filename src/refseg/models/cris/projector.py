"""The projector: a feature map and a sentence to logits (CRIS, section 3.4).

In the reference's code a logit is not the dot product of pixel and sentence, but a 3x3 convolution whose kernel and
bias are a linear function of the sentence. Without contrastive learning the kernel is a parameter.
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
    """Upsamples a map from stride 16 to stride 4 and compares each pixel with the sentence."""

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
        """Return the logits, four times the size of `vision`."""
        pixels = self.pixels(vision)
        if isinstance(self.kernel, nn.Conv2d):
            logits: Tensor = self.kernel(self.mix(pixels))
            return logits
        predicted: Tensor = self.kernel(sentence)
        kernel = predicted[:, :-1].reshape(-1, self.channels, KERNEL**2)
        return _correlate(pixels, kernel, self.mix) + predicted[:, -1, None, None, None]


def _correlate(
    pixels: Float[Tensor, "B C H W"], kernel: Float[Tensor, "B C K"], mix: nn.Conv2d
) -> Float[Tensor, "B 1 H W"]:
    """Apply a 1x1 convolution to each image, then a 3x3 convolution (K = 9) with a kernel of its own.

    A grouped convolution is several times slower. Here one batched matrix product, into which the 1x1 convolution is
    folded, computes nine values for each pixel, one for each element of the kernel, which are then shifted and summed.
    Pixels are the rows of the product: as its columns they took 30 times as long in bfloat16 on a CPU.
    """
    height, width = pixels.shape[-2:]
    assert mix.bias is not None
    taps = torch.baddbmm((mix.bias @ kernel)[:, None], pixels.flatten(2).mT, mix.weight[:, :, 0, 0].mT @ kernel)
    # `fold` shifts the map of element (i, j) by (i - 1, j - 1), a correlation by the negative: hence the flip.
    logits: Tensor = F.fold(taps.mT.flip(1), (height, width), KERNEL, padding=KERNEL // 2)
    return logits
