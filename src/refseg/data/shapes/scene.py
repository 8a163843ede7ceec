"""Scenes: objects and their positions, in units of the short side of the image, before drawing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from refseg.data.shapes.outline import visible_shares
from refseg.data.shapes.vocabulary import COLOURS, EASY_COLOURS, EASY_KINDS, HELD_OUT, KINDS, SIZES, TEXTURES

__all__ = ["Background", "Scene", "Thing", "generate_easy_scene", "generate_scene", "pick"]

T = TypeVar("T")

FRAMES = ((320, 240), (240, 320), (256, 256))
FRAME_WEIGHTS = (0.7, 0.15, 0.15)
TURNS = {"ball": math.pi, "ring": math.pi, "cube": 0.2, "star": 0.35, "triangle": 0.3, "cross": 0.3, "heart": 0.3}
MOST_TURN_OTHERWISE = 0.5
EDGE = 0.45
"""A centre keeps this many diameters from every side of the image, so at most a sliver is cut off."""
LEAST_VISIBLE = 0.66
"""Checked at low resolution; higher than the guaranteed 0.6 to absorb its coarseness."""
APART = 0.54
"""Of the sum of two diameters: objects whose centres are as far apart hardly overlap."""
EASY_SIDE = 128
"""Pixels of an easy scene, which is a square."""
EASY_DIAMETERS = (0.3, 0.35)
"""Least and greatest, in units of the side: none is clearly the largest."""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object of a scene; lengths are in units of the short side of the image."""

    kind: str
    colour: str
    texture: str
    size: str
    """`small`, `medium` or `large`."""
    x: float
    """Of the centre, from the left."""
    y: float
    """Of the centre, from the top."""
    diameter: float
    """The longer side of its box before rotation."""
    rotation: float
    """Radians, clockwise."""
    shade: float
    """Relative difference in brightness from its colour, about -0.1..0.1."""

    @property
    def held_out(self) -> bool:
        """Whether its colour and kind are a pair that is never shown in training."""
        return (self.colour, self.kind) in HELD_OUT


@dataclass(frozen=True, kw_only=True)
class Background:
    """The background: a gradient between two dull colours, clutter and grain."""

    start: tuple[int, int, int]
    """RGB, 0..255."""
    end: tuple[int, int, int]
    """RGB, 0..255."""
    angle: float
    """Direction of the gradient, radians."""
    blotches: float
    """Strength of the cloudy unevenness, in grey levels."""
    grain: int
    """Strength of the noise of single pixels, in grey levels."""
    clutter: int
    """The number of faint lines and patches."""
    seed: int
    """Of the random numbers with which the background is drawn."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image before it is drawn. Later objects cover earlier ones."""

    width: int
    """Pixels at scale 1."""
    height: int
    """Pixels at scale 1."""
    background: Background
    things: tuple[Thing, ...]

    @cached_property
    def extent(self) -> tuple[float, float]:
        """Width and height in units of the short side: one of them is 1, the other at least 1."""
        short = min(self.width, self.height)
        return self.width / short, self.height / short


def pick(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Return one of the options, drawn by weight; much faster than `Generator.choice` for a few options."""
    if weights is None:
        return options[int(rng.random() * len(options))]
    left = float(rng.random()) * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        left -= weight
        if left < 0:
            return option
    return options[-1]


def generate_scene(rng: np.random.Generator, *, held_out: bool) -> Scene:
    """Return a scene of 3 to 8 objects, most often with several that share a kind, a colour or both.

    At least 60 % of each object's pixels are visible, and about 90 % of it lies within the image.

    Args:
        rng: the only source of randomness; the same state gives the same scene.
        held_out: whether to show at least one object of a held-out pair; otherwise there is none.
    """
    while True:
        width, height = pick(rng, FRAMES, FRAME_WEIGHTS)
        short = min(width, height)
        extent = (width / short, height / short)
        looks = _draw_looks(rng, held_out)
        things = _place(rng, looks, extent)
        if things is None:
            continue
        shares = visible_shares([(t.kind, t.x, t.y, t.diameter, t.rotation) for t in things], extent)
        if min(shares) >= LEAST_VISIBLE:
            return Scene(width=width, height=height, background=_draw_background(rng), things=things)


def generate_easy_scene(rng: np.random.Generator) -> Scene:
    """Return a square scene of 3 or 4 plain objects of one size, of few kinds and colours, on a quiet background.

    Hardly any object is covered by another. None is of a held-out pair.

    Args:
        rng: the only source of randomness; the same state gives the same scene.
    """
    background = replace(_draw_background(rng), blotches=0.0, grain=2, clutter=0)
    while True:
        shared = pick(rng, (*EASY_KINDS, None, None, None, None))  # in half of the scenes all are of one kind
        placed: list[Thing] = []
        for _ in range(pick(rng, (3, 4))):
            low, high = EASY_DIAMETERS
            diameter = low + (high - low) * float(rng.random())
            position = _position(rng, diameter, APART, placed, (1.0, 1.0))
            if position is None:
                break
            placed.append(
                Thing(
                    kind=shared or pick(rng, EASY_KINDS),
                    colour=pick(rng, EASY_COLOURS),
                    texture="plain",
                    size="medium",
                    x=position[0],
                    y=position[1],
                    diameter=diameter,
                    rotation=0.2 * (2 * float(rng.random()) - 1),
                    shade=0.0,
                )
            )
        else:
            return Scene(width=EASY_SIDE, height=EASY_SIDE, background=background, things=tuple(placed))


def _draw_looks(rng: np.random.Generator, held_out: bool) -> list[tuple[str, str]]:
    """Return the (colour, kind) of 3 to 8 objects; those that the theme makes alike come first."""
    count = pick(rng, (3, 4, 5, 6, 7, 8), (1, 2, 3, 3, 2, 1))
    forced = pick(rng, sorted(HELD_OUT)) if held_out else None
    colour, kind = forced or (pick(rng, COLOURS), pick(rng, KINDS))
    theme = pick(rng, ("kind", "colour", "both", "none"), (0.42, 0.13, 0.2, 0.25))
    shared = 0 if theme == "none" else min(count, pick(rng, (2, 3, 4, 5), (0.3, 0.37, 0.25, 0.08)))
    looks: list[tuple[str, str]] = [] if forced is None else [forced]
    while len(looks) < count:
        like = len(looks) < shared
        look = (
            colour if like and theme in ("colour", "both") else pick(rng, COLOURS),
            kind if like and theme in ("kind", "both") else pick(rng, KINDS),
        )
        if not held_out and look in HELD_OUT:
            if like and theme == "both":  # the theme itself is a held-out pair: change its colour
                colour = pick(rng, COLOURS)
            continue
        looks.append(look)
    return looks


def _place(
    rng: np.random.Generator, looks: list[tuple[str, str]], extent: tuple[float, float]
) -> tuple[Thing, ...] | None:
    """Return the objects at random positions, in random depth order, or None where they do not fit."""
    placed: list[Thing] = []
    crowded = len(looks) >= 6
    for colour, kind in looks:
        size = pick(rng, tuple(SIZES), (0.55, 0.35, 0.1) if crowded else (0.4, 0.38, 0.22))
        low, high = SIZES[size]
        diameter = low + (high - low) * float(rng.random())
        texture = pick(rng, TEXTURES, (0.4, 0.2, 0.2, 0.2))
        turn = TURNS.get(kind, MOST_TURN_OTHERWISE)
        rotation = turn * (2 * float(rng.random()) - 1)
        shade = 0.2 * float(rng.random()) - 0.1
        closeness = 0.38 if rng.random() < 0.25 else APART  # below 0.5 they can overlap
        position = _position(rng, diameter, closeness, placed, extent)
        if position is None:
            return None
        placed.append(
            Thing(
                kind=kind,
                colour=colour,
                texture=texture,
                size=size,
                x=position[0],
                y=position[1],
                diameter=diameter,
                rotation=rotation,
                shade=shade,
            )
        )
    return tuple(placed[i] for i in rng.permutation(len(placed)))


def _position(
    rng: np.random.Generator, diameter: float, closeness: float, placed: Sequence[Thing], extent: tuple[float, float]
) -> tuple[float, float] | None:
    """Return the centre of one more object, or None where it does not fit.

    Args:
        rng: the source of randomness.
        diameter: of the object.
        closeness: the least distance to any other, as a fraction of the sum of both diameters.
        placed: the others.
        extent: of the scene.
    """
    margin = EDGE * diameter
    for _ in range(40):
        x = margin + (extent[0] - 2 * margin) * float(rng.random())
        y = margin + (extent[1] - 2 * margin) * float(rng.random())
        if all(math.hypot(x - o.x, y - o.y) >= closeness * (diameter + o.diameter) for o in placed):
            return x, y
    return None


def _draw_background(rng: np.random.Generator) -> Background:
    """Return a dull background of medium brightness, from which white and black objects stand out."""

    def dull() -> tuple[int, int, int]:
        grey = 85 + 105 * rng.random()
        red, green, blue = (int(grey + 36 * (value - 0.5)) for value in rng.random(3))
        return red, green, blue

    return Background(
        start=dull(),
        end=dull(),
        angle=2 * math.pi * float(rng.random()),
        blotches=18 * float(rng.random()),
        grain=1 + int(rng.random() * 12),
        clutter=int(rng.random() * 14),
        seed=int(rng.integers(2**31)),
    )
