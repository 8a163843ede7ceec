"""What training minimises."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrastive_loss"]


def contrastive_loss(
    logits: Float[Tensor, "B 1 h w"], target: Float[Tensor, "B 1 h w"], weight: Float[Tensor, "B"] | None = None
) -> Float[Tensor, ""]:
    """Return the text-to-pixel contrastive loss: binary cross-entropy of each pixel, averaged.

    A pixel that the words mean is pulled to the sentence, any other is pushed away (CRIS, equations 8 and 9, which are
    this given the logit).

    Args:
        logits: the score of each pixel against its sentence.
        target: whether the pixel is meant, 0..1.
        weight: how much each sentence counts; all alike if None, as published.
    """
    if weight is None:
        return F.binary_cross_entropy_with_logits(logits.float(), target)
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=(1, 2, 3))
    return (each * weight).sum() / weight.sum()
