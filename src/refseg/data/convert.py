"""Reads labels of other tools into a folder of one's own data, to train on them and to score models by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg.data.formats.instances import instance_rows
from refseg.data.formats.record import Problem, first_problem
from refseg.data.media import existing_folder
from refseg.data.placed import place_photos
from refseg.errors import DataError, ExpressionError
from refseg.files import new_folder, unwritable, write_text
from refseg.inputs.clip_bpe import check_expression
from refseg.masks import decode_rle, encode_rle

__all__ = ["Converted", "convert_labels"]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What `convert_labels` has written."""

    images: int
    masks: int
    problems: tuple[Problem, ...]
    """Photos and objects that were left out, with the reason."""


def convert_labels(folder: Path, out: Path, *, images: Path | None = None, copy: bool = False) -> Converted:
    """Write labels as a folder of one's own data (`formats.folder`), completely or not at all.

    The name of an object is its expression. All objects of a name in a photo are one target.

    Args:
        folder: labels in one of the formats of `formats.instances`.
        out: the new folder.
        images: the folder of the photos; None: `folder` itself.
        copy: whether the photos are copied; otherwise `images` in the new folder is a link to their folder.

    Raises:
        DataError: there is no such folder, or nothing in it can be used.
        OutputError: the new folder exists, or cannot be written.
    """
    photos = existing_folder(folder if images is None else images)
    problems = list[Problem]()
    rows, files = list[dict[str, Any]](), list[str]()
    try:
        annotated = list(instance_rows(existing_folder(folder), problems.append, images=photos))
    except DataError as error:
        raise DataError(f"{error}{first_problem(problems)}") from None
    for place, row in annotated:
        try:
            found = list(_references(row))
        except ExpressionError as error:
            problems.append(Problem(file=str(folder), row=place, kind="row", message=str(error)))
        else:
            files.append(row["image"])
            rows += found
    if not rows:
        raise DataError(f"{folder}: no mask in it can be used{first_problem(problems)}")
    try:
        with new_folder(out) as draft:
            write_text(draft / "data.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            place_photos(photos, files, draft, copy=copy)
    except OSError as error:
        hint = "" if copy else "; links may not be allowed there: copy the photos (--copy)"
        raise unwritable(out, error, hint) from None
    return Converted(images=len(set(files)), masks=len(rows), problems=tuple(problems))


def _references(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each name among the objects of a photo."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for one in row["instances"]:
        by_name.setdefault(check_expression(one["category"]), []).append(one["rle"])
    for number, (name, rles) in enumerate(by_name.items()):
        mask = decode_rle(rles[0]).copy()
        for rle in rles[1:]:
            mask |= decode_rle(rle)
        file = row["image"]
        yield {"id": f"{file}/{number}", "image": f"images/{file}", "text": name, "rle": encode_rle(mask)}
