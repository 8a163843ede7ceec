"""Timing side by side."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from refseg.bench import machine

__all__ = ["machine", "report", "side_by_side", "write"]

SHOWN = 10
"""Rounds after which the progress is shown."""


def side_by_side(things: Mapping[str, Callable[[], object]], rounds: int, *, warmup: int = 1) -> dict[str, list[float]]:
    """Time each function once a round, in turn, so that a slow machine slows all of them; returns seconds.

    Ctrl+C ends it with the rounds that are complete, if there is one after the warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in things}
    complete, begun = 0, time.perf_counter()
    try:
        for turn in range(warmup + rounds):
            for name, thing in things.items():
                start = time.perf_counter()
                thing()
                if turn >= warmup:
                    seconds[name].append(time.perf_counter() - start)
            complete = turn + 1 - warmup
            if (turn + 1) % SHOWN == 0:
                print(f"{turn + 1} of {warmup + rounds} rounds, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    except KeyboardInterrupt:
        if complete < 1:
            raise
        print(f"interrupted after {complete} rounds", file=sys.stderr)
    return {name: values[:complete] for name, values in seconds.items()}


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


def write(path: Path | None, results: Mapping[str, object]) -> None:
    """Write results with the machine's description as JSON, if a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": machine(), **results}, indent=2) + "\n", encoding="utf-8")
        print(f"\n{path}")
