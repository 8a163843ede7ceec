"""The data of a recipe: names of data sets -> training and validation images."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol, TypeAlias

from jaxtyping import Bool
from numpy import ndarray

from refseg.data.catalogue import DATA_SETS, open_data
from refseg.data.check import SKIPPED, check, table
from refseg.data.dataset import DataSet, ImageData
from refseg.data.references import References
from refseg.data.shapes import CloseUps, Shapes
from refseg.data.shapes.dataset import EASY, SHAPES, SPLITS
from refseg.errors import ConfigError, DataError, counted
from refseg.evaluation.protocols import protocol
from refseg.training.loop import Validation
from refseg.training.recipes import Recipe
from refseg.values import Sample

__all__ = ["SAME", "Digested", "Joined", "OpenedData", "Subset", "check_own_data", "open_recipe"]

SAME = "same"
"""As `validation` of a recipe: the training images themselves."""

CLOSE_UPS: Mapping[str, str] = MappingProxyType({f"{scenes}-closeups:train": scenes for scenes in (SHAPES, EASY)})
"""By the name of training data: the scenes of which they are close-ups."""

HELD_OUT = 10
"""One of so many images is held out, if the data has no split for validation."""


class Digested(ImageData, Protocol):
    """Images with a hash that identifies them."""

    def digest(self) -> str:
        """Return a hash: two sets of images are the same if it is equal."""
        ...


@dataclass(frozen=True, kw_only=True)
class OpenedData:
    """The data of a recipe."""

    training: ImageData
    validation: Validation
    digests: Mapping[str, str]
    """Of both, by what they are (see `loop.train`)."""


@dataclass(frozen=True)
class Subset:
    """Some of the images of a data set."""

    data: DataSet
    chosen: tuple[int, ...]

    @property
    def num_images(self) -> int:
        """The number of chosen images."""
        return len(self.chosen)

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples of the chosen image `index`."""
        return self.data.samples_of(self.chosen[index])

    def objects(self, index: int) -> Bool[ndarray, "N H W"] | None:
        """Return the masks of all objects in the chosen image `index`, or None."""
        return self.data.objects(self.chosen[index])

    def digest(self) -> str:
        """Return a hash of the data set and the choice."""
        return _hash(_digest(self.data), *map(str, self.chosen))


Part: TypeAlias = DataSet | Subset


@dataclass(frozen=True)
class Joined:
    """The images of several data sets, one set after the other; an image of two sets occurs twice."""

    parts: tuple[Part, ...]

    @property
    def num_images(self) -> int:
        """The number of images of all sets."""
        return sum(part.num_images for part in self.parts)

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples that image `index` has in its set."""
        part, index = self._find(index)
        return part.samples_of(index)

    def objects(self, index: int) -> Bool[ndarray, "N H W"] | None:
        """Return the masks of all objects in image `index`, or None."""
        part, index = self._find(index)
        return part.objects(index)

    def digest(self) -> str:
        """Return a hash of the parts."""
        return _hash(*map(_digest, self.parts))

    def _find(self, index: int) -> tuple[Part, int]:
        for part in self.parts:
            if index < part.num_images:
                return part, index
            index -= part.num_images
        raise IndexError("the index is beyond the last image")


def open_recipe(
    recipe: Recipe,
    root: Path | None = None,
    images: Path | None = None,
    *,
    report: Callable[[str], None] | None = None,
) -> OpenedData:
    """Open the training and the validation images of a recipe.

    Several sets are joined with commas, as in `refcoco:train,refcocog-umd:train`; `val` of one set may share images
    with `train` of another (`refseg data leak`). A name without a split means its split `train`, or all its images if
    it has no splits.

    Where the recipe names no validation images, those of a set are its split `val`. If it has none, or `val` is learnt
    from too, every tenth image is held out and not learnt from, chosen by the names of the images alone.

    Args:
        recipe: with `data` set.
        root: the folder that holds the public data sets.
        images: the folder of the images, if they are not with the data.
        report: is called with a line for each set of which rows were skipped or images are held out.

    Raises:
        ConfigError: `data` is empty.
        DataError: the data is missing, or cannot be divided.
    """
    if not recipe.data:
        raise ConfigError("which data? name a folder of your own, such as data=my-folder, or a set: data=refcoco:train")
    how, say = protocol(recipe.protocol), report or (lambda _: None)

    def open_one(name: str) -> DataSet:
        data = open_data(name, root, text_field=how.text_field, overlap=how.overlap, images=images)
        for note in data.notes():
            say(f"note: {note}")
        return data

    def open_training(name: str) -> DataSet:
        if name == "shapes:train":
            return Shapes("train", drill=recipe.training.drill)
        return open_one(name if ":" in name else f"{name}:{_training_split(name, root)}")

    def with_validation(part: DataSet) -> tuple[Part, Part]:
        learnt = {one.split for one in parts if one.name == part.name}
        if not learnt & {"val", "all"} and "val" in _splits(part):
            return part, open_one(f"{part.name}:val")
        training, held_out = _divide(part)
        say(
            f"note: {part.name}:{part.split}: {held_out.num_images} of {part.num_images} images are held out for "
            "validation; validation=NAME:SPLIT names others"
        )
        return training, held_out

    def opened(training: Digested, validation: Part | Joined) -> OpenedData:
        return OpenedData(
            training=training,
            validation=Validation(data=validation, objects=validation.objects, protocol=how),
            digests={"training data": _digest(training), "validation": _hash(_digest(validation), how.name)},
        )

    if recipe.data in CLOSE_UPS:
        close_ups = CloseUps("train", CLOSE_UPS[recipe.data])
        return opened(close_ups, _join(open_one(name) for name in _names(recipe.validation)))
    parts = [open_training(name) for name in _names(recipe.data)]
    if recipe.validation == SAME:
        return opened(training := _join(parts), validation=training)
    if recipe.validation:
        return opened(_join(parts), _join(open_one(name) for name in _names(recipe.validation)))
    pairs = [with_validation(part) for part in parts]
    return opened(_join(training for training, _ in pairs), _join(validation for _, validation in pairs))


def _names(joined: str) -> list[str]:
    return [name.strip() for name in joined.split(",")]


def _join(parts: Iterable[Part]) -> Part | Joined:
    first, *others = parts
    return Joined((first, *others)) if others else first


def _splits(data: DataSet) -> tuple[str, ...]:
    return data.splits if isinstance(data, References) else tuple(SPLITS)


def _training_split(name: str, root: Path | None) -> str:
    """Return the split that a name without one means: `train`, or `all` if the set has no splits.

    Raises:
        DataError: it has splits, and none is `train`.
    """
    splits = set(_splits(open_data(f"{name}:all", root))) - {"all"}
    if splits and "train" not in splits:
        known = ", ".join(sorted(splits))
        raise DataError(f"{name}: has no split train, but {known}: name the one to learn from, as in data={name}:SPLIT")
    return "train" if splits else "all"


def _digest(data: Digested) -> str:
    """Return a hash of images; of a folder of the user's own with the content of its files, which people edit."""
    if isinstance(data, References) and data.name not in DATA_SETS and Path(data.name).is_dir():
        return data.content_digest()
    return data.digest()


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _divide(data: DataSet) -> tuple[Subset, Subset]:
    """Hold out every tenth image in the order of the hashes of their ids, which does not depend on other images."""
    if data.num_images < 2:
        raise DataError(
            f"{data.name}: has a single image, and validation needs another: add one, or name others as "
            "validation=NAME:SPLIT"
        )
    ids = [data.samples_of(image)[0].image_id for image in range(data.num_images)]
    order = sorted(range(len(ids)), key=lambda image: hashlib.sha256(ids[image].encode()).digest())
    held_out = set(order[: max(1, len(order) // HELD_OUT)])
    return _subset(data, set(range(len(ids))) - held_out), _subset(data, held_out)


def _subset(data: DataSet, chosen: Iterable[int]) -> Subset:
    return Subset(data, tuple(sorted(chosen)))


def check_own_data(recipe: Recipe, images: Path | None, report: Callable[[str], None]) -> None:
    """Check those data sets of a recipe that are folders of the user's own, as `refseg data check` does.

    Args:
        recipe: the recipe.
        images: the folder of the images, if they are not with the data.
        report: is called with a table of the findings in each folder that has some.

    Raises:
        DataError: an image or a mask cannot be used.
    """
    named = [*_names(recipe.data), *_names(recipe.validation)]
    folders = [name if Path(name).is_dir() else name.rpartition(":")[0] for name in named if name]
    for folder in dict.fromkeys(folders):
        if folder and Path(folder).is_dir():
            _check_folder(folder, images, report)


def _check_folder(name: str, images: Path | None, report: Callable[[str], None]) -> None:
    findings = check(name, images=images, progress=sys.stderr.isatty())
    if findings:
        report(f"findings in {name}:\n{table(findings, most=5, folder=Path(name))}")
    # Rows that cannot be used are skipped; anything else would stop the run at its first use.
    errors = [finding for finding in findings if finding.severity == "error" and finding.kind not in SKIPPED]
    if errors:
        count = counted(len(errors), "error")
        raise DataError(f"{name}: {count}, the first: {errors[0].message}; see: refseg data check {name}")
