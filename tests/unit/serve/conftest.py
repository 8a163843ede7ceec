"""Servers on this machine, each in a thread, and models that wait or fail when they are told to."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import BytesIO

import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image

from refseg.inputs.frame import Frame
from refseg.segmenter import BaseSegmenter
from refseg.serve.app import create_app
from refseg.serve.run import listen
from refseg.serve.settings import Settings
from refseg.values import Decision, Encoding, Prediction


class Stub(BaseSegmenter):
    """Answers with the brightness of the image, so that an answer shows which image and which words it belongs to.

    It waits while `gate` is closed, raises `fault` if that is set, and notes the sizes of its batches.
    """

    device, fingerprint = "cpu", "stub"

    def __init__(self):
        super().__init__(Decision(threshold=0.5), domain="tests", family="stub")
        self.gate, self.fault, self.encoded, self.answered = threading.Event(), None, [], []
        self.gate.set()

    def _encode(self, images, max_pixels):
        self.encoded.append(len(images))
        self._wait()
        return [
            Encoding("stub", Frame(image.height, image.width, 8), {"level": np.array([image.getpixel((0, 0))[0]])})
            for image in images
        ]

    def _answer(self, image, expressions, decision):
        self.answered.append(tuple(expressions))
        self._wait()
        levels = [(int(image.arrays["level"][0]) + len(text)) / 255 for text in expressions]
        return [
            Prediction(text, np.full((8, 8), level, np.float32), image.frame, decision)
            for text, level in zip(expressions, levels, strict=True)
        ]

    def _wait(self):
        if not self.gate.wait(20):
            raise TimeoutError
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def stub():
    model = Stub()
    yield model
    model.gate.set()


@contextmanager
def serving(models, **settings):
    app = create_app(Settings(models=tuple(models), **settings), lambda: models, lambda error: pytest.fail(str(error)))
    options = {"log_config": None, "access_log": False, "timeout_keep_alive": 75, "timeout_graceful_shutdown": 10}
    server = uvicorn.Server(uvicorn.Config(app, **options))
    listening = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    server.address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.end = lambda: setattr(server, "should_exit", True)
    try:
        waiting(lambda: server.started and httpx2.get(f"{server.address}/ready", trust_env=False).is_success)
        yield server
    finally:
        for model in models.values():
            if isinstance(model, Stub):
                model.gate.set()
        server.end()
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture
def serve(stub):
    """Starts a server: `serve(models={"stub": stub}, **settings)`; it has an `address`, and `end` stops it."""
    with ExitStack() as servers:
        yield lambda models=None, **settings: servers.enter_context(serving(models or {"stub": stub}, **settings))


def waiting(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.01)


@pytest.fixture
def wait_for():
    """Waits until a condition holds: `wait_for(lambda: ...)`."""
    return waiting


@pytest.fixture
def grey():
    """Makes a PNG of one grey level: `grey(level, size=(width, height))`."""

    def png(level: int, size: tuple[int, int] = (12, 10), kind: str = "PNG") -> bytes:
        file = BytesIO()
        Image.new("L", size, level).save(file, kind)
        return file.getvalue()

    return png


@pytest.fixture
def http():
    """A client for any server."""
    with httpx2.Client(timeout=20, trust_env=False) as client:
        yield client


@pytest.fixture
def together():
    """Runs functions at the same time: `together(function, values)` returns the results in order."""
    with ThreadPoolExecutor(32) as threads:
        yield lambda function, values: list(threads.map(function, values))
