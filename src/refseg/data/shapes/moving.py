"""Generated videos with known masks: the objects of a scene move, cover each other, leave the image and come back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from refseg.data.shapes.queries import Filter, Query, denote
from refseg.data.shapes.render import render
from refseg.data.shapes.scene import Scene, Thing, generate_scene

__all__ = ["MovingFrame", "MovingScene", "moving_scene"]

TAG = 20_261_128
"""Part of every seed; to be changed whenever a change of the generator changes the videos."""
PAN = 12
"""Pixels that the camera moves from the middle of its path, along each axis."""
MOST_TARGETS = 2


class MovingFrame(NamedTuple):
    """A frame of a generated video."""

    image: UInt8[ndarray, "H W 3"]
    masks: Bool[ndarray, "E H W"]
    """The visible part of what each expression refers to; nothing where it is covered, outside, or in another shot."""
    centres: tuple[tuple[float, float], ...]
    """Of what each expression refers to: x and y in pixels, also where it is not visible."""


@dataclass(frozen=True, kw_only=True)
class MovingScene:
    """A video of a scene whose objects and camera move; iterating renders its frames.

    Objects swing, and the first target leaves the image and comes back. Where there is a second scene, the video has a
    cut: its last third is a shot of that scene, in which nothing fits the expressions.
    """

    scene: Scene
    second: Scene | None
    expressions: tuple[str, ...]
    """By kind and colour, so that they fit wherever the object is."""
    targets: tuple[int, ...]
    """Index in `scene.things` of what each expression refers to."""
    length: int
    """Frames."""
    seed: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame, pixels."""
        return self.scene.height, self.scene.width

    @property
    def cut(self) -> int:
        """The frame at which the second scene begins; without one, the number of frames."""
        return self.length if self.second is None else self.length * 2 // 3

    def __iter__(self) -> Iterator[MovingFrame]:
        shots = [(self.scene, range(self.cut))]
        if self.second is not None:
            shots.append((self.second, range(self.cut, self.length)))
        for scene, frames in shots:
            paths = _paths(scene, self.targets[0] if scene is self.scene else None, self.cut, self.seed)
            for frame in frames:
                yield self._render(scene, paths, frame)

    def _render(self, scene: Scene, paths: list[_Path], frame: int) -> MovingFrame:
        unit, time = min(scene.width, scene.height), frame / self.length
        left, top = (round(PAN * (1 + math.sin(2 * math.pi * time * turns))) for turns in (1.5, 1))
        things = tuple(path.at(thing, frame) for thing, path in zip(scene.things, paths, strict=True))
        # The camera sees a part of a larger scene, whose lengths are in units of its own short side.
        larger = unit + 2 * PAN
        scaled = tuple(
            replace(
                thing,
                x=(thing.x * unit + PAN) / larger,
                y=(thing.y * unit + PAN) / larger,
                diameter=thing.diameter * unit / larger,
            )
            for thing in things
        )
        whole = replace(scene, width=scene.width + 2 * PAN, height=scene.height + 2 * PAN, things=scaled)
        image, labels = render(whole)
        seen = np.s_[top : top + scene.height, left : left + scene.width]
        wanted = np.array(self.targets, np.uint8)[:, None, None] + 1
        masks = (labels[seen] == wanted) & (scene is self.scene)
        centres = tuple(
            (things[index].x * unit + PAN - left, things[index].y * unit + PAN - top)
            for index in (self.targets if scene is self.scene else ())
        )
        return MovingFrame(np.ascontiguousarray(image[seen]), masks, centres)


class _Path(NamedTuple):
    """How an object moves: it swings, or leaves the image and comes back."""

    across: float
    """Amplitude in units of the short side."""
    down: float
    turn: float
    """Amplitude of the rotation, radians."""
    period: float
    """Frames."""
    leaves: bool

    def at(self, thing: Thing, frame: int) -> Thing:
        """Return the object as it is in a frame."""
        angle = 2 * math.pi * frame / self.period
        swing = (1 - math.cos(angle)) / 2 if self.leaves else math.sin(angle)
        turned = math.sin(angle)
        return replace(
            thing,
            x=thing.x + self.across * swing,
            y=thing.y + self.down * (0 if self.leaves else 1 - math.cos(angle)),
            rotation=thing.rotation + self.turn * turned,
        )


def _paths(scene: Scene, leaving: int | None, length: int, seed: int) -> list[_Path]:
    rng = np.random.default_rng((TAG, seed, len(scene.things)))
    paths = []
    for index, thing in enumerate(scene.things):
        leaves = index == leaving
        width = scene.extent[0]
        side = 1 if thing.x > width / 2 else -1
        beyond = (width - thing.x if side > 0 else thing.x) + 0.7 * thing.diameter
        across, down = rng.uniform(-0.3, 0.3, 2)
        turn, period = rng.uniform(-0.3, 0.3), rng.uniform(0.8, 1.6)
        paths.append(
            _Path(
                across=side * beyond if leaves else across,
                down=down / 2,
                turn=turn,
                period=length if leaves else period * 75,
                leaves=leaves,
            )
        )
    return paths


def moving_scene(seed: int, length: int = 90, *, cut: bool = False) -> MovingScene:
    """Return a generated video; the same arguments give the same.

    Args:
        seed: any number from 0 on.
        length: frames.
        cut: whether the last third shows another scene, in which nothing fits the expressions.
    """
    rng = np.random.default_rng((TAG, seed, length, int(cut)))
    while True:
        scene = generate_scene(rng, held_out=False)
        looks = [Query(filter=Filter(kind=thing.kind, colour=thing.colour)) for thing in scene.things]
        targets = [index for index, look in enumerate(looks) if denote(look, scene).is_only(index)][:MOST_TARGETS]
        if targets:
            break
    second = None
    while cut and (second is None or any(denote(looks[index], second).possible for index in targets)):
        second = generate_scene(rng, held_out=False)
        if (second.width, second.height) != (scene.width, scene.height):
            second = None
    things = [scene.things[index] for index in targets]
    return MovingScene(
        scene=scene,
        second=second,
        expressions=tuple(f"the {thing.colour} {thing.kind}" for thing in things),
        targets=tuple(targets),
        length=length,
        seed=seed,
    )
