"""Pickles that hold nothing but plain values: the form in which REFER's references are distributed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NoReturn

from refseg.errors import DataError

__all__ = ["read_pickle"]


class _Plain(pickle.Unpickler):
    """Knows numbers, texts, lists and dicts, which need no code; whatever names code is refused before it runs."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise DataError(f"holds code ({module}.{name}), which plain references do not need; it was not run")

    def persistent_load(self, pid: Any) -> NoReturn:
        raise DataError("refers to objects outside of it, which plain references do not need")


def read_pickle(path: Path) -> Any:
    """Read a pickle of plain values, also one that Python 2 wrote.

    Raises:
        DataError: it is missing, broken, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _Plain(file, encoding="latin1").load()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # broken pickles raise whatever they lead to: EOFError, KeyError, MemoryError...
        told = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{path}: not a whole pickle ({told}); fetch it again") from None
