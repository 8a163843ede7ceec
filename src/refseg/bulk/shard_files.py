"""The formats of a sink's shards: a table in Parquet with a row for each mask, or a tar with the images."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, TypeAlias

from refseg.bulk.rows import Failed, Row
from refseg.inputs.read import image_suffixes
from refseg.values import Prediction

__all__ = ["FORMATS", "AddRow", "write_failed"]

AddRow: TypeAlias = Callable[[Row, bytes, Sequence[Prediction]], None]
"""Adds an image: what was asked about it, the content of its file, and the answers in the order of the questions."""
GROUP = 1000
"""Rows that are written together."""


def _text(text: str) -> str:
    """Return a text without half characters (lone surrogates), which UTF-8 cannot hold: they are escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _masks(row: Row, answers: Sequence[Prediction]) -> Iterator[dict[str, Any]]:
    for question, answer in zip(row.questions, answers, strict=True):
        yield {
            "id": question.id,
            "image": _text(row.image),
            "expression": _text(question.expression),
            "mask": answer.rle,
            "score": round(answer.score, 6),
            "box": None if answer.box is None else list(answer.box),
            "nothing_fits": answer.empty,
        }


@contextmanager
def _parquet(path: Path, number: int) -> Iterator[AddRow]:
    """Open a table; `mask` is COCO's compressed run lengths, `box` x0, y0, x1, y1 in pixels, x1 and y1 exclusive."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("image", pa.string(), nullable=False),
            pa.field("expression", pa.string(), nullable=False),
            pa.field("mask", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())]), nullable=False),
            pa.field("score", pa.float64(), nullable=False),
            pa.field("box", pa.list_(pa.int32())),
            pa.field("nothing_fits", pa.bool_(), nullable=False),
        ]
    )
    waiting: list[dict[str, Any]] = []

    def write() -> None:
        table.write_table(pa.Table.from_pylist(waiting, schema=schema))
        waiting.clear()

    def add(row: Row, content: bytes, answers: Sequence[Prediction]) -> None:
        waiting.extend(_masks(row, answers))
        if len(waiting) >= GROUP:
            write()

    with ParquetWriter(path, schema, compression="zstd") as table:
        yield add
        write()


@contextmanager
def _tar(path: Path, number: int) -> Iterator[AddRow]:
    """Open a tar; a sample is the file of the image, unchanged, and a `.json` with `image` and `masks`."""
    samples = 0

    def add(row: Row, content: bytes, answers: Sequence[Prediction]) -> None:
        nonlocal samples
        name = f"{number:06d}-{samples:06d}"
        suffix = PurePosixPath(row.image).suffix.lower()
        masks = [{key: value for key, value in one.items() if key != "image"} for one in _masks(row, answers)]
        about = json.dumps({"image": _text(row.image), "masks": masks}, ensure_ascii=False).encode()
        for ending, data in ((suffix if suffix in image_suffixes() else ".bin", content), (".json", about)):
            member = tarfile.TarInfo(name + ending)  # without owner and time, so that a shard is always the same
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        samples += 1

    with tarfile.open(path, "w") as tar:
        yield add


FORMATS: MappingProxyType[str, Callable[[Path, int], AbstractContextManager[AddRow]]] = MappingProxyType(
    {"parquet": _parquet, "tar": _tar}
)
"""Opens a shard to be written, given its path and its number; what is added is complete when it is left."""


def write_failed(rows: Sequence[Failed], path: Path) -> None:
    """Write the table of the questions that could not be answered.

    Raises:
        OSError: it cannot be written.
    """
    import pyarrow as pa
    from pyarrow.parquet import write_table

    names = ("id", "image", "expression", "reason")
    schema = pa.schema([pa.field(name, pa.string(), nullable=name == "expression") for name in names])
    values = [{name: text and _text(text) for name, text in asdict(row).items()} for row in rows]
    write_table(pa.Table.from_pylist(values, schema=schema), path, compression="zstd")
