"""The command line. The module of a command, and PyTorch with it, is imported when that command is given."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from refseg import __version__
from refseg.errors import EXIT_CODE, RefsegError, UnknownNameError
from refseg.memory import keep_freed_memory

__all__ = ["main"]

VERBS: MappingProxyType[str, str] = MappingProxyType(
    {
        "predict": "segment the regions of images that expressions refer to",
        "video": "segment the objects in a video that expressions refer to",
        "label": "label a folder of photos, in the formats of other tools or to train on",
        "review": "decide in the browser which of these labels are right",
        "bulk": "answer expressions on many images, on all cores or a cluster",
        "evaluate": "score a model on a data set",
        "score": "score stored masks of any model on a data set",
        "report": "write a report of a stored result, beside published scores",
        "compare": "compare two stored results, with confidence intervals",
        "calibrate": "calibrate a model's score on a validation split",
        "train": "train a model by a named recipe",
        "ablate": "train the rows of the paper's ablation and print its table",
        "convert": "convert checkpoints of other projects to model folders, and back",
        "export": "write a model for another runtime than PyTorch",
        "serve": "serve models over HTTP, with a page for the browser",
        "models": "list the models that have a name",
        "bench": "measure the speed and the memory of models on this machine",
        "data": "fetch, check, describe, convert and show data sets",
    }
)
OWN_PARSE = frozenset({"data", "train"})
"""Commands that parse their arguments themselves: with commands of their own, or with help for a name."""
EXAMPLE = "refseg predict --help"
INTERRUPTED = 130


VERBATIM = "\0"
"""Stands before each argument after `--`, so that argparse does not take it for an option: no argument can hold it."""


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and accepts no argument that is empty or not UTF-8."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.register("type", None, _text)
        self.register("type", Path, lambda word: Path(_text(word)))

    def error(self, message: str) -> NoReturn:
        line = " ".join(message.replace(VERBATIM, "").split())
        self.exit(EXIT_CODE, f"{self.prog}: {line} (see {self.prog} --help)\n")


def _text(word: str) -> str:
    word = word.removeprefix(VERBATIM)
    if not word:
        raise argparse.ArgumentTypeError("is empty; give a value, or leave it out")
    try:
        word.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{word!a} has bytes that are not UTF-8") from None
    return word


def _marked(words: list[str]) -> list[str]:
    """Return the arguments without the first `--`, with a mark on each of those after it.

    argparse itself understands `--` only after the first positional argument, if options and others are mixed.
    """
    if "--" not in words:
        return words
    end = words.index("--")
    return [*words[:end], *(f"{VERBATIM}{word}" for word in words[end + 1 :])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line, `sys.argv` by default, and return the exit code: 0, or another with one line on stderr."""
    words = _marked(list(sys.argv[1:] if arguments is None else arguments))
    if isinstance(
        sys.stdout, io.TextIOWrapper
    ):  # expressions and file names may hold characters that the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            code = _run(words)
        except SystemExit as stop:  # argparse: help, or a wrong argument
            code = int(stop.code or 0)
        print(end="", flush=True)  # a failure at exit could not be reported
        return code
    except RefsegError as error:
        print(f"refseg: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return error.exit_code
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        from refseg.runtimes.choose import NEEDS_TORCH

        print(f"refseg: {NEEDS_TORCH}", file=sys.stderr)
        return EXIT_CODE
    except KeyboardInterrupt:
        print("refseg: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe is gone.
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
        parser = _Parser(
            prog=f"refseg {verb}",
            description=module.__doc__,
            formatter_class=_formatter(),
        )
        module.add_arguments(parser)
        parser.epilog = "\n\n".join(filter(None, (parser.epilog, f"example:\n  {module.EXAMPLE}")))
        arguments = module.parse(parser, rest) if verb in OWN_PARSE else parser.parse_intermixed_args(rest)
        keep_freed_memory()
        code: int = module.run(arguments)
        return code
    parser = _Parser(
        prog="refseg",
        description="Referring image segmentation: segments the region of an image that an expression refers to.",
        epilog="commands:\n"
        + "".join(f"  {verb:<10}{help}\n" for verb, help in VERBS.items())
        + f"\nexample:\n  {EXAMPLE}",
        formatter_class=_formatter(),
    )
    parser.add_argument("command", nargs="?", help="the command; `refseg COMMAND --help` shows its arguments")
    parser.add_argument("--version", action="version", version=f"refseg {__version__}")
    parser.parse_args(words)
    parser.print_help()
    return 0


def _silence() -> None:
    """Redirect stdout to nowhere, so that Python's flush at exit cannot fail again."""
    with suppress(OSError):  # stdout need not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _formatter() -> type[argparse.HelpFormatter]:
    return argparse.RawDescriptionHelpFormatter
