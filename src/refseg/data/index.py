"""The index of a data set: its references in a small database, so that a large set opens at once the second time.

The index holds what the set's own files say and nothing about the files of images and masks, which are looked up when
they are read (`Media`). It is made anew when one of the set's files has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from refseg import __version__
from refseg.data.formats.record import NOTE, Problem, Record, Source
from refseg.errors import DataError, OutputError
from refseg.files import user_cache

__all__ = ["Index", "build", "encodable", "open_index"]

VERSION = f"6 {__version__}"
"""Of the tables and of the readers that fill them: an index of another version is made anew."""
TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE image (
    number INTEGER PRIMARY KEY, file TEXT, image_id TEXT, height INTEGER, width INTEGER, objects TEXT
);
CREATE TABLE reference (
    number INTEGER PRIMARY KEY, id TEXT, image INTEGER, split TEXT, expressions TEXT, expression_ids TEXT,
    expression_attributes TEXT, parts TEXT, target_object INTEGER, attributes TEXT, file TEXT, row TEXT,
    repeated INTEGER
);
CREATE TABLE problem (number INTEGER PRIMARY KEY, file TEXT, row TEXT, kind TEXT, message TEXT, split TEXT);
"""
INDICES = """
CREATE INDEX reference_of_image ON reference (image);
CREATE INDEX reference_of_split ON reference (split);
CREATE INDEX repeated_id ON reference (id) WHERE repeated;
"""
SMALL = 4 * 2**20
"""Bytes up to which a file is identified by its content."""
ABANDONED = 24 * 60 * 60
"""Seconds after which an unfinished index of another process is removed."""
ABOUT = "SELECT key, value FROM about"


def open_index(source: Source, *, options: str = "") -> Index:
    """Return the index of a data set, made if it is missing or if one of the set's files has changed since.

    Args:
        source: the data set.
        options: what else decides how it is read; each has an index of its own.

    Raises:
        DataError: the data set cannot be read, or no row of it can be used.
        OutputError: the index cannot be written.
    """
    key = f"{source.format}\n{source.folder.resolve()}\n{[str(file) for file in source.files[:1]]}\n{options}"
    path = user_cache("index", f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:24]}.sqlite")
    state = _state(source)
    with suppress(sqlite3.Error, DataError):
        index = Index(path)
        if index.about == {"version": VERSION, "state": state}:
            return index
        index.close()
    build(source, path, state)
    return Index(path)


def _state(source: Source) -> str:
    """Return a hash that tells whether the files are those that were read.

    Size and time of modification do not suffice: programs set the time, and a file system's clock may be coarse.
    Small files are identified by content, large ones also by their inode and the time of its last change, which
    no program can set.
    """
    digest = hashlib.sha256()
    for file in source.files:
        try:
            stat = os.stat(file)
            state = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"
            if stat.st_size <= SMALL:
                state = hashlib.sha256(file.read_bytes()).hexdigest()
        except OSError as error:  # the reader reports it, where the file is needed
            state = str(error.strerror)
        digest.update(f"{file}\0{state}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def build(source: Source, path: Path, state: str = "") -> None:
    """Read a data set and write its index; it replaces an older one only when it is complete.

    Rows that cannot be used are stored as problems, in place of references; so are notes.

    Raises:
        DataError: the data set cannot be read, or no row of it can be used.
        OutputError: the index cannot be written.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft)) as database:
            database.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + TABLES)
            _Filler(database).fill(source)
            database.executescript(INDICES)
            database.executemany("INSERT INTO about VALUES (?, ?)", {"version": VERSION, "state": state}.items())
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


class _Filler:
    """Writes the records of a data set, and its problems, into a database."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database
        self.images: dict[tuple[str, tuple[int, int] | None], int] = {}
        """Numbers of images by file and size."""
        self.sizes: dict[tuple[str, str], tuple[int, int] | None] = {}
        """Sizes of images by split and file: rows contradict each other only within a split."""
        self.rows: dict[tuple[str, str], str] = {}
        """Where references stand, by split and id."""
        self.problems: list[Problem] = []

    def fill(self, source: Source) -> None:
        """Read all records.

        Raises:
            DataError: the data set cannot be read, or no row of it can be used.
        """
        self.database.executemany(
            "INSERT INTO reference VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (values for record in source.read(self.problems.append) if (values := self._reference(record, source))),
        )
        problems = (
            (number, *map(_encodable_text, (one.file, one.row, one.kind, one.message, one.split)))
            for number, one in enumerate(self.problems)
        )
        self.database.executemany("INSERT INTO problem VALUES (?, ?, ?, ?, ?, ?)", problems)
        if not self.rows:
            if found := [one for one in self.problems if one.kind != NOTE]:
                raise DataError(f"{source.files[0]}: no row of it can be used; the first: {found[0]}")
            raise DataError(f"{source.files[0]}: holds no references")
        self.database.execute(
            "UPDATE reference SET repeated = 1 WHERE id IN (SELECT id FROM reference GROUP BY id HAVING COUNT(*) > 1)"
        )

    def _reference(self, record: Record, source: Source) -> tuple[Any, ...] | None:
        """Return the values of a record's row; None, and a problem, where it contradicts an earlier one."""
        file = record.table or str(source.files[0])
        if problem := self._problem(record):
            kind, message = problem
            self.problems.append(Problem(file=file, row=record.row, kind=kind, message=message, split=record.split))
            return None
        image = self.images.get((record.file, record.size))
        if image is None:
            image = self.images[record.file, record.size] = len(self.images)
            objects = json.dumps(record.objects) if record.objects else ""
            values = (image, record.file, record.image_id, *(record.size or (None, None)), objects)
            self.database.execute("INSERT INTO image VALUES (?, ?, ?, ?, ?, ?)", values)
        self.sizes[record.split, record.file] = record.size
        self.rows[record.split, record.id] = record.row or file
        return (
            len(self.rows) - 1,
            record.id,
            image,
            record.split,
            json.dumps(record.expressions, ensure_ascii=False),
            json.dumps(record.expression_ids, ensure_ascii=False),
            json.dumps(record.expression_attributes, ensure_ascii=False),
            json.dumps(record.parts),
            record.target_object,
            json.dumps(record.attributes, ensure_ascii=False),
            file,
            record.row,
            0,
        )

    def _problem(self, record: Record) -> tuple[str, str] | None:
        """Return the kind of problem that a well-formed record has, and a message; None if it can be used."""
        if not encodable(record):
            return "row", "holds half a character (a lone surrogate), which no text can be written with"
        earlier = self.rows.get((record.split, record.id))
        if earlier is not None:
            return "duplicate", f"the id {record.id!r} is that of {earlier} too"
        if self.sizes.get((record.split, record.file), record.size) != record.size:
            return "image", f"says that {record.file} is of another size than an earlier row says"
        return None


def encodable(record: Record) -> bool:
    """Return whether all text of a record can be written as UTF-8, which a lone surrogate cannot."""
    texts = (record.id, record.image_id, record.file, record.split, *record.expressions, *record.expression_ids)
    try:
        known = (record.attributes, record.expression_attributes)
        "".join((*texts, json.dumps(known, ensure_ascii=False))).encode()
    except UnicodeEncodeError:
        return False
    return True


def _encodable_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


class _Connection(sqlite3.Connection):
    """Closes itself when its last owner drops it."""

    def __del__(self) -> None:
        with suppress(sqlite3.Error):  # it may never have been opened
            self.close()


class Index:
    """An open index. It may be sent to other processes, and used from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._process = os.getpid()
        if not path.is_file():
            raise DataError(f"{path}: no such index")
        self.about: dict[str, str] = {}
        self.about = dict(self.ask(ABOUT))

    def ask(self, question: str, *values: Any) -> list[Any]:
        """Return the rows of an SQL query.

        Raises:
            DataError: the index has been made anew since it was opened, so that its numbers mean other rows.
        """
        if self._process != os.getpid():  # after a fork a connection must not be used by both
            self._local, self._process = threading.local(), os.getpid()
        database = getattr(self._local, "database", None)
        if database is None:
            uri = f"{self.path.absolute().as_uri()}?mode=ro&immutable=1"
            # A connection that another thread opened is closed by the thread that drops it last.
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
