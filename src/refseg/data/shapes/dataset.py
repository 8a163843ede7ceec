"""Shapes as a data set: a sequence of samples that are generated when they are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from hashlib import sha256
from types import MappingProxyType
from typing import overload

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image

from refseg.data.shapes.expressions import Reference, drill, refer, refer_simply, refer_to_nothing
from refseg.data.shapes.render import render, thing_masks
from refseg.data.shapes.scene import Scene, generate_easy_scene, generate_scene
from refseg.errors import UnknownNameError
from refseg.values import Expression, Sample

__all__ = ["EASY", "SAMPLES_PER_SCENE", "SHAPES", "SPLITS", "TAG", "Shapes"]

SHAPES, EASY = "shapes", "shapes-easy"
"""The names of both data sets."""
SAMPLES_PER_SCENE: Mapping[str, int] = MappingProxyType({SHAPES: 4, EASY: 3})
"""Three with a target, and in `shapes` one whose expression fits nothing."""
SPLITS = {"train": 60_000, "val": 500, "test": 1_000}
"""The number of scenes of each split."""
TAG = 20_261_121
"""Part of every seed; to be changed whenever a change of the generator changes the data."""


class Shapes(Sequence[Sample]):
    """Generated scenes with referring expressions: nothing is downloaded or stored, and every run gives the same.

    There are two sets, `shapes` and the easy one.

    Of `shapes`, samples 4i..4i+3 are of scene i: three targets, each with one to three expressions that refer to it and
    to nothing else, and then one expression that fits nothing. `train` and `val` never show the pairs of colour and
    kind in `HELD_OUT`; every scene of `test` shows one. Each expression has a `style` and a `form`; the attributes of a
    sample:

    - `distractors`: the number of other objects of the target's kind;
    - `held_out`: whether the target's colour and kind are a held-out pair.

    Of `shapes-easy`, samples 3i..3i+2 are of scene i, which has 128 pixels on a side and shows three or four plain
    objects of one size, four kinds and four colours. Each target has one or two expressions: by its location, and by
    its kind and colour. No pair is held out, and every expression has a target.

    For training, `drill` adds samples to those that `samples_of` returns, with expressions of the forms that are
    hardest to learn (see `expressions.drill`); counts and indices do not include them.

    Loading all samples of a scene together (`samples_of`) is the cheapest: the scene is generated and drawn once.
    """

    def __init__(self, split: str, scale: float = 1.0, *, drill: int = 0, name: str = SHAPES) -> None:
        """Choose a split (`train`, `val` or `test`) and the size of images over the usual 320 x 240.

        Args:
            split: one of `SPLITS`.
            scale: of the images' sides.
            drill: the largest number of expressions that are added to each scene of `shapes` for training.
            name: `shapes` or `shapes-easy`.

        Raises:
            UnknownNameError: there is no such split, or no such set.
            ValueError: the scale is not positive, or easy scenes are given a drill.
        """
        if name not in SAMPLES_PER_SCENE:
            raise UnknownNameError("data set of generated scenes", name, SAMPLES_PER_SCENE)
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        if not scale > 0:
            raise ValueError(f"scale must be positive, but is {scale}")
        if drill and name == EASY:
            raise ValueError("easy scenes have no hard expressions to drill")
        self.name = name
        self.split = split
        self.scale = scale
        self.drill = drill

    @property
    def scenes(self) -> int:
        """The number of scenes."""
        return SPLITS[self.split]

    @property
    def _samples(self) -> int:
        return SAMPLES_PER_SCENE[self.name]

    @property
    def num_images(self) -> int:
        """The number of images: one of each scene."""
        return self.scenes

    def __len__(self) -> int:
        return self.scenes * self._samples

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        scene, member = divmod(index % len(self), self._samples)
        made = self._made(scene)
        return self._sample(scene, member, made.references[member], made)

    def scene(self, index: int) -> Scene:
        """Return scene `index`, 0..scenes-1."""
        return self._made(index).scene

    def references(self, index: int) -> tuple[tuple[Reference, ...], ...]:
        """Return the references behind each of the samples of scene `index`."""
        return self._made(index).references

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return the samples of scene `index`, and those of `drill`; they share its image, which is rendered once."""
        made = self._made(index)
        samples = tuple(self._sample(index, member, made.references[member], made) for member in range(self._samples))
        if not self.drill:
            return samples
        rng = np.random.default_rng((TAG, tuple(SPLITS).index(self.split), index, self.drill))
        by_target: dict[int | None, list[Reference]] = {}
        for reference in drill(rng, made.scene, self.drill):
            by_target.setdefault(reference.target, []).append(reference)
        more = enumerate(by_target.values(), self._samples)
        return (*samples, *(self._sample(index, member, references, made) for member, references in more))

    def totals(self) -> dict[str, int]:
        """Return the number of images, references and expressions; the last requires generating all of them."""
        expressions = sum(len(sample) for i in range(self.scenes) for sample in self.references(i))
        return {"images": self.num_images, "references": len(self), "expressions": expressions}

    def digest(self) -> str:
        """Return a hash of the generator's tag, the split and the scale, which determine all samples."""
        return sha256(f"{self.name} {TAG} {self.split} {self.scale}".encode()).hexdigest()

    @property
    def skipped_count(self) -> int:
        """0: every sample is generated."""
        return 0

    def notes(self) -> tuple[str, ...]:
        """Return no lines: nothing is read."""
        return ()

    def files(self) -> dict[str, list[str]]:
        """Return an empty dict: images are drawn and not read from files."""
        return {}

    def objects(self, index: int) -> Bool[ndarray, "N H W"]:
        """Return the visible mask of each of the N objects of scene `index`, in the order of `scene(index).things`."""
        return thing_masks(self.scene(index), self.scale)

    def _made(self, index: int) -> _Made:
        if not 0 <= index < self.scenes:
            raise IndexError(f"scene {index} of {self.scenes}")
        return _made(self.name, self.split, index)

    def _sample(self, index: int, member: int, references: Sequence[Reference], made: _Made) -> Sample:
        id = f"{self.name}/{self.split}/{index}/{member}"
        target = references[0].target
        thing = None if target is None else made.scene.things[target]
        return Sample(
            id=id,
            image_id=f"{self.name}/{self.split}/{index}",
            expressions=tuple(
                Expression(
                    text=reference.expression,
                    id=f"{id}/{number}",
                    attributes={"style": reference.style, "form": reference.form},
                )
                for number, reference in enumerate(references)
            ),
            load_image=partial(_load_image, self.name, self.split, index, self.scale),
            load_mask=None if target is None else partial(_load_mask, self.name, self.split, index, self.scale, target),
            split=self.split,
            source=self.name,
            target_object=target,
            attributes={
                "distractors": 0 if thing is None else sum(t.kind == thing.kind for t in made.scene.things) - 1,
                "held_out": thing is not None and thing.held_out,
            },
        )


@dataclass(frozen=True, kw_only=True)
class _Made:
    scene: Scene
    references: tuple[tuple[Reference, ...], ...]


@lru_cache(maxsize=512)
def _made(name: str, split: str, index: int) -> _Made:
    """Return a scene and its references. Seeded by set, split and index alone: order and process do not matter."""
    numbers = (TAG, tuple(SPLITS).index(split), index)
    if name == EASY:  # its seeds have more numbers than any of `shapes` and of the close-ups
        return _made_easy(np.random.default_rng((*numbers, 0, 0, 0)))
    return _made_usual(np.random.default_rng(numbers), held_out=split == "test")


def _made_easy(rng: np.random.Generator) -> _Made:
    while True:
        scene = generate_easy_scene(rng)
        order = rng.permutation(len(scene.things)).tolist()
        found = [references for target in order if (references := refer_simply(rng, scene, target))]
        if len(found) >= SAMPLES_PER_SCENE[EASY]:
            return _Made(scene=scene, references=tuple(found[: SAMPLES_PER_SCENE[EASY]]))


def _made_usual(rng: np.random.Generator, *, held_out: bool) -> _Made:
    targets = SAMPLES_PER_SCENE[SHAPES] - 1
    while True:
        scene = generate_scene(rng, held_out=held_out)
        order = rng.permutation(len(scene.things)).tolist()
        order.sort(key=lambda i: not scene.things[i].held_out)  # every scene of `test` has a target of a held-out pair
        found: list[tuple[Reference, ...]] = []
        for left, target in zip(range(len(order), 0, -1), order, strict=True):
            if len(found) + left < targets:
                break
            references = refer(rng, scene, target)
            if references:
                found.append(references)
            if len(found) == targets:
                found.append((refer_to_nothing(rng, scene, say_held_out=held_out),))
                return _Made(scene=scene, references=tuple(found))


@lru_cache(maxsize=64)
def _drawn(name: str, split: str, index: int, scale: float) -> tuple[UInt8[ndarray, "H W 3"], UInt8[ndarray, "H W"]]:
    return render(_made(name, split, index).scene, scale)


# Functions of the module, not closures: samples are sent to the workers of a DataLoader.


def _load_image(name: str, split: str, index: int, scale: float) -> Image.Image:
    return Image.fromarray(_drawn(name, split, index, scale)[0])


def _load_mask(name: str, split: str, index: int, scale: float, target: int) -> Bool[ndarray, "H W"]:
    return np.asarray(_drawn(name, split, index, scale)[1] == target + 1)
