"""Close-ups of objects with expressions for their appearance: the training data of a CLIP for generated scenes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from hashlib import sha256
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image

from refseg.data.shapes.dataset import EASY, SHAPES, SPLITS, TAG
from refseg.data.shapes.expressions import noun
from refseg.data.shapes.outline import REACH
from refseg.data.shapes.queries import Filter
from refseg.data.shapes.render import render
from refseg.data.shapes.scene import Scene, Thing, generate_easy_scene, generate_scene, pick
from refseg.data.shapes.vocabulary import EASY_KINDS, TEXTURES
from refseg.errors import UnknownNameError
from refseg.values import Expression, Sample

__all__ = ["CloseUps"]

COUNTS = {"train": 200_000, "val": 2_000}
SIDE = 64
"""Of a close-up in pixels: objects are at least as large as in a whole scene at a model's input size."""
ROOM: Mapping[str, tuple[float, float]] = MappingProxyType({SHAPES: (1.1, 2.6), EASY: (1.1, 3.2)})
"""Range of the side of a close-up, in diameters of its object; that of an easy one can show a whole scene."""


class CloseUps:
    """Square crops of scenes, each around one object, with expressions for the object's appearance.

    An image has two samples. The expressions of the first fit: one each for the object's kind, colour and texture, in
    fixed words, so that it is known which other images of a batch they fit, and one for several attributes in varied
    words. Those of the second do not fit: they differ from that last expression in the texture alone. Texture is the
    hardest to see, and without them colour and kind would distinguish nearly all pairs of a batch.

    The objects follow the rules of Shapes: neither split shows a pair of colour and kind that is held out for the
    `test` of Shapes. A sample's mask is the visible part of the object.

    Objects of easy scenes have no texture and are shown alone. Their expressions name the kind, the colour, and both;
    those that do not fit have the right colour and another kind.
    """

    def __init__(self, split: str, scenes: str = SHAPES) -> None:
        """Choose a split, `train` or `val`, of close-ups of `shapes` or `shapes-easy`.

        Raises:
            UnknownNameError: there is no such split, or there are no such scenes.
        """
        if split not in COUNTS:
            raise UnknownNameError("split", split, COUNTS)
        if scenes not in ROOM:
            raise UnknownNameError("scenes", scenes, ROOM)
        self.name, self.split, self._scenes = f"{scenes}-closeups", split, scenes

    @property
    def num_images(self) -> int:
        """The number of images."""
        return COUNTS[self.split]

    def digest(self) -> str:
        """Return a hash of the generator's tag and the split, which determine all samples."""
        return sha256(f"{self.name} {TAG} {self.split}".encode()).hexdigest()

    def thing(self, index: int) -> Thing:
        """Return the object that image `index` is a close-up of."""
        made = _made(self._scenes, self.split, index)
        return made.scene.things[made.target]

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return both samples of image `index`: with the expressions that fit, and with those that do not."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"close-up {index} of {self.num_images}")
        name, made = f"{self.name}/{self.split}/{index}", _made(self._scenes, self.split, index)
        mask = partial(_load_mask, self._scenes, self.split, index)
        return (self._sample(index, f"{name}/0", made.fit, mask), self._sample(index, f"{name}/1", made.fit_not, None))

    def _sample(
        self, index: int, name: str, words: tuple[str, ...], mask: Callable[[], Bool[ndarray, "H W"]] | None
    ) -> Sample:
        return Sample(
            id=name,
            image_id=name.rpartition("/")[0],
            expressions=tuple(Expression(text=text, id=f"{name}/{number}") for number, text in enumerate(words)),
            load_image=partial(_load_image, self._scenes, self.split, index),
            load_mask=mask,
            split=self.split,
            source=self.name,
        )


class _CloseUp(NamedTuple):
    scene: Scene
    target: int
    fit: tuple[str, ...]
    fit_not: tuple[str, ...]


@lru_cache(maxsize=64)
def _made(scenes: str, split: str, index: int) -> _CloseUp:
    """Return a crop of a scene. Its seed has another length than any seed of a scene, so that the scenes differ."""
    numbers = (TAG, tuple(SPLITS).index(split), index, 0, 0)
    if scenes == EASY:
        rng = np.random.default_rng((*numbers, 0, 0))
        whole = generate_easy_scene(rng)
        whole = replace(whole, things=(pick(rng, whole.things),))
    else:
        rng = np.random.default_rng(numbers)
        whole = generate_scene(rng, held_out=False)
    thing = whole.things[int(rng.integers(len(whole.things)))]
    side = thing.diameter * rng.uniform(*ROOM[scenes])
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
    fit, fit_not = _say_easily(rng, thing) if scenes == EASY else _say(rng, thing)
    return _CloseUp(scene, [is_target for is_target, _ in seen].index(True), fit, fit_not)


def _say(rng: np.random.Generator, thing: Thing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the expressions that fit an object, and those that do not."""
    left_out = pick(rng, ("kind", "colour", None))
    said = {name: getattr(thing, name) for name in ("kind", "colour") if name != left_out}
    fit = (thing.kind, f"{thing.colour} one", f"{thing.texture} one", noun(rng, Filter(texture=thing.texture, **said)))
    fit_not = tuple(noun(rng, Filter(texture=other, **said)) for other in TEXTURES if other != thing.texture)
    return fit, fit_not


def _say_easily(rng: np.random.Generator, thing: Thing) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the expressions that fit an object of an easy scene, and those that do not."""
    both = noun(rng, Filter(colour=thing.colour, kind=thing.kind))
    fit_not = tuple(noun(rng, Filter(colour=thing.colour, kind=other)) for other in EASY_KINDS if other != thing.kind)
    return (thing.kind, f"{thing.colour} one", both), fit_not


def _touches(centre: float, side: float, reach: float) -> bool:
    return -reach < centre < side + reach


@lru_cache(maxsize=16)
def _drawn(scenes: str, split: str, index: int) -> tuple[UInt8[ndarray, "H W 3"], UInt8[ndarray, "H W"]]:
    return render(_made(scenes, split, index).scene)


# Functions of the module, not closures: samples are sent to the workers of a DataLoader.


def _load_image(scenes: str, split: str, index: int) -> Image.Image:
    return Image.fromarray(_drawn(scenes, split, index)[0])


def _load_mask(scenes: str, split: str, index: int) -> Bool[ndarray, "H W"]:
    return np.asarray(_drawn(scenes, split, index)[1] == _made(scenes, split, index).target + 1)
