"""A recipe's names of data -> what is learnt from and what is validated on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from refseg.data.batches import ImageData
from refseg.data.catalogue import open_data
from refseg.data.references import References
from refseg.data.shapes import CloseUps, Shapes
from refseg.errors import ConfigError, DataError
from refseg.evaluation.protocols import protocol
from refseg.training.loop import Validation
from refseg.training.recipes import Recipe
from refseg.values import Sample

__all__ = ["Images", "Joined", "open_recipe"]

HELD_OUT = 10
"""Every so many of the images, where data has no split for validation."""


@dataclass(frozen=True)
class Images:
    """Some of the images of a data set."""

    data: ImageData
    chosen: tuple[int, ...]

    @property
    def num_images(self) -> int:
        """How many they are."""
        return len(self.chosen)

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples of the chosen image `index`."""
        return self.data.samples_of(self.chosen[index])


@dataclass(frozen=True)
class Joined:
    """The images of several data sets, one set after the other; an image of two sets counts twice."""

    parts: tuple[References, ...]

    @property
    def num_images(self) -> int:
        """How many they are."""
        return sum(part.num_images for part in self.parts)

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples that image `index` has in its set."""
        for part in self.parts:
            if index < part.num_images:
                return part.samples_of(index)
            index -= part.num_images
        raise IndexError("there is no such image")


def open_recipe(recipe: Recipe, root: Path | None = None, images: Path | None = None) -> tuple[ImageData, Validation]:
    """Open what a recipe learns from, and what it validates on.

    Several sets are joined with commas, as in `refcoco:train,refcocog-umd:train`; mind that one's `val` may share
    images with another's `train` (`refseg data leak`).

    A folder named without splits is divided: by its own splits `train` and `val` where it has them, else every tenth
    of its images is held out, chosen by their names alone.

    Args:
        recipe: with `data` named.
        root: the folder that holds the public data sets.
        images: where the images are, if not with the data.

    Raises:
        ConfigError: the recipe needs data, and none is named.
        DataError: the data is not there, or cannot be divided.
    """
    if not recipe.data:
        raise ConfigError("which data? name a folder of your own, such as data=my-folder, or a set: data=refcoco:train")
    how = protocol(recipe.protocol)
    if recipe.data in ("shapes:train", "shapes-closeups:train"):
        shapes = Shapes("val")
        made = Shapes("train", drill=recipe.training.drill) if recipe.data == "shapes:train" else CloseUps("train")
        return made, Validation(data=shapes, objects=shapes.masks, protocol=how)

    def open_one(name: str) -> References:
        data = open_data(name, root, text_field=how.text_field, overlap=how.overlap, images=images)
        if not isinstance(data, References):
            raise ConfigError(f"data={recipe.data} cannot be validated on {name}")
        return data

    def join(names: str) -> References | Joined:
        parts = tuple(open_one(name.strip()) for name in names.split(","))
        return parts[0] if len(parts) == 1 else Joined(parts)

    if ":" in recipe.data:
        return join(recipe.data), Validation(data=join(recipe.validation or recipe.data), protocol=how)
    if recipe.validation:
        return open_one(f"{recipe.data}:all"), Validation(data=join(recipe.validation), protocol=how)
    whole = open_one(f"{os.fspath(recipe.data)}:all")
    if {"train", "val"} <= set(whole.splits):
        return open_one(f"{recipe.data}:train"), Validation(data=open_one(f"{recipe.data}:val"), protocol=how)
    learnt = open_one(f"{recipe.data}:train") if "train" in whole.splits else whole
    train, held_out = _divide(learnt)
    return train, Validation(data=held_out, protocol=how)


def _divide(data: References) -> tuple[Images, Images]:
    """Hold out every tenth image, in the order of the hashes of their ids: others come and go, an image stays."""
    if data.num_images < 2:
        raise DataError(f"{data.name}: has a single image; validation needs another")
    ids = [data.samples_of(image)[0].image_id for image in range(data.num_images)]
    order = sorted(range(len(ids)), key=lambda image: hashlib.sha256(ids[image].encode()).digest())
    held_out = set(order[: max(1, len(order) // HELD_OUT)])
    return _part(data, set(range(len(ids))) - held_out), _part(data, held_out)


def _part(data: ImageData, chosen: Iterable[int]) -> Images:
    return Images(data, tuple(sorted(chosen)))
