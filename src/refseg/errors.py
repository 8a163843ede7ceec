"""The exceptions that refseg raises.

RefsegError
├── InputError               an input that cannot be used
│   ├── ImageError           an image that is missing, broken or of an unsupported format
│   │   └── ImageSizeError   an image of more pixels than are accepted
│   └── ExpressionError      an expression that is blank or not text
├── ConfigError              a setting that is unknown, of the wrong type or out of range
├── UnknownNameError         a model, data set, split or recipe that does not exist
├── WeightsError             weights that are broken, not finite, unsafe, or of another architecture
├── DataError                a data set that is missing, incomplete or malformed
├── DownloadError            a download that failed
├── ServerError              a server of refseg that cannot be reached, or does not answer a question
├── TrainingError            a training run that cannot start, continue or be resumed
│   └── StoppedError         a training run that a signal stopped after it stored its state
└── OutputError              a file that could not be written

Every message is one line that says what is wrong and, if possible, what to do. The command line prints only that line
and exits with the error's `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from signal import Signals

__all__ = [
    "EXIT_CODE",
    "ConfigError",
    "DataError",
    "DownloadError",
    "ExpressionError",
    "ImageError",
    "ImageSizeError",
    "InputError",
    "OutputError",
    "RefsegError",
    "ServerError",
    "StoppedError",
    "TrainingError",
    "UnknownNameError",
    "WeightsError",
    "counted",
    "did_you_mean",
    "one_line",
]

EXIT_CODE = 2


class RefsegError(Exception):
    """The base class of the exceptions of refseg; the message is one line with the reason and what to do."""

    exit_code: int = EXIT_CODE
    """Of the command that it ends."""


class InputError(RefsegError, ValueError):
    """An input cannot be used."""


class ImageError(InputError):
    """An image is missing, broken, too large or of an unsupported format."""


class ImageSizeError(ImageError):
    """An image has more pixels than are accepted."""


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


class ServerError(RefsegError, OSError):
    """A server of refseg cannot be reached, or does not answer a question.

    Args:
        message: one line.
        status: of the server's answer; None: there was none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OutputError(RefsegError, OSError):
    """A file could not be written."""


class TrainingError(RefsegError, RuntimeError):
    """A training run cannot start, continue or be resumed."""


class StoppedError(TrainingError):
    """A signal stopped a training run, which stored its state first.

    Args:
        number: of the signal; the exit code is that of a process which the signal ended.
        step: the number of steps done.
    """

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {Signals(number).name} after step {step}; the same command resumes it")
        self.number, self.step = number, step
        self.exit_code = 128 + number

    def __reduce__(self) -> tuple[type[StoppedError], tuple[int, int]]:
        return type(self), (self.number, self.step)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return a number and its noun, `1 row` or `2,000 rows`; an irregular plural is given."""
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `", did you mean 'x'?"` for the closest known name, or an empty string if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}?" if close else ""


def one_line(error: BaseException) -> str:
    """Return the message of another library's exception as one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__
