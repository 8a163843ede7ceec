"""What a server counts for Prometheus, and the time that a request spends in each stage."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
    """The metrics of one process, or of all worker processes together."""

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
