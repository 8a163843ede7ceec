"""Start the server of a review, with the model that answered the run."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from functools import partial

from refseg.data.label import labeller
from refseg.errors import ConfigError
from refseg.masks import MAX_PIXELS
from refseg.review.app import create_review_app
from refseg.review.queue import Queue
from refseg.runtimes.choose import RuntimeName
from refseg.segmenter import BaseSegmenter
from refseg.serve.run import load_models, run_app
from refseg.serve.settings import Settings

__all__ = ["load_model", "review_settings", "serve_review"]


def review_settings(
    queue: Queue,
    *,
    model: str | None = None,
    device: str = "auto",
    runtime: RuntimeName = "auto",
    token: str | None = None,
) -> Settings:
    """Return the settings of the server of a review.

    Args:
        queue: what is reviewed.
        model: where the model of the run is now; None: where it was for the run.
        device: see `refseg.load`.
        runtime: the same.
        token: which requests have to send; None: none.
    """
    by = queue.labeller
    return Settings(
        models=(model or by.model,),
        refine=by.refine,
        device=device,
        runtime=runtime,
        token=token,
        max_pixels=MAX_PIXELS,  # the photos of the run were read within this limit
    )


def serve_review(queue: Queue, host: str, settings: Settings, listening: socket.socket) -> None:
    """Serve the page until a signal ends it.

    Args:
        queue: what is reviewed.
        host: that the server listens at.
        settings: from `review_settings`.
        listening: from `serve.run.listen`.

    Raises:
        ConfigError: the model is not the one that answered the run.
        RefsegError: the model cannot be loaded.
    """
    run_app(
        partial(create_review_app, queue, host, settings, partial(load_model, queue, settings)), settings, listening
    )


def load_model(queue: Queue, settings: Settings) -> Mapping[str, BaseSegmenter]:
    """Return the model that answered the run, by its name.

    Raises:
        ConfigError: the model is another one.
        RefsegError: it cannot be loaded.
    """
    models = load_models(settings)
    (model,) = models.values()
    by, now = queue.labeller, labeller(settings.models[0], settings.refine, model)
    if now.revision != by.revision:
        raise ConfigError(f"{settings.models[0]} is not the model of {queue.folder}, {by.name}; name that by --model")
    return models
