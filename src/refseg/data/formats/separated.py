"""The separator of a text table that begins with the names of its columns, as spreadsheets export them."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

__all__ = ["SEPARATORS", "Separated", "separated"]

SEPARATORS: MappingProxyType[str, str] = MappingProxyType({",": "commas", ";": "semicolons", "\t": "tabs"})
"""Characters between cells, and how messages call them."""
SEPARATOR_LINE = re.compile(r"\s*\"?sep=([,;\t])\"?[ ,;]*\r?\n", re.IGNORECASE)
"""A first line by which spreadsheets tell each other the separator."""


class Separated(NamedTuple):
    """A table and its separator."""

    text: str
    """Without a first line `sep=;`."""
    separator: str | None
    """One of `SEPARATORS`; None if by none of them the first line with content has the columns that are needed."""
    before: int
    """The number of lines that were left out before the text."""


def separated(text: str, has_columns: Callable[[set[str]], bool]) -> Separated:
    """Return a table and the separator that its first line names, or by which that line has the needed columns.

    Args:
        text: the content of the file.
        has_columns: tells whether the names of columns, in lower case, are those of a table of the kind.
    """
    if named := SEPARATOR_LINE.match(text):
        return Separated(text[named.end() :], named[1], 1)
    first = next((line for line in text.splitlines() if line.strip(' ",;\t')), "")
    for separator in SEPARATORS:
        if has_columns({name.strip(' "').lower() for name in first.split(separator)}):
            return Separated(text, separator, 0)
    return Separated(text, None, 0)
