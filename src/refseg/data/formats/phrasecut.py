"""PhraseCut: phrases on images of Visual Genome, each with one target object or several."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.pieces import read_list
from refseg.data.formats.record import (
    Problem,
    Record,
    Report,
    Source,
    build_records,
    numbered,
    read_files,
    take,
    take_size,
    texts,
)
from refseg.data.formats.regions import polygons
from refseg.errors import DataError

__all__ = ["phrasecut"]

IMAGE_DATA = "image_data_split3000.json"


def phrasecut(root: Path) -> Source:
    """Find PhraseCut: `refer_<split>.json`, the sizes of images, and the images in `images`, named by their id.

    Raises:
        DataError: a file is missing.
    """
    files = {path.stem.removeprefix("refer_"): path for path in sorted(root.glob("refer_*.json"))}
    if not files:
        raise DataError(f"{root}: no refer_train.json, refer_val.json or the like there")
    sizes = root / IMAGE_DATA
    if not sizes.is_file():
        raise DataError(f"{sizes}: no such file; it comes with PhraseCut's annotations")
    return Source(
        format="phrasecut",
        folder=root,
        files=(sizes, *files.values()),
        read=partial(_read, sizes, files),
        image_folders=("images", "VG_100K", "VG_100K_2", ""),
    )


def _read(sizes: Path, files: dict[str, Path], report: Report) -> Iterator[Record]:
    known: dict[int, tuple[int, int] | DataError] = {}
    for place, one in numbered(read_list(sizes, "images"), "image"):
        try:
            image_id = take(one, "image_id", int)
        except DataError as error:  # which phrases need it is unknown
            report(Problem(file=str(sizes), row=place, kind="row", message=str(error)))
            continue
        try:
            known[image_id] = take_size(one)
        except DataError as error:
            known[image_id] = error

    def read(split: str, file: Path) -> Iterator[Record]:
        rows = numbered(read_list(file, "phrases"), "phrase")
        return build_records(file, rows, partial(_record, split=split, sizes=known), report, split=split)

    yield from read_files(files.items(), read, report)


def _record(row: Any, *, split: str, sizes: dict[int, tuple[int, int] | DataError]) -> Record:
    image_id = take(row, "image_id", int)
    size = sizes.get(image_id)
    if size is None:
        raise DataError(f"is of image {image_id}, which {IMAGE_DATA} does not have")
    if isinstance(size, DataError):
        raise DataError(f"its image {image_id} in {IMAGE_DATA}: {size}")
    warnings: list[str] = []
    parts = tuple(polygons(instance, size, warnings) for instance in take(row, "Polygons", list))
    if not parts:
        raise DataError("field 'Polygons' is empty, and every phrase of PhraseCut has a target")
    id = str(take(row, "task_id", (int, str)))
    return Record(
        id=id,
        image_id=str(image_id),
        file=f"{image_id}.jpg",
        size=size,
        split=split,
        expressions=texts(take(row, "phrase", str), "phrase"),
        expression_ids=(id,),
        parts=parts,
        attributes={"targets": len(parts)},
        warnings=tuple(warnings),
    )
