"""What training minimises."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrastive_loss", "focal_dice_loss", "image_text_loss"]

FOCAL_ALPHA, FOCAL_GAMMA = 0.65, 2.0
"""Weight of what is meant, and how much less a pixel counts that is nearly right. Second-hand: constants of a
re-implementation of RISCLIP that gives the paper for them."""


def contrastive_loss(logits: Float[Tensor, "B 1 h w"], target: Float[Tensor, "B 1 h w"]) -> Float[Tensor, "B"]:
    """Return the text-to-pixel contrastive loss of each expression: binary cross-entropy, averaged over the pixels.

    A pixel that the words mean is pulled to the sentence, any other is pushed away (CRIS, equations 8 and 9, which are
    this given the logit). The published loss is the mean over the expressions of a batch.

    Args:
        logits: the score of each pixel against its sentence.
        target: whether the pixel is meant, 0..1.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=(1, 2, 3))


def focal_dice_loss(
    logits: Float[Tensor, "B 1 h w"], target: Float[Tensor, "B 1 h w"], *, focal: float, dice: float
) -> Float[Tensor, "B"]:
    """Return the loss of RISCLIP's map and of its mask, for each expression: focal times its loss, dice times its loss.

    The focal loss (Lin et al., ICCV 2017, equation 5) is averaged over the pixels; the Dice loss (Milletari et al., 3DV
    2016, section 3) has a one in numerator and denominator, for expressions that mean nothing.

    Args:
        logits: the score of each pixel.
        target: whether the pixel is meant, 0..1.
        focal: weight of the focal loss.
        dice: weight of the Dice loss.
    """
    logits = logits.float()
    probability = logits.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    balance = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    of_pixels = (balance * (1 - right) ** FOCAL_GAMMA * entropy).mean(dim=(1, 2, 3))
    both, either = (probability * target).sum(dim=(1, 2, 3)), (probability + target).sum(dim=(1, 2, 3))
    return focal * of_pixels + dice * (1 - (2 * both + 1) / (either + 1))


def image_text_loss(
    images: Float[Tensor, "B E"],
    sentences: Float[Tensor, "B E"],
    log_scale: Float[Tensor, ""],
    alike: Bool[Tensor, "B B"],
    fits: Bool[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """Return CLIP's contrastive loss of each pair of an image and a sentence, the mean of both directions.

    Each sentence is to find its image among all of the batch, and each image its sentence (Radford et al., 2021,
    figure 3). A sentence that nearly fits its image, and does not, finds nothing: it is only there for images not
    to find it (as the hard negatives of Yuksekgonul et al., ICLR 2023, section 4).

    Args:
        images: of length one.
        sentences: of length one; the i-th was written for the i-th image.
        log_scale: the logarithm of what cosines are multiplied with, at most 100.
        alike: pairs of sentence and image that are known to fit as well, which are neither pulled nor pushed.
        fits: whether a sentence fits the image that it was written for; where not, its loss is nothing.
    """
    logits = log_scale.exp().clamp(max=100) * sentences @ images.mT
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(alike & ~own, float("-inf"))
    wanted = torch.arange(len(logits), device=logits.device)
    found = F.cross_entropy(logits, wanted, reduction="none"), F.cross_entropy(logits.mT, wanted, reduction="none")
    return fits * (found[0] + found[1]) / 2
