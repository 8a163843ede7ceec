"""Tables in Parquet as shards, one for each group of rows: images inside, or their names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg.bulk.lines import own_expressions
from refseg.bulk.rows import Failed, FailedShard, Row, Shard, ShardRow, questions, row_id
from refseg.data.formats.record import safe_name, shown
from refseg.data.formats.tables import open_table, table_batches
from refseg.errors import DataError, ExpressionError

__all__ = ["TableShard", "table_shards"]

COLUMNS = ("image", "expression")


@dataclass(frozen=True)
class TableShard:
    """A group of rows of a table."""

    file: Path
    name: str
    """Of the file, within its source."""
    images: Path
    """The folder that the names of images are relative to."""
    group: int
    first: int
    """The number of its first row, from 0."""
    rows: int

    def read(self, asked: tuple[str, ...]) -> Iterator[ShardRow]:
        """Yield an image for each row; where the table is broken, the rest of the rows fail."""
        done = 0
        try:
            with open_table(self.file) as table:
                columns = [name for name in table.schema_arrow.names if name in COLUMNS[: 1 if asked else 2]]
                for batch in table_batches(self.file, table, row_groups=[self.group], columns=columns):
                    for values in batch.to_pylist():
                        yield self._row(self.first + done, values, asked)
                        done += 1
        except (DataError, UnicodeDecodeError) as error:
            for number in range(self.first + done, self.first + self.rows):
                key = self._key(number)
                yield Failed(id=row_id(key), image=key, expression=None, reason=str(error))

    def _key(self, number: int) -> str:
        return f"{self.name}#{number}"

    def _row(self, number: int, values: Any, asked: tuple[str, ...]) -> ShardRow:
        key = self._key(number)
        try:
            name, content = self._image(key, values.get("image"))
            return Row(image=name, content=content, questions=questions(key, asked or own_expressions(values)))
        except (DataError, ExpressionError) as error:
            return Failed(id=row_id(key), image=key, expression=None, reason=str(error))

    def _image(self, key: str, image: Any) -> tuple[str, Path | bytes]:
        """Return name and content of an image: its bytes, its name, or both as the library `datasets` stores them."""
        content, name = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        if isinstance(content, bytes):
            return name if isinstance(name, str) else key, content
        name = name if content is None else content
        if not isinstance(name, str):
            raise DataError(f"field 'image' must be the content of an image or its name, got {shown(image)}")
        return name, self.images / safe_name(name)


def table_shards(files: list[tuple[str, Path]], images: Path, *, expressions: bool) -> Iterator[Shard]:
    """Yield the groups of rows of tables; a table that cannot be opened is a shard that fails.

    Args:
        files: name within the source, and path.
        images: the folder that the names of images are relative to.
        expressions: whether the tables need a column of them.

    Raises:
        DataError: a table has no column `image`, or none `expression` where it needs one.
    """
    for name, file in files:
        try:
            table = open_table(file)
        except DataError as error:
            yield FailedShard((Failed(id=row_id(name), image=name, expression=None, reason=str(error)),))
            continue
        with table:
            for column in COLUMNS[: 2 if expressions else 1]:
                if column not in table.schema_arrow.names:
                    remedy = "; give --expressions" if column == "expression" else ""
                    raise DataError(f"{file}: has no column {column!r}{remedy}")
            first = 0
            for group in range(table.metadata.num_row_groups):
                rows = table.metadata.row_group(group).num_rows
                yield TableShard(file, name, images, group, first, rows)
                first += rows
