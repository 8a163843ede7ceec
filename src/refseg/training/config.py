"""The numbers of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from refseg.config import replace
from refseg.errors import ConfigError

__all__ = ["HOW", "TrainingConfig", "in_full"]

HOW = frozenset({"workers", "checkpointing", "compile", "save_every", "stop_after", "validation_images"})
"""Fields that do not change what a step learns: a run may be resumed with other values."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The numbers of a training run. The defaults are those that all published CRIS runs share."""

    # ── data ──
    epochs: int = 50
    """The number of epochs, each of which ends with a validation."""
    steps_per_epoch: int = 0
    """Steps between two validations. 0: the number of whole batches in one pass over the data. An epoch need not be a
    pass: the order of the images continues across epochs."""
    batch_size: int = 64
    """Images in a step, over all processes; references if `sample_by` is `reference`."""
    sample_by: Literal["image", "reference"] = "image"
    """What a pass goes through: `image` or `reference`. The published runs draw each reference once, whose image may
    come repeatedly."""
    expressions_per_image: int = 1
    """The greatest number of expressions chosen for an image, which is encoded once for them."""
    sizes: tuple[tuple[float, int], ...] = ()
    """Pairs (fraction of the run, side in pixels): the side of images from then on. Empty: that of the model."""
    target: Literal["coverage", "strided"] = "coverage"
    """How masks are shrunk to the side of the logits (see `data.batches.shrink`); the published runs use `strided`."""
    mirror: float = 0.0
    """Probability that an image is mirrored, with `left` and `right` swapped in its expressions; 0..1."""
    zoom: float = 0.0
    """Probability that an image is replaced by a crop around a target, with the expressions that describe appearance
    alone; 0..1. It shows small details, such as textures, at a larger scale."""
    emphasis: tuple[tuple[str, float], ...] = ()
    """Pairs (form, weight): the weight in the loss of expressions of that form; 1 for all others."""
    drill: int = 0
    """The greatest number of expressions of the hardest forms that Shapes adds to each image."""

    # ── loss ──
    objective: Literal["text-to-pixel", "mask", "grounding", "image-text", "boundary", "pixel-sum", "collaborative"] = (
        "text-to-pixel"
    )
    """`text-to-pixel` is the contrastive loss of CRIS; `grounding` and `mask` are the focal and Dice loss of RISCLIP's
    patch-level map and of a mask; `image-text` is CLIP's contrastive loss of whole images and sentences; `boundary` is
    EFN's loss of masks, bodies and edges at four levels; `pixel-sum` is the cross-entropy summed over the pixels (VLT);
    `collaborative` adds to it the losses of the box, and of the consistency of both (MCN)."""
    focal: float = 1.75
    """Weight of the focal loss, in `grounding` and `mask`."""
    dice: float = 1.0
    """Weight of the Dice loss, in `grounding` and `mask`."""

    # ── parameters and learning rates ──
    freeze: tuple[str, ...] = ()
    """Parts of the model that do not learn: names of its modules, such as `visual`, `text` or `visual.stages.0`."""
    frozen_norm: Literal["stored", "batch"] = "stored"
    """What batch normalisation in parts that do not learn normalises by: its `stored` statistics, or those of the
    `batch`, as in the published runs of MCN and VLT: Keras freezes the statistics alone. The stored ones stay in both
    cases."""
    freeze_norm: bool = False
    """Whether batch normalisation keeps its running statistics, as batches of a few images need."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """Adam, Adam with decoupled weight decay (`adamw`), or stochastic gradient descent (`sgd`)."""
    momentum: float = 0.9
    """Of the optimizer `sgd`."""
    learning_rate: float = 1e-4
    """Of the new layers."""
    backbone_factor: float = 0.1
    """Factor of the learning rate for the encoders."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of an encoder to the next lower one."""
    first_epoch_at_full_rate: bool = False
    """Whether the encoders train at the full rate in the first epoch, as they do in the published runs: a bug of the
    reference's code."""
    weight_decay: float = 0.0
    """Of the optimizer; 0: none."""
    kernel_penalty: float = 0.0
    """Factor of the sum of the squares of the kernels of convolutions in the loss, by its gradient: of those with a
    batch normalisation and of the outputs, as in the published runs of MCN and VLT. Only with `adam` and `sgd`."""
    schedule: Literal["milestones", "cosine", "polynomial"] = "milestones"
    """How the learning rate falls: in steps (`milestones`), or to 0 at the end of the run, as half a cosine (`cosine`)
    or as a power of the remaining fraction (`polynomial`)."""
    milestones: tuple[int, ...] = (35,)
    """Epochs after which the learning rate is multiplied by `decay`, for the schedule of that name."""
    decay: float = 0.1
    """Factor of the learning rate at each of the `milestones`."""
    power: float = 0.9
    """Exponent of the remaining fraction of the run, for the schedule `polynomial`."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    max_norm: float = 0.0
    """The norm that the gradients of a whole step are clipped to; 0 does not clip."""
    seed: int = 0
    """Of all random numbers: the initial weights, the order of the images, the expressions, crops and dropout."""

    # ── computation ──
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the arithmetic (autocast): `float32`, `bfloat16` or `float16`, which scales the loss. Weights stay float32."""
    accumulate: int = 1
    """Pieces that a process computes its part of a step in, one after the other, to save memory."""
    checkpointing: bool = False
    """Whether activations inside blocks are recomputed for the gradient, to save memory."""
    compile: bool = False
    """Whether `torch.compile` compiles the model first."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""

    # ── validation and storage ──
    validation_images: int | None = 100
    """The number of images that are validated on, the first ones; None (in JSON `null`): all."""
    chosen_by: Literal["mean_iou", "box_accuracy"] = "mean_iou"
    """The figure that is greatest for the best weights: `mean_iou` of the masks, or the share of right boxes, by which
    the published run of MCN chooses."""
    validation_expressions: Literal["all", "first"] = "all"
    """Expressions of each reference, `all` or only the `first`, by which the published runs choose the best weights."""
    save_every: int = 0
    """Steps between two writes of the run's state within an epoch; 0: only at the end of each epoch."""
    stop_after: int = 0
    """Step after which the run ends early, though its schedules are those of the whole run; 0: it does not."""

    def __post_init__(self) -> None:
        positive = (self.epochs, self.batch_size, self.expressions_per_image, self.accumulate)
        if min(positive) < 1:
            raise ConfigError("epochs, batch_size, expressions_per_image and accumulate must be positive")
        rates = (self.learning_rate, self.backbone_factor, self.weight_decay, self.decay, self.max_norm)
        if not all(math.isfinite(number) for number in (*rates, self.focal, self.dice, self.power)):
            raise ConfigError(
                "learning_rate, backbone_factor, weight_decay, decay, max_norm, focal, dice and power must be finite"
            )
        if not 0 <= self.kernel_penalty < math.inf:
            raise ConfigError(f"kernel_penalty must be at least 0 and finite, got {self.kernel_penalty}")
        if self.kernel_penalty and self.optimizer == "adamw":
            raise ConfigError("kernel_penalty is part of the loss, which adamw keeps apart: take optimizer=adam or sgd")
        if self.power <= 0:
            raise ConfigError("power must be positive")
        if min(self.focal, self.dice) < 0 or not self.focal + self.dice:
            raise ConfigError("focal and dice must be at least 0, and one of them positive")
        if self.learning_rate <= 0 or self.backbone_factor < 0 or self.weight_decay < 0 or self.max_norm < 0:
            raise ConfigError("learning_rate must be positive; backbone_factor, weight_decay and max_norm at least 0")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.mirror <= 1 or not 0 <= self.zoom <= 1:
            raise ConfigError("layer_decay must lie in 0..1, 0 excluded, mirror and zoom in 0..1")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum must lie in 0..1, 1 excluded, got {self.momentum}")
        for name in (
            *("steps_per_epoch", "warmup_steps", "workers", "seed", "drill"),
            *("save_every", "stop_after", "validation_images"),
        ):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} must be at least 0")
        if self.sizes and (self.sizes[0][0] != 0 or any(size < 4 or size % 4 for _, size in self.sizes)):
            raise ConfigError("sizes must start at 0, and every side must be a multiple of 4 and of the model's patch")
        if any(not 0 < weight < math.inf for _, weight in self.emphasis):
            raise ConfigError("the weights of emphasis must be positive")
        if any(not earlier < later <= 1 for (earlier, _), (later, _) in pairwise(self.sizes)):
            raise ConfigError("the fractions of sizes must rise, up to 1")

    @property
    def steps(self) -> int:
        """Steps of the whole run, which its schedules refer to; 0 until `in_full` has set those of an epoch."""
        return self.epochs * self.steps_per_epoch

    @property
    def last_step(self) -> int:
        """The number of steps after which the run ends."""
        return min(self.steps, self.stop_after or self.steps)


def in_full(config: TrainingConfig, num_images: int) -> TrainingConfig:
    """Return the config with the steps of an epoch set for data of so many images, or references.

    Raises:
        ConfigError: the data does not fill a batch.
    """
    if config.steps_per_epoch:
        return config
    if num_images < config.batch_size:
        raise ConfigError(f"batch_size is {config.batch_size}, but the data has {num_images}; lower it")
    return replace(config, steps_per_epoch=num_images // config.batch_size)
