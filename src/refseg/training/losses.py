"""The losses: each returns one value per expression."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["boundary_loss", "contrastive_loss", "focal_dice_loss", "image_text_loss", "near_border", "pixel_sum_loss"]

FOCAL_ALPHA, FOCAL_GAMMA = 0.65, 2.0
"""Weight of target pixels, and exponent of the modulating factor. Second-hand: constants of a re-implementation of
RISCLIP that cites the paper for them."""
BORDER = 2
"""Distance in pixels up to which a pixel belongs to an edge (EFN; its code)."""


def contrastive_loss(
    logits: Float[Tensor, "B 1 h w"], target: Float[Tensor, "B 1 h w"], valid: Float[Tensor, "B 1 h w"]
) -> Float[Tensor, "B"]:
    """Return the text-to-pixel contrastive loss: binary cross-entropy, averaged over the pixels.

    Pixels of the target are pulled to the sentence, all others are pushed away (CRIS, equations 8 and 9, which are this
    given the logit). The published loss is the mean over the expressions of a batch.

    Args:
        logits: similarity of each pixel and its sentence.
        target: the target mask, 0..1.
        valid: weight of each pixel, 0..1.
    """
    return _mean(F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none"), valid)


def pixel_sum_loss(
    logits: Float[Tensor, "B 1 h w"], target: Float[Tensor, "B 1 h w"], valid: Float[Tensor, "B 1 h w"]
) -> Float[Tensor, "B"]:
    """Return the binary cross-entropy summed over the pixels (VLT and MCN; their code).

    Args:
        logits: of each pixel.
        target: the target mask, 0..1.
        valid: weight of each pixel, 0..1.
    """
    losses = F.binary_cross_entropy_with_logits(logits.to(target.dtype), target, reduction="none")
    return (losses * valid).sum(dim=(1, 2, 3))


def focal_dice_loss(
    logits: Float[Tensor, "B 1 h w"],
    target: Float[Tensor, "B 1 h w"],
    valid: Float[Tensor, "B 1 h w"],
    *,
    focal: float,
    dice: float,
) -> Float[Tensor, "B"]:
    """Return the loss of RISCLIP's map and of its mask: the weighted sum of focal and Dice loss.

    The focal loss (Lin et al., ICCV 2017, equation 5) is averaged over the pixels; the Dice loss (Milletari et al., 3DV
    2016, section 3) has a one in numerator and denominator, for expressions that nothing fits.

    Args:
        logits: of each pixel.
        target: the target mask, 0..1.
        valid: weight of each pixel, 0..1.
        focal: weight of the focal loss.
        dice: weight of the Dice loss.
    """
    logits = logits.float()
    probability = logits.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    balance = FOCAL_ALPHA * target + (1 - FOCAL_ALPHA) * (1 - target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal_loss = _mean(balance * (1 - right) ** FOCAL_GAMMA * entropy, valid)
    both = (probability * target * valid).sum(dim=(1, 2, 3))
    either = ((probability + target) * valid).sum(dim=(1, 2, 3))
    return focal * focal_loss + dice * (1 - (2 * both + 1) / (either + 1))


def boundary_loss(
    masks: Sequence[Float[Tensor, "B 1 S S"]],
    edges: Sequence[Float[Tensor, "B 1 S S"]],
    target: Float[Tensor, "B 1 S S"],
    valid: Float[Tensor, "B 1 S S"],
) -> Float[Tensor, "B"]:
    """Return the loss of EFN: the sum of binary cross-entropies, each averaged over the pixels (EFN, section 3.4).

    Args:
        masks: logits of the target mask, and of object bodies, whose target is the mask too.
        edges: logits of the edge of the target mask (see `near_border`).
        target: the target mask, 0..1, at the side of the image.
        valid: weight of each pixel, 0..1.
    """
    edge = near_border(target > 0.5).to(target.dtype)
    pairs = [*((logits, target) for logits in masks), *((logits, edge) for logits in edges)]
    return torch.stack([contrastive_loss(logits, wanted, valid) for logits, wanted in pairs]).sum(dim=0)


def near_border(mask: Bool[Tensor, "B 1 H W"]) -> Bool[Tensor, "B 1 H W"]:
    """Return the pixels with a pixel of the other kind at most `BORDER` away; outside the image is no mask.

    Source: EFN; its code measures the distance to the centre of the nearest pixel of the other kind.
    """
    line = torch.arange(-BORDER, BORDER + 1, device=mask.device)
    disc = (line[:, None] ** 2 + line**2 <= BORDER**2).float()
    inside = F.conv2d(mask.float(), disc[None, None], padding=BORDER)
    return (inside > 0) & (inside < disc.sum())


def _mean(losses: Float[Tensor, "B 1 h w"], valid: Float[Tensor, "B 1 h w"]) -> Float[Tensor, "B"]:
    """Return the weighted mean over the pixels; 0 if none is valid. If all are valid, it is exactly the plain mean."""
    weight = valid.sum(dim=(1, 2, 3))
    return (losses * valid).mean(dim=(1, 2, 3)) * (valid[0].numel() / weight.clamp(min=1e-6))


def image_text_loss(
    images: Float[Tensor, "B E"],
    sentences: Float[Tensor, "B E"],
    log_scale: Float[Tensor, ""],
    same: Bool[Tensor, "B B"],
    fits: Bool[Tensor, "B"],
) -> Float[Tensor, "B"]:
    """Return CLIP's contrastive loss of each pair of an image and a sentence, the mean of both directions.

    Each sentence is matched with its image among all of the batch, and each image with its sentence (Radford et al.,
    2021, figure 3). A hard negative, a sentence that nearly fits its image, has no loss of its own and is only a wrong
    answer for the images (Yuksekgonul et al., ICLR 2023, section 4).

    Args:
        images: of length one.
        sentences: of length one; the i-th was written for the i-th image.
        log_scale: the logarithm of the factor of the cosines, which is at most 100.
        same: (sentence, image) pairs that are known to match too, and are left out of the negatives.
        fits: whether a sentence fits its image; False for hard negatives.
    """
    logits = log_scale.exp().clamp(max=100) * sentences @ images.mT
    own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    logits = logits.masked_fill(same & ~own, float("-inf"))
    answer = torch.arange(len(logits), device=logits.device)
    of_sentences = F.cross_entropy(logits, answer, reduction="none")
    of_images = F.cross_entropy(logits.mT, answer, reduction="none")
    return fits * (of_sentences + of_images) / 2
