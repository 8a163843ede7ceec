"""Pre-annotates the tasks of Label Studio: what its machine learning backends answer, below `/label-studio`.

A project's configuration says what a mask becomes: the first brush or polygon that is for an image. With a `Text` tag
the expression is the text of each task; without one every label is an expression, asked of every task.

https://labelstud.io/guide/ml_create
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from refseg.errors import InputError
from refseg.serve.engine import Engine
from refseg.serve.guards import admitted, password_needed
from refseg.serve.metrics import Timings
from refseg.serve.question import check_expressions, receive_json
from refseg.serve.service import Service
from refseg.serve.task_images import TaskImages
from refseg.values import Prediction
from refseg.writers.label_studio import KINDS, Control, region_results
from refseg.writers.labelled import Region

__all__ = ["Project", "add_label_studio", "read_project"]

PREFIX = "/label-studio"
LONGEST_CONFIG = 1_000_000
"""Characters."""
log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, kw_only=True)
class Project:
    """What a labelling configuration asks for."""

    control: Control
    image: str
    """The field of a task with the image."""
    text: str | None
    """The field with the expression; None: there is none, and the labels are the expressions."""
    labels: tuple[str, ...]

    def label(self, expression: str) -> str:
        """Return the label of the mask of an expression.

        Raises:
            InputError: it is not clear which.
        """
        if expression in self.labels or not self.control.kind.endswith("labels"):
            return expression
        if len(self.labels) == 1:
            return self.labels[0]
        raise InputError(
            f"none of the {len(self.labels)} labels is {expression!r}; configure one label, or this one too"
        )


def read_project(config: str) -> Project:
    """Read a labelling configuration, which may come from anybody.

    Raises:
        InputError: it is malformed, or has no image, no brush or polygon for it, or nothing that is an expression.
    """
    if len(config) > LONGEST_CONFIG or "<!DOCTYPE" in config.upper():
        raise InputError("the labelling configuration is too long, or declares a document type")
    try:
        tags = list(ElementTree.fromstring(config).iter())  # noqa: S314  # without a document type it has no entities
    except ElementTree.ParseError as error:
        raise InputError(f"the labelling configuration is no XML: {error}") from None
    images = {tag.get("name", ""): _field(tag) for tag in tags if tag.tag == "Image"}
    controls = [tag for tag in tags if tag.tag.lower() in KINDS and images.get(tag.get("toName", ""))]
    if not controls:
        known = ", ".join(KINDS.values())
        raise InputError(f"the labelling configuration has no image with one of these tags for it: {known}")
    tag = controls[0]
    control = Control(kind=tag.tag.lower(), name=tag.get("name", ""), image=tag.get("toName", ""))
    labels = tuple(filter(None, (label.get("value") for label in tag.iter("Label"))))
    text = next(filter(None, map(_field, (tag for tag in tags if tag.tag == "Text"))), None)
    if text is None and not labels:
        raise InputError("the labelling configuration has neither a Text tag nor labels, which say what to find")
    return Project(control=control, image=images[control.image] or "", text=text, labels=labels)


def _field(tag: ElementTree.Element) -> str | None:
    """Return the field of a task that a tag shows."""
    value = tag.get("value", "")
    return value[1:] if value.startswith("$") else None


class _Task(BaseModel):
    """A task of a project."""

    model_config = ConfigDict(frozen=True)

    id: int | None = None
    data: dict[str, Any]


class _Tasks(BaseModel):
    """A request for predictions; what else Label Studio sends is not used."""

    model_config = ConfigDict(frozen=True)

    tasks: list[_Task]
    label_config: str = Field(min_length=1)


class _Setup(BaseModel):
    """A request whether the backend suits a project; the addresses in it are not used."""

    model_config = ConfigDict(frozen=True)

    schema_: str = Field(alias="schema")


def add_label_studio(app: FastAPI, service: Service) -> None:
    """Add the paths of a machine learning backend to the application of a server."""
    settings = service.settings
    options: dict[str, Any] = {"include_in_schema": False}
    guards = [*password_needed(service), *admitted(service)]  # Label Studio sends no token but a password

    @app.get(f"{PREFIX}/health", **options)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "UP", "model_class": "refseg"})

    @app.post(f"{PREFIX}/setup", dependencies=guards, **options)
    async def setup(request: Request) -> JSONResponse:
        read_project((await receive_json(request, _Setup, settings)).schema_)
        return JSONResponse({"model_version": _version(service.engine(None))})

    @app.post(f"{PREFIX}/predict", dependencies=guards, **options)
    async def predict(request: Request) -> JSONResponse:
        asked = await receive_json(request, _Tasks, settings)
        project, engine = read_project(asked.label_config), service.engine(None)

        async def work() -> list[dict[str, Any]]:
            async with TaskImages(settings) as images:
                return await asyncio.gather(*(answer(task, project, engine, images) for task in asked.tasks))

        return JSONResponse({"results": await service.in_time(work()), "model_version": _version(engine)})

    async def answer(task: _Task, project: Project, engine: Engine, images: TaskImages) -> dict[str, Any]:
        """Return the prediction of a task; of one that cannot be answered an empty one, with the reason."""
        about = {"model_version": _version(engine)}
        try:
            found = await ask(task, project, engine, images)
            return about | await service.in_thread(_prediction, found, project)
        except (InputError, HTTPException) as error:
            reason = error.detail if isinstance(error, HTTPException) else str(error)
            log.warning("task %s of Label Studio: %s", task.id, reason)
            return about | {"score": 0.0, "result": [], "error": reason}

    async def ask(task: _Task, project: Project, engine: Engine, images: TaskImages) -> list[Prediction]:
        expressions = [_text(task, project.text)] if project.text else [*project.labels]
        check_expressions(expressions, settings)
        for text in expressions:
            project.label(text)  # before anything is computed
        data = await images.fetch(_text(task, project.image))
        handle = service.handle(data)
        timings = Timings(service.metrics, "decode", "encode")
        return await engine.segment(await engine.encode(handle, data, timings), expressions)


def _version(engine: Engine) -> str:
    return f"{engine.name}-{engine.segmenter.fingerprint[:12]}"


def _text(task: _Task, field: str) -> str:
    value = task.data.get(field)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"its data have no text {field!r}")
    return value.strip()


def _prediction(found: list[Prediction], project: Project) -> dict[str, Any]:
    regions = [
        Region(id=f"refseg-{number}", expression=one.expression, score=round(one.score, 6), rle=one.rle)
        for number, one in enumerate(found)
        if not one.empty
    ]
    results = [
        result
        for region in regions
        for result in region_results(region, project.control, project.label(region.expression))
    ]
    score = sum(region.score for region in regions) / len(regions) if regions else 0.0
    return {"score": score, "result": results}
