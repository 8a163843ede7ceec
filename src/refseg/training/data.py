"""The data of a recipe: names of data sets -> training and validation images."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool
from numpy import ndarray

from refseg.data.catalogue import open_data
from refseg.data.check import SKIPPED, check, table
from refseg.data.dataset import DataSet, ImageData
from refseg.data.references import References
from refseg.data.shapes import CloseUps, Shapes
from refseg.errors import ConfigError, DataError
from refseg.evaluation.protocols import protocol
from refseg.training.loop import Validation
from refseg.training.recipes import Recipe
from refseg.values import Sample

__all__ = ["Joined", "Subset", "check_own_data", "open_recipe"]

HELD_OUT = 10
"""One of so many images is held out, if the data has no split for validation."""


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


@dataclass(frozen=True)
class Joined:
    """The images of several data sets, one set after the other; an image of two sets occurs twice."""

    parts: tuple[DataSet, ...]

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

    def _find(self, index: int) -> tuple[DataSet, int]:
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
) -> tuple[ImageData, Validation]:
    """Open the training and the validation images of a recipe.

    Several sets are joined with commas, as in `refcoco:train,refcocog-umd:train`; `val` of one set may share images
    with `train` of another (`refseg data leak`).

    A folder without a split is divided: by its own splits `train` and `val` if it has them; otherwise every tenth of
    its images is held out, chosen by the names of the images alone.

    Args:
        recipe: with `data` set.
        root: the folder that holds the public data sets.
        images: the folder of the images, if they are not with the data.
        report: is called with a line for each set of which rows were skipped.

    Raises:
        ConfigError: `data` is empty.
        DataError: the data is missing, or cannot be divided.
    """
    if not recipe.data:
        raise ConfigError("which data? name a folder of your own, such as data=my-folder, or a set: data=refcoco:train")
    how = protocol(recipe.protocol)

    def open_one(name: str) -> DataSet:
        data = open_data(name, root, text_field=how.text_field, overlap=how.overlap, images=images)
        if report is not None and (note := data.skipped_note()):
            report(f"refseg: note: {note}")
        return data

    def join(names: str) -> DataSet | Joined:
        parts = tuple(open_one(name.strip()) for name in names.split(","))
        return parts[0] if len(parts) == 1 else Joined(parts)

    def validation(data: DataSet | Joined | Subset) -> Validation:
        return Validation(data=data, objects=data.objects, protocol=how)

    if recipe.data == "shapes-closeups:train":
        return CloseUps("train"), validation(join(recipe.validation))
    if recipe.data == "shapes:train":
        return Shapes("train", drill=recipe.training.drill), validation(join(recipe.validation or "shapes:val"))
    if ":" in recipe.data:
        return join(recipe.data), validation(join(recipe.validation or recipe.data))
    if recipe.validation:
        return open_one(f"{recipe.data}:all"), validation(join(recipe.validation))
    whole = open_one(f"{recipe.data}:all")
    splits = whole.splits if isinstance(whole, References) else ()
    if {"train", "val"} <= set(splits):
        return open_one(f"{recipe.data}:train"), validation(open_one(f"{recipe.data}:val"))
    train, held_out = _divide(open_one(f"{recipe.data}:train") if "train" in splits else whole)
    return train, validation(held_out)


def _divide(data: DataSet) -> tuple[Subset, Subset]:
    """Hold out every tenth image in the order of the hashes of their ids, which does not depend on other images."""
    if data.num_images < 2:
        raise DataError(f"{data.name}: has a single image; validation needs another")
    ids = [data.samples_of(image)[0].image_id for image in range(data.num_images)]
    order = sorted(range(len(ids)), key=lambda image: hashlib.sha256(ids[image].encode()).digest())
    held_out = set(order[: max(1, len(order) // HELD_OUT)])
    return _subset(data, set(range(len(ids))) - held_out), _subset(data, held_out)


def _subset(data: DataSet, chosen: Iterable[int]) -> Subset:
    return Subset(data, tuple(sorted(chosen)))


def check_own_data(recipe: Recipe, images: Path | None, report: Callable[[str], None]) -> None:
    """Check the data of a recipe if it is a folder of the user's own, as `refseg data check` does.

    Args:
        recipe: with `data` set.
        images: the folder of the images, if they are not with the data.
        report: is called with a table of the findings, if there are any.

    Raises:
        DataError: an image or a mask cannot be used.
    """
    name = recipe.data if Path(recipe.data).is_dir() else recipe.data.rpartition(":")[0]
    if not name or not Path(name).is_dir():
        return
    findings = check(name, images=images, progress=sys.stderr.isatty())
    if findings:
        report(table(findings, most=5, folder=Path(name)))
    # Rows that cannot be used are skipped; anything else would stop the run at its first use.
    errors = [finding for finding in findings if finding.severity == "error" and finding.kind not in SKIPPED]
    if errors:
        raise DataError(f"{name}: {len(errors)} errors, the first: {errors[0].message}; see: refseg data check {name}")
