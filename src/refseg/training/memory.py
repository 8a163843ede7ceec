"""How much memory a run will take, told before it starts."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refseg.models.base import Segmenter
from refseg.training.config import TrainingConfig
from refseg.training.engine import Objective, recompute_blocks
from refseg.training.optim import freeze, set_mode

__all__ = ["Estimate", "estimate"]

GIB = 2**30
SAFE = 0.9
"""Of a GPU's memory that a run should fill: the rest is the driver's, the libraries' and lost between blocks."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes that a process needs at most, apart from what PyTorch itself takes."""

    weights: int
    """Weights and statistics."""
    optimizer: int
    """Its two averages, of what learns."""
    gradients: int
    fixed: int
    """What a step holds however few images it has."""
    image: int
    """What it holds for each image and its expressions."""
    num_images: int
    """Computed together: the batch over processes and pieces."""

    @property
    def step(self) -> int:
        """Bytes of activations and gradients, at the moment when they are most."""
        return max(self.gradients, self.fixed + self.image * self.num_images)

    @property
    def total(self) -> int:
        """Bytes of the run as it is set."""
        return self.weights + self.optimizer + self.step

    def fits(self, gib: float) -> int:
        """Return how many images at most a process can compute together on a GPU of so many GiB."""
        left = gib * GIB * SAFE - self.weights - self.optimizer
        return 0 if left < self.gradients else max(0, int((left - self.fixed) // self.image))

    def __str__(self) -> str:
        def room(gib: int) -> str:
            return f"{most} fit into {gib} GB" if (most := self.fits(gib)) else f"none fits into {gib} GB"

        return (
            f"a process needs about {self.total / GIB:.2f} GiB: {self.weights / GIB:.2f} of weights, "
            f"{self.optimizer / GIB:.2f} of the optimizer, {self.step / GIB:.2f} of activations and gradients for "
            f"{self.num_images} images at a time ({room(8)}, {room(24)})"
        )


def estimate(model: Segmenter, config: TrainingConfig, *, processes: int = 1, shard: bool = False) -> Estimate:
    """Estimate a run's memory by going through a step without computing it: tensors have sizes here, and no values.

    It follows the arithmetic of a processor, which keeps more than a GPU does where a GPU has fused attention.

    Args:
        model: of the run; it is left as it is.
        config: the numbers of the run.
        processes: how many share a step.
        shard: whether they share the weights too.
    """
    images = -(-config.batch_size // (processes * config.accumulate))
    with FakeTensorMode():
        twin: Segmenter = type(model)(model.config)
        freeze(twin, config)
        if config.checkpointing:
            recompute_blocks(twin)
        once, twice = (_most(twin, config, count) for count in (images, 2 * images))
        weights = sum(value.nbytes for value in (*twin.parameters(), *twin.buffers()))
        gradients = sum(parameter.nbytes for parameter in twin.parameters() if parameter.requires_grad)
    image = (twice - once) // images
    parts = processes if shard else 1
    return Estimate(
        weights=weights // parts,
        optimizer=2 * gradients // parts,
        gradients=gradients // parts,
        fixed=max(0, once - image * images),
        image=image,
        num_images=images,
    )


def _most(model: Segmenter, config: TrainingConfig, images: int) -> int:
    """Return the most bytes that a step of some images holds at once beside the weights."""
    set_mode(model, config)
    size = max((side for _, side in config.sizes), default=model.config.image_size)
    asked, length = images * config.expressions_per_image, model.config.word_length
    objective = Objective(model, config)
    with _Counting() as counting:
        for _ in range(min(config.accumulate, 2)):  # the second piece finds the gradients of the first
            loss = objective(
                torch.empty(images, 3, size, size),
                torch.zeros(asked, length, dtype=torch.int64),
                torch.zeros(asked, length, dtype=torch.bool),
                torch.arange(images).repeat_interleave(config.expressions_per_image, output_size=asked),
                torch.empty(asked, 1, size // 4, size // 4),
                torch.empty(asked),
            )
            loss.backward()
    model.zero_grad(set_to_none=True)
    most: int = counting.most
    return most


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes of tensors made inside it are alive."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        inputs = {_key(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        for value in tree_leaves(made):
            if isinstance(value, Tensor) and (key := _key(value)) not in inputs and key not in self._alive:
                self._count(value, key)
        return made

    def _count(self, value: Tensor, key: int) -> None:
        storage = value.untyped_storage()
        size = storage.nbytes()
        self._alive.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self.now -= size


def _key(value: Tensor) -> int:
    return int(value.untyped_storage()._cdata)
