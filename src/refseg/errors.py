"""The exceptions that a user can meet.

RefsegError
├── InputError               what was handed in cannot be used
│   ├── ImageError           an image: missing, broken, too large, of an unknown kind
│   └── ExpressionError      an expression: blank, or not text
├── ConfigError              a setting that is unknown, of the wrong type or out of range
├── UnknownNameError         a model, data set, split or recipe that does not exist
├── WeightsError             weights that are broken, unsafe, or of another architecture
├── DataError                a data set that is missing, incomplete or malformed
├── DownloadError            something that could not be fetched
├── OutputError              a result that could not be written
└── TrainingError            a run that cannot start, go on or be resumed

Every message is one line that says what is wrong and, where there is one, what to do. The command line prints just
that line and exits with `EXIT_CODE`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "EXIT_CODE",
    "ConfigError",
    "DataError",
    "DownloadError",
    "ExpressionError",
    "ImageError",
    "InputError",
    "OutputError",
    "RefsegError",
    "TrainingError",
    "UnknownNameError",
    "WeightsError",
    "did_you_mean",
    "one_line",
]

EXIT_CODE = 2


class RefsegError(Exception):
    """Anything that refseg refuses to do, with the reason and the remedy in one line."""


class InputError(RefsegError, ValueError):
    """What was handed in cannot be used."""


class ImageError(InputError):
    """An image is missing, broken, too large or of an unknown kind."""


class ExpressionError(InputError):
    """An expression is blank or is not text."""


class ConfigError(RefsegError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class UnknownNameError(RefsegError, LookupError):
    """A name stands for nothing here."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, known)}; known are: {', '.join(known)}")
        self.kind, self.name, self.known = kind, name, known

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str]]]:
        # What `Exception` pickles is the message alone; errors of worker processes are pickled.
        return type(self), (self.kind, self.name, self.known)


class WeightsError(RefsegError, ValueError):
    """Weights are broken, unsafe to read, or belong to another architecture."""


class DataError(RefsegError, ValueError):
    """A data set is missing, incomplete or malformed."""


class DownloadError(RefsegError, OSError):
    """Something could not be fetched."""


class OutputError(RefsegError, OSError):
    """A result could not be written."""


class TrainingError(RefsegError, RuntimeError):
    """A training run cannot start, go on or be resumed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the closest known name, or an empty string where none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def one_line(error: BaseException) -> str:
    """Return the message of another library's exception as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
