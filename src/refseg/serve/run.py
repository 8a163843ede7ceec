"""Start the server: in one process, or in several that share a socket."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from refseg.errors import ConfigError
from refseg.memory import keep_freed_memory
from refseg.predictor import load
from refseg.runtimes.graphs import THREADS
from refseg.segmenter import BaseSegmenter
from refseg.serve.app import create_app
from refseg.serve.metrics import FOLDER, Metrics
from refseg.serve.settings import Settings

__all__ = ["listen", "load_models", "run", "run_app"]


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that accepts connections.

    Args:
        host: the name or the address of this machine that clients connect to.
        port: its port; 0 for any that is free.

    Raises:
        ConfigError: this machine has no such address, or the port is out of range, in use or not permitted.
    """
    if not 0 <= port <= 65_535:
        raise ConfigError(f"--port must be from 0 to 65535, got {port}")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        made = socket.create_server(address[:2], family=family)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot listen at {host}, port {port}: {reason}; choose others by --host, --port") from None
    # asyncio sends small packets at once (TCP_NODELAY) only if the socket names its protocol. Otherwise the body of an
    # answer waits until the client has acknowledged the headers: 40 ms on a kept connection.
    return socket.socket(family, made.type, socket.IPPROTO_TCP, fileno=made.detach())


def load_models(settings: Settings) -> dict[str, BaseSegmenter]:
    """Return the models by the names that clients see: of a folder its own name, without the path.

    Raises:
        ConfigError: two folders have the same name.
        RefsegError: a model cannot be loaded.
    """
    names = [Path(model).resolve().name if Path(model).is_dir() else model for model in settings.models]
    if len(set(names)) != len(names):
        raise ConfigError(f"the folders of models need different names, got {', '.join(names)}")
    return {
        name: load(model, settings.device, runtime=settings.runtime, refine=settings.refine)
        for name, model in zip(names, settings.models, strict=True)
    }


def run(settings: Settings, listening: socket.socket, *, workers: int = 1) -> None:
    """Serve until a signal ends the process; what was received before is answered.

    Args:
        settings: of the server.
        listening: from `listen`.
        workers: processes, each of which has all models in memory.

    Raises:
        RefsegError: a model cannot be loaded.
    """
    if workers > 1:
        _run_several(settings, listening, workers)
        return
    run_app(partial(create_app, settings, partial(load_models, settings)), settings, listening)


def run_app(
    make: Callable[[Callable[[Exception], object]], FastAPI], settings: Settings, listening: socket.socket
) -> None:
    """Serve an application in this process until a signal ends it.

    Args:
        make: returns the application, given what it calls with the error if its models cannot be loaded.
        settings: of the server.
        listening: from `listen`.

    Raises:
        RefsegError: a model cannot be loaded.
    """
    errors: list[Exception] = []

    def failed(error: Exception) -> None:
        errors.append(error)
        server.should_exit = True

    server = uvicorn.Server(_config(make(failed), settings))
    server.run([listening])
    if errors:
        raise errors[0]


def _run_several(settings: Settings, listening: socket.socket, workers: int) -> None:
    os.environ.setdefault(THREADS, str(max(1, (os.cpu_count() or 1) // workers)))  # together they use all cores
    with tempfile.TemporaryDirectory(prefix="refseg-metrics-") as folder:
        os.environ[FOLDER] = folder
        # A process that ends before it has loaded its models would be started again and again: they are tried first, in
        # a process of its own, whose memory is free afterwards.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as trial:
            trial.submit(_try_start, settings).result()
        config = _config(partial(_worker_app, settings), settings, factory=True, workers=workers)
        Multiprocess(config, sockets=[listening]).run()


def _try_start(settings: Settings) -> None:
    try:
        Metrics()
    except OSError as error:
        raise ConfigError(
            f"{os.environ[FOLDER]}: several processes add up there what they count, but it cannot be written: "
            f"{error.strerror or error}; name another folder for temporary files by TMPDIR"
        ) from None
    load_models(settings)


def _worker_app(settings: Settings) -> FastAPI:
    keep_freed_memory()
    return create_app(settings, partial(load_models, settings), failed=lambda _: os.kill(os.getpid(), signal.SIGTERM))


def _config(
    app: FastAPI | partial[FastAPI], settings: Settings, *, factory: bool = False, workers: int = 1
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        factory=factory,
        workers=workers,
        access_log=False,  # a query may hold expressions
        proxy_headers=False,  # they are the client's own word for its address
        server_header=False,
        timeout_keep_alive=75,  # a connection stays with its process, which has the images that it sent
        timeout_graceful_shutdown=round(2 * settings.seconds) + 5,
    )
