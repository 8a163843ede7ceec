"""What several requests wait for is computed together, in a thread, while the next requests arrive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Generic, TypeVar

__all__ = ["Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Computes the items that wait in batches: a batch begins as soon as the one before it ends.

    So a single item never waits for others, and many items share the cost of one computation. If a batch fails, its
    items are computed one by one, and each gets its own result or its own error. An item whose caller is gone before
    its batch begins is left out.

    Args:
        compute: returns one result for each item, in the same order.
        executor: its thread computes.
        largest: the number of items in a batch, at most.
        alike: the items of a batch have equal values of it; by default all may be computed together.
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Item]], Sequence[Result]],
        executor: Executor,
        largest: int,
        alike: Callable[[Item], object] = lambda _: None,
    ) -> None:
        self._compute, self._executor, self._largest, self._alike = compute, executor, largest, alike
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._task: asyncio.Task[None] | None = None

    async def __call__(self, item: Item) -> Result:
        """Return the result of an item, or raise the error of its computation."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while batch := self._next():
            outcomes = await self._outcomes([item for item, _ in batch])
            for (_, future), outcome in zip(batch, outcomes, strict=True):
                if future.done():  # its caller is gone
                    continue
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)
        self._task = None

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        """Take the first item and those that can be computed with it from the queue."""
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        rest: list[tuple[Item, asyncio.Future[Result]]] = []
        for item, future in self._waiting:
            if future.done():  # its caller is gone
                continue
            fits = not batch or (len(batch) < self._largest and self._alike(item) == self._alike(batch[0][0]))
            (batch if fits else rest).append((item, future))
        self._waiting = rest
        return batch

    async def _outcomes(self, items: Sequence[Item]) -> list[Result | Exception]:
        try:
            return [*await asyncio.get_running_loop().run_in_executor(self._executor, self._compute, items)]
        except Exception as error:
            if len(items) == 1:
                return [error]
        return [outcome for item in items for outcome in await self._outcomes([item])]
