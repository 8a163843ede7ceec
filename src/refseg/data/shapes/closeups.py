"""Close-ups of things with words for their looks: what a CLIP of generated scenes is trained on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image

from refseg.data.shapes.dataset import SPLITS, TAG
from refseg.data.shapes.expressions import noun
from refseg.data.shapes.outline import REACH
from refseg.data.shapes.queries import Filter
from refseg.data.shapes.render import render
from refseg.data.shapes.scene import Scene, Thing, generate_scene, pick
from refseg.errors import UnknownNameError
from refseg.types import Sample

__all__ = ["CloseUps"]

COUNTS = {"train": 200_000, "val": 2_000}
SIDE = 64
"""Of a close-up in pixels: things come out as large as in a whole scene that a model looks at, and larger."""
ROOM = (1.1, 2.6)
"""Side of a close-up in diameters of its thing."""
LOOKS = ("kind", "colour", "texture")


class CloseUps:
    """Square pictures each of which shows one thing, with what happens to lie around it, and names its looks.

    Four expressions fit it: one each for its kind, its colour and its texture, always in the same words, so that a
    batch tells which pictures they fit as well; and one for several of them, in any words. Were all of them always
    said, colour and kind would tell nearly every pair of a batch apart, and nothing would ask for the texture, which is
    the hardest to see.

    The things are those of generated scenes, by the same rules: neither split shows a pair of colour and kind that is
    held out for the `test` of Shapes. A sample's mask is where the thing is seen.
    """

    def __init__(self, split: str) -> None:
        """Choose a split, `train` or `val`.

        Raises:
            UnknownNameError: there is no such split.
        """
        if split not in COUNTS:
            raise UnknownNameError("split", split, COUNTS)
        self.name, self.split = "shapes-closeups", split

    @property
    def pictures(self) -> int:
        """How many pictures there are."""
        return COUNTS[self.split]

    def thing(self, index: int) -> Thing:
        """Return the thing that picture `index` is of."""
        made = _made(self.split, index)
        return made.scene.things[made.target]

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return the one sample of picture `index`."""
        if not 0 <= index < self.pictures:
            raise IndexError(f"close-up {index} of {self.pictures}")
        name = f"{self.name}/{self.split}/{index}"
        return (
            Sample(
                id=name,
                image_id=name,
                expressions=_made(self.split, index).words,
                load_image=partial(_load_image, self.split, index),
                load_mask=partial(_load_mask, self.split, index),
                split=self.split,
                source=self.name,
            ),
        )


class _CloseUp(NamedTuple):
    scene: Scene
    target: int
    words: tuple[str, ...]


@lru_cache(maxsize=64)
def _made(split: str, index: int) -> _CloseUp:
    """Return a part of a scene. Its seed is longer than any that Shapes draws from, so that the scenes are others."""
    rng = np.random.default_rng((TAG, tuple(SPLITS).index(split), index, 0, 0))
    whole = generate_scene(rng, held_out=False)
    thing = whole.things[int(rng.integers(len(whole.things)))]
    side = thing.diameter * rng.uniform(*ROOM)
    spare = (side - thing.diameter) / 2
    left = thing.x - side / 2 + spare * rng.uniform(-1, 1)
    top = thing.y - side / 2 + spare * rng.uniform(-1, 1)
    seen = [
        (other is thing, replace(other, x=(other.x - left) / side, y=(other.y - top) / side, diameter=scaled))
        for other in whole.things
        if _touches(other.x - left, side, reach := other.diameter / 2 * REACH[other.kind])
        and _touches(other.y - top, side, reach)
        for scaled in (other.diameter / side,)
    ]
    scene = Scene(width=SIDE, height=SIDE, background=whole.background, things=tuple(one for _, one in seen))
    left_out = pick(rng, (*LOOKS, None))
    several = {name: getattr(thing, name) for name in LOOKS if name != left_out}
    words = (thing.kind, f"{thing.colour} one", f"{thing.texture} one", noun(rng, Filter(**several)))
    return _CloseUp(scene, [meant for meant, _ in seen].index(True), words)


def _touches(centre: float, side: float, reach: float) -> bool:
    return -reach < centre < side + reach


@lru_cache(maxsize=16)
def _drawn(split: str, index: int) -> tuple[UInt8[ndarray, "H W 3"], UInt8[ndarray, "H W"]]:
    return render(_made(split, index).scene)


# Functions of the module, not closures: samples travel to the workers of a DataLoader.


def _load_image(split: str, index: int) -> Image.Image:
    return Image.fromarray(_drawn(split, index)[0])


def _load_mask(split: str, index: int) -> Bool[ndarray, "H W"]:
    return np.asarray(_drawn(split, index)[1] == _made(split, index).target + 1)
