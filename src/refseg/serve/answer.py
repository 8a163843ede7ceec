"""Predictions as JSON: what the server answers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from refseg.masks import polygons
from refseg.serve.question import MaskForm
from refseg.values import Prediction, WordMap, WordSource
from refseg.writers.overlay import mask_image

__all__ = [
    "MAP_SIDE",
    "Answer",
    "Encoded",
    "Failure",
    "Model",
    "Models",
    "Ready",
    "Region",
    "RunLengths",
    "WordAnswer",
    "grey_png",
    "prediction",
    "word_values",
]

MAP_SIDE = 512
"""The longer side of a map, pixels at most."""


class Failure(BaseModel):
    """Why a request was not answered."""

    error: str = Field(description="One sentence.")


class Ready(BaseModel):
    """The state of the server."""

    status: str


class Model(BaseModel):
    """A model of the server."""

    name: str
    family: str | None
    domain: str | None = Field(description="The kind of images that it was trained on.")
    threshold: float
    relative_threshold: float | None
    calibrated: bool
    words: WordSource | None = Field(
        description="What tells where each word looks: the attention to it, or the patch-level map of the word alone. "
        "Null: the model cannot tell."
    )


class Models(BaseModel):
    """The models of the server."""

    default: str
    models: list[Model]


class Encoded(BaseModel):
    """An image that can be asked about by its handle."""

    model: str
    image: str = Field(description="The handle of the image.")
    width: int
    height: int
    expires_in: float = Field(description="Seconds after the last use for which the handle is valid, at most.")
    timings: dict[str, float] = Field(description="Milliseconds by stage, waiting included.")


class RunLengths(BaseModel):
    """A mask as COCO's compressed run lengths."""

    size: tuple[int, int] = Field(description="Height and width.")
    counts: str


class WordAnswer(BaseModel):
    """Where a word of an expression looks."""

    word: str = Field(description="As written.")
    map: str = Field(description="A grey PNG in base64, at most 512 pixels at its longer side.")


class Region(BaseModel):
    """The answer to one expression."""

    expression: str
    score: float = Field(description="The intersection over union to expect of the mask, 0..1.")
    confidence: float = Field(description="The same before calibration.")
    empty: bool = Field(description="Whether nothing in the image fits.")
    box: tuple[int, int, int, int] | None = Field(description="x0, y0, x1, y1 in pixels, x1 and y1 exclusive.")
    threshold: float = Field(description="A pixel is in the mask where its probability is greater.")
    mask: RunLengths | str | list[list[float]] | None = Field(
        None, description="In the form that was asked for; a PNG is in base64."
    )
    probability: str | None = Field(
        None,
        description="If asked for: a grey PNG in base64, at most 512 pixels at its longer side; a value of 255 is 1.",
    )
    words: list[WordAnswer] | None = Field(None, description="If asked for: where each word looks.")
    words_highest: float | None = Field(
        None, description="What a value of 255 is in the maps of the words: the largest value of all of them, 0..1."
    )


class Answer(BaseModel):
    """The answers to the expressions of a request, in their order."""

    model: str
    image: str = Field(description="The handle of the image, to ask again without sending it.")
    width: int
    height: int
    predictions: list[Region]
    timings: dict[str, float] = Field(description="Milliseconds by stage, waiting included.")


def prediction(found: Prediction, masks: MaskForm, *, probability: bool) -> dict[str, Any]:
    """Return a prediction as the JSON values of `Region`."""
    values: dict[str, Any] = {
        "expression": found.expression,
        "score": round(found.score, 6),
        "confidence": round(found.confidence, 6),
        "empty": found.empty,
        "box": found.box,
        "threshold": found.threshold,
    }
    if masks == "rle":
        values["mask"] = found.rle
    elif masks == "png":
        values["mask"] = grey_png(mask_image(found.mask))
    elif masks == "polygons":
        values["mask"] = polygons(found.mask)
    if probability:
        map_ = Image.fromarray(np.rint(found.probability * 255).astype(np.uint8))
        map_.thumbnail((MAP_SIDE, MAP_SIDE))
        values["probability"] = grey_png(map_)
    return values


def word_values(maps: Sequence[WordMap]) -> dict[str, Any]:
    """Return where each word looks as the JSON values `words` and `words_highest` of `Region`."""
    shown = [one.within(MAP_SIDE).map for one in maps]
    highest = float(max((map_.max() for map_ in shown), default=0))
    greys = [Image.fromarray(np.rint(map_ * (255 / (highest or 1))).astype(np.uint8)) for map_ in shown]
    return {
        "words": [{"word": one.word, "map": grey_png(grey)} for one, grey in zip(maps, greys, strict=True)],
        "words_highest": highest,
    }


def grey_png(image: Image.Image) -> str:
    """Return a grey image as a PNG in base64."""
    file = BytesIO()
    image.save(file, "PNG")
    return b64encode(file.getvalue()).decode("ascii")
