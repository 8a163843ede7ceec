"""A split of a data set on disk as samples: text from its index, images and masks from their files when needed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg.data.formats.record import NOTE, UNREADABLE, Problem, Source
from refseg.data.formats.regions import Overlap, Painted
from refseg.data.index import open_index
from refseg.data.media import Media
from refseg.errors import DataError, ImageError, counted
from refseg.values import Expression, Sample

__all__ = ["References"]

WANTED = "split IN (SELECT value FROM json_each(?1))"
"""For `{wanted}` in queries; as one value, since a query takes a limited number of them."""
REPEATED = """
SELECT number, file, row, id, split, (
    SELECT earlier.row FROM reference AS earlier
    WHERE earlier.repeated AND earlier.id = reference.id AND earlier.number < reference.number AND earlier.{wanted}
) AS before
FROM reference WHERE repeated AND {wanted} AND before IS NOT NULL ORDER BY number
"""
"""References whose id another split of the wanted ones has too; within a split the index holds an id once."""


class References(Sequence[Sample]):
    """The references of one split, in the order of their images; images and masks are read when they are loaded."""

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
        """Open a split. Rows that cannot be used are left out (see `skipped`).

        Args:
            source: the data set.
            name: its name in results.
            split: a split of the set, or `all`.
            overlap: how a pixel counts that several polygons of an annotation cover.
            images: the folder of the images, if they are not with the data.
            options: what else decides how the source is read (see `open_index`).

        Raises:
            DataError: the set or a file of the split cannot be read, it has no such split, or no row can be used.
        """
        self.name, self.split = name, split
        self._media = Media(source, images=images, overlap=overlap)
        self._index = open_index(source, options=options)
        splits = self._index.ask("SELECT split FROM reference UNION SELECT split FROM problem")
        self.splits = tuple(sorted(row[0] for row in splits if row[0]))
        self._wanted = [one for one in self.splits if split == "all" or source.in_split(one, split)]
        if not self._wanted:
            known = "".join(f"{one}, " for one in self.splits if one != "all") or "none, "
            raise DataError(f"{name} has no split {split!r}; it has {known}or take all")
        repeated = self._ask(REPEATED) if len(self._wanted) > 1 else []
        problems = [
            Problem(file=file, row=row, kind=kind, message=message, split=of)
            for file, row, kind, message, of in self._ask(
                "SELECT file, row, kind, message, split FROM problem WHERE {wanted} OR split = '' ORDER BY number"
            )
        ]
        for problem in problems:
            if problem.kind == UNREADABLE:
                raise DataError(str(problem))
        problems += [
            Problem(file=file, row=row, kind="duplicate", message=f"the id {id!r} is that of {before} too", split=of)
            for _, file, row, id, of, before in repeated
        ]
        self.skipped: tuple[Problem, ...] = tuple(one for one in problems if one.kind != NOTE)
        """Rows of the split, and expressions of them, that cannot be used, and rows whose split is not known."""
        self._assumed = [one for one in problems if one.kind == NOTE]
        self._left_out = frozenset(row[0] for row in repeated)
        rows = self._ask("SELECT number, image FROM reference WHERE {wanted} ORDER BY image, number")
        rows = [row for row in rows if row[0] not in self._left_out] if self._left_out else rows
        if not rows:
            raise DataError(f"no row of {name}:{split} can be used; {self._skipped_note()}")
        self._numbers = np.array([row[0] for row in rows], dtype=np.int64)
        self._images, self._starts = np.unique(np.array([row[1] for row in rows], dtype=np.int64), return_index=True)

    def _ask(self, question: str) -> list[Any]:
        return self._index.ask(question.format(wanted=WANTED), json.dumps(self._wanted))

    # ── samples ──

    @property
    def num_images(self) -> int:
        """The number of images of the split."""
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
            "SELECT reference.number, reference.id, image_id, image.file, height, width, split, expressions, "
            "expression_ids, expression_attributes, parts, target_object, attributes FROM reference "
            "JOIN image ON image.number = reference.image WHERE image = ? ORDER BY reference.number",
            int(self._images[index]),
        )
        wanted = set(self._wanted)
        return tuple(self._sample(*row[1:]) for row in rows if row[6] in wanted and row[0] not in self._left_out)

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
        expression_attributes: str,
        parts: str,
        target_object: int | None,
        attributes: str,
    ) -> Sample:
        size = None if height is None or width is None else (height, width)
        texts, ids = json.loads(expressions), json.loads(expression_ids)
        known = json.loads(expression_attributes) or [{}] * len(texts)
        region = _Region(self._media, f"{self.name}: reference {id}", file, size, parts)
        return Sample(
            id=id,
            image_id=image_id,
            expressions=tuple(
                Expression(text=text, id=expression_id, attributes=about)
                for text, expression_id, about in zip(texts, ids, known, strict=True)
            ),
            load_image=partial(self._media.read_image, file, size),
            load_mask=None if parts == "[]" else region.target,
            load_ignored=region.ignored if '"ignored": true' in parts else None,
            target_object=target_object,
            split=split,
            source=self.name,
            attributes=json.loads(attributes),
        )

    def objects(self, index: int) -> Bool[ndarray, "N H W"] | None:
        """Return the masks of all objects in image `index`; None if the data set does not know them.

        Raises:
            DataError: a mask is malformed.
        """
        ((file, height, width, objects),) = self._index.ask(
            "SELECT file, height, width, objects FROM image WHERE number = ?", int(self._images[index])
        )
        if not objects:
            return None
        size = None if height is None or width is None else (height, width)
        return np.stack(
            [
                _Region(self._media, f"{self.name}: object {number} of {file}", file, size, json.dumps(parts)).target()
                for number, parts in enumerate(json.loads(objects), 1)
            ]
        )

    # ── the split as a whole ──

    @property
    def skipped_count(self) -> int:
        """The number of rows, and of expressions in other rows, that cannot be used."""
        return len(self.skipped)

    def notes(self) -> tuple[str, ...]:
        """Return lines on what was skipped, and on what was assumed to read unusual data."""
        assumed = tuple(map(str, self._assumed))
        return (*assumed, f"{self.name}:{self.split}: {self._skipped_note()}") if self.skipped else assumed

    def _skipped_note(self) -> str:
        kinds = {one.kind for one in self.skipped}
        noun = "expression" if kinds == {"blank"} else "row"
        verb = "was" if len(self.skipped) == 1 else "were"
        return f"{counted(len(self.skipped), noun)} {verb} skipped, the first is {self.skipped[0]}"

    def digest(self) -> str:
        """Return a hash of the split's ids, expressions, regions and names of files; pixels are not read."""
        digest = hashlib.sha256()
        rows = self._ask(
            "SELECT reference.number, reference.id, image.file, expressions, expression_ids, parts FROM reference "
            "JOIN image ON image.number = reference.image WHERE {wanted} ORDER BY reference.id"
        )
        for number, id, file, expressions, expression_ids, parts in rows:
            if number in self._left_out:
                continue
            if '"file"' in parts:
                named = [
                    {**part, "file": self._media.mask_name(part["file"], file)} if "file" in part else part
                    for part in json.loads(parts)
                ]
                parts = json.dumps(named)
            row = (id, self._media.image_name(file), expressions, expression_ids, parts)
            digest.update("\0".join(row).encode() + b"\n")
        return digest.hexdigest()

    def content_digest(self) -> str:
        """Return a hash of the split and of the bytes of its images and mask files, which are read for it.

        Raises:
            DataError: a file is missing.
        """
        digest = hashlib.sha256(self.digest().encode())
        rows = self._ask(
            "SELECT DISTINCT image.file, parts FROM reference JOIN image ON image.number = reference.image "
            "WHERE {wanted} ORDER BY image.file, parts"
        )
        for file in dict.fromkeys(file for file, _ in rows):
            digest.update(self._media.image_bytes(file))
        for file, parts in rows:
            for part in json.loads(parts):
                if "file" in part:
                    digest.update(self._media.find_mask(part["file"], file).read_bytes())
        return digest.hexdigest()

    def files(self) -> dict[str, list[str]]:
        """Return the names of the image files of all splits by `image_id`."""
        files: dict[str, list[str]] = {}
        for image_id, file in self._index.ask("SELECT DISTINCT image_id, file FROM image"):
            files.setdefault(image_id, []).append(file)
        return files

    def totals(self) -> dict[str, int]:
        """Return the number of images, references and expressions of the split."""
        counts = self._ask("SELECT number, json_array_length(expressions) FROM reference WHERE {wanted}")
        expressions = sum(count for number, count in counts if number not in self._left_out)
        return {"images": self.num_images, "references": len(self), "expressions": expressions}


class _Region:
    """Paints the region of a sample when it is loaded; not a closure, since samples are sent to other processes."""

    def __init__(self, media: Media, name: str, file: str, size: tuple[int, int] | None, parts: str) -> None:
        self.media, self.name, self.file, self.size, self.parts = media, name, file, size, parts

    def target(self) -> Bool[ndarray, "H W"]:
        """Return the target mask."""
        return self._paint().target

    def ignored(self) -> Bool[ndarray, "H W"]:
        """Return the ignored pixels."""
        return self._paint().ignored

    def _paint(self) -> Painted:
        height, width = self.size or self.media.image_size(self.file)
        try:
            return self.media.paint(json.loads(self.parts), height, width, image=self.file)
        except (DataError, ImageError) as error:
            raise DataError(f"{self.name}: {error}") from None
