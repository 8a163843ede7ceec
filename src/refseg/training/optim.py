"""Which parameter learns how fast, and when."""

from __future__ import annotations

import math

import torch
from torch import nn

from refseg.models.base import Segmenter
from refseg.training.config import TrainingConfig

__all__ = ["build_optimizer", "learning_rate_factor", "set_learning_rates"]


def build_optimizer(model: Segmenter, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer with the published recipe's two groups: the towers, and everything new.

    Each group remembers its own full rate as `initial_lr`.
    """
    backbone: list[nn.Parameter] = []
    new: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        (backbone if model.is_backbone(name) else new).append(parameter)
    rates = (config.learning_rate * config.backbone_factor, config.learning_rate)
    groups = [
        {"params": members, "lr": rate, "initial_lr": rate}
        for members, rate in zip((backbone, new), rates, strict=True)
    ]
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Return what the full learning rate is multiplied with at a step, counted from 0."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    passed = sum(step >= milestone * config.steps_per_epoch for milestone in config.milestones)
    return warmup * config.decay**passed


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> float:
    """Set every group's rate for a step and return that of the last group, the new layers."""
    factor = learning_rate_factor(config, step)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    rate: float = optimizer.param_groups[-1]["lr"]
    return rate
