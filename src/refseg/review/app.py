"""The application of a review: the server of `refseg serve` with another page, and the paths that this page asks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from refseg.errors import DataError, OutputError
from refseg.review.queue import Queue
from refseg.segmenter import BaseSegmenter
from refseg.serve.answer import prediction
from refseg.serve.app import create_app
from refseg.serve.guards import limited
from refseg.serve.metrics import Timings
from refseg.serve.question import check_expressions, receive_json
from refseg.serve.service import Service
from refseg.serve.settings import Settings
from refseg.values import Prediction

__all__ = ["create_review_app"]

PAGE = Path(__file__).parent / "page"
LOCAL = ("localhost", "127.0.0.1", "[::1]")
ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104  # what is compared, not listened at
JPEG = "image/jpeg"
SHORT = {"Cache-Control": "private, max-age=600"}
"""Of photos: they do not change while a person reviews."""
CONFLICT = 409
"""The status where the folder of the run, or the state of the review, does not permit what is asked."""


class _Asked(BaseModel):
    """Words about the photo of an item."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    item: int = Field(ge=0)
    expression: str


class _Decided(_Asked):
    """A verdict on an item: the answer to the expression at a threshold is right, or there is to be no label."""

    verdict: Literal["keep", "drop"]
    threshold: float | None = Field(gt=0, lt=1)


class _Nothing(BaseModel):
    """A request that says nothing more than its path."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def create_review_app(
    queue: Queue,
    host: str,
    settings: Settings,
    load: Callable[[], Mapping[str, BaseSegmenter]],
    failed: Callable[[Exception], object],
) -> FastAPI:
    """Return the application, which answers without its model at once, and by it when that is loaded.

    Args:
        queue: what is reviewed.
        host: that the server listens at.
        settings: of the server.
        load: returns the model that answered the run, by name.
        failed: is called with the error if it cannot be loaded.
    """
    app = create_app(settings, load, failed, index=PAGE / "index.html")
    # The page of another server cannot reach this one under a name of its own (DNS rebinding).
    allowed = ["*"] if host in ANY_ADDRESS else [*LOCAL, host, f"[{host}]"]
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=allowed)
    app.mount("/review/page", StaticFiles(directory=PAGE), name="review page")
    _add_paths(app, app.state.service, queue)
    return app


def _add_paths(app: FastAPI, service: Service, queue: Queue) -> None:
    options: dict[str, Any] = {"dependencies": limited(service), "include_in_schema": False}
    changing = asyncio.Lock()

    def existing(number: int) -> int:
        if not 0 <= number < len(queue.items):
            raise HTTPException(404, f"there are {len(queue.items)} items, numbered from 0")
        return number

    async def answer(number: int, text: str) -> Prediction:
        check_expressions([text], service.settings)
        if queue.labeller.tile is not None:
            raise HTTPException(
                CONFLICT, "this run asked its photos in tiles; keep or drop here, and ask again by refseg label --tile"
            )
        engine = service.engine(None)

        async def work() -> Prediction:
            data = await service.in_thread(queue.photo_file, number)
            timings = Timings(service.metrics, "decode", "encode")
            encoding = await engine.encode(f"review/{queue.items[number].file}", data, timings)
            (found,) = await engine.segment(encoding, [text])
            return found

        return await service.in_time(work())

    async def failure(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, CONFLICT)

    for kind in (DataError, OutputError):
        app.add_exception_handler(kind, failure)

    @app.get("/review/run", **options)
    async def run() -> Response:
        return JSONResponse(queue.overview())

    @app.get("/review/items/{number}", **options)
    async def item(number: int) -> Response:
        return JSONResponse(await service.in_thread(queue.about, existing(number)))

    @app.get("/review/photos/{number}", **options)
    async def photo(number: int) -> Response:
        return Response(await service.in_thread(queue.photo, existing(number)), media_type=JPEG, headers=SHORT)

    @app.post("/review/ask", **options)
    async def ask(request: Request) -> Response:
        asked = await receive_json(request, _Asked, service.settings)
        found = await answer(existing(asked.item), asked.expression)
        return JSONResponse(await service.in_thread(partial(prediction, found, "none", probability=True)))

    @app.post("/review/verdicts", **options)
    async def decide(request: Request) -> Response:
        said = await receive_json(request, _Decided, service.settings)
        number, text = existing(said.item), said.expression
        async with changing:
            if said.verdict == "drop":
                await service.in_thread(queue.drop, number)
            else:
                known = queue.knows(number, text, said.threshold)
                found = None if known else await answer(number, text)
                await service.in_thread(queue.keep, number, text, said.threshold, found)
        return JSONResponse({"item": number})

    @app.post("/review/undo", **options)
    async def undo(request: Request) -> Response:
        await receive_json(request, _Nothing, service.settings)
        async with changing:
            number = await service.in_thread(queue.undo)
        if number is None:
            raise HTTPException(CONFLICT, "there is nothing to undo")
        return JSONResponse({"item": number})

    @app.post("/review/labels", **options)
    async def labels(request: Request) -> Response:
        await receive_json(request, _Nothing, service.settings)
        async with changing:
            written = await service.in_thread(queue.write)
        return JSONResponse({name: value for name, value in vars(written).items() if isinstance(value, int)})
