"""Pickles that hold nothing but plain values: the form in which REFER's references are distributed."""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any, NoReturn

from refseg.errors import DataError

__all__ = ["read_pickle"]

LATIN_1_BYTES = "refseg-latin-1-bytes"
"""The name of the decoder's error handler that reads bytes which are not UTF-8 as Latin-1."""


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, lists and dicts, which need no code; a name of code is an error before it runs."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise DataError(f"holds code ({module}.{name}), which plain references do not need; it was not run")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise DataError("refers to objects outside of it, which plain references do not need")


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain values, also one that Python 2 wrote.

    Python 2's byte strings are decoded as UTF-8, and bytes of them that are not UTF-8 as Latin-1.

    Raises:
        DataError: it is missing, broken, or holds anything else.
    """
    codecs.register_error(LATIN_1_BYTES, _as_latin_1)
    try:
        with path.open("rb") as file:
            # Only byte strings of Python 2 are decoded; what Python 3 wrote as text is text already.
            return _Plain(file, encoding="utf-8", errors=LATIN_1_BYTES).load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # broken pickles raise all kinds of errors: EOFError, KeyError, MemoryError...
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: not a complete pickle ({reason}); fetch it again") from None


def _as_latin_1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end
