"""REFER's layout (RefCOCO, RefCOCO+, RefCOCOg, RefCLEF) and its extensions, gRefCOCO and Ref-ZOM.

A folder holds `instances.json` (COCO's images, annotations and categories) and a file of references, `refs(unc).p`:
a list of objects `ref_id, ann_id, image_id, category_id, split, sentences`. A reference's own `file_name` is not used,
since its authors say that it may be wrong; the image is the one that `instances.json` names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from refseg.data.formats.pieces import read_list, read_lists
from refseg.data.formats.plain import read_pickle
from refseg.data.formats.record import (
    Problem,
    Record,
    Report,
    Source,
    build_records,
    numbered,
    safe_name,
    shown,
    split_of,
    take,
    take_size,
    texts,
)
from refseg.data.formats.regions import Part, coco_parts
from refseg.errors import DataError

__all__ = ["IMAGE_FOLDERS", "expressions_of", "in_split", "refer"]

IMAGE_FOLDERS = (
    *("images/train2014", "images/mscoco/images/train2014", "train2014", "images/mscoco/train2014"),
    *("images/val2014", "images/mscoco/images/val2014", "val2014"),
    *("images/saiapr_tc-12", "saiapr_tc-12", "images", ""),
)
"""Both layouts in use (LISA's and EVF-SAM's; CRIS' and ReLA's), and mixtures of them."""
OTHER_FIELD = {"sent": "raw", "raw": "sent"}


def in_split(split: str, asked: str) -> bool:
    """Return whether a reference of a split belongs to the requested split, by the rules of REFER's code.

    `testA`, `testB` and `testC` hold every split that contains the letter (RefCLEF has a `testAB`), `test` every one
    that contains the word, and any other name only itself.
    """
    if asked in ("testA", "testB", "testC"):
        return asked[-1] in split
    return "test" in split if asked == "test" else split == asked


def refer(folder: Path, references: str, *, root: Path | None = None, text_field: str = "sent") -> Source:
    """Find a data set in REFER's layout.

    Args:
        folder: holds `instances.json` and the references.
        references: name of their file, a pickle or JSON.
        root: the folder that folders of images are relative to; the one above `folder`, if None.
        text_field: `sent`, the cleaned sentences (CRIS), or `raw` ones (LAVT, ReLA).

    Raises:
        DataError: a file is missing.
    """
    if text_field not in OTHER_FIELD:
        raise DataError(f"text_field must be sent or raw, got {text_field!r}")
    files = (folder / references, folder / "instances.json")
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file; `refseg data prepare` fetches the public sets")
    return Source(
        format="refer",
        folder=folder.parent if root is None else root,
        files=files,
        read=partial(_read, *files, text_field),
        image_folders=IMAGE_FOLDERS,
        in_split=in_split,
    )


def _read(references: Path, instances: Path, text_field: str, report: Report) -> Iterator[Record]:
    if references.suffix == ".p":
        rows = read_pickle(references)
        if not isinstance(rows, list):
            raise DataError(f"{references}: expected a list of references, got {shown(rows)}")
    else:
        rows = list(read_list(references, "references"))
    build = partial(_record, instances=_Instances(instances, rows, report), text_field=text_field)
    yield from build_records(references, numbered(rows, "reference"), build, report, split=split_of)


class _Image(NamedTuple):
    file: str
    size: tuple[int, int]


class _Annotation(NamedTuple):
    image_id: int
    category_id: int | None
    crowd: bool
    segmentation: str
    """As JSON: as Python's numbers, those of a complete set would take a gigabyte."""


class _Instances:
    """The images and annotations of `instances.json` that references name, by id.

    Others are not checked: sets are cut out of larger ones. One that is named and cannot be used makes the references
    unusable that name it.
    """

    def __init__(self, path: Path, rows: Iterable[Any], report: Report) -> None:
        self.images: dict[int, _Image | DataError] = {}
        self.annotations: dict[int, _Annotation | DataError] = {}
        self.categories: dict[int, str] = {}
        self.same: Counter[tuple[int, int | None]] = Counter()
        """How many annotations an image has of a category."""
        rows = [row for row in rows if isinstance(row, dict)]
        self.named_images = {id for row in rows for id in _ids(row.get("image_id"))}
        self.named_annotations = {id for row in rows for id in _ids(row.get("ann_id"))}
        read = {"images": self._read_image, "annotations": self._read_annotation, "categories": self._read_category}
        for name, number, one in read_lists(path, ("images", "annotations"), optional=("categories",)):
            try:
                read[name](one)
            except DataError as error:  # which references need it is unknown
                report(Problem(file=str(path), row=f"{name} {number}", kind="row", message=str(error)))

    def _read_image(self, one: Any) -> None:
        id = take(one, "id", int)
        if id in self.named_images:
            _keep(self.images, id, partial(_image, one))

    def _read_annotation(self, one: Any) -> None:
        id = take(one, "id", int)
        for image_id in _ids(one.get("image_id")):
            self.same[image_id, _category_of(one)] += 1
        if id in self.named_annotations:
            _keep(self.annotations, id, partial(_annotation, one))

    def _read_category(self, one: Any) -> None:
        self.categories[take(one, "id", int)] = take(one, "name", str, "")

    def image(self, id: int) -> _Image:
        """Return the image of an id.

        Raises:
            DataError: there is none, or it cannot be used.
        """
        image = self.images.get(id)
        if image is None:
            raise DataError(f"is of image {id}, which instances.json does not have")
        if isinstance(image, DataError):
            raise DataError(f"its image {id}: {image}")
        return image

    def annotation(self, id: Any) -> _Annotation:
        """Return the annotation of an id.

        Raises:
            DataError: there is none, or it cannot be used.
        """
        annotation = self.annotations.get(id) if type(id) is int else None
        if annotation is None:
            raise DataError(f"refers to annotation {shown(id)}, which instances.json does not have")
        if isinstance(annotation, DataError):
            raise DataError(f"its annotation {id}: {annotation}")
        return annotation


T = TypeVar("T")


def _keep(store: dict[int, T | DataError], id: int, read: Callable[[], T]) -> None:
    """Store a value, or the reason why it cannot be used. It may be there twice, as in sets that others joined."""
    value: T | DataError
    try:
        value = read()
    except DataError as error:
        value = error
    earlier = store.setdefault(id, value)
    if earlier != value and not isinstance(earlier, DataError):
        store[id] = value if isinstance(value, DataError) else DataError(f"two different ones have the id {id}")


def _image(one: Any) -> _Image:
    return _Image(safe_name(take(one, "file_name", str)), take_size(one))


def _annotation(one: Any) -> _Annotation:
    segmentation = take(one, "segmentation", (list, dict))
    try:
        written = json.dumps(segmentation)
    except RecursionError:
        raise DataError("field 'segmentation' is nested too deeply") from None
    return _Annotation(take(one, "image_id", int), _category_of(one), bool(one.get("iscrowd")), written)


def _category_of(row: Any) -> int | None:
    return next(iter(_ids(row.get("category_id"))), None)


def _ids(value: Any) -> list[int]:
    """Return the integers of an id or a list of ids; others are reported when their reference is read."""
    return [id for id in (value if isinstance(value, list) else [value]) if type(id) is int]


def _record(row: Any, *, instances: _Instances, text_field: str) -> Record:
    ref_id = take(row, "ref_id", (int, str))
    expressions, expression_ids = expressions_of(row, text_field)
    image_id = take(row, "image_id", int)
    file, size = instances.image(image_id)
    given = take(row, "ann_id", (int, list))
    several = isinstance(given, list)
    ids = [id for id in (given if several else [given]) if id != -1]  # -1: nothing fits
    parts: list[Part] = []
    warnings: list[str] = []
    for id in ids:
        annotation = instances.annotation(id)
        if annotation.image_id != image_id:
            raise DataError(f"is of image {image_id}, its annotation {id} of image {annotation.image_id}")
        if several and annotation.crowd:  # gRefCOCO's authors leave crowds out of their unions
            parts.append({"polygons": []})
            continue
        try:
            parts += coco_parts(json.loads(annotation.segmentation), size, warnings)
        except DataError as error:
            raise DataError(f"its annotation {id}: {error}") from None
    attributes: dict[str, str | int | bool] = {"targets": len(ids)}
    category = _category_of(row)
    if category in instances.categories:
        attributes["category"] = instances.categories[category]
    if len(ids) == 1:
        attributes["distractors"] = instances.same[image_id, instances.annotation(ids[0]).category_id] - 1
    return Record(
        id=str(ref_id),
        image_id=str(image_id),
        file=file,
        size=size,
        split=take(row, "split", str),
        expressions=expressions,
        expression_ids=expression_ids,
        parts=tuple(parts),
        attributes=attributes,
        warnings=tuple(warnings),
    )


def expressions_of(row: Any, text_field: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the expressions of a reference as REFER writes them, stripped, and their ids.

    Where the chosen field is missing or blank (cleaning empties some sentences), the other field is used.

    Raises:
        DataError: there are none, or one is blank or malformed.
    """
    sentences = take(row, "sentences", list)
    expressions, ids = [], []
    for number, sentence in enumerate(sentences):
        fields = [take(sentence, name, (str, type(None)), None) for name in (text_field, OTHER_FIELD[text_field])]
        if fields == [None, None]:
            raise DataError(f"a sentence has no field {text_field!r}")
        expressions.append(next((text.strip() for text in fields if text and text.strip()), ""))
        ids.append(str(take(sentence, "sent_id", (int, str), f"{row['ref_id']}/{number}")))
    return texts(expressions, "sentences"), tuple(ids)
