"""A file of JSON lines as shards: each line names an image, and perhaps what is asked about it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from refseg.bulk.rows import Failed, Row, Shard, ShardRow, questions, row_id
from refseg.data.formats.record import safe_name, take, texts
from refseg.errors import DataError, ExpressionError
from refseg.inputs.clip_bpe import check_expression

__all__ = ["LineShard", "line_shards", "own_expressions"]

LONGEST_LINE = 2**20
"""Bytes."""


@dataclass(frozen=True)
class LineShard:
    """Some lines of a file."""

    file: Path
    images: Path
    """The folder that the names of images are relative to."""
    offset: int
    """Of the first line, bytes."""
    first: int
    """The number of the first line, from 0."""
    lines: int

    def read(self, asked: tuple[str, ...]) -> Iterator[ShardRow]:
        """Yield an image for each line; lines of one image that follow each other become one."""
        rows = (self._row(number, line, asked) for number, line in self._lines())
        for (_, name), group in groupby(rows, lambda row: (type(row), row.image)):
            same = list(group)
            if isinstance(same[0], Failed):
                yield from same
            else:
                found = tuple(one for row in same if isinstance(row, Row) for one in row.questions)
                yield Row(image=name, content=self.images / name, questions=found)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                for number in range(self.first, self.first + self.lines):
                    if line := file.readline(LONGEST_LINE).strip():
                        yield number, line
        except OSError as error:
            raise DataError(f"{self.file}: cannot be read: {error.strerror}") from None

    def _row(self, number: int, line: bytes, asked: tuple[str, ...]) -> ShardRow:
        key = f"{self.file.name}#{number}"
        try:
            values = _parsed(line)
            name = safe_name(take(values, "image", str))
            return Row(
                image=name, content=self.images / name, questions=questions(key, asked or own_expressions(values))
            )
        except (DataError, ExpressionError) as error:
            return Failed(id=row_id(key), image=key, expression=None, reason=str(error))


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise DataError("is not JSON") from None


def own_expressions(values: Any) -> Iterable[str]:
    """Return what a row asks about its image, by its field `expression`: a text, or a list of texts.

    Raises:
        DataError: it has no such field.
        ExpressionError: a text is no expression.
    """
    given = take(values, "expression", (str, list))
    return [check_expression(text) for text in texts(given, "expression")]


def line_shards(file: Path, images: Path, size: int) -> Iterator[Shard]:
    """Yield the lines of a file.

    Args:
        file: of JSON lines.
        images: the folder that the names of images are relative to.
        size: lines of a shard.

    Raises:
        DataError: it cannot be read, is empty, or has a line that is too long.
    """
    offset = first = number = 0
    try:
        with file.open("rb") as opened:
            while line := opened.readline(LONGEST_LINE):
                number += 1
                if len(line) == LONGEST_LINE:
                    raise DataError(f"{file}: line {number} is longer than {LONGEST_LINE} bytes")
                if number - first == size:
                    yield LineShard(file, images, offset, first, size)
                    offset, first = opened.tell(), number
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    if number > first:
        yield LineShard(file, images, offset, first, number - first)
