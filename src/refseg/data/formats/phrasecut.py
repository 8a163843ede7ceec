"""PhraseCut: phrases on images of Visual Genome, each of which may mean several things."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.pieces import read_list
from refseg.data.formats.record import Problem, Record, Report, Source, each, take, take_size, texts
from refseg.data.formats.regions import check_part, flat_polygons
from refseg.errors import DataError

__all__ = ["phrasecut"]

IMAGE_DATA = "image_data_split3000.json"


def phrasecut(root: Path) -> Source:
    """Find PhraseCut: `refer_<split>.json` and the sizes of images, which lie in `images`, named by their id.

    Raises:
        DataError: it is not there.
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
    known: dict[int, tuple[int, int]] = {}
    for number, one in enumerate(read_list(sizes, "images"), 1):
        try:
            known[take(one, "image_id", int)] = take_size(one)
        except DataError as error:
            report(Problem(file=str(sizes), row=f"image {number}", kind="row", message=str(error)))
    for split, file in files.items():
        rows = read_list(file, "phrases")
        yield from each(file, rows, partial(_record, split=split, sizes=known), report, "phrase")


def _record(numbered: tuple[str, Any], *, split: str, sizes: dict[int, tuple[int, int]]) -> Record:
    place, row = numbered
    image_id = take(row, "image_id", int)
    if image_id not in sizes:
        raise DataError(f"is of image {image_id}, which {IMAGE_DATA} does not have")
    instances = take(row, "Polygons", list)
    parts = []
    for instance in instances:
        if not isinstance(instance, list):
            raise DataError("field 'Polygons' must hold, for each thing, a list of polygons")
        polygons = [polygon for polygon in flat_polygons(instance) if len(polygon) >= 6]
        parts.append(check_part({"polygons": polygons}, sizes[image_id]))
    if not parts:
        raise DataError("means nothing: field 'Polygons' is empty, and every phrase of PhraseCut means something")
    id = str(take(row, "task_id", (int, str)))
    return Record(
        id=id,
        image_id=str(image_id),
        file=f"{image_id}.jpg",
        size=sizes[image_id],
        split=split,
        expressions=texts(take(row, "phrase", str), "phrase"),
        expression_ids=(id,),
        parts=tuple(parts),
        attributes={"targets": len(parts)},
        row=place,
    )
