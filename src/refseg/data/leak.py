"""Finds the images of a split that are also in a model's training data.

Images are compared by name. `COCO_train2014_000000123456.jpg`, `000000123456.jpg` and, in a list of ids, the number
123456 are COCO's image 123456 in every data set. Other names are equal where one path ends with the other, whatever
the file's ending: `a.jpg`, `images/a.png` and `a` are equal, `x/a.jpg` and `y/a.jpg` are not.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from refseg.data.dataset import DataSet
from refseg.data.formats.record import read_json, shown
from refseg.data.formats.separated import SEPARATORS, separated
from refseg.errors import DataError

__all__ = ["COCO_PARTS", "Images", "Leak", "coco_part", "find_leaks", "images_in", "images_of", "read_list"]

COCO_NAME = re.compile(r"(?:COCO_(?P<part>train2014|val2014|test2014|test2015)_)?(?P<number>\d{12})(?:_\d+)?(?:\.\w+)?")
"""The name of an image of COCO. REFER's files of references add the number of the annotation."""
COCO_PARTS = ("coco-train2014", "coco-val2014", "coco-train2017")
"""Parts of COCO for which an image's name tells whether it belongs to them."""
FILE_FIELDS = ("file_name", "file", "image", "img_name", "image_path", "filename")
ID_FIELDS = ("coco_id", "image_id", "id")
IMAGE_ENDINGS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
)


class Images:
    """Images that a model was trained on."""

    def __init__(self, name: str, listed: Iterable[str | int] = (), *, parts: Iterable[str] = ()) -> None:
        """Take a list of images.

        Args:
            name: of the list.
            listed: numbers, ids and names of files.
            parts: of COCO that belong to the list entirely, such as `train2014`.
        """
        self.name, self.parts = name, frozenset(parts)
        self._coco: set[int] = set()
        self._ids: set[str] = set()
        self._paths: dict[str, set[tuple[str, ...]]] = {}
        for one in listed:
            text = str(one).strip()
            if found := _coco(text):
                self._coco.add(int(found["number"]))
            elif text.isdecimal():
                self._ids.add(str(int(text)))
            elif path := _path(text):
                self._paths.setdefault(path[-1], set()).add(path)

    def __len__(self) -> int:
        return len(self._coco) + len(self._ids) + sum(map(len, self._paths.values()))

    def has(self, id: str, file: str) -> bool:
        """Return whether an image is among them, by its id in the data set or by its file's name."""
        if id in self._ids:
            return True
        if found := _coco(file):
            number = int(found["number"])
            return number in self._coco or str(number) in self._ids or found["part"] in self.parts
        path = _path(file)
        return any(_tail(path, other) for other in self._paths.get(path[-1] if path else "", ()))


def _coco(name: str) -> re.Match[str] | None:
    return COCO_NAME.fullmatch(PurePosixPath(name.replace("\\", "/")).name)


def _path(name: str) -> tuple[str, ...]:
    """Return the parts of a path, the last one without its ending."""
    path = PurePosixPath(name.replace("\\", "/"))
    return tuple(part for part in (*path.parent.parts, path.stem) if part not in ("", ".", "/"))


def _tail(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    length = min(len(one), len(other))
    return one[-length:] == other[-length:]


def read_list(path: Path) -> Images:
    """Read a list of images.

    It is a text file with an id or a name per line, where lines that begin with `#` are comments; a table with commas,
    semicolons or tabs between columns, whose first line names them; or JSON: a list of ids, names or objects, an object
    with such a list under `images` (as in COCO's annotations), or an object per line. A row or an object is read by the
    name of its file, else by its `coco_id` (as in Visual Genome's `image_data.json`; where it is null, the image is not
    COCO's), `image_id` or `id`.

    Raises:
        DataError: the file is missing, broken, names no images, or has a line that is neither an id nor a name.
    """
    if path.suffix.lower() == ".json":
        values = read_json(path)
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise DataError(f"{path}: is not UTF-8 text; list one id or file name per line") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        if path.suffix.lower() == ".jsonl":
            lines = [line for line in text.splitlines() if line.strip()]
            values = [_object(path, number, line) for number, line in enumerate(lines, 1)]
        else:
            values = _lines(path, text)
    if isinstance(values, dict):
        values = values.get("images")
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a list of ids or file names, or an object that holds one as `images`")
    listed: list[str | int] = []
    for number, value in enumerate(values, 1):
        if isinstance(value, dict):
            listed += _named(value, f"{path}: entry {number}")
        elif isinstance(value, str | int) and not isinstance(value, bool):
            listed.append(value)
        else:
            raise DataError(f"{path}: entry {number} is neither an id nor a file name: {str(value)[:40]!r}")
    images = Images(path.name, listed)
    if not len(images):
        raise DataError(f"{path}: names no images")
    return images


def _lines(path: Path, text: str) -> list[Any]:
    """Return the ids and names of a text file, or the rows of a table."""
    text = "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith("#"))
    table = separated(text, lambda names: bool(names & {*FILE_FIELDS, *ID_FIELDS}))
    if table.separator is not None:
        rows = csv.DictReader(table.text.splitlines(), delimiter=table.separator, skipinitialspace=True)
        rows.fieldnames = [name.strip().lower() for name in rows.fieldnames or ()]
        stripped = (
            {name: cell.strip() for name, cell in row.items() if name and isinstance(cell, str)} for row in rows
        )
        return [row for row in stripped if any(row.values())]
    for number, line in enumerate(text.splitlines(), 1):
        if not _is_name(line.strip()):
            raise DataError(
                f"{path}: {shown(line)}, line {number} without comments, is neither an id nor a file name; list one of "
                "them per line, or name the columns of a table in its first line, one of them image or image_id"
            )
    return [line.strip() for line in text.splitlines() if line.strip()]


def _is_name(line: str) -> bool:
    """Return whether a line of a list can be nothing but an id or the name of a file, or is blank."""
    spaced = any(character.isspace() for character in line)
    return not any(separator in line for separator in SEPARATORS) and (
        not spaced or PurePosixPath(line).suffix.lower() in IMAGE_ENDINGS
    )


def images_in(folder: Path) -> Images:
    """Return the images in a folder and the folders below it, by the endings of their names.

    Raises:
        DataError: there are none.
    """
    found = [
        Path(place, name).relative_to(folder).as_posix()
        for place, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() in IMAGE_ENDINGS
    ]
    if not found:
        raise DataError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_ENDINGS))})")
    return Images(str(folder), found)


def _object(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: entry {number}: not valid JSON: {error}") from None


def _named(value: Mapping[str, Any], place: str) -> list[str | int]:
    """Return the image's name or id in an object of a list; an empty list if it is known not to be COCO's."""
    for field in FILE_FIELDS:
        if isinstance(value.get(field), str) and value[field]:
            return [value[field]]
    for field in ID_FIELDS:
        if field in value:
            if value[field] is None and field == "coco_id":
                return []
            if isinstance(value[field], str | int) and not isinstance(value[field], bool):
                return [value[field]]
    raise DataError(f"{place}: has neither a file name nor an id (file_name, image, coco_id, image_id or id)")


def images_of(data: DataSet) -> Images:
    """Return the images of a split of a data set."""
    files = _files(data)
    ids = {sample.image_id for image in range(data.num_images) for sample in data.samples_of(image)}
    return Images(f"{data.name}:{data.split}", [file for id in ids for file in files.get(id, (id,))])


def coco_part(name: str, data: DataSet) -> Images:
    """Return a part of COCO, one of `COCO_PARTS`, as a list to compare a split with.

    COCO's train2017 is train2014 and most of val2014, so it is only known for a split without images of val2014.

    Raises:
        DataError: no image of the split is known to be COCO's, or its names do not tell the part.
    """
    part = name.removeprefix("coco-")
    found = {match["part"] for files in _files(data).values() for file in files if (match := _coco(file))}
    if not found & {"train2014", "val2014"}:
        raise DataError(f"{data.name}: its images' names do not say whether they are of COCO's {part}; give a list")
    if part != "train2017":
        return Images(name, parts=(part,))
    if "val2014" in found:
        raise DataError(f"{data.name} has images of val2014, and which are in train2017 only a list can tell")
    return Images(name, parts=("train2014",))


def _files(data: DataSet) -> dict[str, list[str]]:
    """Return the names of image files by `image_id`; an empty dict where images are not files."""
    return {id: [_name(id, file) for file in files] for id, files in data.files().items()}


def _name(id: str, file: str) -> str:
    """Return the name of an image. Inside a table it has none, but tables hold COCO's images with COCO's ids."""
    if ".parquet#" not in file:
        return file
    return f"{int(id):012d}" if id.isdecimal() else id


@dataclass(frozen=True, kw_only=True)
class Leak:
    """The part of a split that is in a list of images."""

    against: str
    """The name of the list."""
    listed: int | None
    """The number of images in the list; None where it is not known."""
    images: frozenset[str]
    """The split's images that are in the list, by `image_id`."""
    references: int
    expressions: int


def find_leaks(data: DataSet, lists: Sequence[Images]) -> list[Leak]:
    """Return the part of a split that is in each list, and last, for several lists, the part that is in any of them."""
    files = _files(data)
    counts: dict[str, list[int]] = {}
    for image in range(data.num_images):
        for sample in data.samples_of(image):
            count = counts.setdefault(sample.image_id, [0, 0])
            count[0] += 1
            count[1] += len(sample.expressions)
    leaked = [
        frozenset(id for id in counts if any(images.has(id, file) for file in files.get(id, (id,)))) for images in lists
    ]
    found_by: list[tuple[str, int | None, frozenset[str]]] = [
        (images.name, len(images) or None, found) for images, found in zip(lists, leaked, strict=True)
    ]
    if len(lists) > 1:
        found_by.append(("any of them", None, frozenset().union(*leaked)))
    return [
        Leak(
            against=name,
            listed=listed,
            images=found,
            references=sum(counts[id][0] for id in found),
            expressions=sum(counts[id][1] for id in found),
        )
        for name, listed, found in found_by
    ]
