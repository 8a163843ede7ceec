"""The application: which paths there are, who may ask, and which error has which status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refseg import __version__
from refseg.data.examples import EXAMPLES
from refseg.errors import ImageSizeError, InputError
from refseg.segmenter import BaseSegmenter
from refseg.serve.answer import Answer, Encoded, Failure, Model, Models, Ready
from refseg.serve.guards import limited, token_needed
from refseg.serve.label_studio import add_label_studio
from refseg.serve.question import (
    BYTES,
    FORM,
    JSON,
    FormFields,
    JsonQuestion,
    UploadFields,
    receive_question,
    receive_upload,
)
from refseg.serve.service import Service
from refseg.serve.settings import Settings

__all__ = ["create_app"]

PAGE = Path(__file__).parent / "page"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing comes from another server, and nothing but files of this one is executed."""
DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
)
"""Swagger UI is started by a script within its page."""
DISCONNECTED = 499
"""The status of a request in the metrics whose client was gone before all of it was sent."""


def create_app(
    settings: Settings,
    load: Callable[[], Mapping[str, BaseSegmenter]],
    failed: Callable[[Exception], object],
    *,
    index: Path = PAGE / "index.html",
) -> FastAPI:
    """Return the application, which loads its models when it starts; `app.state.service` answers by them.

    Args:
        settings: of the server.
        load: returns the models by name; the first one is the default.
        failed: is called with the error if they cannot be loaded.
        index: the page at `/`.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async def start() -> None:
            try:
                service.start(await asyncio.get_running_loop().run_in_executor(service.computer, load))
            except Exception as error:
                failed(error)

        loading = asyncio.create_task(start())
        yield
        loading.cancel()
        service.stop()

    service = Service(settings)
    app = FastAPIOffline(
        title="refseg",
        version=__version__,
        description="Referring image segmentation: an image and expressions in, masks and scores out.",
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    app.add_middleware(_Outermost, service=service)
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type"],
        )
    _add_error_handlers(app)
    _add_paths(app, service, index)
    if settings.label_studio is not None:
        add_label_studio(app, service)
    return app


def _add_paths(app: FastAPI, service: Service, index: Path) -> None:
    settings, allowed, within_limits = service.settings, token_needed(service), limited(service)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(index)

    app.mount("/page/examples", StaticFiles(directory=EXAMPLES), name="examples")
    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    @app.get("/health", summary="Whether the server runs")
    async def health() -> Ready:
        return Ready(status="ok")

    @app.get("/ready", summary="Whether the models are loaded", responses=_failures(503))
    async def ready() -> Ready:
        service.engine(None)
        return Ready(status="ok")

    @app.get("/metrics", dependencies=allowed, include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models", summary="The models", dependencies=allowed, responses=_failures(401, 503))
    async def models() -> Models:
        default = service.engine(None).name
        return Models(
            default=default, models=[_about(name, engine.segmenter) for name, engine in service.engines.items()]
        )

    failures = _failures(400, 401, 404, 408, 413, 415, 422, 429, 500, 503, 504)

    @app.post(
        "/v1/encode",
        summary="Send an image once, to ask about it by its handle",
        dependencies=within_limits,
        response_model=Encoded,
        responses=failures,
        openapi_extra=_described(UploadFields),
    )
    async def encode(request: Request) -> Response:
        image, fields = await receive_upload(request, settings)
        return Response(await service.encode(image, fields.model), media_type=JSON)

    @app.post(
        "/v1/segment",
        summary="Segment the regions of an image that expressions refer to",
        dependencies=within_limits,
        response_model=Answer,
        responses=failures,
        openapi_extra=_described(FormFields, JsonQuestion),
    )
    async def segment(request: Request) -> Response:
        return Response(await service.segment(await receive_question(request, settings)), media_type=JSON)


def _about(name: str, segmenter: BaseSegmenter) -> Model:
    decision = segmenter.decision
    return Model(
        name=name,
        family=segmenter.family,
        domain=segmenter.domain,
        threshold=decision.threshold,
        relative_threshold=decision.relative_threshold,
        calibrated=decision.calibration is not None,
        words=segmenter.word_source,
    )


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _add_error_handlers(app: FastAPI) -> None:
    def failure(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(AnyHTTPException)
    async def http_error(_: Request, error: AnyHTTPException) -> JSONResponse:
        return failure(error.status_code, error.detail, error.headers)

    @app.exception_handler(ImageSizeError)
    async def too_large(_: Request, error: ImageSizeError) -> JSONResponse:
        return failure(413, str(error))

    @app.exception_handler(InputError)
    async def bad_input(_: Request, error: InputError) -> JSONResponse:
        return failure(422, str(error))

    @app.exception_handler(ClientDisconnect)
    async def disconnected(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=DISCONNECTED)

    @app.exception_handler(Exception)  # uvicorn logs it
    async def broken(_: Request, error: Exception) -> JSONResponse:
        return failure(500, "the server failed at this request; its log says why")


class _UnreadError(Exception):
    """A client does not read its answer."""


class _Outermost:
    """Counts requests by path and status, ends answers that are not read, and adds headers that restrict browsers."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = DOCS_POLICY if scope["path"] == "/docs" else POLICY
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "no-referrer"
            try:
                async with asyncio.timeout(self.service.settings.seconds):
                    await send(message)
            except TimeoutError:
                raise _UnreadError from None

        try:
            await self.app(scope, receive, with_headers)
        except _UnreadError:
            pass  # uvicorn closes a connection whose answer is not complete
        finally:
            # Paths that do not exist share a label: a client could make any number of them.
            path = getattr(scope.get("route"), "path", "other")
            self.service.metrics.requests.labels(path, status).inc()


# ── OpenAPI ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": Failure} for status in statuses}


def _described(fields: type[UploadFields], question: type[JsonQuestion] | None = None) -> dict[str, Any]:
    """Return the parts of OpenAPI's description that FastAPI cannot know: a request has several forms."""
    schema = fields.model_json_schema()
    file = {"type": "string", "format": "binary"}
    form = schema | {"properties": {"image": file, **schema["properties"]}}
    form["required"] = ["image", *schema.get("required", [])]
    content = {FORM: {"schema": form}, "image/*": {"schema": file}, BYTES: {"schema": file}}
    if question is not None:
        content[JSON] = {"schema": question.model_json_schema()}
    return {
        "parameters": [
            {"name": name, "in": "query", "required": False, "schema": value}
            for name, value in schema["properties"].items()
        ],
        "requestBody": {"required": True, "content": content},
    }
