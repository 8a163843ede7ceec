"""The intermediate files of the reference CRIS: `anns/<set>/<split>.json`, and a mask file for each reference."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from refseg.data.formats.pieces import read_list
from refseg.data.formats.record import (
    Record,
    Report,
    Source,
    build_records,
    numbered,
    read_files,
    safe_name,
    take,
    texts,
)
from refseg.data.formats.refer import IMAGE_FOLDERS, in_split
from refseg.errors import DataError

__all__ = ["cris"]


def cris(root: Path, name: str) -> Source:
    """Find a data set (`refcoco`, `refcoco+`, `refcocog_u`, `refcocog_g`) that was prepared for the reference CRIS.

    Raises:
        DataError: it is missing, or exists only as LMDB.
    """
    folder = root / "anns" / name
    files = tuple(sorted(folder.glob("*.json")))
    if not files:
        if list((root / "lmdb" / name).glob("*.lmdb")):
            raise DataError(
                f"{root / 'lmdb' / name}: LMDB files of the reference are not read: their values are pickles, or of a "
                f"form that Arrow dropped; point to the folder with anns/{name}/*.json and masks/{name} that they were "
                "made from"
            )
        raise DataError(f"{folder}: no annotations (*.json) there")
    return Source(
        format="cris",
        folder=root,
        files=files,
        read=partial(_read, files),
        image_folders=IMAGE_FOLDERS,
        mask_folders=(f"masks/{name}", f"{name}/masks"),
        in_split=in_split,
    )


def _read(files: tuple[Path, ...], report: Report) -> Iterator[Record]:
    def read(split: str, file: Path) -> Iterator[Record]:
        rows = numbered(read_list(file, "references"), "reference")
        return build_records(file, rows, partial(_record, split=split), report, split=split)

    return read_files([(file.stem, file) for file in files], read, report)


def _record(row: Any, *, split: str) -> Record:
    id = take(row, "segment_id", (int, str))
    name = safe_name(take(row, "img_name", str))
    sentences = take(row, "sentences", list)
    return Record(
        id=str(id),
        image_id=name,
        file=name,
        split=split,
        expressions=texts([take(one, "sent", str).strip() for one in sentences], "sentences"),
        expression_ids=tuple(
            str(take(one, "sent_id", (int, str), f"{id}/{number}")) for number, one in enumerate(sentences)
        ),
        parts=({"file": safe_name(f"{id}.png")},),
        attributes={"targets": 1},
    )
