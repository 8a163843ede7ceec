"""Reads JSON files piece by piece: as Python's values a file takes several times its size on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, TextIO

from refseg.errors import DataError

__all__ = ["read_list", "read_lists"]

CHUNK = 1 << 20
"""Characters that are read at a time."""
SPACE = re.compile(r"[ \t\n\r]*")
KINDS = {"{": "an object", "[": "a list", '"': "a text", "t": "true", "f": "false", "n": "null"}


def read_list(path: Path, of: str) -> Iterator[Any]:
    """Yield the elements of a file that is a list.

    Args:
        path: the file.
        of: a name of the elements, for error messages.

    Raises:
        DataError: it is missing, unreadable, no list, or incomplete, which may be found only at its end.
    """
    with _Reader(path) as reader:
        if reader.peek() != "[":
            raise DataError(f"{path}: expected a list of {of}, got {reader.kind()}")
        yield from reader.elements()
        reader.end()


def read_lists(path: Path, names: Collection[str], optional: Collection[str] = ()) -> Iterator[tuple[str, int, Any]]:
    """Yield the elements of lists that are fields of an object: the field's name, the element's number from 1, and it.

    Args:
        path: the file; it is an object.
        names: fields that must exist and are lists.
        optional: fields that may be missing and are lists. Other fields are skipped.

    Raises:
        DataError: the file is missing, unreadable, no object, or incomplete, or a field is missing or no list, which
            may be found only at its end.
    """
    found = set()
    with _Reader(path) as reader:
        if reader.peek() != "{":
            raise DataError(f"{path}: expected an object with {' and '.join(names)}, got {reader.kind()}")
        for name in reader.names():
            if name not in names and name not in optional:
                reader.value()
                continue
            found.add(name)
            if reader.peek() != "[":
                raise DataError(f"{path}: field {name!r} must be a list, got {reader.kind()}")
            for number, element in enumerate(reader.elements(), 1):
                yield name, number, element
        reader.end()
    for name in names:
        if name not in found:
            raise DataError(f"{path}: has no field {name!r}")


class _Reader:
    """A parser of a file, of which only the text that is still needed is kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.text = ""
        self.at = 0
        """The position in the text at which the next piece begins."""
        self.passed = 0
        """Characters of the file before the text."""
        self.ended = False
        self.decode = json.JSONDecoder().raw_decode
        self.file: TextIO

    def __enter__(self) -> _Reader:
        try:
            self.file = self.path.open(encoding="utf-8-sig", newline="")
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def more(self) -> bool:
        """Read the next chunk, and return whether there was one."""
        if self.ended:
            return False
        try:
            # Twice as much each time: a piece longer than a chunk is parsed again after each.
            chunk = self.file.read(max(CHUNK, len(self.text) - self.at))
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: not UTF-8, as JSON has to be") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None
        self.passed += self.at
        self.text, self.at = self.text[self.at :] + chunk, 0
        self.ended = not chunk
        return bool(chunk)

    def peek(self) -> str:
        """Return the next character that is not a space; empty at the end of the file."""
        while True:
            self.at = self._after_spaces(self.at)
            if self.at < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def kind(self) -> str:
        """Return the kind of the value that begins here, for messages."""
        begin = self.peek()
        if not begin:
            return "an empty file"
        return "a number" if begin in "-0123456789" else KINDS.get(begin, "something that is not JSON")

    def take(self, characters: str) -> str:
        """Return the next character, which must be one of these."""
        character = self.peek()
        if not character or character not in characters:
            raise self._broken(f"expected {' or '.join(characters)}")
        self.at += 1
        return character

    def value(self) -> Any:
        """Return the value that begins here."""
        self.peek()
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except RecursionError:
                raise self._broken("nested too deeply") from None
            except ValueError as error:
                if self.more():
                    continue
                raise self._broken(getattr(error, "msg", str(error))) from None
            after = self._after_spaces(end)
            # A number that ends where the text ends may continue in the next chunk.
            if self.ended or self.text[after : after + 1] in (",", ":", "]", "}"):
                self.at = end
                return value
            if not self.more():
                self.ended = True

    def elements(self) -> Iterator[Any]:
        """Yield the elements of the list that begins here."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            if self.take(",]") == "]":
                return

    def names(self) -> Iterator[str]:
        """Yield the names of the object that begins here, each when its value is next."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            if self.peek() != '"':
                raise self._broken("expected a name")
            name = self.value()
            self.take(":")
            yield name
            if self.take(",}") == "}":
                return

    def end(self) -> None:
        """Check that nothing follows.

        Raises:
            DataError: something follows.
        """
        if self.peek():
            raise self._broken("something follows its end")

    def _after_spaces(self, at: int) -> int:
        found = SPACE.match(self.text, at)
        return found.end() if found else at

    def _broken(self, reason: str) -> DataError:
        place = self.passed + self.at + 1
        return DataError(f"{self.path}: not valid JSON, perhaps cut off: {reason}, at character {place:,}")
