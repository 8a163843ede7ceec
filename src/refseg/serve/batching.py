"""What several requests wait for is computed together, in a thread, while the next requests arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class _Wanted(Generic[Item, Result]):
    """An item, and those who wait for its result."""

    item: Item
    futures: list[asyncio.Future[Result]] = field(default_factory=list)

    def gone(self) -> bool:
        """Whether no request waits for the item any more."""
        return all(future.done() for future in self.futures)


class Batcher(Generic[Item, Result]):
    """Computes the items that wait in batches: a batch begins as soon as the one before it ends.

    So a single item never waits for others, and many items share the cost of one computation. Items with the same key
    are computed once, also if the second one comes while the first one is computed. If a batch fails, its items are
    computed one by one, and each gets its own result or its own error. An item whose callers are gone before its batch
    begins is left out.

    Args:
        compute: returns one result for each item, in the same order.
        executor: its thread computes.
        largest: the number of items in a batch, at most.
        key: items of equal keys have equal results.
        alike: the items of a batch have equal values of it; by default all may be computed together.
        keep: is given each item with its result, before anybody else can ask for it again.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        executor: Executor,
        largest: int,
        *,
        key: Callable[[Item], Hashable],
        alike: Callable[[Item], Hashable] = lambda _: None,
        keep: Callable[[Item, Result], object] = lambda _, __: None,
    ) -> None:
        self._compute, self._executor, self._largest = compute, executor, largest
        self._key, self._alike, self._keep = key, alike, keep
        self._waiting: dict[Hashable, _Wanted[Item, Result]] = {}
        self._computed: dict[Hashable, _Wanted[Item, Result]] = {}
        self._task: asyncio.Task[None] | None = None

    def __call__(self, item: Item) -> asyncio.Future[Result]:
        """Return a future of the result of an item, or of the error of its computation."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        key = self._key(item)
        wanted = self._computed.get(key) or self._waiting.setdefault(key, _Wanted(item))
        wanted.futures.append(future)
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return future

    async def _work(self) -> None:
        while self._next():
            batch = list(self._computed.values())
            outcomes = await self._outcomes([wanted.item for wanted in batch])
            self._computed = {}
            for wanted, outcome in zip(batch, outcomes, strict=True):
                if not isinstance(outcome, Exception):
                    self._keep(wanted.item, outcome)
                for future in wanted.futures:
                    if future.done():  # its caller is gone
                        continue
                    if isinstance(outcome, Exception):
                        future.set_exception(outcome)
                    else:
                        future.set_result(outcome)
        self._task = None

    def _next(self) -> bool:
        """Take the first item and those that can be computed with it from the queue; return whether there is one."""
        self._waiting = {key: wanted for key, wanted in self._waiting.items() if not wanted.gone()}
        for key, wanted in list(self._waiting.items()):
            first = next(iter(self._computed.values()), wanted)
            if len(self._computed) < self._largest and self._alike(wanted.item) == self._alike(first.item):
                self._computed[key] = self._waiting.pop(key)
        return bool(self._computed)

    async def _outcomes(self, items: Sequence[Item]) -> list[Result | Exception]:
        try:
            return [*await asyncio.get_running_loop().run_in_executor(self._executor, self._compute, items)]
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [outcome for item in items for outcome in await self._outcomes([item])]
