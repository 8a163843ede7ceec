"""Encodings that are kept for a while, so that a client can ask again without sending the image."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from refseg.values import Encoding

__all__ = ["Encodings"]


class Encodings:
    """Encodings by the handle of their image; those that were not used for the longest time are dropped first.

    Args:
        limit: of the bytes of all arrays together; the newest encoding is kept even if it is larger.
        seconds: for which an encoding is kept after it was last used.
        clock: returns the time in seconds.
    """

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self.seconds, self._clock = limit, seconds, clock
        self._kept: OrderedDict[str, tuple[Encoding, float]] = OrderedDict()  # with the time of the last use
        self.bytes = 0

    def get(self, handle: str) -> Encoding | None:
        """Return the encoding of an image, or None if it is not kept, or no longer."""
        self._drop()
        if handle not in self._kept:
            return None
        encoding, _ = self._kept.pop(handle)
        self._kept[handle] = encoding, self._clock()
        return encoding

    def add(self, handle: str, encoding: Encoding) -> None:
        """Keep the encoding of an image."""
        if handle in self._kept:
            self.bytes -= _bytes(self._kept.pop(handle)[0])
        self._kept[handle] = encoding, self._clock()
        self.bytes += _bytes(encoding)
        self._drop()

    def _drop(self) -> None:
        oldest = self._clock() - self.seconds
        while self._kept:
            encoding, used = next(iter(self._kept.values()))
            if used > oldest and (self.bytes <= self._limit or len(self._kept) == 1):
                return
            self._kept.popitem(last=False)
            self.bytes -= _bytes(encoding)


def _bytes(encoding: Encoding) -> int:
    return sum(array.nbytes for array in encoding.arrays.values())
