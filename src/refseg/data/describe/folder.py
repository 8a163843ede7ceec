"""Writes the generated expressions of annotated photos as a folder of one's own data (`formats.folder`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from refseg.data.formats.folder import json_lines
from refseg.data.formats.instances import instance_rows
from refseg.data.formats.photos import ANNOTATIONS, photo_records, series_splits, split_in
from refseg.data.formats.record import Problem, Record
from refseg.data.formats.regions import paint
from refseg.errors import ConfigError, DataError, ImageError, OutputError
from refseg.files import new_folder, unwritable
from refseg.masks import encode_rle

__all__ = ["Report", "describe_folder"]


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `describe_folder` has written."""

    images: int
    references: int
    expressions: int
    problems: tuple[Problem, ...]
    """Photos that were left out, with the reason."""


def describe_folder(
    folder: Path,
    out: Path,
    *,
    seed: int = 0,
    components: str = "lone",
    complete: bool = False,
    copy: bool = False,
    progress: bool = False,
) -> Report:
    """Write expressions for the photos of a folder, completely or not at all.

    Args:
        folder: a folder of photos (`formats.photos`), or of COCO's or LabelMe's annotations (`formats.instances`).
        out: the new folder.
        seed: of the expressions, not negative.
        components: as in `formats.photos.photos`.
        complete: as in `formats.instances.instance_rows`; a folder of photos says itself what is labelled.
        copy: whether the photos are copied; otherwise `images` in the new folder is a link to the folder.
        progress: whether to show a progress bar once it takes long.

    Raises:
        ConfigError: the seed is negative.
        DataError: nothing in the folder can be described.
        OutputError: the new folder exists, or cannot be written.
    """
    if seed < 0:
        raise ConfigError(f"a seed cannot be negative, but is {seed}")
    if out.exists():
        raise OutputError(f"{out}: exists already; name a new folder")
    problems: list[Problem] = []
    rows = list(_rows(folder, problems, complete=complete))
    splits = series_splits(row for _, row in rows)
    records: list[Record] = []
    for place, row in tqdm(rows, unit="photo", delay=2, disable=not progress):
        try:
            split = split_in(splits, row)
            records += photo_records(folder, row, split, seed=seed, components=components)
        except (DataError, ImageError) as error:
            problems.append(Problem(file=str(folder), row=place, kind="row", message=str(error)))
    if not records:
        why = f"; the first problem: {problems[0]}" if problems else ""
        raise DataError(f"{folder}: nothing there can be described without ambiguity{why}")
    try:
        with new_folder(out) as draft:
            _write(records, folder, draft, copy=copy)
    except OSError as error:
        hint = "" if copy else "; links may not be allowed there: copy the photos (--copy)"
        raise unwritable(out, error, hint) from None
    return Report(
        images=len({record.file for record in records}),
        references=len(records),
        expressions=sum(len(record.expressions) for record in records),
        problems=tuple(problems),
    )


def _rows(folder: Path, problems: list[Problem], *, complete: bool) -> Iterator[tuple[str, Any]]:
    if (folder / ANNOTATIONS).is_file():
        yield from ((row.place, row.values) for row in json_lines(folder / ANNOTATIONS, problems.append))
    elif folder.is_dir():
        yield from instance_rows(folder, problems.append, complete=complete)
    else:
        raise DataError(f"{folder}: no such folder")


def _write(records: list[Record], folder: Path, draft: Path, *, copy: bool) -> None:
    with (draft / "data.jsonl").open("w", encoding="utf-8", newline="\n") as table:
        for record in records:
            table.write(json.dumps(_row(record), ensure_ascii=False) + "\n")
    if not copy:
        (draft / "images").symlink_to(folder.resolve(), target_is_directory=True)
        return
    for file in dict.fromkeys(record.file for record in records):
        source = next(path for path in (folder / file, folder / "images" / file) if path.is_file())
        (draft / "images" / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, draft / "images" / file)


def _row(record: Record) -> dict[str, Any]:
    assert record.size is not None
    row: dict[str, Any] = {
        "id": record.id,
        "image": record.file,
        "split": record.split,
        "text": [
            {"text": text, **known}
            for text, known in zip(record.expressions, record.expression_attributes, strict=True)
        ],
        **record.attributes,
    }
    if record.parts:
        target, ignored = paint(record.parts, *record.size)
        row["rle"] = encode_rle(target)
        if np.any(ignored):
            row["ignored"] = encode_rle(ignored)
    return row
