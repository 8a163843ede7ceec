"""What the server does: it admits requests, finds their model, and answers them in time."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import HTTPException

from refseg.segmenter import BaseSegmenter
from refseg.serve.answer import prediction, word_values
from refseg.serve.engine import Engine
from refseg.serve.metrics import Metrics, Timings
from refseg.serve.question import Question
from refseg.serve.settings import Settings
from refseg.values import Prediction, WordMap

__all__ = ["Service"]

AGAIN = {"Retry-After": "1"}

Value = TypeVar("Value")


class Service:
    """The models of one server process, and what they are asked. All methods are called in the event loop.

    Args:
        settings: of the server.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        self.engines: dict[str, Engine] = {}
        # All models compute in one thread: each uses the cores itself. Images are decoded and masks made beside it.
        self.computer = ThreadPoolExecutor(1, "compute")
        self.workers = ThreadPoolExecutor(min(4, os.cpu_count() or 1), "work")
        self._decoded = asyncio.Semaphore(settings.batch)
        self._clients: Counter[str] = Counter()
        self._key = secrets.token_bytes(16)

    def start(self, models: Mapping[str, BaseSegmenter]) -> None:
        """Answer from now on by these models, the first of which is the default."""
        self.engines = {
            name: Engine(name, model, self.settings, self.computer, self.workers, self._decoded, self.metrics)
            for name, model in models.items()
        }

    def stop(self) -> None:
        """End the threads."""
        for executor in (self.computer, self.workers):
            executor.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def admitted(self, client: str) -> Iterator[None]:
        """Count a request of a client as long as the block lasts.

        Raises:
            HTTPException: too many requests are received, wait or are computed already.
        """
        if self._clients.total() >= self.settings.queue:
            raise HTTPException(503, "the server has too many requests now; try again in a second", AGAIN)
        if self._clients[client] >= self.settings.per_client:
            raise HTTPException(
                429, f"send {self.settings.per_client} requests at once at most; try again in a second", AGAIN
            )
        self._clients[client] += 1
        self.metrics.active.inc()
        try:
            yield
        finally:
            self.metrics.active.dec()
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def engine(self, name: str | None) -> Engine:
        """Return the model of a name, by default the first one.

        Raises:
            HTTPException: there is none, or the models are not loaded yet.
        """
        if not self.engines:
            raise HTTPException(503, "the models are being loaded; try again in a second", AGAIN)
        if name is None:
            return next(iter(self.engines.values()))
        if name not in self.engines:
            raise HTTPException(404, f"there is no model of this name; there are: {', '.join(self.engines)}")
        return self.engines[name]

    async def encode(self, image: bytes, model: str | None) -> bytes:
        """Return the JSON text of `answer.Encoded`.

        Raises:
            HTTPException: there is no such model, or there was not enough time.
            ImageError: the file is no image, broken or too large.
        """
        engine, timings = self.engine(model), Timings(self.metrics, "decode", "encode")

        async def work() -> bytes:
            handle = self.handle(image)
            encoding = await engine.encode(handle, image, timings)
            frame = encoding.frame
            return await self.in_thread(
                _text,
                {
                    "model": engine.name,
                    "image": handle,
                    "width": frame.width,
                    "height": frame.height,
                    "expires_in": engine.kept.seconds,
                    "timings": timings.milliseconds,
                },
            )

        return await self.in_time(work())

    async def segment(self, question: Question) -> bytes:
        """Return the JSON text of `answer.Answer`.

        Raises:
            HTTPException: there is no such model or no such image, or there was not enough time; or the model cannot
                tell where words look, and is asked.
            ImageError: the file is no image, broken or too large.
        """
        engine, timings = self.engine(question.model), Timings(self.metrics, "decode", "encode", "answer", "masks")
        if question.words and engine.segmenter.word_source is None:
            raise HTTPException(422, f"the model {engine.name} cannot tell where each word looks; ask without words")

        async def work() -> bytes:
            if isinstance(question.image, str):
                handle, encoding = question.image, engine.kept.get(question.image)
                if encoding is None:
                    raise HTTPException(
                        404, f"the model {engine.name} does not have this image, or no longer; send the image"
                    )
            else:
                handle = self.handle(question.image)
                encoding = await engine.encode(handle, question.image, timings)
            with timings("answer"):
                found = await engine.segment(encoding, question.expressions)
                maps = [await engine.word_maps(encoding, text) for text in question.expressions if question.words]
            about = {
                "model": engine.name,
                "image": handle,
                "width": encoding.frame.width,
                "height": encoding.frame.height,
            }
            return await self.in_thread(_answer, about, question, found, maps, timings)

        return await self.in_time(work())

    def handle(self, image: bytes) -> str:
        """Return the name of an image, which only those know who sent the image or were told its name."""
        return hashlib.blake2b(image, key=self._key, digest_size=16).hexdigest()

    async def in_thread(self, function: Callable[..., Value], *values: Any) -> Value:
        """Return what a function returns that computes in another thread than the models."""
        return await asyncio.get_running_loop().run_in_executor(self.workers, function, *values)

    async def in_time(self, work: Awaitable[Value]) -> Value:
        """Return the result of some work.

        Raises:
            HTTPException: there was not enough time.
        """
        try:
            async with asyncio.timeout(self.settings.seconds):
                return await work
        except TimeoutError:
            raise HTTPException(
                504, f"the answer took longer than {self.settings.seconds:g} seconds; ask less, or later"
            ) from None


def _answer(
    about: Mapping[str, Any],
    question: Question,
    found: Sequence[Prediction],
    maps: Sequence[Sequence[WordMap]],
    timings: Timings,
) -> bytes:
    with timings("masks"):
        regions = [prediction(one, question.masks, probability=question.probability) for one in found]
        for region, words in zip(regions, maps, strict=False):  # there are none if they are not asked for
            region |= word_values(words)
    return _text({**about, "predictions": regions, "timings": timings.milliseconds})


def _text(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False).encode()
