"""What is asked about each photo that is labelled: the same of all, or what a table says of each."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg.data.formats.folder import folder as own_folder
from refseg.data.formats.folder import json_lines
from refseg.data.formats.record import Problem, Record, first_problem, safe_name, take
from refseg.data.formats.separated import separated
from refseg.data.media import Media, existing_folder, visible_files
from refseg.errors import DataError, ExpressionError
from refseg.inputs.clip_bpe import check_expression
from refseg.inputs.read import image_suffixes

__all__ = ["TABLES", "Photo", "asked_by_file", "asked_of_all", "asked_of_each", "expression_lines", "image_files"]

SEPARATED, LINES = (".csv", ".tsv"), ".jsonl"
TABLES = (*SEPARATED, LINES)
"""The endings of files that say what is asked about each photo; any other file has an expression in each line."""


@dataclass(frozen=True, kw_only=True)
class Photo:
    """A photo, and what is asked about it."""

    file: str
    """Relative to the folder of the photos."""
    split: str | None
    """None: the table names none."""
    ids: tuple[str, ...]
    """Of the expressions, unique in the folder."""
    expressions: tuple[str, ...]


def asked_by_file(folder: Path, expressions: Path, problems: list[Problem]) -> list[Photo]:
    """Return the photos of a folder, each with its expressions, as a file says.

    Args:
        folder: the photos.
        expressions: a text file (see `asked_of_all`); or a table that ends with `.csv`, `.tsv` or `.jsonl`, whose rows
            have `image`, a file name relative to the folder, and `expression`.
        problems: is given rows that cannot be used.

    Raises:
        DataError: there is no photo or no expression, or one of both cannot be read.
        ExpressionError: a line of a text file is no expression.
    """
    ending = expressions.suffix.lower()
    if ending not in TABLES:
        return asked_of_all(folder, expressions)
    existing_folder(folder)
    if ending == LINES:
        lines = [(row.place, row.values) for row in json_lines(expressions, problems.append)]
    else:
        lines = list(_csv_rows(expressions, problems))
    return _of_rows(folder, expressions, lines, problems)


def _csv_rows(table: Path, problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    text, separator, before = separated(_text_of(table), {"image", "expression"}.issubset)
    if separator is None:
        raise DataError(f"{table}: its first line must name the columns image and expression")
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        names = [name.strip().lower() for name in next(rows)]
        for cells in rows:
            place = f"line {before + rows.line_num}"
            if len(cells) > len(names) and any(cells[len(names) :]):
                message = (
                    f"has more cells than there are columns ({len(names)}); quote an expression that holds a comma"
                )
                problems.append(Problem(file=str(table), row=place, kind="row", message=message))
            elif any(cells):
                yield place, {name: cell.strip() for name, cell in zip(names, cells, strict=False)}
    except csv.Error as error:
        raise DataError(f"{table}: line {before + rows.line_num}: {error}") from None


def _of_rows(folder: Path, table: Path, rows: Iterable[tuple[str, Any]], problems: list[Problem]) -> list[Photo]:
    of_files: dict[str, list[str]] = {}
    for place, row in rows:
        try:
            file, text = safe_name(take(row, "image", str)), check_expression(take(row, "expression", str))
            if not (folder / file).is_file():
                raise DataError(f"image {file} is missing in {folder}")
        except (DataError, ExpressionError) as error:
            problems.append(Problem(file=str(table), row=place, kind="row", message=str(error)))
        else:
            asked = of_files.setdefault(file, [])
            if text not in asked:
                asked.append(text)
    if not of_files:
        raise DataError(f"{table}: no row of it can be used{first_problem(problems)}")
    return [_photo(file, tuple(texts)) for file, texts in of_files.items()]


def asked_of_all(folder: Path, expressions: Path) -> list[Photo]:
    """Return all photos of a folder and the folders below it, each with the same expressions.

    Args:
        folder: the photos.
        expressions: a text file of expressions, one a line.

    Raises:
        DataError: there is no photo or no expression, or one of both cannot be read.
        ExpressionError: a line is no expression.
    """
    texts, files = expression_lines(expressions), image_files(folder)
    if not files:
        raise DataError(f"{folder}: holds no photos")
    return [_photo(file, texts) for file in files]


def expression_lines(path: Path) -> tuple[str, ...]:
    """Return the expressions of a text file, one a line; blank and repeated lines are left out.

    Raises:
        DataError: it has none, or cannot be read.
        ExpressionError: a line is no expression.
    """
    texts = tuple(dict.fromkeys(check_expression(line.strip()) for line in _text_of(path).splitlines() if line.strip()))
    if not texts:
        raise DataError(f"{path}: holds no expression")
    return texts


def image_files(folder: Path) -> list[str]:
    """Return the names of the images in a folder and the folders below it, in order; hidden ones are left out.

    Raises:
        DataError: there is no such folder.
    """
    suffixes = image_suffixes()
    return sorted(path.as_posix() for path in visible_files(existing_folder(folder)) if path.suffix.lower() in suffixes)


def _photo(file: str, texts: tuple[str, ...]) -> Photo:
    return Photo(
        file=file, split=None, ids=tuple(f"{file}/{number}" for number in range(len(texts))), expressions=texts
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise DataError(f"{path}: cannot be read: {reason}") from None


def asked_of_each(folder: Path, problems: list[Problem]) -> list[Photo]:
    """Return the photos of a folder's table, each with its expressions; masks in the table are not looked at.

    Args:
        folder: a folder of one's own data, `data.jsonl` or `data.csv`; rows need no mask.
        problems: is given rows that cannot be used.

    Raises:
        DataError: there is no such folder or table, or no row of it can be used.
    """
    source = own_folder(existing_folder(folder))
    media = Media(source)
    of_files: dict[str, list[Record]] = {}
    for record in source.read(problems.append):
        try:
            file = media.find_image(record.file).relative_to(folder).as_posix()
        except DataError as error:
            problems.append(Problem(file=record.table, row=record.row, kind="image", message=str(error)))
        else:
            of_files.setdefault(file, []).append(record)
    if not of_files:
        raise DataError(f"{folder}: no row of its table can be used{first_problem(problems)}")
    return [
        Photo(
            file=file,
            split=None if records[0].split == "all" else records[0].split,
            ids=tuple(id for record in records for id in record.expression_ids),
            expressions=tuple(text for record in records for text in record.expressions),
        )
        for file, records in of_files.items()
    ]
