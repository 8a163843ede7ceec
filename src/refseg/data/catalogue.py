"""The catalogue of data sets: opens a split by the name of its set."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from refseg.data.dataset import DataSet
from refseg.data.formats.cris import cris
from refseg.data.formats.folder import TABLES, folder
from refseg.data.formats.mdetr import mdetr
from refseg.data.formats.photos import ANNOTATIONS, photos
from refseg.data.formats.phrasecut import phrasecut
from refseg.data.formats.reasonseg import reasonseg
from refseg.data.formats.record import UNREADABLE, Problem, Source
from refseg.data.formats.refer import refer
from refseg.data.formats.regions import Overlap
from refseg.data.formats.tables import holds_tables, tables
from refseg.data.media import existing_folder
from refseg.data.references import References
from refseg.data.shapes import EASY, SHAPES, Shapes
from refseg.errors import DataError, UnknownNameError

__all__ = ["DATA_SETS", "GENERATED", "Known", "find", "image_files", "is_data_set", "open_data", "split_name"]


@dataclass(frozen=True, kw_only=True)
class Known:
    """A public data set."""

    find: Callable[[Path, str], Source]
    """Finds it below a root folder; the second argument is the text field, `sent` or `raw`."""
    splits: tuple[str, ...]
    references: Mapping[str, int]
    """The published number of references of each split."""
    note: str
    """One line about the set."""


def _refer(folder_name: str, references: str) -> Callable[[Path, str], Source]:
    return lambda root, text_field: refer(_either(root, folder_name), references, text_field=text_field)


def _either(root: Path, name: str) -> Path:
    """Return the folder of a set; the root may be the folder of all sets, or that of the set itself."""
    return root if root.name == name and not (root / name).is_dir() else root / name


def _grefcoco(root: Path, text_field: str) -> Source:
    home = _either(root, "grefcoco")
    name = next((name for name in ("grefs(unc).json", "grefs(unc).p") if (home / name).is_file()), "grefs(unc).json")
    return refer(home, name, text_field=text_field)


def _ref_zom(root: Path, text_field: str) -> Source:
    names = ("refs(final).p", "Ref-ZOM(final).p")
    home = next((root / place for place in ("ref-zom", "Ref-ZOM", "refzom") if (root / place).is_dir()), root)
    return refer(home, next((name for name in names if (home / name).is_file()), names[0]), text_field=text_field)


DATA_SETS: MappingProxyType[str, Known] = MappingProxyType(
    {
        "refcoco": Known(
            find=_refer("refcoco", "refs(unc).p"),
            splits=("train", "val", "testA", "testB"),
            references={"train": 42404, "val": 3811, "testA": 1975, "testB": 1810},
            note="RefCOCO, UNC splits",
        ),
        "refcoco-google": Known(
            find=_refer("refcoco", "refs(google).p"),
            splits=("train", "val", "test"),
            references={"train": 40000, "val": 5000, "test": 5000},
            note="RefCOCO, Google splits",
        ),
        "refcoco+": Known(
            find=_refer("refcoco+", "refs(unc).p"),
            splits=("train", "val", "testA", "testB"),
            references={"train": 42278, "val": 3805, "testA": 1975, "testB": 1798},
            note="RefCOCO+, UNC splits: without location words",
        ),
        "refcocog-umd": Known(
            find=_refer("refcocog", "refs(umd).p"),
            splits=("train", "val", "test"),
            references={"train": 42226, "val": 2573, "test": 5023},
            note="RefCOCOg, UMD splits: no image is in two of them",
        ),
        "refcocog-google": Known(
            find=_refer("refcocog", "refs(google).p"),
            splits=("train", "val"),
            references={"train": 44822, "val": 5000},
            note="RefCOCOg, Google splits: val shares images with train, test was never published",
        ),
        "refclef": Known(
            find=_refer("refclef", "refs(unc).p"),
            splits=("train", "val", "testA", "testB", "testC"),
            references={},
            note="RefCLEF (ReferIt), UNC splits",
        ),
        "refclef-berkeley": Known(
            find=_refer("refclef", "refs(berkeley).p"),
            splits=("train", "val", "test"),
            references={},
            note="RefCLEF (ReferIt), Berkeley splits",
        ),
        "grefcoco": Known(
            find=_grefcoco,
            splits=("train", "val", "testA", "testB"),
            references={},
            note="gRefCOCO: several targets, or none",
        ),
        "ref-zom": Known(
            find=_ref_zom, splits=("train", "test"), references={}, note="Ref-ZOM: one target, several, or none"
        ),
        "phrasecut": Known(
            find=lambda root, _: phrasecut(
                next((p for p in (root / "phrasecut", root / "VGPhraseCut_v0") if p.is_dir()), root)
            ),
            splits=("train", "val", "test", "miniv"),
            references={"train": 308893, "val": 20350, "test": 18980},
            note="PhraseCut: phrases that may refer to several objects",
        ),
        "reasonseg": Known(
            find=lambda root, _: reasonseg(
                next((p for p in (root / "reasonseg", root / "ReasonSeg") if p.is_dir()), root)
            ),
            splits=("train", "val", "test"),
            references={"train": 239, "val": 200, "test": 779},
            note="ReasonSeg: questions whose answer is a region",
        ),
    }
)
"""Public data sets by name. `cris/NAME` and `mdetr/NAME` are the same sets in the files of those projects."""
GENERATED = (SHAPES, EASY)
"""Data sets that are generated, and have no files."""
OF_PROJECTS = ("cris/", "mdetr/")


def open_data(
    data: str,
    root: str | os.PathLike[str] | None = None,
    *,
    text_field: str = "sent",
    overlap: Overlap = "union",
    images: str | os.PathLike[str] | None = None,
) -> DataSet:
    """Open a split of a data set.

    Args:
        data: `NAME:SPLIT`. The name is one of `GENERATED`, one of `DATA_SETS`, `cris/NAME` or `mdetr/NAME` for the
            files that the reference CRIS and MDETR make of them, or the path of a folder of your own (see
            `formats.folder`) or of the Hugging Face hub's tables (see `formats.tables`).
            The split `all` holds the references of every split.
        root: the folder that holds the public sets; neither generated scenes nor your own folder need it.
        text_field: `sent` or `raw`, for REFER's files: the cleaned sentences or the raw ones.
        overlap: how a pixel counts that several polygons of one annotation cover: `union`, as part of the mask; `lavt`,
            as background.
        images: the folder of the images, if they are not with the data.

    Rows that cannot be used are skipped; `DataSet.notes` tells how many.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: the set or the split does not exist, or no row of it can be used.
    """
    name, split = split_name(data)
    if name in GENERATED:
        return Shapes(split, name=name)
    return References(
        find(name, root, text_field=text_field),
        name,
        split,
        overlap=overlap,
        images=None if images is None else Path(images),
        options=text_field,
    )


def split_name(data: str) -> tuple[str, str]:
    """Return name and split of `NAME:SPLIT`.

    Raises:
        DataError: no split is named.
    """
    name, colon, split = data.rpartition(":")
    if not colon or not name or not split or "/" in split or "\\" in split:
        raise DataError(f"which split of {data}? write {data.rstrip(':')}:test, or the name of another")
    return name, split


def find(name: str, root: str | os.PathLike[str] | None = None, *, text_field: str = "sent") -> Source:
    """Return the files of a data set and how they are read.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: its files are missing.
    """
    if text_field not in ("sent", "raw"):
        raise DataError(f"text_field must be sent or raw, got {text_field!r}")
    if name in DATA_SETS or name.startswith(OF_PROJECTS):
        if root is None:
            raise DataError(f"where is {name}? give the folder that holds it, with --data ROOT")
        folder_ = existing_folder(Path(root))
        if name.startswith("cris/"):
            return cris(folder_, name.removeprefix("cris/"))
        if name.startswith("mdetr/"):
            return mdetr(folder_, _finetune_files(folder_, name.removeprefix("mdetr/")))
        return DATA_SETS[name].find(folder_, text_field)
    path = Path(name)
    if path.is_dir():
        if any((path / table).is_file() for table in TABLES):
            return folder(path)
        if (path / ANNOTATIONS).is_file():
            return photos(path)
        if holds_tables(path):
            return tables(path, text_field=text_field)
        if any(path.glob("*refs(*).*")):
            raise DataError(f"{path}: is in REFER's layout; name the set (refcoco, ...) and give --data {path.parent}")
        return folder(path)
    if path.suffix == ".json" and path.is_file():
        return mdetr(path.parent, {"all": path})
    if os.sep in name or name.startswith(".") or path.is_file():
        existing_folder(path)
    raise UnknownNameError("data set", name, (*GENERATED, *DATA_SETS))


def is_data_set(path: Path) -> bool:
    """Return whether a folder is a data set by itself (see `find`)."""
    return any((path / name).is_file() for name in (*TABLES, ANNOTATIONS)) or holds_tables(path)


def image_files(name: str, root: str | os.PathLike[str], splits: Sequence[str] = ()) -> list[str]:
    """Return the names of the images that some splits of a data set need, or all splits if none is named.

    Raises:
        UnknownNameError: there is no such data set.
        DataError: its files are missing or cannot be read.
    """
    source = find(name, root)

    def is_wanted(split: str) -> bool:
        return not splits or any(source.in_split(split, asked) for asked in splits)

    def report(problem: Problem) -> None:  # rows that cannot be used need no images
        if problem.kind == UNREADABLE and is_wanted(problem.split):
            raise DataError(str(problem))

    return list(dict.fromkeys(record.file for record in source.read(report) if is_wanted(record.split)))


def _finetune_files(root: Path, name: str) -> dict[str, Path]:
    places = (root, root / "mdetr", root / "OpenSource", root / "mdetr_annotations")
    start = f"finetune_{name}_"
    return {path.stem.removeprefix(start): path for place in places for path in sorted(place.glob(f"{start}*.json"))}
