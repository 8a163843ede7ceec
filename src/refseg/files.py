"""Files that are written whole or not at all, and the folder for files that can be made or fetched again."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from refseg.errors import OutputError

__all__ = ["replacing", "user_cache", "write_bytes", "write_text"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a path to write to, and move what was written to its place when all went well."""
    draft = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        draft.touch()
        usual = draft.stat().st_mode
        yield draft
        draft.chmod(usual)  # some writers make files that only their owner can read
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with replacing(path) as draft:
            draft.write_bytes(content)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8.

    Raises:
        OutputError: it cannot be written.
    """
    # Half a character (a lone surrogate) in somebody's words is no reason to lose a result.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def user_cache(*parts: str) -> Path:
    """Return a path below the folder for files that can be made or fetched again; nothing is created.

    The folder is `$REFSEG_CACHE`, else `$XDG_CACHE_HOME/refseg`, else `~/.cache/refseg`.

    Raises:
        OutputError: none of them is known: the user has no home folder, as in some containers.
    """
    if chosen := os.environ.get("REFSEG_CACHE"):
        return Path(chosen, *parts)
    if caches := os.environ.get("XDG_CACHE_HOME"):
        return Path(caches, "refseg", *parts)
    try:
        return Path.home().joinpath(".cache", "refseg", *parts)
    except RuntimeError:
        raise OutputError("there is no home folder for the cache; set REFSEG_CACHE to a folder") from None
