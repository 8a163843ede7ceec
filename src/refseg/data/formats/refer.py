"""REFER's layout (RefCOCO, RefCOCO+, RefCOCOg, RefCLEF) and those that grew out of it: gRefCOCO and Ref-ZOM.

A folder holds `instances.json` (COCO's images, annotations and categories) and a file of references, `refs(unc).p`:
a list of objects `ref_id, ann_id, image_id, category_id, split, sentences`. Of a reference's own `file_name` the
authors say that it is not to be trusted; the image is the one that `instances.json` names.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from refseg.data.formats.pieces import read_list, read_lists
from refseg.data.formats.plain import read_pickle
from refseg.data.formats.record import (
    Problem,
    Record,
    Report,
    Source,
    each,
    safe_name,
    shown,
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
"""Both layouts in use (LISA's and EVF-SAM's; CRIS' and ReLA's), and what people make of them."""
OTHER_FIELD = {"sent": "raw", "raw": "sent"}


def in_split(split: str, asked: str) -> bool:
    """Return whether a reference of a split belongs to the split that is asked for, by REFER's own rules.

    `testA`, `testB` and `testC` take every split that contains the letter (RefCLEF has a `testAB`), `test` every one
    that contains the word; all else is taken by its name.
    """
    if asked in ("testA", "testB", "testC"):
        return asked[-1] in split
    return "test" in split if asked == "test" else split == asked


def refer(folder: Path, references: str, *, root: Path | None = None, text_field: str = "sent") -> Source:
    """Find a data set in REFER's layout.

    Args:
        folder: holds `instances.json` and the references.
        references: name of their file, a pickle or JSON.
        root: what folders of images are relative to; the folder above, if None.
        text_field: `sent`, the cleaned sentences (CRIS), or `raw` ones (LAVT, ReLA).

    Raises:
        DataError: a file is not there.
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
    catalogue = _Instances(instances, rows, report)
    yield from each(references, rows, partial(_record, catalogue=catalogue, text_field=text_field), report, "reference")


class _Annotation(NamedTuple):
    image_id: int
    category_id: int | None
    crowd: bool
    segmentation: str
    """As JSON: as Python's numbers, those of a whole set would take a gigabyte."""


class _Instances:
    """What `instances.json` says, by id, of the images and annotations that references name."""

    def __init__(self, path: Path, rows: Iterable[Any], report: Report) -> None:
        self.images: dict[int, tuple[str, tuple[int, int]]] = {}
        """File name and size."""
        self.annotations: dict[int, _Annotation] = {}
        self.categories: dict[int, str] = {}
        self.same: Counter[tuple[int, int | None]] = Counter()
        """How many annotations an image has of a category."""
        rows = [row for row in rows if isinstance(row, dict)]
        self.named_images = {id for row in rows for id in _numbers(row.get("image_id"))}
        self.named = {id for row in rows for id in _numbers(row.get("ann_id"))}
        take_one = {"images": self._image, "annotations": self._annotation, "categories": self._category}
        for name, number, one in read_lists(path, ("images", "annotations"), optional=("categories",)):
            try:
                take_one[name](one)
            except DataError as error:
                report(Problem(file=str(path), row=f"{name} {number}", kind="row", message=str(error)))

    def _image(self, one: Any) -> None:
        id = take(one, "id", int)
        if id in self.named_images:
            _keep(self.images, id, (safe_name(take(one, "file_name", str)), take_size(one)))

    def _annotation(self, one: Any) -> None:
        id = take(one, "id", int)
        category_id = next(iter(_numbers(one.get("category_id"))), None)
        for image_id in _numbers(one.get("image_id")):
            self.same[image_id, category_id] += 1
        if id in self.named:
            segmentation = take(one, "segmentation", (list, dict))
            try:
                written = json.dumps(segmentation)
            except RecursionError:
                raise DataError("field 'segmentation' is nested too deeply") from None
            kept = _Annotation(take(one, "image_id", int), category_id, bool(one.get("iscrowd")), written)
            _keep(self.annotations, id, kept)

    def _category(self, one: Any) -> None:
        self.categories[take(one, "id", int)] = take(one, "name", str, "")


def _keep(store: dict[int, Any], id: int, value: Any) -> None:
    """Store a value; the same may be there twice, as in sets that others joined."""
    if store.setdefault(id, value) != value:
        raise DataError(f"the id {id} is that of another one too")


def _numbers(value: Any) -> list[int]:
    """Return the ids that are here, as far as they can be told; what is wrong is reported later."""
    return [id for id in (value if isinstance(value, list) else [value]) if type(id) is int]


def _record(numbered: tuple[str, Any], *, catalogue: _Instances, text_field: str) -> Record:
    place, row = numbered
    ref_id = take(row, "ref_id", (int, str))
    image_id = take(row, "image_id", int)
    image = catalogue.images.get(image_id)
    if image is None:
        raise DataError(f"is of image {image_id}, which instances.json does not have")
    file, size = image
    given = take(row, "ann_id", (int, list))
    several = isinstance(given, list)
    ids = [id for id in (given if several else [given]) if id != -1]  # -1: it fits nothing
    parts: list[Part] = []
    for id in ids:
        annotation = catalogue.annotations.get(id) if type(id) is int else None
        if annotation is None:
            raise DataError(f"means annotation {shown(id)}, which instances.json does not have")
        if annotation.image_id != image_id:
            raise DataError(f"is of image {image_id}, its annotation {id} of image {annotation.image_id}")
        if several and annotation.crowd:  # gRefCOCO's authors leave crowds out of their unions
            parts.append({"polygons": []})
            continue
        try:
            parts += coco_parts(json.loads(annotation.segmentation), size)
        except DataError as error:
            raise DataError(f"its annotation {id}: {error}") from None
    expressions, expression_ids = expressions_of(row, text_field)
    attributes: dict[str, str | int | bool] = {"targets": len(ids)}
    for category in _numbers(row.get("category_id"))[:1]:
        if category in catalogue.categories:
            attributes["category"] = catalogue.categories[category]
    if len(ids) == 1:
        attributes["distractors"] = catalogue.same[image_id, catalogue.annotations[ids[0]].category_id] - 1
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
        row=place,
    )


def expressions_of(row: Any, text_field: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the expressions of a reference as REFER writes them, stripped, and their ids.

    Where the chosen field is missing or blank (cleaning leaves nothing of some sentences), the other one is taken.

    Raises:
        DataError: there are none, or one is not as REFER writes it.
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
