"""The command line: finds the verb and hands over. A verb's module, and PyTorch with it, is imported when chosen."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import NoReturn

from refseg import __version__
from refseg.errors import EXIT_CODE, RefsegError, UnknownNameError

__all__ = ["main"]

VERBS: MappingProxyType[str, str] = MappingProxyType(
    {
        "predict": "find the pixels that expressions mean in images",
        "evaluate": "score a model on a data set",
        "score": "score the stored masks of any model on a data set",
        "report": "make a report of a stored result, beside published numbers",
        "compare": "compare two stored results, and say whether the difference is real",
        "calibrate": "measure what a model's score is worth, and store that with it",
        "train": "train a model by a named recipe",
        "ablate": "train the rows of the paper's ablation, and print its table",
        "convert": "turn the reference's checkpoints into model folders, and back",
        "models": "list the models that refseg knows by name",
        "data": "fetch data sets, check them, and learn what is in them",
    }
)
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_CODE, f"{self.prog}: {' '.join(message.split())} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default, and return the exit code: 0, or 2 with one line on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # words and file names may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            code = _run(words)
        except SystemExit as stop:  # of argparse: help was asked for, or an argument is wrong
            code = int(stop.code or 0)
        print(end="", flush=True)  # when Python does it at exit, nobody can say that it failed
        return code
    except RefsegError as error:
        print(f"refseg: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("refseg: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has gone.
        _silence()
        return 1
    except OSError as error:  # a full disk behind stdout, for instance
        print(f"refseg: {' '.join(str(error).split())}", file=sys.stderr)
        _silence()
        return EXIT_CODE


def _run(words: list[str]) -> int:
    if words and not words[0].startswith("-"):
        verb, *rest = words
        if verb not in VERBS:
            raise UnknownNameError("command", verb, VERBS)
        module = importlib.import_module(f"refseg.cli.{verb}")
        parser = _Parser(prog=f"refseg {verb}", description=module.__doc__, formatter_class=_formatter())
        module.add_arguments(parser)
        # A verb with verbs of its own parses by itself: argparse does not intermix the arguments of those.
        arguments = module.parse(parser, rest) if hasattr(module, "parse") else parser.parse_intermixed_args(rest)
        code: int = module.run(arguments)
        return code
    parser = _Parser(
        prog="refseg",
        description="Referring image segmentation: an image and some words in, the pixels that the words mean out.",
        epilog="verbs:\n" + "".join(f"  {verb:<10}{help}\n" for verb, help in VERBS.items()),
        formatter_class=_formatter(),
    )
    parser.add_argument("verb", nargs="?", help="what to do; `refseg VERB --help` tells more")
    parser.add_argument("--version", action="version", version=f"refseg {__version__}")
    parser.parse_args(words)
    parser.print_help()
    return 0


def _silence() -> None:
    """Send what is still to be printed nowhere, so that Python does not complain again when it flushes at exit."""
    with suppress(OSError):  # stdout need not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _formatter() -> type[argparse.HelpFormatter]:
    return argparse.RawDescriptionHelpFormatter
