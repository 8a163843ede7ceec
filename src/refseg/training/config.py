"""The numbers of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from refseg.config import replace
from refseg.errors import ConfigError

__all__ = ["HOW", "TrainingConfig", "in_full"]

HOW = frozenset({"workers", "checkpointing", "compile", "save_every", "validation_images"})
"""Fields that say how the work is done, or how often one looks at it: a run may go on with others."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained; the defaults are those of every published CRIS run, where it has them."""

    # --- how much, and of what
    epochs: int = 50
    steps_per_epoch: int = 0
    """Steps between two validations. 0: as many as one pass over the data has whole batches. Else an epoch need not be
    a pass: images are drawn in turn, without a gap, across epochs."""
    batch_size: int = 64
    """Images in a step, of all processes together; references, where those are drawn."""
    draw: Literal["image", "reference"] = "image"
    """What a pass goes through. The published runs draw each reference once, whose image may come several times."""
    expressions_per_image: int = 1
    """The most expressions of a draw, for which its image is encoded once."""
    sizes: tuple[tuple[float, int], ...] = ()
    """Pairs (share of the run, side in pixels): from that share on images have that side. Empty: the model's own."""
    target: Literal["coverage", "strided"] = "coverage"
    """How masks become targets at a quarter of the side (see `data.batches.shrink`); `strided` is the published way."""
    mirror: float = 0.0
    """How often an image is mirrored, with `left` and `right` swapped in its words; 0..1."""
    zoom: float = 0.0
    """How often a part of an image takes its place, with those of its expressions that tell things by their looks
    alone: what is small in the whole image, textures for instance, is learnt there; 0..1."""
    emphasis: tuple[tuple[str, float], ...] = ()
    """Pairs (form, weight): how much an expression of that form counts in the loss, where others count 1."""
    drill: int = 0
    """Expressions of the forms that are hardest to learn which Shapes adds to each image, at most."""

    # --- what it is to learn
    objective: Literal["text-to-pixel", "mask", "grounding", "image-text"] = "text-to-pixel"
    """`text-to-pixel` is CRIS' contrast of pixels and sentence; `grounding` compares RISCLIP's patch-level map with the
    mask, `mask` its final one; `image-text` is CLIP's own contrast of whole images and sentences."""
    focal: float = 1.75
    """Weight of the focal loss, in `grounding` and `mask`."""
    dice: float = 1.0
    """Weight of the Dice loss there."""

    # --- what learns, how fast
    freeze: tuple[str, ...] = ()
    """Parts of the model that do not learn, such as `visual` and `text`: their names in the model."""
    freeze_norm: bool = False
    """Whether batch normalisation keeps the statistics that it has, as batches of a few images need."""
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-4
    backbone_factor: float = 0.1
    """The encoders train at this multiple of the learning rate."""
    layer_decay: float = 1.0
    """Each layer of an encoder trains at this multiple of the rate of the layer above it."""
    first_epoch_at_full_rate: bool = False
    """Whether the encoders train at the full rate in the first epoch: a slip of the reference, which its published
    numbers contain."""
    weight_decay: float = 0.0
    schedule: Literal["milestones", "cosine", "polynomial"] = "milestones"
    milestones: tuple[int, ...] = (35,)
    """Epochs after which the learning rate falls, for the schedule of that name."""
    decay: float = 0.1
    """What it is multiplied with there."""
    power: float = 0.9
    """Of the share of the run that is left, which the rate is multiplied with in the schedule `polynomial`."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from nothing, linearly."""
    max_norm: float = 0.0
    """The norm that the gradients of a whole step are clipped to; 0 leaves them as they are."""
    seed: int = 0

    # --- how it is computed
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the arithmetic; weights stay float32. float16 scales the loss."""
    accumulate: int = 1
    """Parts that a process computes its share of a step in, one after the other, to save memory."""
    checkpointing: bool = False
    """Whether activations inside of blocks are computed again for the gradient, to save memory."""
    compile: bool = False
    """Whether `torch.compile` translates the model first."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""

    # --- how it is watched
    validation_images: int | None = 100
    """The first so many are validated on; None takes all."""
    validation_expressions: Literal["all", "first"] = "all"
    """Of each reference; the published runs choose the best weights by the first ones."""
    save_every: int = 0
    """Steps after which the run's state is stored within an epoch; 0 stores it at the end of each."""

    def __post_init__(self) -> None:
        positive = (self.epochs, self.batch_size, self.expressions_per_image, self.accumulate)
        if min(positive) < 1:
            raise ConfigError("epochs, batch_size, expressions_per_image and accumulate must be positive")
        rates = (self.learning_rate, self.backbone_factor, self.weight_decay, self.decay, self.max_norm)
        if not all(math.isfinite(number) for number in (*rates, self.focal, self.dice, self.power)):
            raise ConfigError(
                "learning_rate, backbone_factor, weight_decay, decay, max_norm, focal, dice and power must be finite"
            )
        if self.power <= 0:
            raise ConfigError("power must be positive")
        if min(self.focal, self.dice) < 0 or not self.focal + self.dice:
            raise ConfigError("focal and dice must be at least 0, and one of them positive")
        if self.learning_rate <= 0 or self.backbone_factor < 0 or self.weight_decay < 0 or self.max_norm < 0:
            raise ConfigError("learning_rate must be positive; backbone_factor, weight_decay and max_norm at least 0")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.mirror <= 1 or not 0 <= self.zoom <= 1:
            raise ConfigError("layer_decay must lie in 0..1, 0 excluded, mirror and zoom in 0..1")
        counts = (self.steps_per_epoch, self.warmup_steps, self.workers, self.seed, self.drill, self.save_every)
        if min(*counts, self.validation_images or 0) < 0:
            raise ConfigError(
                "steps_per_epoch, warmup_steps, workers, seed, drill, save_every and validation_images must be at "
                "least 0"
            )
        if self.sizes and (self.sizes[0][0] != 0 or any(size < 4 or size % 4 for _, size in self.sizes)):
            raise ConfigError("sizes must start at share 0, and every side must be a multiple of 4, and of the patch")
        if any(not 0 < weight < math.inf for _, weight in self.emphasis):
            raise ConfigError("the weights of emphasis must be positive")
        if any(not earlier < later <= 1 for (earlier, _), (later, _) in pairwise(self.sizes)):
            raise ConfigError("the shares of sizes must rise, up to 1")

    @property
    def steps(self) -> int:
        """Steps of the whole run; 0 as long as those of an epoch are open (see `in_full`)."""
        return self.epochs * self.steps_per_epoch


def in_full(config: TrainingConfig, items: int) -> TrainingConfig:
    """Return the numbers of a run with the steps of an epoch filled in, for data of so many images or references.

    Raises:
        ConfigError: one pass over the data does not fill a batch.
    """
    if config.steps_per_epoch:
        return config
    if items < config.batch_size:
        raise ConfigError(f"batch_size is {config.batch_size}, but the data has {items}; lower it")
    return replace(config, steps_per_epoch=items // config.batch_size)
