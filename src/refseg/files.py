"""Files and folders that are written completely or not at all, and the cache folder."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from refseg.errors import OutputError, one_line

__all__ = [
    "append_line",
    "json_line",
    "new_folder",
    "replacing",
    "unwritable",
    "user_cache",
    "whole_lines",
    "write_bytes",
    "write_text",
]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; without an error, the file written there replaces `path` at the end.

    Raises:
        OSError: the file cannot be written or replaced.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        draft.touch()
        usual = draft.stat().st_mode
        yield draft
        draft.chmod(usual)  # some writers create files that only their owner can read
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; without an error, it becomes `path` at the end.

    Raises:
        OutputError: `path` exists.
        OSError: the folder cannot be written.
    """
    if os.path.lexists(path):
        raise OutputError(f"{path}: exists already; name a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as temporary:
        draft = Path(temporary, path.name)
        draft.mkdir()
        yield draft
        draft.replace(path)


def unwritable(path: Path | None, error: Exception, hint: str = "") -> OutputError:
    """Return the error that something cannot be written; one that says so already stays as it is.

    Args:
        path: what cannot be written.
        error: of the operating system, or of the library that writes.
        hint: what to do, added to the message.
    """
    if isinstance(error, OutputError):
        return error
    return OutputError(f"{path}: cannot be written: {getattr(error, 'strerror', None) or one_line(error)}{hint}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file completely or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with replacing(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise unwritable(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, completely or not at all; lone surrogates are escaped.

    Raises:
        OutputError: it cannot be written.
    """
    # UTF-8 has no lone surrogates, and a result must not be lost because an expression contains one.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def json_line(values: Mapping[str, Any]) -> bytes:
    """Return JSON values as one line of a file; half characters, as in names of files, become JSON's escapes."""
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def append_line(path: Path, line: bytes, *, sync: bool = False) -> None:
    """Append a line to a file completely or not at all.

    Args:
        path: of the file, which need not exist.
        line: with its end.
        sync: whether it is on the disk when this returns, so that not even a power cut loses it.

    Raises:
        OSError: it cannot be written.
    """
    before = path.stat().st_size if path.exists() else 0
    with path.open("ab", buffering=0) as file:
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)
                if not before:
                    path.unlink()
            raise


def whole_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that `append_line` wrote; a last one that is not whole is removed from it.

    Raises:
        OSError: the file cannot be read, or the rest of a line not be removed.
    """
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end != len(content):
        with path.open("r+b") as file:
            file.truncate(end)
    return content.split(b"\n")[:-1]


def user_cache(*parts: str) -> Path:
    """Return a path in the cache folder, whose files can be computed or downloaded again; nothing is created.

    The folder is `$REFSEG_CACHE`, else `$XDG_CACHE_HOME/refseg`, else `~/.cache/refseg`.

    Raises:
        OutputError: neither variable is set and the user has no home folder, as in some containers.
    """
    if chosen := os.environ.get("REFSEG_CACHE"):
        return Path(chosen, *parts)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches, "refseg", *parts)
    try:
        return Path.home().joinpath(".cache", "refseg", *parts)
    except RuntimeError:
        raise OutputError("there is no home folder for the cache; set REFSEG_CACHE to a folder") from None
