"""What a server counts for Prometheus, and the time that a request spends in each stage."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["FOLDER", "Metrics", "Timings"]

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the folder in which several worker processes add up what they count."""


class Timings:
    """The milliseconds that a request spends in each stage, waiting included, which become metrics too."""

    def __init__(self, metrics: Metrics, *stages: str) -> None:
        self._metrics = metrics
        self.milliseconds = dict.fromkeys(stages, 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure the block as a stage."""
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        self.milliseconds[stage] = round(1000 * seconds, 2)
        self._metrics.stages.labels(stage).observe(seconds)


class Metrics:
    """The metrics of one process, or of all worker processes together.

    Raises:
        OSError: of several processes, the folder in which they add up what they count cannot be written.
    """

    def __init__(self) -> None:
        own = self._own = CollectorRegistry()
        self.requests = Counter("refseg_requests", "Requests, by path and status.", ["path", "status"], registry=own)
        self.active = Gauge(
            "refseg_requests_active",
            "Requests that are received, wait or are computed.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.stages = Histogram("refseg_stage_seconds", "Time by stage, waiting included.", ["stage"], registry=own)
        self.batches = Histogram(
            "refseg_batch_size",
            "Images encoded together, and expressions answered together.",
            ["stage"],
            registry=own,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
        )
        self.cache = Gauge(
            "refseg_cache_bytes", "Encodings that are kept.", ["model"], registry=own, multiprocess_mode="livesum"
        )

        if FOLDER in os.environ:
            self._reserve()

    def _reserve(self) -> None:
        """Give the files of this process their place on the disk, which may be full later.

        They are mapped into memory, and a process is killed that writes where the disk has no place.

        Raises:
            OSError: the disk is full.
        """
        self.requests.labels("other", 404)  # the file of each kind of metric is made at its first use
        self.stages.labels("decode")
        for path in Path(os.environ[FOLDER]).glob(f"*_{os.getpid()}.db"):
            with path.open("r+b") as file:
                content = file.read()
                file.seek(0)
                file.write(content)

    def batch(self, stage: str, size: int) -> None:
        """Count a batch."""
        self.batches.labels(stage).observe(size)

    def text(self) -> bytes:
        """Return all metrics in the format of Prometheus."""
        if FOLDER not in os.environ:
            return generate_latest(self._own)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared)
