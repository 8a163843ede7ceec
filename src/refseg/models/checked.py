"""Builds models from an untrusted config: its sizes are compared with those of the weights first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from refseg.errors import ConfigError, WeightsError, one_line
from refseg.models.base import Model, ModelSpec
from refseg.models.families import Family

__all__ = ["build_checked"]


def build_checked(kind: Family, spec: ModelSpec, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Model:
    """Build the model of some weights; its own weights are uninitialised.

    A config with enormous sizes is an error before anything is allocated.

    Args:
        kind: The family of the model.
        spec: Of the model, untrusted.
        shapes: The shape of each weight, by name.
        path: The file of the weights, for error messages.

    Raises:
        WeightsError: The weights are not those of the spec.
        ConfigError: The preprocessing does not fit the architecture.
    """
    _check_sizes(kind, spec.config, shapes, path)
    try:
        with _Uninitialised():
            model: Model = kind.model(spec.config, spec.inputs, spec.decision)
    except (RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path}: a model of these sizes cannot be built: {one_line(error)}") from None
    _check_shapes(shapes, {key: tuple(value.shape) for key, value in model.state_dict().items()}, path)
    return model


def _check_sizes(kind: Family, config: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Compare the sizes of a config with those that the weights determine."""
    try:
        # An expanded scalar has the shape and takes no memory.
        inferred = kind.infer_config({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{path}: {error}") from None
    for field in kind.sizes:
        stored, found = config, inferred
        for part in field.split("."):
            stored, found = getattr(stored, part, None), getattr(found, part, None)
        if stored != found:
            raise WeightsError(
                f"{path}: the config has {field} = {_short(stored)}, but the weights have {_short(found)}"
            )


def _check_shapes(found: Mapping[str, tuple[int, ...]], needed: Mapping[str, tuple[int, ...]], path: Path) -> None:
    """Compare the names and shapes of weights with those of a model."""
    reshaped = [key for key in needed if key in found and found[key] != needed[key]]
    for what, keys in (
        ("weights are missing", [key for key in needed if key not in found]),
        ("weights are unexpected", [key for key in found if key not in needed]),
        ("weights have another shape", [f"{key} {list(found[key])} for {list(needed[key])}" for key in reshaped]),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise WeightsError(f"{path}: {len(keys)} {what}: {', '.join(keys[:3])}{more}")


class _Uninitialised(TorchFunctionMode):
    """Skips the initialisation of weights that will be overwritten; it would take seconds."""

    INITIALISERS = frozenset({torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.fill_, torch.Tensor.zero_})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.INITIALISERS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
