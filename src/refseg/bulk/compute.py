"""One shard of a source becomes one of a sink."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from PIL import Image

from refseg.bulk.deaths import MOST_DEATHS, Deaths
from refseg.bulk.rows import LARGEST_FILE, Failed, Row, Shard, ShardRow, failed_row
from refseg.bulk.sink import Counts, Sink
from refseg.errors import ConfigError, ImageError
from refseg.inputs.read import read_image
from refseg.masks import MAX_PIXELS
from refseg.segmenter import BaseSegmenter

__all__ = ["Limits", "compute_shard"]

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How many images are in memory, and how large they may be.

    Raises:
        ConfigError: a limit is below 1.
    """

    max_pixels: int = MAX_PIXELS
    """Of an image: width times height."""
    batch: int = 1
    """Images that are encoded together."""
    readers: int = 0
    """Threads that decode the next images meanwhile; 0: images are decoded when they are encoded."""

    def __post_init__(self) -> None:
        if self.max_pixels < 1 or self.batch < 1:
            raise ConfigError(f"images need at least a pixel and a batch of one: {self.max_pixels}, {self.batch}")

    @property
    def ahead(self) -> int:
        """Decoded images in memory, at most."""
        return 2 * self.batch if self.readers else 1


class _Decoded(NamedTuple):
    row: Row
    content: bytes
    image: Image.Image


def compute_shard(
    segmenter: BaseSegmenter, shard: Shard, number: int, sink: Sink, asked: tuple[str, ...], limits: Limits
) -> Counts:
    """Answer a shard and write it into a sink, unless it is done already.

    Args:
        segmenter: the model.
        shard: of the source.
        number: of the shard.
        sink: where it is written.
        asked: the expressions that are asked of every image; empty where each row names its own.
        limits: of memory.

    Raises:
        OutputError: it cannot be written.
        WeightsError: the model computes probabilities that are not finite.
    """
    if (known := sink.counts(number)) is not None:
        return known
    deaths = Deaths(sink.deaths(number))
    if deaths.careful:
        limits = Limits(max_pixels=limits.max_pixels)

    def decode(numbered: tuple[int, ShardRow]) -> _Decoded | list[Failed]:
        place, row = numbered
        if isinstance(row, Failed):
            return [row]
        if deaths.careful and not deaths.note(place):
            reason = f"{MOST_DEATHS} processes died while they computed it, as from a lack of memory"
            return failed_row(row, reason)
        try:
            content = _content(row)
            return _Decoded(row, content, read_image(content, max_pixels=limits.max_pixels))
        except ImageError as error:
            return failed_row(row, str(error))

    failed: list[Failed] = []
    counts = Counts()
    with sink.masks(number) as add:
        decoded = _mapped(decode, enumerate(shard.read(asked)), limits)
        while part := list(islice(decoded, limits.batch)):
            images = []
            for one in part:
                if isinstance(one, _Decoded):
                    images.append(one)
                else:
                    failed += one
            encodings = segmenter.encode([one.image for one in images], max_pixels=limits.max_pixels) if images else []
            for one, encoding in zip(images, encodings, strict=True):
                answers = segmenter.segment(encoding, [question.expression for question in one.row.questions])
                add(one.row, one.content, answers)
                fitting = sum(not answer.empty for answer in answers)
                counts += Counts(images=1, masks=fitting, nothing_fits=len(answers) - fitting)
    counts += Counts(failed=len(failed))
    sink.finish(number, failed, counts)
    return counts


def _content(row: Row) -> bytes:
    if not isinstance(row.content, Path):
        return row.content
    try:
        with row.content.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ImageError("there is no such file") from None
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from None
    if len(content) > LARGEST_FILE:
        raise ImageError(f"is larger than {LARGEST_FILE} bytes")
    return content


def _mapped(function: Callable[[A], B], values: Iterable[A], limits: Limits) -> Iterator[B]:
    """Yield the result of a function for each value, in order, computed ahead in threads within the limits."""
    if not limits.readers:
        yield from map(function, values)
        return
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(limits.readers) as pool:
        for value in values:
            waiting.append(pool.submit(function, value))
            if len(waiting) == limits.ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
