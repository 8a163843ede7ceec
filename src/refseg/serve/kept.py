"""Results that are kept for a while, so that the same question is answered without computing it again."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Kept"]

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Values by key; those that were not used for the longest time are dropped first.

    Args:
        size: returns the bytes of a value.
        limit: of the bytes of all values together; the newest value is kept even if it is larger.
        seconds: for which a value is kept after it was last used.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        size: Callable[[Value], int],
        limit: int,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._size, self._limit, self.seconds, self._clock = size, limit, seconds, clock
        self._kept: OrderedDict[Key, tuple[Value, float]] = OrderedDict()  # with the time of the last use
        self.bytes = 0

    def get(self, key: Key) -> Value | None:
        """Return a value, or None if it is not kept, or no longer."""
        self._drop()
        if key not in self._kept:
            return None
        value, _ = self._kept.pop(key)
        self._kept[key] = value, self._clock()
        return value

    def add(self, key: Key, value: Value) -> None:
        """Keep a value."""
        if key in self._kept:
            self.bytes -= self._size(self._kept.pop(key)[0])
        self._kept[key] = value, self._clock()
        self.bytes += self._size(value)
        self._drop()

    def _drop(self) -> None:
        oldest = self._clock() - self.seconds
        while self._kept:
            value, used = next(iter(self._kept.values()))
            if used > oldest and (self.bytes <= self._limit or len(self._kept) == 1):
                return
            self._kept.popitem(last=False)
            self.bytes -= self._size(value)
