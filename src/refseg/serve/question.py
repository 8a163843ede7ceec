"""What a request asks: it is read within the limits of the server, in any of the forms in which it may come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message

from refseg.inputs.clip_bpe import check_expression
from refseg.serve.settings import Settings

__all__ = [
    "BYTES",
    "FORM",
    "JSON",
    "FormFields",
    "JsonQuestion",
    "MaskForm",
    "Question",
    "UploadFields",
    "check_expressions",
    "receive_json",
    "receive_question",
    "receive_upload",
]

MaskForm = Literal["rle", "png", "polygons", "none"]
JSON, FORM, BYTES = "application/json", "multipart/form-data", "application/octet-stream"
LAST = {"Connection": "close"}
"""The header of an answer to a request whose rest is not read."""

Value = TypeVar("Value")
Values = TypeVar("Values", bound=BaseModel)


class UploadFields(BaseModel):
    """What can be said beside an image that is encoded: the fields of a form, or of the query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="A name of `/v1/models`; by default the first one.")


class FormFields(UploadFields):
    """What can be asked beside an image: the fields of a form, or of the query."""

    expressions: list[str] = Field(alias="expression", min_length=1, description="Repeated, one for each target.")
    masks: MaskForm = Field(
        "rle", description="COCO's compressed run lengths, PNG in base64, COCO's polygons (without holes), or none."
    )
    probability: Literal["true", "false"] = Field(
        "false", description="Whether the probability of each pixel is returned too."
    )
    words: Literal["true", "false"] = Field(
        "false",
        description="Whether it is returned too where each word looks; `/v1/models` says which models can tell.",
    )


class JsonQuestion(BaseModel):
    """Expressions about an image that was sent before."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    image: str = Field(description="The handle of the image.")
    expressions: list[str] = Field(min_length=1, description="One text for each target.")
    model: str | None = Field(None, description="A name of `/v1/models`; by default the first one.")
    masks: MaskForm = "rle"
    probability: bool = False
    words: bool = False


@dataclass(frozen=True, kw_only=True)
class Question:
    """Expressions about an image, in whichever form they came."""

    image: str | bytes
    """A handle, or an image file."""
    expressions: list[str]
    model: str | None
    masks: MaskForm
    probability: bool
    words: bool


async def receive_question(request: Request, settings: Settings) -> Question:
    """Read a request with expressions, and with an image file or the handle of an image.

    Raises:
        HTTPException: it is malformed, or exceeds a limit.
        ExpressionError: an expression is blank.
    """
    if _kind(request) == JSON:
        question = Question(**dict(await receive_json(request, JsonQuestion, settings)))
    else:
        image, fields = await _within(settings, _image_and_fields(_bounded(request, settings)))
        form = _valid(FormFields, _collected(fields, several="expression"))
        question = Question(
            image=image,
            expressions=form.expressions,
            model=form.model,
            masks=form.masks,
            probability=form.probability == "true",
            words=form.words == "true",
        )
    check_expressions(question.expressions, settings)
    return question


async def receive_json(request: Request, kind: type[Values], settings: Settings) -> Values:
    """Read a request in JSON.

    Raises:
        HTTPException: it is none, malformed, or exceeds a limit.
    """
    if _kind(request) != JSON:
        raise HTTPException(415, f"send {JSON}, not {_kind(request) or 'nothing'}")
    if request.query_params:
        raise HTTPException(422, "a question in JSON has no query; everything is in the body")
    return _valid(kind, await _within(settings, _bounded(request, settings).body()))


def check_expressions(expressions: Sequence[str], settings: Settings) -> None:
    """Check that expressions can be answered within the limits of the server.

    Raises:
        HTTPException: they are too many, or one is too long.
        ExpressionError: one is blank.
    """
    if (count := len(expressions)) > settings.max_expressions:
        raise HTTPException(422, f"{count} expressions are too many; send {settings.max_expressions} at most")
    if (length := max(len(check_expression(text)) for text in expressions)) > settings.max_length:
        raise HTTPException(
            422, f"an expression of {length} characters is too long; send {settings.max_length} at most"
        )


async def receive_upload(request: Request, settings: Settings) -> tuple[bytes, UploadFields]:
    """Read a request with an image file alone.

    Raises:
        HTTPException: it is malformed, or exceeds a limit.
    """
    image, fields = await _within(settings, _image_and_fields(_bounded(request, settings)))
    return image, _valid(UploadFields, _collected(fields))


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _bounded(request: Request, settings: Settings) -> Request:
    """Return the request with a body that may not exceed the limit, whatever its header says."""
    left = settings.max_bytes

    async def receive() -> Message:
        nonlocal left
        message = await request.receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise HTTPException(
                413, f"the request is larger than {settings.max_bytes / 2**20:g} MiB; send a smaller image", LAST
            )
        return message

    return Request(request.scope, receive)


async def _within(settings: Settings, reading: Awaitable[Value]) -> Value:
    try:
        async with asyncio.timeout(settings.seconds):
            return await reading
    except TimeoutError:
        raise HTTPException(408, f"the request did not arrive within {settings.seconds:g} seconds", LAST) from None


class _InMemory(MultiPartParser):
    """Reads a form whose file stays in memory, where the limit of a request bounds it: the disk may be full."""

    spool_max_size = 0
    """No limit."""


async def _image_and_fields(request: Request) -> tuple[bytes, list[tuple[str, str]]]:
    kind, fields = _kind(request), request.query_params.multi_items()
    if kind.startswith("image/") or kind == BYTES:
        return await request.body(), fields
    if kind != FORM:
        raise HTTPException(415, f"send an image file as image/* or in a form ({FORM}), not as {kind or 'nothing'}")
    images = []
    try:
        form = await _InMemory(request.headers, request.stream(), max_files=1).parse()
    except MultiPartException as error:
        raise HTTPException(400, error.message) from None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) and name == "image":
                images.append(await value.read())
            elif isinstance(value, UploadFile) or name == "image":
                raise HTTPException(422, "the field image is a file, and the only one")
            else:
                fields.append((name, value))
    finally:
        await form.close()
    if not images:
        raise HTTPException(422, "the form has no file in the field image")
    return images[0], fields


def _collected(fields: Iterable[tuple[str, str]], *, several: str | None = None) -> dict[str, Any]:
    """Return fields by name; one of them may be repeated."""
    values: dict[str, Any] = {}
    for name, value in fields:
        if name == several:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise HTTPException(422, f"{name}: is given twice")
        else:
            values[name] = value
    return values


def _valid(kind: type[Values], values: dict[str, Any] | bytes) -> Values:
    try:
        return kind.model_validate_json(values) if isinstance(values, bytes) else kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        status = 400 if first["type"] == "json_invalid" else 422
        where = ".".join(map(str, first["loc"]))
        raise HTTPException(status, f"{where}: {first['msg']}".removeprefix(": ")) from None
