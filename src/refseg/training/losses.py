"""What training minimises."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = ["contrastive_loss"]


def contrastive_loss(logits: Float[Tensor, "B 1 h w"], target: Float[Tensor, "B 1 h w"]) -> Float[Tensor, "B"]:
    """Return the text-to-pixel contrastive loss of each expression: binary cross-entropy, averaged over the pixels.

    A pixel that the words mean is pulled to the sentence, any other is pushed away (CRIS, equations 8 and 9, which are
    this given the logit). The published loss is the mean over the expressions of a batch.

    Args:
        logits: the score of each pixel against its sentence.
        target: whether the pixel is meant, 0..1.
    """
    return F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(dim=(1, 2, 3))
