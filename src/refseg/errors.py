"""The exceptions that refseg raises.

RefsegError
├── InputError               an input that cannot be used
│   ├── ImageError           an image that is missing, broken, too large or of an unsupported format
│   └── ExpressionError      an expression that is blank or not text
├── ConfigError              a setting that is unknown, of the wrong type or out of range
├── UnknownNameError         a model, data set, split or recipe that does not exist
├── WeightsError             weights that are broken, not finite, unsafe, or of another architecture
├── DataError                a data set that is missing, incomplete or malformed
├── DownloadError            a download that failed
├── OutputError              a file that could not be written
└── TrainingError            a training run that cannot start, continue or be resumed

Every message is one line that says what is wrong and, if possible, what to do. The command line prints only that line
and exits with `EXIT_CODE`.
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
    """The base class of the exceptions of refseg; the message is one line with the reason and what to do."""


class InputError(RefsegError, ValueError):
    """An input cannot be used."""


class ImageError(InputError):
    """An image is missing, broken, too large or of an unsupported format."""


class ExpressionError(InputError):
    """An expression is blank or is not text."""


class ConfigError(RefsegError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class UnknownNameError(RefsegError, LookupError):
    """A model, data set, split or recipe of this name does not exist.

    Args:
        kind: what the name should be, such as `model`.
        name: the unknown name.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, known)}; known are: {', '.join(known)}")
        self.kind, self.name, self.known = kind, name, known

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, list[str]]]:
        # `Exception` pickles its message only, and errors of worker processes are pickled.
        return type(self), (self.kind, self.name, self.known)


class WeightsError(RefsegError, ValueError):
    """Weights are broken, not finite, unsafe to read, or of another architecture."""


class DataError(RefsegError, ValueError):
    """A data set is missing, incomplete or malformed."""


class DownloadError(RefsegError, OSError):
    """A download failed."""


class OutputError(RefsegError, OSError):
    """A file could not be written."""


class TrainingError(RefsegError, RuntimeError):
    """A training run cannot start, continue or be resumed."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the closest known name, or an empty string if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def one_line(error: BaseException) -> str:
    """Return the message of another library's exception as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
