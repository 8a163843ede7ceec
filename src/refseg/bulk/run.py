"""Runs the shards of a source on Ray Data: on this machine, or on a cluster."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from tqdm import tqdm

from refseg.bulk.compute import Limits, compute_shard
from refseg.bulk.listing import Listing
from refseg.bulk.rows import Shard
from refseg.bulk.sink import Counts, Sink
from refseg.config import to_dict
from refseg.data.label import labeller
from refseg.errors import ConfigError, RefsegError, one_line
from refseg.memory import keep_freed_memory
from refseg.predictor import BUNDLED, load
from refseg.runtimes.base import Arithmetic
from refseg.runtimes.choose import RuntimeName
from refseg.segmenter import BaseSegmenter

__all__ = ["Job", "Workers", "run"]

SCHEMA = "refseg-bulk/1"
OBJECT_STORE = 128 * 2**20
"""Bytes of memory that the processes of this machine share: only names and counts go through it, no image."""
MOST_BLOCKS = 10_000
"""Tasks of Ray Data; with more shards than these a task has several."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What each process needs to answer shards; it is sent to them."""

    sink: Sink
    asked: tuple[str, ...] = ()
    """The expressions that are asked of every image; empty where each row names its own."""
    model: str = BUNDLED
    device: Literal["cpu", "cuda"] = "cpu"
    runtime: RuntimeName = "auto"
    precision: Arithmetic = "exact"
    refine: str | None = None
    """See `refseg.load`."""
    limits: Limits = field(default_factory=Limits)

    def load(self) -> BaseSegmenter:
        """Load the model.

        Raises:
            RefsegError: as `refseg.load`.
        """
        return load(self.model, self.device, runtime=self.runtime, precision=self.precision, refine=self.refine)

    def manifest(self, segmenter: BaseSegmenter) -> dict[str, Any]:
        """Return all that the answers depend on, beside the source."""
        return {
            "schema": SCHEMA,
            **asdict(labeller(self.model, self.refine, segmenter)),
            "fingerprint": segmenter.fingerprint,
            "decision": to_dict(segmenter.decision),
            "device": self.device,
            "runtime": self.runtime,
            "precision": self.precision,
            "max_pixels": self.limits.max_pixels,
            "format": self.sink.format,
        }


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The processes, each with a model of its own.

    Raises:
        ConfigError: a number is below 1.
    """

    threads: int = 1
    """Processor cores for each."""
    count: int | None = None
    """Processes; None: as many as there are cores, or GPUs if the model is computed on one."""
    address: str | None = None
    """Of a Ray cluster, such as `auto` or `10.0.0.1:6379`; None: this machine."""

    def __post_init__(self) -> None:
        if self.threads < 1 or (self.count is not None and self.count < 1):
            raise ConfigError("each process needs at least one core, and there has to be one process")


class _Worker:
    """A process of Ray Data, which loads the model when it is given its first shard."""

    def __init__(self, job: Job, manifest: dict[str, Any]) -> None:
        self._job, self._manifest = job, manifest

    @cached_property
    def _segmenter(self) -> BaseSegmenter:
        keep_freed_memory()
        segmenter = self._job.load()
        if (own := self._job.manifest(segmenter)) != self._manifest:
            other = ", ".join(key for key in own if own[key] != self._manifest[key])
            raise ConfigError(f"a machine of the cluster has another model than the others ({other})")
        return segmenter

    def __call__(self, shards: dict[str, Any]) -> dict[str, Any]:
        """Answer a shard and return its counts; an error is returned as text, which Ray would wrap in its own."""
        number, job = int(shards["number"][0]), self._job
        shard: Shard = pickle.loads(shards["shard"][0])  # noqa: S301  # written by `_answered`
        try:
            counts = compute_shard(self._segmenter, shard, number, job.sink, job.asked, job.limits)
        except RefsegError as error:
            return {"error": [str(error)], **{name: [0] for name in asdict(Counts())}}
        return {"error": [""], **{name: [value] for name, value in asdict(counts).items()}}


def run(listing: Listing, job: Job, workers: Workers, *, progress: bool = False) -> Counts:
    """Answer all shards of a source that are not done yet, and return what the sink holds.

    Args:
        listing: the source.
        job: the model and the sink.
        workers: the processes.
        progress: whether to show a progress bar.

    Raises:
        ConfigError: Ray is not installed or cannot be reached, more processes are asked for than there are cores, or
            the sink was begun with other settings.
        OutputError: the sink cannot be written.
        RefsegError: the model cannot be loaded.
    """
    with _ray(workers.address) as ray:
        resources = _resources(workers, job)
        count = _count(ray.cluster_resources(), resources, workers)
        manifest = _asked_of_a_worker(ray, job, resources)
        job.sink.begin({**manifest, "source": listing.fingerprint, "shards": len(listing.shards)})
        stored = [job.sink.counts(number) for number in range(len(listing.shards))]
        pending = [number for number, counts in enumerate(stored) if counts is None]
        total = sum((counts for counts in stored if counts is not None), Counts())
        begun = len(stored) - len(pending)
        with tqdm(total=len(stored), initial=begun, unit="shard", disable=not progress) as bar:
            for counts in _answered(ray, listing, pending, job, manifest, resources, count):
                total += counts
                bar.set_postfix(images=total.images, failed=total.failed, refresh=False)
                bar.update()
    job.sink.clean()
    return total


def _answered(
    ray: Any,
    listing: Listing,
    pending: list[int],
    job: Job,
    manifest: dict[str, Any],
    resources: dict[str, int],
    count: int,
) -> Iterator[Counts]:
    """Yield what each of some shards holds, as soon as it is done."""
    if not pending:
        return
    rows = [{"number": number, "shard": pickle.dumps(listing.shards[number])} for number in pending]
    answered = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS)).map_batches(
        _Worker, batch_size=1, fn_constructor_args=(job, manifest), concurrency=min(count, len(rows)), **resources
    )
    for row in answered.iter_rows():
        if error := row.pop("error"):
            raise RefsegError(error)
        yield Counts(**row)


@contextmanager
def _ray(address: str | None) -> Iterator[Any]:
    """Start Ray on this machine, or connect to a cluster; nothing is reported to its makers, and no page is served.

    Raises:
        ConfigError: it is not installed, or cannot be reached.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Notes of Ray on itself; an answer that is missing is an error of this module.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("many images are answered with Ray: pip install 'refseg[bulk]'") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if address is None:
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE,
                _node_ip_address="127.0.0.1",
                **quiet,
            )
        else:
            ray.init(address, **quiet)
    except Exception as error:  # of several kinds, some of them of no class of their own
        where = "on this machine" if address is None else f"at {address}"
        raise ConfigError(f"Ray cannot be started or reached {where}: {one_line(error)}") from None
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _resources(workers: Workers, job: Job) -> dict[str, int]:
    """Return what Ray reserves for a process."""
    return {"num_cpus": workers.threads, "num_gpus": 1 if job.device == "cuda" else 0}


def _count(available: dict[str, float], resources: dict[str, int], workers: Workers) -> int:
    """Return the number of processes.

    Raises:
        ConfigError: there are no cores or GPUs for them. A cluster may grow later, where they are asked for.
    """
    fitting = int(available.get("CPU", 0)) // resources["num_cpus"]
    if resources["num_gpus"]:
        fitting = min(fitting, int(available.get("GPU", 0)))
    if workers.count is not None and (workers.count <= fitting or workers.address is not None):
        return workers.count
    if not fitting or workers.count is not None:
        cores, gpus = int(available.get("CPU", 0)), int(available.get("GPU", 0))
        raise ConfigError(
            f"{workers.count or 1} processes with {resources['num_cpus']} cores and {resources['num_gpus']} GPUs each "
            f"do not fit: there are {cores} cores and {gpus} GPUs"
        )
    return fitting


def _manifest(job: Job) -> dict[str, Any]:
    return job.manifest(job.load())


def _asked_of_a_worker(ray: Any, job: Job, resources: dict[str, int]) -> dict[str, Any]:
    """Return the manifest by a process that loads the model, and ends, as the others will load it.

    Raises:
        RefsegError: it cannot be loaded.
    """
    try:
        manifest: dict[str, Any] = ray.get(ray.remote(**resources)(_manifest).remote(job))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RefsegError):
            raise error.cause from None
        raise
    return manifest
