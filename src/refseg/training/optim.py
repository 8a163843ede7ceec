"""Which parameters learn, at which rate, at which step."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from refseg.errors import ConfigError
from refseg.models.base import Model
from refseg.training.config import TrainingConfig
from refseg.training.families import training_spec

__all__ = [
    "build_optimizer",
    "freeze",
    "learning_rate_factor",
    "set_learning_rates",
    "set_mode",
    "without_gradient",
]


def without_gradient(model: Model, objective: str) -> set[str]:
    """Return the names of the parameters that no gradient reaches."""
    prefixes = training_spec(model).without_gradient(model.config, objective)
    return {name for name, _ in model.named_parameters() if name.startswith(prefixes)} if prefixes else set()


def freeze(model: Model, config: TrainingConfig) -> None:
    """Set `requires_grad` of all parameters: False for frozen parts, and for those that no gradient reaches.

    Raises:
        ConfigError: the model has no such part, or no parameter would learn.
    """
    parts = {name for name, _ in model.named_modules() if name}
    for name in config.freeze:
        if name not in parts:
            children = ", ".join(child for child, _ in model.named_children())
            raise ConfigError(f"freeze: the model has no part {name!r}; its parts are {children}, and parts of these")
    frozen = tuple(f"{part}." for part in (*config.freeze, *model.frozen_parts))
    unreached = without_gradient(model, config.objective)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not name.startswith(frozen) and name not in unreached
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError("freeze: no parameter would learn")


def set_mode(model: Model, config: TrainingConfig) -> None:
    """Put a model into training mode, and its frozen parts into evaluation mode."""
    model.train()
    for name in (*config.freeze, *model.frozen_parts):
        part = model.get_submodule(name).eval()
        if config.frozen_norm == "batch":
            for norm in _norms(part):
                norm.train()
                norm.momentum = 0.0
    if config.freeze_norm:
        for norm in _norms(model):
            norm.eval()


def _norms(part: nn.Module) -> list[_BatchNorm]:
    return [module for module in part.modules() if isinstance(module, _BatchNorm)]


def build_optimizer(model: Model, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimizer, with the two parameter groups of the published recipe: the encoders, and all new layers.

    With `layer_decay` each layer of the encoders is a group, and with `kernel_penalty` the penalised kernels are groups
    of their own. A group has its full rate as `initial_lr`, and `backbone` says whether it is of the encoders.

    Raises:
        ConfigError: models of the family have no kernels to penalise.
    """
    spec = training_spec(model)
    penalised = {id(kernel) for kernel in spec.penalised(model)} if config.kernel_penalty else set()
    if config.kernel_penalty and not penalised:
        raise ConfigError(f"kernel_penalty: models of the family {model.family} have none; leave it out")
    groups: dict[tuple[bool, int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            backbone = spec.is_backbone(model.config, name)
            layer = spec.layer_id(model.config, name) if backbone and config.layer_decay != 1 else 0
            groups.setdefault((backbone, layer, id(parameter) in penalised), []).append(parameter)
    listed = []
    for key in sorted(groups, key=lambda key: (not key[0], -key[1], key[2])):
        backbone, layer, is_penalised = key
        factor = config.backbone_factor * config.layer_decay**layer if backbone else 1.0
        rate = config.learning_rate * factor
        # Adam and SGD add weight_decay * w to a gradient; that of the penalty is 2 * kernel_penalty * w.
        decay = config.weight_decay + 2 * config.kernel_penalty * is_penalised
        listed.append(
            {"params": groups[key], "lr": rate, "initial_lr": rate, "backbone": backbone, "weight_decay": decay}
        )
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            listed, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay, fused=True
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(listed, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: TrainingConfig, step: int) -> float:
    """Return the factor of the full learning rate at a step, counted from 0."""
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    if config.schedule == "polynomial":
        return float(warmup * (1 - step / config.steps) ** config.power)
    passed = sum(step >= milestone * config.steps_per_epoch for milestone in config.milestones)
    return warmup * config.decay**passed


def set_learning_rates(optimizer: torch.optim.Optimizer, config: TrainingConfig, step: int) -> float:
    """Set the rate of every group for a step, and return the greatest: that of the new layers."""
    factor = learning_rate_factor(config, step)
    full = config.first_epoch_at_full_rate and step < config.steps_per_epoch
    for group in optimizer.param_groups:
        group["lr"] = factor * (config.learning_rate if full and group["backbone"] else group["initial_lr"])
    return max(float(group["lr"]) for group in optimizer.param_groups)
