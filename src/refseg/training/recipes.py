"""Named runs: each a function whose docstring says what it costs and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from refseg.config import replace
from refseg.errors import UnknownNameError
from refseg.models.cris.model import CRISConfig, cris_compact
from refseg.training.config import TrainingConfig

__all__ = ["RECIPES", "Recipe", "recipe", "shapes", "shapes_smoke"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model's config and the numbers of its training."""

    model: CRISConfig
    training: TrainingConfig
    data: str
    """The data set, whose `train` split is learnt from and whose `val` split chooses the best weights."""


def shapes() -> Recipe:
    """Train a compact CRIS on generated scenes.

    Command: `refseg train shapes --out runs/shapes`. Hardware: two CPU cores with bfloat16 instructions, three hours.
    Expected: what the model that comes with the package reaches, which had about as many steps, but in stages
    (`docs/results.md`); as one run it is not measured yet.
    """
    return Recipe(
        model=cris_compact(),
        training=TrainingConfig(
            epochs=75,
            steps_per_epoch=200,
            batch_size=12,
            expressions_per_picture=8,
            sizes=((0.0, 128), (0.7, 192)),
            drill=8,
            optimizer="adamw",
            learning_rate=1e-3,
            backbone_factor=1.0,
            weight_decay=0.01,
            schedule="cosine",
            warmup_steps=300,
            max_norm=1.0,
            precision="bfloat16",
            seed=1,
            workers=1,
            validation_pictures=24,
        ),
        data="shapes",
    )


def shapes_smoke() -> Recipe:
    """Show that training works, in a minute: a few steps of `shapes`, worth nothing.

    Command: `refseg train shapes-smoke --out runs/smoke`. Hardware: any.
    """
    full = shapes()
    short = replace(
        full.training, epochs=2, steps_per_epoch=10, batch_size=4, warmup_steps=5, workers=0, validation_pictures=4
    )
    return Recipe(model=full.model, training=short, data=full.data)


RECIPES: MappingProxyType[str, Callable[[], Recipe]] = MappingProxyType(
    {"shapes": shapes, "shapes-smoke": shapes_smoke}
)


def recipe(name: str, **changes: Any) -> Recipe:
    """Return a named recipe, with some fields of its training changed.

    Raises:
        UnknownNameError: there is no such recipe.
        ConfigError: a change is not a field of `TrainingConfig`, or out of range.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    found = RECIPES[name]()
    return Recipe(model=found.model, training=replace(found.training, **changes), data=found.data)
