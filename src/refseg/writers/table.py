"""Tables of text and numbers, as Markdown and as aligned plain text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeAlias

from refseg.published import Source
from refseg.writers.html import clean

__all__ = ["Cell", "Table", "aligned", "markdown", "markdown_text", "percent", "shortened"]

Cell: TypeAlias = str | tuple[Source, ...]
"""A text, or sources to link to."""
LONGEST = 60


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first column holds the names of the rows."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    right: frozenset[int] = frozenset()
    """The columns that are aligned to the right, as numbers are."""
    highlighted: int | None = None
    """The index of a row in bold."""


def percent(value: float | None) -> str:
    """Return a fraction of 1 in percent, or a dash for None."""
    return "-" if value is None else f"{100 * value:.2f}"


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return an untrusted text in one line of bounded length that a terminal can show."""
    line = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return line if len(line) <= longest else line[: longest - 3] + "..."


# ── plain text ───────────────────────────────────────────────────────────────────────────────────────────────────────


def aligned(table: Table) -> str:
    """Return a table as lines of aligned plain text, each with its line break, without the caption.

    A table without columns has no line of names.
    """
    rows = [tuple(map(_plain_cell, row)) for row in ((table.columns, *table.rows) if table.columns else table.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = (
            cell.rjust(width) if column in table.right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append(f"{'  '.join(cells).rstrip()}\n")
    return "".join(lines)


def _plain_cell(cell: Cell) -> str:
    return cell if isinstance(cell, str) else "; ".join(source.name for source in cell)


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def markdown(table: Table, *, padded: bool = False) -> str:
    """Return a table in Markdown, its caption in bold above it; texts are escaped.

    Args:
        table: the table.
        padded: whether cells are padded, so that the source is readable as well.
    """
    rule = ["--:" if column in table.right else "---" for column in range(len(table.columns))]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    if table.highlighted is not None:
        rows[table.highlighted] = [f"**{cell}**" if cell else "" for cell in rows[table.highlighted]]
    cells = [[markdown_text(name) for name in table.columns], rule, *rows]
    if padded:
        widths = [max(3, *map(len, column)) for column in zip(cells[0], *rows, strict=True)]
        cells[1] = [f"{'-' * (width - 1)}{mark[-1]}" for width, mark in zip(widths, rule, strict=True)]
        cells = [
            [
                cell.rjust(width) if column in table.right else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            for row in cells
        ]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in cells)
    return f"**{markdown_text(table.caption)}**\n\n{lines}" if table.caption else lines


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return markdown_text(cell)
    return "; ".join(f"[{markdown_text(one.name)}]({one.url})" if one.url else markdown_text(one.name) for one in cell)


def markdown_text(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line."""
    text = re.sub(r"[\\`*\[\]|#]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)  # an underscore inside a word is one
    return clean(text.replace("&", "&amp;").replace("<", "&lt;"))
