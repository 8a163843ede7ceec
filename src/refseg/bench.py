"""Measures a model on this machine: time, memory, size, and operations as a share of what the machine can do."""

from __future__ import annotations

import datetime
import itertools
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg import __version__
from refseg.errors import RefsegError
from refseg.inputs.read import read_image
from refseg.predictor import load
from refseg.runtimes.base import Arithmetic
from refseg.runtimes.choose import RuntimeName, processor
from refseg.segmenter import BaseSegmenter
from refseg.values import Encoding

__all__ = ["Bench", "Speed", "machine", "measure", "measure_apart", "with_operations"]

THINGS = ("ring", "star", "ball", "cube", "heart", "cross", "triangle", "square")
PLACES = ("on the left", "on the right", "at the top", "at the bottom")
KINDS = tuple(itertools.product(THINGS, PLACES))
COMPARED = tuple(f"the {thing} {place}" for thing, place in KINDS[::2])
"""The expressions whose masks are compared between precisions."""
PEAK_SIDE, PEAK_ROUNDS = 2048, 8


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What answering a number of expressions about an encoded image costs."""

    expressions: int
    seconds: list[float]
    """Of each round: from the expressions to masks at the image's size, and scores."""
    operations: int | None
    """Floating-point operations, where an addition and a multiplication are two; None: they are not counted."""

    @property
    def latency(self) -> float:
        """The median of the rounds, seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """The measurements of a model, in one runtime and precision."""

    model: str
    runtime: str
    precision: str
    device: str
    load_seconds: float
    """Of loading the model, with the imports that it needs."""
    megabytes: float | None
    """Of the files of the model; None: they are not in a folder of its own."""
    peak_memory: float | None
    """The most memory that the process had, MiB; None: the system does not say."""
    encode: Speed
    """From the pixels of an image to its encoding; of no expressions."""
    segment: list[Speed]
    peak: float
    """Operations a second of a product of two large matrices in the same precision, by PyTorch or else by NumPy."""
    masks: list[Bool[ndarray, "H W"]] = field(repr=False)
    """Of the expressions that are compared between precisions."""

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as JSON values, without the masks."""
        values = {name: value for name, value in vars(self).items() if name != "masks"}
        values["encode"] = vars(self.encode)
        values["segment"] = [
            vars(speed)
            | {
                "latency": speed.latency,
                "throughput": self.throughput(speed),
                "share_of_peak": self.share_of_peak(speed),
            }
            for speed in self.segment
        ]
        return values

    def throughput(self, speed: Speed) -> float:
        """Return the expressions a second, where an image is encoded for each call."""
        return speed.expressions / (self.encode.latency + speed.latency)

    def share_of_peak(self, speed: Speed) -> float | None:
        """Return the operations a second as a share of the peak, None if they are not counted."""
        if speed.operations is None:
            return None
        return speed.operations / speed.latency / self.peak


def measure_apart(model: str, **options: Any) -> Bench:
    """Measure a model in a process of its own, so that memory and start are its own (see `measure`)."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, model, **options).result()
        except BrokenProcessPool:
            raise RefsegError(f"{model}: the process that measured it ended; is there enough memory?") from None


def measure(
    model: str,
    *,
    image: Path,
    expressions: Sequence[int],
    rounds: int,
    runtime: RuntimeName = "torch",
    precision: Arithmetic = "exact",
    device: str = "auto",
    compiled: bool = False,
) -> Bench:
    """Measure a model in this process. No expression is asked twice, so that none is answered from memory.

    Args:
        model: see `refseg.load`.
        image: that is asked about; it is read before.
        expressions: the numbers of expressions to measure.
        rounds: of each measurement, after one that is not counted.
        runtime: `torch`, `onnx` or `openvino`.
        precision: see `refseg.load`.
        device: see `refseg.load`.
        compiled: see `refseg.load`.

    Raises:
        RefsegError: as `refseg.load`; or the image cannot be read.
    """
    pixels = np.asarray(read_image(image))
    begun = time.perf_counter()
    segmenter = load(model, device, runtime=runtime, precision=precision, compiled=compiled)
    loaded = time.perf_counter() - begun
    counted = _count_operations if runtime == "torch" else _do_not_count
    fresh = (f"the {thing} {place}, number {number}" for number in itertools.count() for thing, place in KINDS)
    scene = segmenter.encode(pixels)

    def speed(count: int, work: Callable[[], object]) -> Speed:
        operations = counted(work)
        return Speed(expressions=count, seconds=[_seconds(work) for _ in range(rounds)], operations=operations)

    def ask(count: int) -> Speed:
        return speed(count, lambda: _answers(segmenter, scene, list(itertools.islice(fresh, count))))

    encode, segment = speed(0, lambda: segmenter.encode(pixels)), [ask(count) for count in expressions]
    return Bench(
        model=model,
        runtime=runtime,
        precision=precision,
        device=segmenter.device,
        load_seconds=loaded,
        megabytes=_megabytes(model),
        peak_memory=_peak_memory(),
        encode=encode,
        segment=segment,
        peak=_peak(segmenter.device, precision) if runtime == "torch" else _numpy_peak(),
        masks=[one.mask for one in segmenter.segment(scene, COMPARED)],
    )


def with_operations(one: Bench, counted: Bench) -> Bench:
    """Return measurements with the operations that were counted in others of the same model and the same numbers."""
    segment = [
        replace(speed, operations=same.operations) for speed, same in zip(one.segment, counted.segment, strict=True)
    ]
    return replace(one, encode=replace(one.encode, operations=counted.encode.operations), segment=segment)


def machine() -> dict[str, object]:
    """Return versions, processor and date."""
    about: dict[str, object] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "refseg": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
    }
    with suppress(ImportError):  # an exported model is computed without
        import torch

        about |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
    return about


# ── one measurement ──────────────────────────────────────────────────────────────────────────────────────────────────


def _answers(segmenter: BaseSegmenter, scene: Encoding, expressions: Sequence[str]) -> list[object]:
    return [(one.mask, one.score) for one in segmenter.segment(scene, expressions)]  # computed when asked for


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _count_operations(work: Callable[[], object]) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def _do_not_count(work: Callable[[], object]) -> None:
    work()


def _peak(device: str, precision: str) -> float:
    """Return the operations a second of the fastest of several products of large matrices."""
    import torch

    dtype = torch.float32 if precision == "exact" else torch.bfloat16
    one, other = torch.randn(2, PEAK_SIDE, PEAK_SIDE, device=device).to(dtype)

    def multiply() -> None:
        (one @ other)[0, 0].item()  # waits for the device

    return _product_speed(multiply)


def _numpy_peak() -> float:
    """Return the same in float32 on the processor, where PyTorch need not be installed."""
    one, other = np.random.default_rng(0).standard_normal((2, PEAK_SIDE, PEAK_SIDE), dtype=np.float32)
    return _product_speed(lambda: one @ other)


def _product_speed(multiply: Callable[[], object]) -> float:
    multiply()
    return 2 * PEAK_SIDE**3 / min(_seconds(multiply) for _ in range(PEAK_ROUNDS))


def _megabytes(model: str) -> float | None:
    from refseg.models.exported import find_export
    from refseg.models.hub import resolve
    from refseg.peers.stored import find_peer

    if find_peer(model) is not None:
        return None
    folder = find_export(model) or resolve(model)
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) / 1e6


def _peak_memory() -> float | None:
    with suppress(OSError):  # Linux; its count of `getrusage` begins with the memory of the parent process
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return None
