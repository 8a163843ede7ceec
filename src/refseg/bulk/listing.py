"""What a source holds: its shards, and a fingerprint that says whether it is still the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from refseg.archives import archive_type
from refseg.bulk.folders import FolderShard, folder_shards
from refseg.bulk.lines import line_shards
from refseg.bulk.rows import Shard
from refseg.bulk.tables import table_shards
from refseg.bulk.tars import TarShard
from refseg.data.asked import TABLES, expression_lines
from refseg.data.media import existing_folder, visible_files
from refseg.errors import ConfigError, DataError

__all__ = ["Listing", "list_source"]

LINES, PARQUET, ZIP = ".jsonl", ".parquet", ".zip"


@dataclass(frozen=True)
class Listing:
    """A source that was listed, and not read yet."""

    shards: tuple[Shard, ...]
    asked: tuple[str, ...]
    """The expressions that are asked of every image; empty where each row names its own."""
    fingerprint: str
    """Of the names and sizes of its files, and of what is asked."""


def list_source(source: Path, expressions: Path | None, images: Path | None, size: int) -> Listing:
    """List a source.

    Args:
        source: a folder of images, of tables (`.parquet`) or of tar shards (`.tar`, `.tar.gz`, `.tgz`), also in folders
            below it; or one such table or tar; or a file of JSON lines (`.jsonl`).
        expressions: a text of expressions, one a line, which are asked of every image; for a folder of images perhaps a
            table (see `data.asked.asked_by_file`); None: each row of the source names its own.
        images: the folder that the names of images in JSON lines and tables are relative to; None: the one they lie in.
        size: images or lines of a shard; a group of rows of a table and a tar are always one.

    Raises:
        ConfigError: there are no expressions, or a table of them for something else than a folder of images.
        DataError: there is no such source, it holds nothing or several kinds, or cannot be read.
        ExpressionError: a line of the text is no expression.
    """
    if size < 1:
        raise ConfigError(f"a shard needs at least one row, got {size}")
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    tars, tables = _by_kind(source)
    by_table = expressions is not None and expressions.suffix.lower() in TABLES
    asked = () if expressions is None or by_table else expression_lines(expressions)
    folder = source if source.is_dir() else source.parent
    root = folder if images is None else existing_folder(images)
    shards: Iterable[Shard]
    if by_table and (tars or tables or source.is_file()):
        raise ConfigError("a table of expressions is for a folder of images; give a text file, with one a line")
    if tars and tables:
        raise DataError(f"{source}: holds both tables and tar shards; name a folder with one of them")
    if tars:
        shards, files = (TarShard(path, name) for name, path in tars), tars
    elif tables:
        shards, files = table_shards(tables, root, expressions=not asked), tables
    elif source.suffix.lower() == LINES and source.is_file():
        shards, files = line_shards(source, root, size), [(source.name, source)]
    elif source.is_file():
        raise DataError(f"{source}: is neither a folder nor ends with {LINES}, {PARQUET} or .tar")
    elif expressions is None:
        raise ConfigError("a folder of images says nothing of what is asked: give --expressions")
    else:
        shards = list(folder_shards(source, expressions, size))
        names = (name for shard in shards if isinstance(shard, FolderShard) for name in shard.files)
        files = [(name, source / name) for name in names]
    listed = tuple(shards)
    if not listed:
        raise DataError(f"{source}: holds no images, no {PARQUET}, no .tar, and no lines of {LINES}")
    return Listing(listed, asked, _fingerprint(files, expressions, size))


def _by_kind(source: Path) -> tuple[list[tuple[str, Path]], list[tuple[str, Path]]]:
    """Return the tar shards and the tables of a source by name, in order; hidden files are left out."""
    tars, tables = [], []
    for name, path in sorted(_files(source)):
        if archive_type(name) not in (None, ZIP):
            tars.append((name, path))
        elif path.suffix.lower() == PARQUET:
            tables.append((name, path))
    return tars, tables


def _files(source: Path) -> Iterator[tuple[str, Path]]:
    if source.is_file():
        yield source.name, source
    else:
        yield from ((name.as_posix(), source / name) for name in visible_files(source))


def _fingerprint(files: Iterable[tuple[str, Path]], expressions: Path | None, size: int) -> str:
    total = hashlib.sha256(json.dumps(size).encode())
    try:
        for name, path in files:
            total.update(f"{name}\0{path.stat().st_size}\n".encode("utf-8", "surrogatepass"))
            if path.suffix.lower() == LINES:
                total.update(_digest(path))
        if expressions is not None:
            total.update(_digest(expressions))
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    return total.hexdigest()


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
