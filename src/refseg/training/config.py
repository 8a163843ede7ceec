"""The numbers of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from refseg.errors import ConfigError

__all__ = ["TrainingConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained; the defaults are those of every published CRIS run, where it has them."""

    epochs: int = 50
    steps_per_epoch: int
    """Batches between two validations. An epoch need not be a pass over the data: pictures are drawn in turn, without
    a gap, across epochs."""
    batch_size: int = 64
    """Pictures in a batch."""
    expressions_per_picture: int = 1
    """The most expressions drawn for each picture, which is encoded once for them."""
    sizes: tuple[tuple[float, int], ...] = ()
    """Pairs (share of the run, side in pixels): from that share on pictures have that side. Empty: the model's own."""
    target: Literal["coverage", "strided"] = "coverage"
    """How masks become targets at a quarter of the side (see `data.batches.shrink`); `strided` is the published way."""
    emphasis: tuple[tuple[str, float], ...] = ()
    """Pairs (form, weight): how much an expression of that form counts in the loss, where others count 1."""
    drill: int = 0
    """Expressions of the forms that are hardest to learn which Shapes adds to each picture, at most."""
    optimizer: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-4
    backbone_factor: float = 0.1
    """The towers train at this multiple of the learning rate."""
    weight_decay: float = 0.0
    schedule: Literal["milestones", "cosine"] = "milestones"
    milestones: tuple[int, ...] = (35,)
    """Epochs after which the learning rate falls, for the schedule of that name."""
    decay: float = 0.1
    """What it is multiplied with there."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises from nothing, linearly."""
    max_norm: float = 0.0
    """The norm that gradients are clipped to; 0 leaves them as they are."""
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""
    validation_pictures: int = 100

    def __post_init__(self) -> None:
        positive = (self.epochs, self.steps_per_epoch, self.batch_size, self.expressions_per_picture)
        if min(positive) < 1:
            raise ConfigError("epochs, steps_per_epoch, batch_size and expressions_per_picture must be positive")
        numbers = (self.learning_rate, self.backbone_factor, self.weight_decay, self.decay, self.max_norm)
        if not all(math.isfinite(number) for number in numbers):
            raise ConfigError("learning_rate, backbone_factor, weight_decay, decay and max_norm must be finite")
        if self.learning_rate <= 0 or self.backbone_factor < 0 or self.weight_decay < 0 or self.max_norm < 0:
            raise ConfigError("learning_rate must be positive; backbone_factor, weight_decay and max_norm at least 0")
        if min(self.warmup_steps, self.workers, self.validation_pictures, self.seed, self.drill) < 0:
            raise ConfigError("warmup_steps, workers, validation_pictures, seed and drill must be at least 0")
        if self.sizes and (self.sizes[0][0] != 0 or any(size < 32 or size % 32 for _, size in self.sizes)):
            raise ConfigError("sizes must start at share 0, and every side must be a multiple of 32")
        if any(not 0 < weight < math.inf for _, weight in self.emphasis):
            raise ConfigError("the weights of emphasis must be positive")
        if any(not earlier < later <= 1 for (earlier, _), (later, _) in pairwise(self.sizes)):
            raise ConfigError("the shares of sizes must rise, up to 1")

    @property
    def steps(self) -> int:
        """Batches of the whole run."""
        return self.epochs * self.steps_per_epoch
