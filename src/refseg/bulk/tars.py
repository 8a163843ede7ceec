"""Tar shards (WebDataset): files of one name before the first dot, such as `7.jpg` and `7.json`, are a sample."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from refseg.bulk.lines import own_expressions
from refseg.bulk.rows import LARGEST_FILE, Failed, Row, ShardRow, questions, row_id
from refseg.errors import DataError, ExpressionError, counted, one_line
from refseg.inputs.read import image_suffixes

__all__ = ["TarShard"]


class _Member(NamedTuple):
    sample: str
    """Its path up to the first dot of the file's name."""
    ending: str
    """What follows that dot, in lower case."""
    content: bytes | None
    """None: it is too large to be read."""


@dataclass(frozen=True)
class TarShard:
    """A tar file, perhaps compressed."""

    file: Path
    name: str
    """Of the file, within its source."""

    def read(self, asked: tuple[str, ...]) -> Iterator[ShardRow]:
        """Yield an image for each sample; what follows a broken place of the file is one failure."""
        seen = set[str]()
        number = 0
        try:
            for sample, members in groupby(self._members(), lambda member: member.sample):
                yield self._row(number, sample, list(members), asked, again=sample in seen)
                seen.add(sample)
                number += 1
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            reason = f"the tar is broken after {counted(number, 'sample')} ({one_line(error)}); fetch it again"
            yield Failed(id=row_id(self.name), image=self.name, expression=None, reason=reason)

    def _members(self) -> Iterator[_Member]:
        """Yield the files; links and devices are left out. Nothing is unpacked."""
        with tarfile.open(self.file, "r|*") as opened:
            for member in opened:
                folder, slash, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not member.isreg() or not stem or not ending:
                    continue
                file = opened.extractfile(member) if member.size <= LARGEST_FILE else None
                yield _Member(f"{folder}{slash}{stem}", ending.lower(), None if file is None else file.read())
            # The library takes a tar that is cut off in a header, or before one, for a complete one.
            if opened.fileobj is None or opened.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise tarfile.ReadError("it has no end mark")

    def _row(
        self, number: int, sample: str, members: list[_Member], asked: tuple[str, ...], *, again: bool
    ) -> ShardRow:
        key = f"{self.name}/{sample}"
        images = [one for one in members if f".{one.ending.rpartition('.')[2]}" in image_suffixes()]
        try:
            if again:
                raise DataError("files of this name are at several places of the tar")
            if len(images) != 1:
                raise DataError(f"has {len(images)} images, and one is needed")
            content, name = images[0].content, f"{key}.{images[0].ending}"
            if content is None:
                raise DataError(f"is larger than {LARGEST_FILE} bytes")
            return Row(image=name, content=content, questions=questions(key, asked or _expressions(members)))
        except (DataError, ExpressionError) as error:
            return Failed(id=row_id(f"{key}#{number}"), image=key, expression=None, reason=str(error))


def _expressions(members: list[_Member]) -> list[str]:
    """Return what a sample asks: the field `expression` of its `.json`, or its `.txt`."""
    contents = {one.ending: one.content or b"" for one in members}
    try:
        if "json" in contents:
            return list(own_expressions(json.loads(contents["json"])))
        if "txt" in contents:
            return list(own_expressions({"expression": contents["txt"].decode().strip()}))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError | ExpressionError):
            raise
        raise DataError("its .json or .txt is broken") from None
    raise DataError("has no .json or .txt with an expression; give --expressions")
