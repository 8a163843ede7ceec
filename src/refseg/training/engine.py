"""One training step, on one process or on several: mixed precision, accumulation, clipping, DDP and FSDP2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from refseg.data.batches import Batch, to_device
from refseg.errors import ConfigError
from refseg.models.base import Model
from refseg.training.config import TrainingConfig
from refseg.training.families import training_spec
from refseg.training.optim import build_optimizer, freeze, set_mode, without_gradient
from refseg.training.processes import Processes

__all__ = ["Engine", "Objective", "recompute_blocks"]

FEW_TOKENS = 192
"""Image tokens below which explicit attention takes 0.5 to 0.8 times as long as the fused kernel on a CPU, forward and
backward in bfloat16 (one thread, four heads of 24); with more it takes up to twice as long, in float32 two to five
times."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _explicit_attention(explicit: bool) -> AbstractContextManager[Any]:
    return sdpa_kernel(SDPBackend.MATH) if explicit else nullcontext()


class Objective(nn.Module):
    """A model and its loss as one module: a batch in, the weighted sum of the losses of its expressions out.

    Raises:
        ConfigError: the model cannot be trained with the objective of the config.
    """

    def __init__(self, model: Model, config: TrainingConfig) -> None:
        super().__init__()
        spec = training_spec(model)
        if config.objective not in spec.objectives:
            raise ConfigError(
                f"a model of the family {model.family} cannot be trained with objective={config.objective}, but with "
                f"{' or '.join(spec.objectives)}"
            )
        if not model.any_size and any(side != model.inputs.image_size for _, side in config.sizes):
            raise ConfigError(
                f"this model of the family {model.family} reads images of {model.inputs.image_size} pixels alone; "
                "leave sizes empty"
            )
        self.model = model
        self._config, self._loss = config, spec.objectives[config.objective]
        self._cell_size = spec.cell_size(model.config)

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        """Return the sum of the losses."""
        device, precision = batch.pixels.device.type, self._config.precision
        few = (batch.pixels.shape[-1] // self._cell_size) ** 2 < FEW_TOKENS
        with (
            _explicit_attention(device == "cpu" and precision != "float32" and few),
            torch.autocast(device, DTYPES[precision], enabled=precision != "float32"),
        ):
            batch = replace(batch, pixels=batch.pixels.contiguous(memory_format=torch.channels_last))
            losses = self._loss(self.model, batch, self._config)
        return (losses * batch.weight).sum()


class Engine:
    """The part of one process in every training step.

    Args:
        model: with the weights to start from; it is moved to the device and trained in place.
        config: the numbers of the run.
        processes: all processes of the run.
        shard: whether each process holds a part of the weights (FSDP2) instead of all of them (DDP).

    Raises:
        ConfigError: the numbers do not fit the model or the processes.
    """

    def __init__(self, model: Model, config: TrainingConfig, processes: Processes, *, shard: bool = False) -> None:
        if config.batch_size % (processes.size * config.accumulate):
            raise ConfigError(
                f"batch_size ({config.batch_size}) must be a multiple of processes x accumulate "
                f"({processes.size} x {config.accumulate})"
            )
        if shard and config.precision == "float16":
            raise ConfigError("sharded weights cannot be trained in float16; take precision=bfloat16")
        if shard and processes.size == 1:
            raise ConfigError("the weights of one process cannot be sharded; start several with torchrun")
        self.config, self.processes, self.sharded = config, processes, shard
        freeze(model, config)
        # FSDP shards only weights in the default memory format.
        layout = torch.preserve_format if shard else torch.channels_last
        model = model.to(device=processes.device, memory_format=layout)  # type: ignore[call-overload]
        if processes.size > 1 and processes.device.type == "cuda" and not config.freeze_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = model
        if config.checkpointing:
            recompute_blocks(model)
        self.objective: nn.Module = Objective(model, config)
        if shard:
            for block in training_spec(model).blocks(model):
                fully_shard(block)
            # Parameters that never learn may be a single number, which cannot be split.
            ignored = {model.get_parameter(name) for name in without_gradient(model, config.objective)}
            fully_shard(self.objective, ignored_params=ignored)
        if config.compile:
            self.objective.compile(dynamic=True)
        if processes.size > 1 and not shard:
            self.objective = DistributedDataParallel(self.objective, gradient_as_bucket_view=True)
        self.optimizer = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=config.precision == "float16")

    def step(self, batches: list[Batch], number: int) -> Float[Tensor, ""]:
        """Learn from one step's batches, of this process, and return the mean loss over all processes.

        The gradient is that of the weighted mean over all expressions of the step, for any number of pieces.

        Args:
            batches: one for each piece of this process's shard.
            number: of the step; it seeds the random numbers, so that a repeated step is the same.
        """
        set_mode(self.model, self.config)
        torch.manual_seed(_seed(self.config.seed, number, self.processes.rank))
        weight = torch.stack([batch.weight.sum() for batch in batches]).sum()
        total = self.processes.sum(weight.to(self.processes.device))
        loss = torch.zeros((), device=self.processes.device)
        for piece, batch in enumerate(batches, start=1):
            with self._unsynchronised(piece < len(batches)):
                part = self.objective(to_device(batch, self.processes.device))
                # Gradients are averaged over the processes; their sum is needed.
                self.scaler.scale(part * (self.processes.size / total)).backward()
            loss += part.detach() / total
        if self.config.max_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return self.processes.sum(loss)

    def _unsynchronised(self, yes: bool) -> AbstractContextManager[Any]:
        """Keep gradients in this process, until the last piece of a step."""
        if isinstance(self.objective, FSDPModule):
            self.objective.set_requires_gradient_sync(not yes)
        if yes and isinstance(self.objective, DistributedDataParallel):
            return self.objective.no_sync()
        return nullcontext()


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def recompute_blocks(model: Model) -> None:
    """Make each block of a model keep its input only, and recompute its activations for the gradient."""
    for block in training_spec(model).blocks(model):
        _recompute(block)


def _recompute(block: nn.Module) -> None:
    usual = block.forward

    def forward(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return usual(*inputs)
        explicit = not torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        return checkpoint(
            usual, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _again(block, explicit))
        )

    block.forward = forward


@contextmanager
def _again(block: nn.Module, explicit: bool) -> Iterator[None]:
    """Compute as the first time, but leave the statistics of batch normalisation, which are updated already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    usual = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        # A copy takes the count of this computation, and is dropped.
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        with _explicit_attention(explicit):
            yield
    finally:
        for norm, (momentum, count) in zip(norms, usual, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
