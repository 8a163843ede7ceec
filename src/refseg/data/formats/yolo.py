"""Ultralytics' text files of segments (YOLO-seg), as rows of a folder of photos.

`data.yaml` has `names`, a list or a mapping of numbers to names. `labels/IMAGE.txt` has a line for each object:
its class's number, then x and y of its corners in turn, in fractions of the image's width and height. The image
has the same path with `images` in place of `labels`, and another ending.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from refseg.data.formats.record import Problem, Report, shown
from refseg.data.formats.regions import check_part
from refseg.data.formats.row import find_image, painted_instance
from refseg.errors import DataError, ImageError
from refseg.inputs.read import image_suffixes, read_size

__all__ = ["CLASSES", "yolo_rows"]

CLASSES = "data.yaml"


def yolo_rows(folder: Path, photos: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each annotated photo with its place.

    Args:
        folder: of `data.yaml`.
        photos: the folder of the photos, which those in rows are relative to.
        report: called for each photo that cannot be used.

    Raises:
        DataError: `data.yaml` cannot be read.
    """
    names = _names(folder / CLASSES)
    for file in sorted(folder.rglob("*.txt")):
        name = file.relative_to(folder)
        if "labels" not in name.parts:
            continue
        try:
            image = _image_of(folder, name, photos)
            yield name.as_posix(), _row(file, image, names, read_size(photos / image))
        except (DataError, ImageError, OSError, UnicodeDecodeError) as error:
            report(Problem(file=str(file), row="", kind="row", message=str(error)))


def _names(path: Path) -> dict[int, str]:
    try:
        content = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    given = content.get("names") if isinstance(content, dict) else None
    names = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(names, dict) or not all(type(key) is int and isinstance(names[key], str) for key in names):
        raise DataError(f"{path}: names must be a list of texts, or a mapping of numbers to texts, got {shown(given)}")
    return names


def _row(file: Path, image: str, names: dict[int, str], size: tuple[int, int]) -> dict[str, Any]:
    instances = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                instances.append(_instance(line.split(), names, size))
            except DataError as error:
                raise DataError(f"line {number}: {error}") from None
    return {"image": image, "height": size[0], "width": size[1], "instances": instances}


def _image_of(folder: Path, labels: Path, photos: Path) -> str:
    path = PurePosixPath(*("images" if part == "labels" else part for part in labels.parts))
    for ending in sorted(image_suffixes()):
        for spelling in (ending, ending.upper()):
            try:
                return find_image(photos, str(path.with_suffix(spelling)), beside=folder)
            except DataError:
                continue
    raise DataError(f"there is no image {path.with_suffix('')} of any kind in {photos}")


def _instance(words: list[str], names: dict[int, str], size: tuple[int, int]) -> dict[str, Any]:
    try:
        number, *corners = int(words[0]), *map(float, words[1:])
    except ValueError:
        raise DataError("must be the number of a class, then numbers") from None
    if number not in names:
        raise DataError(f"is of class {number}, which {CLASSES} does not name")
    if len(corners) == 4:
        raise DataError("is a box, which is no mask; segments have three corners or more")
    height, width = size
    polygon = [value * (height if index % 2 else width) for index, value in enumerate(corners)]
    return painted_instance(names[number], "instance", [check_part({"polygons": [polygon]}, size)], size)
