"""Which parameter learns how fast, and when."""

from __future__ import annotations

import math

import torch
from torch import nn

from refseg.errors import ConfigError
from refseg.models.base import Segmenter
from refseg.training.config import TrainingConfig

__all__ = ["build_optimizer", "freeze", "learning_rate_factor", "set_learning_rates", "set_mode"]


def freeze(model: Segmenter, config: TrainingConfig) -> None:
    """Take from learning what does not learn: the parts that a run freezes, and what no gradient reaches.

    Raises:
        ConfigError: the model has no such part, or nothing would learn.
    """
    parts = [name for name, _ in model.named_children()]
    for name in config.freeze:
        if name not in parts:
            raise ConfigError(f"freeze: the model has no part {name!r}; its parts are {', '.join(parts)}")
    frozen, silent = {*config.freeze, *model.borrowed}, model.silent(config.objective)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.partition(".")[0] not in frozen and name not in silent
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("freeze: nothing would learn")


def set_mode(model: Segmenter, config: TrainingConfig) -> None:
    """Put a model into training mode, but for what is frozen."""
    model.train()
    for name, part in model.named_children():
        if name in config.freeze or name in model.borrowed:
            part.eval()
    if config.freeze_norm:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def build_optimizer(model: Segmenter, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer, with the published recipe's two groups: the encoders, and everything new.

    With `layer_decay` each layer of the encoders is a group of its own. A group remembers its full rate as `initial_lr`,
    and whether it is the encoders' as `backbone`.
    """
    groups: dict[tuple[bool, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            backbone = model.is_backbone(name)
            below = model.layers_above(name) if backbone and config.layer_decay != 1 else 0
            groups.setdefault((backbone, below), []).append(parameter)
    listed = []
    for backbone, below in sorted(groups, key=lambda key: (not key[0], -key[1])):
        factor = config.backbone_factor * config.layer_decay**below if backbone else 1.0
        rate = config.learning_rate * factor
        listed.append({"params": groups[backbone, below], "lr": rate, "initial_lr": rate, "backbone": backbone})
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(listed, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Return what the full learning rate is multiplied with at a step, counted from 0."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    if config.schedule == "polynomial":
        return float(warmup * (1 - step / config.steps) ** config.power)
    passed = sum(step >= milestone * config.steps_per_epoch for milestone in config.milestones)
    return warmup * config.decay**passed


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> float:
    """Set every group's rate for a step and return the largest: that of the new layers."""
    factor = learning_rate_factor(config, step)
    full = config.first_epoch_at_full_rate and step < config.steps_per_epoch
    for group in optimizer.param_groups:
        group["lr"] = factor * (config.learning_rate if full and group["backbone"] else group["initial_lr"])
    return max(float(group["lr"]) for group in optimizer.param_groups)
