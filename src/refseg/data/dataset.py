"""The protocols of data: images with their samples, and a split of a data set as evaluation reads it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Bool
from numpy import ndarray

from refseg.values import Sample

__all__ = ["DataSet", "ImageData"]


@runtime_checkable
class ImageData(Protocol):
    """Images, each with its samples."""

    @property
    def num_images(self) -> int:
        """The number of images."""
        ...

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples of image `index`, 0..num_images-1."""
        ...


@runtime_checkable
class DataSet(ImageData, Protocol):
    """A split of a data set."""

    @property
    def name(self) -> str:
        """The name of the data set in results."""
        ...

    @property
    def split(self) -> str:
        """The name of the split, or `all`."""
        ...

    @property
    def skipped_count(self) -> int:
        """The number of rows of the split's files, and of expressions in other rows, that cannot be used."""
        ...

    def notes(self) -> tuple[str, ...]:
        """Return lines for the user: on what was skipped, and on what was assumed to read unusual data."""
        ...

    def totals(self) -> dict[str, int]:
        """Return the number of `images`, `references` and `expressions`; skipped rows are not counted."""
        ...

    def digest(self) -> str:
        """Return a hash of the split; two results are of the same data if it is equal."""
        ...

    def objects(self, index: int) -> Bool[ndarray, "N H W"] | None:
        """Return the masks of all N objects in image `index`, in the order of `Sample.target_object`.

        None if the data set does not know them.
        """
        ...

    def files(self) -> dict[str, list[str]]:
        """Return the names of the image files of all splits by `image_id`; an empty dict where images are not files."""
        ...
