"""The rows of a shard: an image with what is asked about it, or an input that cannot be used, with the reason."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

__all__ = [
    "LARGEST_FILE",
    "Failed",
    "FailedShard",
    "Question",
    "Row",
    "Shard",
    "ShardRow",
    "failed_row",
    "questions",
    "row_id",
]

LARGEST_FILE = 2**28
"""Bytes of the file of an image; larger ones are not read."""
ID_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Question:
    """An expression that is asked about an image."""

    id: str
    """See `row_id`."""
    expression: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image, and what is asked about it."""

    image: str
    """As the source names it."""
    content: Path | bytes
    """The file of the image, or its content."""
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A question that could not be answered."""

    id: str
    image: str
    expression: str | None
    """None: it could not be read either."""
    reason: str


ShardRow: TypeAlias = Row | Failed


@runtime_checkable
class Shard(Protocol):
    """A part of a source, which one process computes at a time; it is sent to that process."""

    def read(self, asked: tuple[str, ...]) -> Iterator[ShardRow]:
        """Yield the rows, always the same in the same order; what cannot be read is a `Failed`.

        Args:
            asked: the expressions that are asked of every image; empty where each row names its own.
        """
        ...


@dataclass(frozen=True)
class FailedShard:
    """The rows of which it is known already that they cannot be read."""

    rows: tuple[Failed, ...]

    def read(self, asked: tuple[str, ...]) -> Iterator[ShardRow]:
        """Yield the rows."""
        yield from self.rows


def row_id(key: str, expression: str = "") -> str:
    """Return the id of a question, the same in every run: a hash.

    Args:
        key: of the image, unique in its source: a path, or the place in a table.
        expression: as asked.
    """
    # File names may hold half characters (lone surrogates), which UTF-8 cannot.
    text = f"{key}\0{expression}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:ID_DIGITS]


def questions(key: str, expressions: Iterable[str]) -> tuple[Question, ...]:
    """Return the expressions of an image with their ids; repeated ones are left out."""
    return tuple(Question(id=row_id(key, one), expression=one) for one in dict.fromkeys(expressions))


def failed_row(row: Row, reason: str) -> list[Failed]:
    """Return the questions of an image that could not be answered."""
    return [Failed(id=one.id, image=row.image, expression=one.expression, reason=reason) for one in row.questions]
