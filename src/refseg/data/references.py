"""Real data as samples: an index, read an image at a time, and the images where they lie."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from refseg.data.formats.record import Source
from refseg.data.formats.regions import Overlap, Painted, paint
from refseg.data.index import open_index
from refseg.errors import DataError, ImageError
from refseg.inputs.read import BinaryFile, read_image, read_size
from refseg.values import Sample

__all__ = ["References"]


class References(Sequence[Sample]):
    """The references of one split, in the order of their images; images and masks are read when asked for."""

    def __init__(
        self,
        source: Source,
        name: str,
        split: str,
        *,
        overlap: Overlap = "union",
        images: Path | None = None,
        options: str = "",
    ) -> None:
        """Open a split.

        Args:
            source: the data set.
            name: what it is called in results.
            split: one of those that the set has, or `all`.
            overlap: what pixels are that several polygons of an annotation cover.
            images: where the images are, if they are not with the data.
            options: what else decides how the source is read (see `open_index`).

        Raises:
            DataError: the set cannot be read, a row of it is wrong, or it has no such split.
        """
        self.name, self.split = name, split
        self._files = _Files(source, name, images, overlap)
        self._index = open_index(source, options=options)
        self.splits = tuple(sorted(row[0] for row in self._index.ask("SELECT DISTINCT split FROM reference")))
        self._wanted = [one for one in self.splits if split == "all" or source.in_split(one, split)]
        if not self._wanted:
            raise DataError(f"{name} has no split {split!r}; it has {', '.join(self.splits)}, or take all")
        rows = self._ask("SELECT number, image FROM reference WHERE split IN ({}) ORDER BY image, number")
        self._numbers = np.array([row[0] for row in rows], dtype=np.int64)
        self._images, self._starts = np.unique(np.array([row[1] for row in rows], dtype=np.int64), return_index=True)

    def _ask(self, question: str) -> list[Any]:
        rows: list[Any] = self._index.ask(question.format(",".join("?" * len(self._wanted))), *self._wanted)
        return rows

    @property
    def num_images(self) -> int:
        """How many images the split has."""
        return len(self._images)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        image = int(np.searchsorted(self._starts, index % len(self), side="right")) - 1
        return self.samples_of(image)[index % len(self) - int(self._starts[image])]

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples of image `index` that belong to the split."""
        if not 0 <= index < self.num_images:
            raise IndexError(f"image {index} of {self.num_images}")
        rows = self._index.ask(
            "SELECT reference.id, image_id, file, height, width, split, expressions, expression_ids, parts, attributes "
            "FROM reference JOIN image ON image.number = reference.image WHERE image = ? "
            "ORDER BY reference.number",
            int(self._images[index]),
        )
        wanted = set(self._wanted)
        return tuple(self._sample(*row) for row in rows if row[5] in wanted)

    def _sample(
        self,
        id: str,
        image_id: str,
        file: str,
        height: int | None,
        width: int | None,
        split: str,
        expressions: str,
        expression_ids: str,
        parts: str,
        attributes: str,
    ) -> Sample:
        size = None if height is None or width is None else (height, width)
        draw = _Region(self._files, id, file, size, parts)
        return Sample(
            id=id,
            image_id=image_id,
            expressions=tuple(json.loads(expressions)),
            expression_ids=tuple(json.loads(expression_ids)),
            load_image=partial(self._files.load_image, file, size),
            load_mask=None if parts == "[]" else draw.meant,
            load_ignored=draw.ignored if '"ignored": true' in parts else None,
            split=split,
            source=self.name,
            attributes=json.loads(attributes),
        )

    def digest(self) -> str:
        """Return a hash of the split: of its ids, words, regions and images' names. Pixels are not looked at."""
        digest = hashlib.sha256()
        question = (
            "SELECT reference.id, file, expressions, expression_ids, parts FROM reference "
            "JOIN image ON image.number = reference.image WHERE split IN ({}) ORDER BY reference.id"
        )
        for row in self._ask(question):
            digest.update("\0".join(row).encode() + b"\n")
        return digest.hexdigest()

    def files(self) -> dict[str, list[str]]:
        """Return the names of the images' files, of all splits, by `image_id`."""
        files: dict[str, list[str]] = {}
        for image_id, file in self._index.ask("SELECT image_id, file FROM image"):
            files.setdefault(image_id, []).append(file)
        return files

    def totals(self) -> dict[str, int]:
        """Return how many images, references and expressions the split has."""
        question = "SELECT COALESCE(SUM(json_array_length(expressions)), 0) FROM reference WHERE split IN ({})"
        return {
            "images": self.num_images,
            "references": len(self),
            "expressions": int(self._ask(question)[0][0]),
        }


class _Files:
    """Where a set's images and masks lie: all of the set that its samples take along to other processes."""

    def __init__(self, source: Source, name: str, images: Path | None, overlap: Overlap) -> None:
        self.name, self.folder, self.overlap = name, source.folder, overlap
        self.root = source.folder if images is None else images
        self.places = source.image_folders if images is None else ("", *source.image_folders)
        self.image = source.image

    def find_image(self, file: str) -> Path:
        """Return where an image lies.

        Raises:
            DataError: nowhere.
        """
        for place in self.places:
            path = self.root / place / file
            if os.path.isfile(path):  # unlike Path.is_file, false where it may not be asked
                # Images of one set lie in one place: the next is looked for there first.
                self.places = (place, *(other for other in self.places if other != place))
                return path
        tried = ", ".join(str(self.root / place) for place in self.places[:3])
        raise DataError(f"image {file} of {self.name} is not there; looked in {tried} and other usual places")

    def load_image(self, file: str, size: tuple[int, int] | None) -> Image.Image:
        """Return an image as RGB.

        Raises:
            DataError: it is not there, cannot be read, or is not of the size, (height, width), that the data tell.
        """
        path, source = self._open(file)
        try:
            image = read_image(source)
        except ImageError as error:
            raise DataError(f"{path}: {error}") from None
        if size is not None and (image.height, image.width) != size:
            raise DataError(f"{path}: is {image.width} x {image.height}, but the data say {size[1]} x {size[0]}")
        return image

    def image_size(self, file: str) -> tuple[int, int]:
        """Return height and width of an image, if possible without decoding it.

        Raises:
            DataError: it is not there, or no image.
        """
        path, source = self._open(file)
        try:
            return read_size(source)
        except ImageError as error:
            raise DataError(f"{path}: {error}") from None

    def _open(self, file: str) -> tuple[Path, Path | BinaryFile]:
        """Return what an image is called in messages, and what it can be read from."""
        if self.image is None:
            path = self.find_image(file)
            return path, path
        return self.folder / file, self.image(file)


class _Region:
    """Paints the region of a sample when asked; a class and not a closure, since samples travel to other processes."""

    def __init__(self, files: _Files, id: str, file: str, size: tuple[int, int] | None, parts: str) -> None:
        self.files, self.id, self.file, self.size, self.parts = files, id, file, size, parts

    def meant(self) -> Bool[ndarray, "H W"]:
        return self._paint().meant

    def ignored(self) -> Bool[ndarray, "H W"]:
        return self._paint().ignored

    def _paint(self) -> Painted:
        files = self.files
        height, width = self.size or files.image_size(self.file)
        try:
            return paint(json.loads(self.parts), height, width, folder=files.folder, overlap=files.overlap)
        except (DataError, ImageError) as error:
            raise DataError(f"{files.name}: reference {self.id}: {error}") from None
