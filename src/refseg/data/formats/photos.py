"""A folder of photos with masks and names, for which referring expressions are generated (`refseg.data.describe`).

```
my-photos/
  annotations.jsonl   one JSON object per photo
  images/             a.jpg ...
```

A line has

- `image`: a file name relative to the folder; `width` and `height` in pixels;
- `instances`: a list of objects, each with a `category` (a name such as `dog`), `rle` (COCO's run lengths at the size
  of the photo) and a `kind` (optional): `instance` is one object; `component` a connected part of all objects of a
  name, usually one of them; `merged` touching objects of a name; `region` a surface, a substance or clothing; `crowd`
  many objects. Of the names that a photo shows, every object should be annotated;
- `labelled` (optional): names that are annotated wherever they occur, as a list, or the name of a known list (`coco80`,
  `voc20`, ...). Only of these it is known that they are absent where no object has them;
- `void` (optional): run lengths of pixels that are left out of training and of every count;
- `split` (optional): `train`, `val` or `test`, `train` if there is none. If no line says `val`, a tenth of the photos
  becomes `val`, by a hash of their names;
- `series` (optional): photos of one series, such as frames of a video, are all in the same split.

Rows with other fields are read too; the fields are ignored.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from refseg.data.describe.expressions import Described, describe
from refseg.data.describe.names import labelled_names, rare_words
from refseg.data.describe.photo import KINDS, Photo, things_of
from refseg.data.describe.wording import reworded
from refseg.data.formats.folder import json_lines
from refseg.data.formats.record import Problem, Record, Report, Source, safe_name, shown, take, take_size
from refseg.data.formats.regions import Part, check_part
from refseg.errors import DataError, ImageError, UnknownNameError
from refseg.inputs.read import read_image
from refseg.masks import decode_rle, dilate

__all__ = ["ANNOTATIONS", "photo_records", "photos", "series_of", "series_splits", "split_in"]

ANNOTATIONS = "annotations.jsonl"
SPLITS = ("train", "val", "test")
VALIDATED = 0.1
"""Fraction of the photos for training that becomes `val` where no row is of that split."""
FRAME = re.compile(r"(?:\w+/)*((?:camvid|davis)_[^/]+)_[^_/]+")
"""The name of a frame of a video that many collections share, and in it the name of the video."""
WIDEST_BORDER = 0.012
"""Fraction of the longer side: ignored pixels farther from all others are more than the border between objects."""


def photos(root: Path, *, seed: int = 0, components: str = "lone") -> Source:
    """Find a folder of photos.

    Args:
        root: the folder.
        seed: of the expressions, not negative. Those of a photo depend on it and on the photo's name only.
        components: which masks of kind `component` are taken for one object: `none`, `lone` (those that are the only
            one of their name) or `all`.

    Raises:
        DataError: it has no annotations.
    """
    table = root / ANNOTATIONS
    if not table.is_file():
        raise DataError(f"{table}: no such file")
    return Source(
        format="photos",
        folder=root,
        files=(table,),
        read=partial(_read, table, seed, components),
        image_folders=("", "images"),
    )


def _read(table: Path, seed: int, components: str, report: Report) -> Iterator[Record]:
    rows = [(row.place, row.values) for row in json_lines(table, report)]
    splits = series_splits(row for _, row in rows)
    for place, row in rows:
        split = ""
        try:
            split = split_in(splits, row)
            records = photo_records(table.parent, row, split, seed=seed, components=components)
        except (DataError, ImageError) as error:
            report(Problem(file=str(table), row=place, kind="row", message=str(error), split=split))
        else:
            yield from (replace(record, row=place, table=str(table)) for record in records)


# ── splits ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def series_of(row: Any) -> str:
    """Return what photos must share to be in the same split: the name of their series, or of the photo itself."""
    image = safe_name(take(row, "image", str))
    frame = FRAME.fullmatch(image)
    return str(take(row, "series", str, frame[1] if frame else image))


def series_splits(rows: Iterable[Any]) -> dict[str, str]:
    """Return the split of each series. Rows that cannot be read are left out."""
    named: dict[str, set[str]] = {}
    for row in rows:
        with suppress(DataError):
            split = _named_split(row)
            named.setdefault(series_of(row), set()).add(split)
    # Of a series in several splits, all photos are tested on rather than trained on.
    splits = {series: max(found, key=SPLITS.index) for series, found in named.items()}
    if "val" in splits.values():
        return splits
    return {series: _validated(series) if split == "train" else split for series, split in splits.items()}


def split_in(splits: Mapping[str, str], row: Any) -> str:
    """Return the split of a photo, given those of all series.

    Raises:
        DataError: the row names another split, or no image.
    """
    _named_split(row)
    return splits[series_of(row)]


def _named_split(row: Any) -> str:
    split: str = take(row, "split", str, "train")
    if split not in SPLITS:
        raise DataError(f"field 'split' must be one of {', '.join(SPLITS)}, got {shown(split)}")
    return split


def _validated(series: str) -> str:
    return "val" if hashlib.sha256(series.encode("utf-8", "surrogatepass")).digest()[0] < 256 * VALIDATED else "train"


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def photo_records(folder: Path, row: Any, split: str, *, seed: int = 0, components: str = "lone") -> list[Record]:
    """Return the references that are generated for a photo.

    Args:
        folder: of the photos.
        row: a line of the annotations.
        split: of the photo.
        seed: as in `photos`.
        components: as in `photos`.

    Raises:
        DataError: the row is malformed, or the photo is missing or of another size.
        ImageError: the photo cannot be read.
    """
    image, size = safe_name(take(row, "image", str)), take_size(row)
    annotated = [_instance(one) for one in take(row, "instances", list)]
    void = take(row, "void", (dict, type(None)), None)
    ignored: tuple[Part, ...] = () if void is None else (check_part({"rle": void, "ignored": True}, size),)
    path = next((path for path in (folder / image, folder / "images" / image) if path.is_file()), folder / image)
    photo = Photo(
        things=things_of(annotated, size, components=components),
        labelled=_labelled(row),
        hidden=void is not None and _hides(decode_rle(void, size=size)),
        read=partial(_pixels, path, size),
    )
    key = hashlib.sha256(image.encode("utf-8", "surrogatepass")).digest()[:8]
    rng = np.random.default_rng((seed, int.from_bytes(key, "big")))
    groups = describe(photo, rng, _rare(row, split))
    if split == "train":
        groups = [tuple(reworded(one, photo, rng) for one in group) for group in groups]
    return [
        _record(photo, group, f"{image}/{number}", image, size, split, ignored) for number, group in enumerate(groups)
    ]


def _instance(value: Any) -> tuple[str, str, Part]:
    kind = take(value, "kind", str, "instance")
    if kind not in KINDS:
        raise DataError(f"field 'kind' must be one of {', '.join(KINDS)}, got {shown(kind)}")
    return take(value, "category", str), kind, take(value, "rle", dict)


def _labelled(row: Any) -> frozenset[str]:
    given = take(row, "labelled", (str, list), [])
    if isinstance(given, str):
        try:
            return labelled_names(given)
        except UnknownNameError as error:
            raise DataError(str(error)) from None
    if not all(isinstance(name, str) for name in given):
        raise DataError(f"field 'labelled' must be a list of names, got {shown(given)}")
    return frozenset(given)


def _rare(row: Any, split: str) -> tuple[str, ...]:
    """Return words for things that a photo hardly ever shows: those of the known collections are of everyday life."""
    return rare_words(learnt=split == "train") if isinstance(row.get("labelled"), str) else ()


def _hides(void: Bool[ndarray, "H W"]) -> bool:
    """Return whether ignored pixels are more than the borders between objects: they may hide an object."""
    return bool((~dilate(~void, math.ceil(WIDEST_BORDER * max(void.shape)))).any())


def _pixels(path: Path, size: tuple[int, int]) -> UInt8[ndarray, "H W 3"]:
    image = read_image(path)
    if (image.height, image.width) != size:
        raise DataError(f"{path}: is {image.width} x {image.height}, but the data say {size[1]} x {size[0]}")
    return np.asarray(image)


def _record(
    photo: Photo,
    group: Sequence[Described],
    id: str,
    image: str,
    size: tuple[int, int],
    split: str,
    ignored: tuple[Part, ...],
) -> Record:
    targets, name = group[0].targets, group[0].name
    objects = tuple(({"rle": dict(thing.rle)},) for thing in photo.things)
    parts = tuple(part for index in sorted(targets) for part in objects[index])
    return Record(
        id=id,
        image_id=image,
        file=image,
        size=size,
        split=split,
        expressions=tuple(one.text for one in group),
        expression_ids=tuple(f"{id}/{number}" for number in range(len(group))),
        expression_attributes=tuple({"style": one.style, "form": one.form, "absent": one.absent} for one in group),
        parts=(*parts, *ignored) if parts else (),
        target_object=next(iter(targets)) if len(targets) == 1 else None,
        objects=objects,
        attributes={
            "name": name,
            "targets": len(targets),
            "distractors": sum(thing.name == name for thing in photo.things) - len(targets),
        },
    )
