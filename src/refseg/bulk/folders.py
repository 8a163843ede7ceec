"""A folder of images as shards."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from refseg.bulk.rows import Failed, FailedShard, Row, Shard, ShardRow, questions, row_id
from refseg.data.asked import TABLES, asked_by_file, image_files
from refseg.data.formats.record import NOTE, Problem

__all__ = ["FolderShard", "folder_shards"]


@dataclass(frozen=True)
class FolderShard:
    """Some images of a folder."""

    folder: Path
    files: tuple[str, ...]
    """Relative to the folder."""
    expressions: tuple[tuple[str, ...], ...] = ()
    """Of each image; empty where the same are asked of all."""

    def read(self, asked: tuple[str, ...]) -> Iterator[ShardRow]:
        """Yield an image for each file."""
        for number, file in enumerate(self.files):
            own = asked or self.expressions[number]
            yield Row(image=file, content=self.folder / file, questions=questions(file, own))


def folder_shards(folder: Path, expressions: Path, size: int) -> Iterator[Shard]:
    """Yield the images of a folder, in the order of their names, and what a table says that cannot be used.

    Args:
        folder: the images.
        expressions: a text of expressions that are asked of all, or a table (see `data.asked.asked_by_file`).
        size: images of a shard.

    Raises:
        DataError: there is no image, or the table cannot be read.
    """
    if expressions.suffix.lower() not in TABLES:
        files = iter(image_files(folder))
        while part := tuple(islice(files, size)):
            yield FolderShard(folder, part)
        return
    problems: list[Problem] = []
    photos = iter(asked_by_file(folder, expressions, problems))
    while chosen := list(islice(photos, size)):
        yield FolderShard(folder, tuple(one.file for one in chosen), tuple(one.expressions for one in chosen))
    failed = _failed(expressions.name, problems)
    while rows := tuple(islice(failed, size)):
        yield FailedShard(rows)


def _failed(table: str, problems: Iterable[Problem]) -> Iterator[Failed]:
    for problem in problems:
        if problem.kind != NOTE:
            place = f"{table}: {problem.row}"
            yield Failed(id=row_id(place), image=place, expression=None, reason=problem.message)
