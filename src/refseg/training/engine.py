"""One step of learning, on one process or on many: mixed precision, accumulation, clipping, DDP and FSDP2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from refseg.data.batches import to_device
from refseg.errors import ConfigError
from refseg.models.base import Grounder, Segmenter
from refseg.models.clip_map.model import CLIPMap
from refseg.training.config import TrainingConfig
from refseg.training.losses import contrastive_loss, focal_dice_loss, image_text_loss
from refseg.training.optim import build_optimizer, freeze, set_mode
from refseg.training.processes import Team
from refseg.values import Batch

__all__ = ["Engine", "Objective", "recompute_blocks"]

FEW_TOKENS = 192
"""Below it attention that is written out takes 0.5 to 0.8 times as long as the fused one on a CPU, forth and back in
bfloat16 (one thread, four heads of 24); from there on the same to twice as long, and in float32 two to five times."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _attention(model: Segmenter, pixels: Float[Tensor, "N 3 S S"], precision: str) -> AbstractContextManager[Any]:
    """The fused attention of a CPU is slow backwards in half precision for few tokens: then it is written out."""
    few = (pixels.shape[-1] // model.cell) ** 2 < FEW_TOKENS
    slow = pixels.device.type == "cpu" and precision != "float32" and few
    return _written_out(slow)


def _written_out(wanted: bool) -> AbstractContextManager[Any]:
    return sdpa_kernel(SDPBackend.MATH) if wanted else nullcontext()


class Objective(nn.Module):
    """A model and what it minimises, as one module: from a batch to the sum of its weighted losses.

    Raises:
        ConfigError: the model cannot be trained to do what the config wants.
    """

    def __init__(self, model: Segmenter, config: TrainingConfig) -> None:
        super().__init__()
        if config.objective not in model.objectives:
            raise ConfigError(
                f"a model of the family {model.family} cannot be trained with objective={config.objective}, but with "
                f"{' or '.join(model.objectives)}"
            )
        self.model = model
        self._config = config

    def forward(
        self,
        pixels: Float[Tensor, "N 3 S S"],
        tokens: Int64[Tensor, "B L"],
        padding: Bool[Tensor, "B L"],
        image_index: Int64[Tensor, "B"],
        target: Float[Tensor, "B 1 h w"],
        weight: Float[Tensor, "B"],
    ) -> Float[Tensor, ""]:
        """Encode each image once, ask it all of its expressions, and compare."""
        config = self._config
        with (
            _attention(self.model, pixels, config.precision),
            torch.autocast(pixels.device.type, DTYPES[config.precision], enabled=config.precision != "float32"),
        ):
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            if config.objective == "image-text":
                losses = self._compare(pixels, tokens, image_index, target)
            else:
                losses = self._find(pixels, tokens, padding, image_index, target)
        return (losses * weight).sum()

    def _find(
        self,
        pixels: Float[Tensor, "N 3 S S"],
        tokens: Int64[Tensor, "B L"],
        padding: Bool[Tensor, "B L"],
        image_index: Int64[Tensor, "B"],
        target: Float[Tensor, "B 1 h w"],
    ) -> Float[Tensor, "B"]:
        """Return how far each mask, or map, is from what is meant."""
        model, config = self.model, self._config
        image = tuple(features.index_select(0, image_index) for features in model.encode_image(pixels))
        if config.objective == "grounding":
            assert isinstance(model, Grounder)
            logits = model.map_logits(model.ground(image, tokens, padding))
            # A patch is meant where most of it is.
            target = (F.adaptive_avg_pool2d(target, logits.shape[-1]) > 0.5).to(target.dtype)
        else:
            logits = model.segment(image, tokens, padding)
        if config.objective == "text-to-pixel":
            return contrastive_loss(logits, target)
        return focal_dice_loss(logits, target, focal=config.focal, dice=config.dice)

    def _compare(
        self,
        pixels: Float[Tensor, "N 3 S S"],
        tokens: Int64[Tensor, "B L"],
        image_index: Int64[Tensor, "B"],
        target: Float[Tensor, "B 1 h w"],
    ) -> Float[Tensor, "B"]:
        """Return how badly images and sentences find each other; what means nothing in its image does not fit."""
        assert isinstance(self.model, CLIPMap)
        images, sentences = self.model.embed(pixels, tokens)
        fits = target.flatten(1).any(dim=1)
        # Words fit each image that has the same among its own.
        same = (tokens[:, None] == tokens[None]).all(dim=-1).float()
        held = F.one_hot(image_index, len(images)).to(same) * fits[:, None]
        alike = (same @ held)[:, image_index] > 0
        scale = self.model.text.logit_scale
        return image_text_loss(images[image_index], sentences, scale, alike, fits)


class Engine:
    """What a process needs to learn from a step's batches; all processes together take one step.

    Args:
        model: with the weights to start from; the engine moves it, and changes it in place.
        config: the numbers of the run.
        team: the processes.
        shard: whether each holds a part of the weights (FSDP2) instead of all of them (DDP).

    Raises:
        ConfigError: the numbers do not fit the model or the processes.
    """

    def __init__(self, model: Segmenter, config: TrainingConfig, team: Team, *, shard: bool = False) -> None:
        if config.batch_size % (team.size * config.accumulate):
            raise ConfigError(
                f"batch_size ({config.batch_size}) must be a multiple of processes x accumulate "
                f"({team.size} x {config.accumulate})"
            )
        if shard and config.precision == "float16":
            raise ConfigError("sharded weights cannot be trained in float16; take precision=bfloat16")
        if shard and team.size == 1:
            raise ConfigError("one process has nobody to share weights with; start several with torchrun")
        self.config, self.team, self.sharded = config, team, shard
        freeze(model, config)
        # Shards are cut from weights that lie in the usual order only.
        layout = torch.preserve_format if shard else torch.channels_last
        model = model.to(device=team.device, memory_format=layout)  # type: ignore[call-overload]
        if team.size > 1 and team.device.type == "cuda" and not config.freeze_norm:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        self.model = model
        if config.checkpointing:
            recompute_blocks(model)
        self.objective: nn.Module = Objective(model, config)
        if shard:
            for block in model.blocks():
                fully_shard(block)
            # What is never used may be a single number, which has no parts.
            fully_shard(self.objective, ignored_params={model.get_parameter(name) for name in model.unused})
        if config.compile:
            self.objective.compile(dynamic=True)
        if team.size > 1 and not shard:
            self.objective = DistributedDataParallel(self.objective, gradient_as_bucket_view=True)
        self.optimizer = build_optimizer(model, config)
        self.scaler = torch.amp.GradScaler(team.device.type, enabled=config.precision == "float16")

    def step(self, batches: list[Batch], number: int) -> Float[Tensor, ""]:
        """Learn from one step's batches, of this process, and return the mean loss over all processes.

        The gradient is that of the weighted mean over all expressions of the step, however it is cut into pieces.

        Args:
            batches: one for each piece of this process's share.
            number: of the step, which decides its random numbers: a step repeated is the same.
        """
        set_mode(self.model, self.config)
        torch.manual_seed(_seed(self.config.seed, number, self.team.rank))
        weight = torch.stack([batch.weight.sum() for batch in batches]).sum()
        whole = self.team.sum(weight.to(self.team.device))
        loss = torch.zeros((), device=self.team.device)
        for piece, batch in enumerate(batches, start=1):
            with self._alone(piece < len(batches)):
                part = self.objective(**vars(to_device(batch, self.team.device)))
                # Gradients are averaged over the processes; what is wanted is their sum.
                self.scaler.scale(part * (self.team.size / whole)).backward()
            loss += part.detach() / whole
        if self.config.max_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return self.team.sum(loss)

    def _alone(self, alone: bool) -> AbstractContextManager[Any]:
        """Keep gradients to this process until the last piece of a step."""
        if isinstance(self.objective, FSDPModule):
            self.objective.set_requires_gradient_sync(not alone)
        if alone and isinstance(self.objective, DistributedDataParallel):
            return self.objective.no_sync()
        return nullcontext()


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def recompute_blocks(model: Segmenter) -> None:
    """Make each block of a model keep its input alone, and compute the rest again for the gradient."""
    for block in model.blocks():
        _recompute(block)


def _recompute(block: nn.Module) -> None:
    usual = block.forward

    def forward(*inputs: Any) -> Any:
        if not torch.is_grad_enabled():
            return usual(*inputs)
        written_out = not torch.backends.cuda.flash_sdp_enabled()  # type: ignore[no-untyped-call]
        return checkpoint(
            usual, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _again(block, written_out))
        )

    block.forward = forward


@contextmanager
def _again(block: nn.Module, written_out: bool) -> Iterator[None]:
    """Compute as the first time, but for batch normalisation's statistics: the first time has moved them already."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    usual = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        # A copy takes the count of this computation, and is dropped.
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        with _written_out(written_out):
            yield
    finally:
        for norm, (momentum, count) in zip(norms, usual, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
