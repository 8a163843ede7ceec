"""MDETR's COCO files, one for each split: an entry of `images` is an expression, its annotations are the targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.pieces import read_lists
from refseg.data.formats.record import (
    Problem,
    Record,
    Report,
    Source,
    build_records,
    numbered,
    read_files,
    safe_name,
    take,
    take_size,
    texts,
)
from refseg.data.formats.refer import IMAGE_FOLDERS, in_split
from refseg.data.formats.regions import Part, coco_parts
from refseg.errors import DataError

__all__ = ["mdetr"]


def mdetr(root: Path, files: dict[str, Path]) -> Source:
    """Find a data set by the file of each split.

    Raises:
        DataError: no files are given, or one is missing.
    """
    for file in files.values():
        if not file.is_file():
            raise DataError(f"{file}: no such file")
    if not files:
        raise DataError(f"{root}: no files such as finetune_refcoco_val.json there")
    return Source(
        format=f"mdetr/{'+'.join(files)}",  # the same file may stand for different splits
        folder=root,
        files=tuple(files.values()),
        read=partial(_read, files),
        image_folders=IMAGE_FOLDERS,
        in_split=in_split,
    )


class _Targets:
    """The annotations of a file by the id of their image."""

    def __init__(self) -> None:
        self.segmentations: dict[int | str, list[str]] = {}
        """As JSON: as Python's numbers, those of a complete set would fill the memory."""
        self.places: dict[int | str, str] = {}
        """Of the first annotation of each image."""
        self.broken: dict[int | str, str] = {}
        """By the id of the image, which cannot be used either: its mask would lack a target."""

    def add(self, place: str, annotation: Any) -> None:
        """Add an annotation.

        Raises:
            DataError: its image is missing or malformed.
        """
        image_id = take(annotation, "image_id", (int, str))
        self.places.setdefault(image_id, place)
        try:
            segmentation = take(annotation, "segmentation", (list, dict, type(None)), None)
            self.segmentations.setdefault(image_id, []).append(json.dumps(segmentation or None))
        except RecursionError:
            self.broken[image_id] = f"its {place}: is nested too deeply"
        except DataError as error:
            self.broken[image_id] = f"its {place}: {error}"


def _read(files: dict[str, Path], report: Report) -> Iterator[Record]:
    return read_files(files.items(), partial(_read_split, report=report), report)


def _read_split(split: str, file: Path, report: Report) -> Iterator[Record]:
    def leave_out(place: str, message: str) -> None:
        report(Problem(file=str(file), row=place, kind="row", message=message, split=split))

    rows: list[Any] = []
    targets = _Targets()
    for name, number, one in read_lists(file, ("images", "annotations")):
        if name == "images":
            rows.append(one)
            continue
        try:
            targets.add(f"annotation {number}", one)
        except DataError as error:
            leave_out(f"annotation {number}", str(error))
    known = {row.get("id") for row in rows if isinstance(row, dict) and isinstance(row.get("id"), int | str)}
    for image_id, place in targets.places.items():
        if image_id not in known:
            leave_out(place, f"is of image {image_id}, which the file does not have")
    build = partial(_record, split=split, targets=targets)
    yield from build_records(file, numbered(rows, "image"), build, report, split=split)


def _record(row: Any, *, split: str, targets: _Targets) -> Record:
    id = take(row, "id", (int, str))
    if id in targets.broken:
        raise DataError(targets.broken[id])
    name = safe_name(take(row, "file_name", str))
    size = take_size(row)
    parts: list[Part] = []
    warnings: list[str] = []
    segmentations = targets.segmentations.get(id, [])
    for written in segmentations:
        segmentation = json.loads(written)
        if segmentation is None:
            raise DataError("has a box but no segmentation: boxes alone cannot be segmented or scored here")
        parts += coco_parts(segmentation, size, warnings)
    return Record(
        id=f"{split}/{id}",
        image_id=str(take(row, "original_id", (int, str), name)),
        file=name,
        size=size,
        split=split,
        expressions=texts(take(row, "caption", str), "caption"),
        expression_ids=(f"{split}/{id}",),
        parts=tuple(parts),
        attributes={"targets": len(segmentations)},
        warnings=tuple(warnings),
    )
