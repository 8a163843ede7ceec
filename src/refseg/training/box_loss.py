"""The loss of MCN: YOLOv3's loss of the box, the cross-entropy of the mask, and the consistency of both."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from refseg.models.mcn.detection import decoded_boxes, per_anchor
from refseg.models.mcn.model import Tasks
from refseg.training.losses import pixel_sum_loss

__all__ = ["box_targets", "collaborative_loss", "task_losses"]

IGNORED = 0.5
"""Anchors whose box overlaps the target more are neither right nor wrong."""
SIGMA = 3.0
"""Of the smooth L1 loss: it is quadratic below 1 / SIGMA^2."""
MASK_WEIGHT = 0.1
TINY = 1e-6


def collaborative_loss(
    tasks: Tasks,
    target: Float[Tensor, "B 1 h w"],
    boxes: Float[Tensor, "B 4"],
    anchors: Float[Tensor, "A 2"],
    valid: Float[Tensor, "B 1 h w"],
    image_side: int,
) -> Float[Tensor, "B"]:
    """Return the loss of both tasks (MCN, section 3.4; the weights are those of the authors' code).

    Args:
        tasks: What the model computed.
        target: The target mask, 0..1.
        boxes: Around the target, (x0, y0, x1, y1) in pixels of the image; of no size where nothing fits.
        anchors: Width and height, as fractions of the side.
        valid: Weight of each pixel, 0..1.
        image_side: Pixels.
    """
    parts = task_losses(tasks, target, boxes, anchors, valid, image_side)
    return parts["xy"] + parts["wh"] + parts["conf"] + MASK_WEIGHT * parts["seg"] + parts["cem"]


def task_losses(
    tasks: Tasks,
    target: Float[Tensor, "B 1 h w"],
    boxes: Float[Tensor, "B 4"],
    anchors: Float[Tensor, "A 2"],
    valid: Float[Tensor, "B 1 h w"],
    image_side: int,
) -> dict[str, Float[Tensor, "B"]]:
    """Return the parts of the loss: `xy`, `wh` and `conf` of the box, `seg` of the mask, `cem` of the consistency."""
    values = per_anchor(tasks.box.to(target.dtype))  # not in the half precision of autocast
    wanted = box_targets(boxes, anchors, values.shape[1], image_side)
    positive = wanted[..., 4]
    # Small boxes count more.
    scale = positive * (2 - wanted[..., 2] * wanted[..., 3])
    position, side = wanted[..., :2], values.shape[1]
    within = position * side - (position * side).floor()
    xy = F.binary_cross_entropy_with_logits(values[..., :2], within, reduction="none")
    size = torch.where(positive[..., None] > 0, (wanted[..., 2:4] / anchors).clamp(min=TINY).log(), 0)
    wh = F.smooth_l1_loss(values[..., 2:4], size, reduction="none", beta=1 / SIGMA**2)
    overlap = _overlaps(decoded_boxes(values.detach(), anchors), boxes / image_side)
    counted = positive + (1 - positive) * (overlap < IGNORED)
    conf = F.binary_cross_entropy_with_logits(values[..., 4], positive, reduction="none")
    return {
        "xy": (scale[..., None] * xy).flatten(1).sum(dim=1),
        "wh": (0.5 * scale[..., None] * wh).flatten(1).sum(dim=1),
        "conf": (counted * conf).flatten(1).sum(dim=1),
        "seg": pixel_sum_loss(tasks.mask, target, valid),
        "cem": -(tasks.energy + TINY).log(),
    }


def box_targets(
    boxes: Float[Tensor, "B 4"], anchors: Float[Tensor, "A 2"], side: int, image_side: int
) -> Float[Tensor, "B {side} {side} A 5"]:
    """Return what each anchor at each position should be: middle, width, height as fractions, and 1 for the right one.

    That is the anchor whose shape has the greatest IoU with the box, at the position of its middle, which is rounded
    down to a pixel. All are zero for a box of no size.

    Args:
        boxes: (x0, y0, x1, y1) in pixels of the image.
        anchors: Width and height, as fractions of the side of the image.
        side: Of the grid.
        image_side: Pixels.
    """
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).floor() / image_side
    size = (boxes[:, 2:] - boxes[:, :2]) / image_side
    shared = torch.minimum(size[:, None], anchors).prod(dim=-1)
    best = (shared / (size.prod(dim=-1)[:, None] + anchors.prod(dim=-1) - shared)).argmax(dim=1)
    column, row = (middle * side).long().clamp(0, side - 1).unbind(dim=1)
    wanted = boxes.new_zeros(len(boxes), side, side, len(anchors), 5)
    values = torch.cat([middle, size, torch.ones_like(middle[:, :1])], dim=1)
    exists = (size.prod(dim=-1) > 0)[:, None]
    wanted[torch.arange(len(boxes), device=boxes.device), row, column, best] = values * exists
    return wanted


def _overlaps(predicted: Float[Tensor, "B h w A 4"], boxes: Float[Tensor, "B 4"]) -> Float[Tensor, "B h w A"]:
    """Return the IoU of each predicted box (middle and size) and the box of its image."""
    low, high = predicted[..., :2] - predicted[..., 2:] / 2, predicted[..., :2] + predicted[..., 2:] / 2
    box = boxes[:, None, None, None]
    shared = (torch.minimum(high, box[..., 2:]) - torch.maximum(low, box[..., :2])).clamp(min=0).prod(dim=-1)
    areas = predicted[..., 2:].prod(dim=-1) + (box[..., 2:] - box[..., :2]).prod(dim=-1)
    return shared / (areas - shared).clamp(min=TINY)
