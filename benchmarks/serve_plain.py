"""The endpoint that everybody would write, for `serve_load.py`: one request at a time, nothing kept, no batches.

python benchmarks/serve_plain.py MODEL
"""

from __future__ import annotations

import sys
import threading
from typing import Annotated, Any

import uvicorn
from fastapi import Body, FastAPI, Query

import refseg
from refseg.segmenter import BaseSegmenter
from refseg.serve.run import listen


def plain_app(predictor: BaseSegmenter) -> FastAPI:
    """Return an application that answers `/v1/segment` as `refseg serve` does."""
    app, lock = FastAPI(), threading.Lock()

    @app.get("/ready")
    def ready() -> None:
        """The model is loaded."""

    @app.post("/v1/segment")
    def segment(
        expression: Annotated[list[str], Query()], image: Annotated[bytes, Body(media_type="image/jpeg")]
    ) -> dict[str, Any]:
        with lock:
            found = predictor.segment(predictor.encode(image), expression)
            return {"predictions": [{"mask": one.rle, "score": one.score, "box": one.box} for one in found]}

    return app


if __name__ == "__main__":
    listening = listen("127.0.0.1", 0)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(plain_app(refseg.load(sys.argv[1], "cpu")), access_log=False)).run([listening])
