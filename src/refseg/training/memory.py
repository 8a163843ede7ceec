"""Estimates the memory of a run before it starts."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from refseg.data.batches import Batch
from refseg.models.base import Model
from refseg.training.config import TrainingConfig
from refseg.training.engine import Objective, recompute_blocks
from refseg.training.optim import freeze, set_mode

__all__ = ["Estimate", "estimate"]

GIB = 2**30
SAFE = 0.9
"""Fraction of a GPU's memory that a run should fill: the rest is for the driver, libraries and fragmentation."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The most memory that a process needs, in bytes, without that of PyTorch itself."""

    weights: int
    """Of weights and buffers."""
    optimizer: int
    """Of Adam's two averages."""
    gradients: int
    fixed: int
    """Of a step, for any number of images."""
    image: int
    """Of a step, for each image and its expressions."""
    num_images: int
    """Images computed together: the batch divided by processes and pieces."""

    @property
    def step(self) -> int:
        """Bytes of activations and gradients at their peak."""
        return max(self.gradients, self.fixed + self.image * self.num_images)

    @property
    def total(self) -> int:
        """Bytes of the run."""
        return self.weights + self.optimizer + self.step

    def fits(self, gib: float) -> int:
        """Return the greatest number of images that a process can compute together on a GPU of so many GiB."""
        left = gib * GIB * SAFE - self.weights - self.optimizer
        return 0 if left < self.gradients else max(0, int((left - self.fixed) // self.image))

    def __str__(self) -> str:
        return (
            f"a process needs about {self.total / GIB:.2f} GiB: {self.weights / GIB:.2f} of weights, "
            f"{self.optimizer / GIB:.2f} of the optimizer, {self.step / GIB:.2f} of activations and gradients for "
            f"{self.num_images} images at a time ({self.fits(8)} fit into 8 GB, {self.fits(24)} into 24 GB)"
        )


def estimate(model: Model, config: TrainingConfig, *, processes: int = 1, shard: bool = False) -> Estimate:
    """Estimate the memory of a run by going through a step with fake tensors, which have shapes and no values.

    It follows the operations of a CPU, which keeps more than a GPU with fused attention does.

    Args:
        model: of the run; it is not changed.
        config: the numbers of the run.
        processes: their number.
        shard: whether the weights are sharded over them.
    """
    images = -(-config.batch_size // (processes * config.accumulate))
    with FakeTensorMode():
        twin = model.untrained()
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


def _most(model: Model, config: TrainingConfig, images: int) -> int:
    """Return the peak of a step of some images in bytes, without the weights."""
    set_mode(model, config)
    size = max((side for _, side in config.sizes), default=model.inputs.image_size)
    cells = size // model.stride
    count, length = images * config.expressions_per_image, model.inputs.word_length
    objective = Objective(model, config)
    with _Counting() as counting:
        for _ in range(min(config.accumulate, 2)):  # the second piece starts with the gradients of the first
            batch = Batch(
                pixels=torch.empty(images, 3, size, size),
                tokens=torch.zeros(count, length, dtype=torch.int64),
                padding=torch.zeros(count, length, dtype=torch.bool),
                image_index=torch.arange(images).repeat_interleave(config.expressions_per_image, output_size=count),
                target=torch.empty(count, 1, cells, cells),
                valid=torch.empty(count, 1, cells, cells),
                weight=torch.empty(count),
                box=torch.empty(count, 4),
            )
            objective(batch).backward()
            del batch
    model.zero_grad(set_to_none=True)
    most: int = counting.most
    return most


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the live tensors that were made inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {_key(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and (key := _key(value)) not in inputs and key not in self._alive:
                self._count(value, key)
        return result

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
