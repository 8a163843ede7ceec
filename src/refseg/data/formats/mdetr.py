"""MDETR's COCO files, one for each split: an entry in `images` is one sentence, its annotations are what it means."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.pieces import read_lists
from refseg.data.formats.record import Problem, Record, Report, Source, each, safe_name, take, take_size, texts
from refseg.data.formats.refer import IMAGE_FOLDERS, in_split
from refseg.data.formats.regions import Part, coco_parts
from refseg.errors import DataError

__all__ = ["mdetr"]


def mdetr(root: Path, files: dict[str, Path]) -> Source:
    """Take the files of each split.

    Raises:
        DataError: there is none, or one is missing.
    """
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{file}: no such file")
    if not files:
        raise DataError(f"{root}: no files such as finetune_refcoco_val.json there")
    return Source(
        format="mdetr",
        folder=root,
        files=tuple(files.values()),
        read=partial(_read, files),
        image_folders=IMAGE_FOLDERS,
        in_split=in_split,
    )


def _read(files: dict[str, Path], report: Report) -> Iterator[Record]:
    for split, file in files.items():
        rows: list[Any] = []
        means: dict[int | str, list[str]] = {}
        """By the id of an image: the annotations, as JSON again, since as Python's numbers they would fill memory."""
        places: dict[int | str, str] = {}
        for name, number, one in read_lists(file, ("images", "annotations")):
            if name == "images":
                rows.append(one)
                continue
            place = f"annotation {number}"
            try:
                image_id = take(one, "image_id", (int, str))
                segmentation = take(one, "segmentation", (list, dict, type(None)), None)
                means.setdefault(image_id, []).append(json.dumps(segmentation or None))
                places.setdefault(image_id, place)
            except RecursionError:
                report(Problem(file=str(file), row=place, kind="row", message="is nested too deeply"))
            except DataError as error:
                report(Problem(file=str(file), row=place, kind="row", message=str(error)))
        known = {row.get("id") for row in rows if isinstance(row, dict) and isinstance(row.get("id"), int | str)}
        for image_id, place in places.items():
            if image_id not in known:
                message = f"is of image {image_id}, which the file does not have"
                report(Problem(file=str(file), row=place, kind="row", message=message))
        yield from each(file, rows, partial(_record, split=split, means=means), report, "image")


def _record(numbered: tuple[str, Any], *, split: str, means: dict[int | str, list[str]]) -> Record:
    place, row = numbered
    id = take(row, "id", (int, str))
    name = safe_name(take(row, "file_name", str))
    size = take_size(row)
    parts: list[Part] = []
    for written in means.get(id, []):
        segmentation = json.loads(written)
        if segmentation is None:
            raise DataError("has a box but no segmentation: boxes alone cannot be segmented or scored here")
        parts += coco_parts(segmentation, size)
    return Record(
        id=f"{split}/{id}",
        image_id=str(take(row, "original_id", (int, str), Path(name).stem)),
        file=name,
        size=size,
        split=split,
        expressions=texts(take(row, "caption", str), "caption"),
        expression_ids=(f"{split}/{id}",),
        parts=tuple(parts),
        attributes={"targets": len(means.get(id, []))},
        row=place,
    )
