"""The index of a data set: its references in a small database, so that a large set opens at once the second time."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from refseg.data.formats.record import Problem, Record, Report, Source, refuse
from refseg.errors import DataError, OutputError

__all__ = ["Index", "build", "cache_folder", "open_index"]

VERSION = 1
"""Of what is stored and how: an index of another version is made anew."""
TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE image (
    number INTEGER PRIMARY KEY, file TEXT UNIQUE, image_id TEXT, height INTEGER, width INTEGER
);
CREATE TABLE reference (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE, image INTEGER, split TEXT, expressions TEXT, expression_ids TEXT,
    parts TEXT, attributes TEXT, row TEXT
);
"""
BY_IMAGE = "CREATE INDEX reference_of_image ON reference (image); CREATE INDEX reference_of_split ON reference (split);"
ABANDONED = 24 * 60 * 60
"""Seconds after which what another process has not finished writing is taken for what it left behind."""
ABOUT = "SELECT key, value FROM about"


def cache_folder() -> Path:
    """Return where indices are kept: `$REFSEG_CACHE`, or `refseg` in the user's cache folder."""
    if chosen := os.environ.get("REFSEG_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refseg"


def open_index(source: Source, *, options: str = "") -> Index:
    """Return the index of a data set, made if it is missing or if one of the set's files has changed since.

    Args:
        source: the data set.
        options: what else decides how it is read; each has an index of its own.

    Raises:
        DataError: the data set cannot be read, or a row of it is wrong.
        OutputError: the index cannot be written.
    """
    key = f"{source.format}\n{source.folder.resolve()}\n{[str(file) for file in source.files[:1]]}\n{options}"
    path = cache_folder() / "index" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.sqlite"
    state = _state(source)
    with suppress(sqlite3.Error, DataError):
        index = Index(path)
        if index.about == {"version": str(VERSION), "state": state}:
            return index
        index.close()
    build(source, path, state)
    return Index(path)


def _state(source: Source) -> str:
    """Return what tells whether the files are those that were read: their names, sizes and times."""
    try:
        stats = [(str(file), os.stat(file)) for file in source.files]
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from None
    digest = hashlib.sha256()
    for name, stat in stats:
        digest.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def build(source: Source, path: Path, state: str = "", report: Report = refuse) -> None:
    """Read a data set and write its index; it takes the place of an older one only when it is whole.

    Raises:
        DataError: the data set cannot be read, or (as `report` decides) a row of it is wrong.
        OutputError: the index cannot be written.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft)) as database:
            database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)
            _fill(database, source, report)
            database.executescript(BY_IMAGE)
            database.executemany("INSERT INTO about VALUES (?, ?)", {"version": str(VERSION), "state": state}.items())
            database.commit()
        with draft.open("rb+") as file:
            os.fsync(file.fileno())  # or its name might outlive a loss of power, and its content not
        os.replace(draft, path)
        for left in path.parent.glob("*.part"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > ABANDONED:
                    left.unlink()
    except (OSError, sqlite3.Error) as error:
        raise OutputError(f"{path.parent}: the index cannot be written there ({error}); set REFSEG_CACHE") from None
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _fill(database: sqlite3.Connection, source: Source, report: Report) -> None:
    images: dict[str, tuple[int, tuple[int, int] | None]] = {}
    rows: dict[str, str] = {}

    def references() -> Iterator[tuple[Any, ...]]:
        for record in source.read(report):
            number, size = images.get(record.file, (len(images), record.size))
            values = (
                len(rows),
                record.id,
                number,
                record.split,
                json.dumps(record.expressions, ensure_ascii=False),
                json.dumps(record.expression_ids, ensure_ascii=False),
                json.dumps(record.parts),
                json.dumps(record.attributes, ensure_ascii=False),
                record.row,
            )
            file = record.table or str(source.files[0])
            if problem := _problem(record, values, rows.get(record.id), size):
                report(Problem(file=file, row=record.row, kind=problem[0], message=problem[1]))
                continue
            if record.file not in images:
                images[record.file] = number, size
                image = (number, record.file, record.image_id, *(size or (None, None)))
                database.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?)", image)
            rows[record.id] = record.row or file
            yield values

    database.executemany("INSERT INTO reference VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", references())
    if not rows:
        raise DataError(f"{source.files[0]}: holds no references")


def _problem(
    record: Record, values: tuple[Any, ...], earlier: str | None, size: tuple[int, int] | None
) -> tuple[str, str] | None:
    """Return the kind of what is wrong with a record that is fine in itself, and a message; or nothing."""
    if earlier is not None:
        return "duplicate", f"the id {record.id!r} is that of {earlier} too"
    if size != record.size:
        return "image", f"says that {record.file} is of another size than an earlier row says"
    try:
        "".join((record.file, record.image_id, *(value for value in values if isinstance(value, str)))).encode()
    except UnicodeEncodeError:
        return "row", "holds half a character (a lone surrogate), which no text can be written with"
    return None


class _Connection(sqlite3.Connection):
    """Closes itself when nobody has it any more, wherever that is."""

    def __del__(self) -> None:
        with suppress(sqlite3.Error):  # it may never have been opened
            self.close()


class Index:
    """An open index. It may be handed to other processes, and asked from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._process = os.getpid()
        if not path.is_file():
            raise DataError(f"{path}: no such index")
        self.about: dict[str, str] = {}
        self.about = dict(self.ask(ABOUT))

    def ask(self, question: str, *values: Any) -> list[Any]:
        """Return the rows that answer a question in SQL.

        Raises:
            DataError: the index has been made anew since it was opened, so that its numbers mean other things.
        """
        if self._process != os.getpid():  # after a fork a connection must not be used by both
            self._local, self._process = threading.local(), os.getpid()
        database = getattr(self._local, "database", None)
        if database is None:
            uri = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            # What other threads opened is closed by whichever drops it last.
            database = sqlite3.connect(uri, uri=True, factory=_Connection, check_same_thread=False)
            if self.about and dict(database.execute(ABOUT)) != self.about:
                raise DataError(f"{self.path}: the data changed while they were in use; open them again")
            self._local.database = database
        return list(database.execute(question, values))

    def close(self) -> None:
        """Close this thread's connection."""
        database = getattr(self._local, "database", None)
        if database is not None:
            database.close()
            del self._local.database

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "about": self.about}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path, self.about = state["path"], state["about"]
        self._local, self._process = threading.local(), os.getpid()
