"""Tables of the Hugging Face hub: `*.parquet` files in a folder or in its `data`, of three kinds with these columns.

- `ref_id, raw_anns, image_path` (jxu124/refcoco, refcocoplus, refcocog): one reference of REFER per row, with its
  annotations as JSON. The images are COCO's and lie elsewhere. The files are named `validation` for REFER's `val` and,
  for RefCOCO and RefCOCO+, `test` for REFER's `testA`; here REFER's names are used.
- `image, image_info, ref_list` (jxu124/refcoco-benchmark): one image per row, with all of its references. Splits have
  names such as `refcocog_umd_test`.
- `image, answer, segmentation` (lmms-lab/RefCOCO, RefCOCOplus, RefCOCOg): one reference per row, with its image. These
  are lossy: the polygons of an object are joined into one list of numbers, so that the mask of an object in several
  parts is wrong; and `val` of its RefCOCO has 8,811 rows, which can only be the 3,811 of the UNC split and the 5,000 of
  Google's together. They serve for viewing; do not publish numbers measured on them.

The name of an image in a table is `data/val-00000-of-00001.parquet#17`: the file, and the row from 0.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from refseg.data.formats.record import (
    UNREADABLE,
    Problem,
    Record,
    Report,
    Source,
    build_records,
    read_files,
    safe_name,
    shown,
    split_of,
    take,
    take_size,
    texts,
)
from refseg.data.formats.refer import IMAGE_FOLDERS, expressions_of
from refseg.data.formats.regions import Part, coco_parts
from refseg.errors import DataError

__all__ = ["holds_tables", "in_split", "open_table", "table_batches", "tables"]

NAME = re.compile(r"(?P<split>.+?)-(?P<number>\d{5})-of-(?P<count>\d{5})(-[0-9a-f]+)?")
"""A file name of the hub: the split, the number of the file, the number of files, and perhaps a hash."""
COCO_NAME = re.compile(r"COCO_[a-z]+\d{4}_(\d{12})")
"""The beginning of COCO's names of images, which REFER keeps; the number is the image's id."""
REFER_NAMES = {"validation": "val"}
ROWS = 64
"""Rows that are read at a time."""
KEPT = 128 * 2**20
"""Bytes of a group of images up to which it stays in memory; a larger group is read again for each image."""


class _File(NamedTuple):
    path: Path
    name: str
    """Relative to the folder."""
    split: str


class _Row(NamedTuple):
    """A reference as a table stores it."""

    values: Any
    """The columns of its row."""
    reference: Any
    """Its element of `ref_list`, where the table has this column."""
    split: str
    """Of its file."""
    image: str
    """The name of the image in the row."""
    number: int
    """Of the row, from 0, counted over all files of the split."""
    text_field: str


def holds_tables(root: Path) -> bool:
    """Return whether a folder contains tables."""
    return bool(_paths(root))


def in_split(split: str, asked: str) -> bool:
    """Return whether a split is the requested one; the hub's `validation` is REFER's `val`."""
    return split == REFER_NAMES.get(asked, asked)


def tables(root: Path, *, text_field: str = "sent") -> Source:
    """Find the tables of a folder.

    Args:
        root: the folder that contains them, directly or in its folder `data`.
        text_field: `sent`, the cleaned sentences, or `raw` ones, where a table has both.

    Raises:
        DataError: there are none, one is missing or broken, they are of an unknown kind, or pyarrow is not installed.
    """
    files, missing = _files(root)
    kind, pixels = _kind(files)
    return Source(
        format=f"tables/{kind}",
        folder=root,
        files=tuple(file.path for file in files),
        read=partial(_read, files, missing, kind, text_field),
        image_folders=("coco/train2014", *IMAGE_FOLDERS),
        in_split=in_split,
        image=partial(_image, root) if pixels else None,
    )


def _paths(root: Path) -> list[Path]:
    return sorted(root.glob("*.parquet")) or sorted((root / "data").glob("*.parquet"))


def _files(root: Path) -> tuple[list[_File], dict[str, Path]]:
    """Return the tables of a folder, and the first missing file of each split that lacks one.

    Raises:
        DataError: there are none.
    """
    paths = _paths(root)
    if not paths:
        raise DataError(f"{root}: no tables (*.parquet) there, and none in data")
    splits = []
    there: set[tuple[str, int]] = set()
    counts: dict[str, int] = {}
    for path in paths:
        named = NAME.fullmatch(path.stem)
        splits.append(named["split"] if named else path.stem)
        if named:
            there.add((named["split"], int(named["number"])))
            counts[named["split"]] = int(named["count"])
    lacking = {
        split: paths[0].parent / f"{split}-{number:05}-of-{count:05}.parquet"
        for split, count in counts.items()
        for number in reversed(range(count))
        if (split, number) not in there
    }
    # Only RefCOCO and RefCOCO+ have a testB; the hub's name of their testA is test.
    names = REFER_NAMES | ({"test": "testA"} if "testB" in splits and "testA" not in splits else {})
    files = [
        _File(path, path.relative_to(root).as_posix(), names.get(split, split))
        for path, split in zip(paths, splits, strict=True)
    ]
    return files, {names.get(split, split): path for split, path in lacking.items()}


def _kind(files: list[_File]) -> tuple[str, bool]:
    """Return the kind of the tables, by the first that can be opened, and whether they contain images."""
    path, columns = _columns(files)
    for kind, (needed, _) in KINDS.items():
        if needed <= columns:
            return kind, "image" in needed
    known = "; or ".join(", ".join(sorted(needed)) for needed, _ in KINDS.values())
    found = ", ".join(map(shown, sorted(columns)[:12]))
    raise DataError(f"{path}: an unknown kind of table; needed are the columns {known}; it has {found}")


def _columns(files: list[_File]) -> tuple[Path, set[str]]:
    """Return the first table that can be opened, and its columns: another one may be of a split that is not needed.

    Raises:
        DataError: none can be opened.
    """
    errors: list[DataError] = []
    for file in files:
        try:
            with open_table(file.path) as table:
                return file.path, set(table.schema_arrow.names)
        except DataError as error:
            errors.append(error)
    raise errors[0]


# ── rows ──


def _read(files: list[_File], missing: dict[str, Path], kind: str, text_field: str, report: Report) -> Iterator[Record]:
    _, build = KINDS[kind]
    counts: Counter[str] = Counter()
    by_path = {file.path: file for file in files}

    def read(split: str, path: Path) -> Iterator[Record]:
        rows = _references(by_path[path], text_field, counts)
        return build_records(path, rows, build, report, split=_split if kind == "refer" else split)

    yield from read_files([(file.split, file.path) for file in files], read, report)
    for split, path in missing.items():
        message = "is missing, and the split needs it; fetch it"
        report(Problem(file=str(path), row="", kind=UNREADABLE, message=message, split=split))


def _references(file: _File, text_field: str, counts: Counter[str]) -> Iterator[tuple[str, _Row]]:
    """Yield the references of a file, each with its place, and count its rows."""
    for number, values in enumerate(_rows(file.path)):
        references = values.get("ref_list") or [None]
        for which, reference in enumerate(references, 1):
            place = f"row {number + 1}" + (f", reference {which}" if "ref_list" in values else "")
            image = f"{file.name}#{number}"
            yield place, _Row(values, reference, file.split, image, counts[file.split], text_field)
        counts[file.split] += 1


def _split(row: _Row) -> str:
    """Return the split of a reference of REFER: its own name, where the table has it."""
    return split_of(row.values) or row.split


def _from_refer(row: _Row) -> Record:
    size = None
    if take(row.values, "raw_image_info", (str, type(None)), None) is not None:
        size = take_size(_json(row.values, "raw_image_info"))
    return _reference(
        row.values,
        _json(row.values, "raw_anns"),
        row.text_field,
        size,
        split=take(row.values, "split", (str, type(None)), None) or row.split,
        file=PurePosixPath(safe_name(take(row.values, "image_path", str))).name,
    )


def _from_image(row: _Row) -> Record:
    return _reference(
        take(row.reference, "ref_info", dict),
        take(row.reference, "ann_info", dict),
        row.text_field,
        take_size(take(row.values, "image_info", dict)),
        split=row.split,
        file=row.image,
        # One folder has several sets with the same ids; only the names of their splits differ.
        prefix=f"{row.split}/",
    )


def _from_answer(row: _Row) -> Record:
    id = f"{row.split}/{row.number}"
    expressions = texts(take(row.values, "answer", (str, list)), "answer")
    name = take(row.values, "file_name", (str, type(None)), None) or row.image
    coco = COCO_NAME.match(name)
    attributes: dict[str, str | int | bool] = {"targets": 1}
    warnings: list[str] = []
    if (question := take(row.values, "question_id", (str, int, type(None)), None)) is not None:
        attributes["question_id"] = question
    return Record(
        id=id,
        image_id=str(int(coco[1])) if coco else name,
        file=row.image,
        split=row.split,
        expressions=expressions,
        expression_ids=tuple(f"{id}/{index}" for index in range(len(expressions))),
        parts=coco_parts([take(row.values, "segmentation", list)], None, warnings),
        attributes=attributes,
        warnings=tuple(warnings),
    )


KINDS: dict[str, tuple[set[str], Callable[[_Row], Record]]] = {
    "refer": ({"ref_id", "raw_anns", "image_path"}, _from_refer),
    "images": ({"image", "image_info", "ref_list"}, _from_image),
    "answers": ({"image", "answer", "segmentation"}, _from_answer),
}
"""The columns that a kind needs, and the function that reads a reference of it."""


def _reference(
    values: Any,
    annotations: Any,
    text_field: str,
    size: tuple[int, int] | None,
    *,
    split: str,
    file: str,
    prefix: str = "",
) -> Record:
    """Return the record of a reference and its annotation or annotations, both in REFER's form."""
    ref_id, image_id = take(values, "ref_id", (int, str)), take(values, "image_id", int)
    parts: list[Part] = []
    warnings: list[str] = []
    annotations = annotations if isinstance(annotations, list) else [annotations]
    if not annotations:
        raise DataError("has no annotation, and every reference of REFER has a target")
    for annotation in annotations:
        if (other := take(annotation, "image_id", int, image_id)) != image_id:
            raise DataError(f"is of image {image_id}, its annotation of image {other}")
        parts += coco_parts(take(annotation, "segmentation", (list, dict)), size, warnings)
    expressions, ids = expressions_of(values, text_field)
    return Record(
        id=f"{prefix}{ref_id}",
        image_id=str(image_id),
        file=file,
        size=size,
        split=split,
        expressions=expressions,
        expression_ids=tuple(f"{prefix}{id}" for id in ids),
        parts=tuple(parts),
        attributes={"targets": len(annotations)},
        warnings=tuple(warnings),
    )


def _json(row: Any, name: str) -> Any:
    text = take(row, name, str)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"field {name!r} is not valid JSON: {error}") from None


# ── files ──


def open_table(path: Path) -> Any:
    """Return an open table, a `ParquetFile` of pyarrow.

    Raises:
        DataError: it cannot be read, or pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: tables are read with pyarrow; pip install 'refseg[tables]'") from None
    try:
        return pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (OSError, pyarrow.ArrowException) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(f"{path}: not a complete table ({' '.join(str(reason).split())[:200]}); fetch it again")


def _rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a table, without their images."""
    with open_table(path) as table:
        columns = [name for name in table.schema_arrow.names if name != "image"]
        for batch in table_batches(path, table, columns=columns):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise _broken(path, error) from None
            yield from rows


def table_batches(path: Path, table: Any, **chosen: Any) -> Iterator[Any]:
    """Yield the rows of an open table, some at a time.

    Args:
        path: of the table.
        table: from `open_table`.
        chosen: which `columns` and `row_groups`; by default all.

    Raises:
        DataError: the table is broken.
    """
    import pyarrow

    batches = table.iter_batches(batch_size=ROWS, use_threads=False, **chosen)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pyarrow.ArrowException) as error:
            raise _broken(path, error) from None
        if batch is None:
            return
        yield batch


def _image(root: Path, file: str) -> io.BytesIO:
    """Open the image in a row of a table.

    Raises:
        DataError: the table is missing or broken, or the row has no image.
    """
    name, _, row = file.rpartition("#")
    path = root / name
    try:
        stat = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    state = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino)
    starts, sizes = _groups(path, state)
    number = int(row)
    group = int(np.searchsorted(starts, number, side="right")) - 1
    if number >= starts[-1]:
        raise DataError(f"{path}: has no row {number + 1}")
    place = number - int(starts[group])
    kept = sizes[group] <= KEPT
    value = _group(path, state, group)[place].as_py() if kept else _read_one(path, group, place)
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes):
        raise DataError(f"{path}: row {number + 1}: has no image in it, got {shown(value)}")
    return io.BytesIO(value)


@lru_cache(maxsize=256)
def _groups(path: Path, state: tuple[int, ...]) -> tuple[Any, tuple[int, ...]]:
    """Return the first row of each group of rows and the number of all rows, and the bytes of each group's images.

    `state` changes with the file: it keeps outdated results from being used.
    """
    with open_table(path) as table:
        about = table.metadata
        groups = [about.row_group(index) for index in range(about.num_row_groups)]
    sizes = []
    for group in groups:
        columns = [group.column(index) for index in range(group.num_columns)]
        images = (one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] == "image")
        sizes.append(sum(images))
    return np.cumsum([0, *(group.num_rows for group in groups)]), tuple(sizes)


@lru_cache(maxsize=1)
def _group(path: Path, state: tuple[int, ...], group: int) -> Any:
    """Return the images of a group of rows. The last group is kept, as neighbours are often read in turn."""
    import pyarrow

    with open_table(path) as table:
        batches = list(table_batches(path, table, row_groups=[group], columns=["image"]))
        return pyarrow.chunked_array([batch.column(0) for batch in batches], type=batches[0].schema.field(0).type)


def _read_one(path: Path, group: int, place: int) -> Any:
    """Return one image of a group of rows, without reading the rest of it."""
    with open_table(path) as table:
        for batch in table_batches(path, table, row_groups=[group], columns=["image"]):
            if place < batch.num_rows:
                return batch.column(0)[place].as_py()
            place -= batch.num_rows
    raise DataError(f"{path}: not a complete table; fetch it again")
