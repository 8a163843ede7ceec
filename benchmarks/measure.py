"""Timing side by side, and a description of the machine."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy
import torch

import refseg


def side_by_side(things: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1) -> dict[str, list[float]]:
    """Time each function once a round, in turn, so that a slow machine slows all of them; returns seconds."""
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for turn in range(warmup + rounds):
        for name, thing in things.items():
            start = time.perf_counter()
            thing()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def report(title: str, seconds: Mapping[str, list[float]], ratio: tuple[str, str] | None = None) -> dict[str, object]:
    """Print medians, with the fastest and the slowest round, and the ratio of two of them; return it all."""
    print(f"\n{title}")
    width = max(map(len, seconds))
    for name, values in seconds.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(
            f"  {name:<{width}}  {1000 * middle:9.1f} ms   ({1000 * low:.1f} to {1000 * high:.1f}, n = {len(values)})"
        )
    result: dict[str, object] = {
        "seconds": {name: [round(value, 6) for value in values] for name, values in seconds.items()},
        "medians": {name: round(statistics.median(values), 6) for name, values in seconds.items()},
    }
    if ratio is not None:
        over, under = ratio
        result["ratio"] = round(statistics.median(seconds[over]) / statistics.median(seconds[under]), 4)
        print(f"  {over} / {under}: {result['ratio']:.2f}")
    return result


def machine() -> dict[str, object]:
    """Return versions, processor and date."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "refseg": refseg.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def write(path: Path | None, results: Mapping[str, object]) -> None:
    """Write results with the machine's description as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n", encoding="utf-8")
        print(f"\n{path}")


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
        if platform.system() == "Darwin":
            return subprocess.check_output(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        pass
    return platform.processor() or "unknown"
