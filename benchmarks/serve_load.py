"""A server under load: many clients at once, against an endpoint that answers one request at a time.

python benchmarks/serve_load.py [MODEL] [--clients 50] [--images 20] [--seconds 300] [--out FILE]

The baseline is `serve_plain.py`, by the same model with the same threads and clients. The other loads tell what the
gain comes from: kept answers, kept encodings, batches, processes. Every answer is compared with the model's own; exits
with 1 if one differs or is lost. Prints answers per second, latency, memory of the server, and the share of all cores
that the server and the load tool took. Needs locust.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

import refseg
from measure import machine, write
from refseg.data.examples import EXAMPLES

HERE = Path(__file__).parent
EXPRESSIONS = ("the cat on the left", "the cat on the right", "the person", "the horse", "the violin")
SIZE = (640, 480)
PLAIN = "endpoint, one request at a time"


@dataclass(frozen=True, kw_only=True)
class Load:
    """A server, and what it is asked."""

    name: str
    clients: int
    options: Sequence[str] | None = ()
    """Of `refseg serve`; None: the plain endpoint."""
    once: bool = False
    """Whether no image comes twice."""
    part: float = 0.2
    """Of the seconds: all for the loads that are compared, less for those that explain them."""


def loads(clients: int) -> list[Load]:
    """Return the loads, each of which lacks something that the first one of `refseg serve` has."""
    processes = ("--workers", "2")
    nothing = ("--cache-bytes", "1", "--answer-bytes", "1")
    return [
        Load(name=PLAIN, clients=clients, options=None, part=1),
        Load(name="refseg serve", clients=clients, part=1),
        Load(name="refseg serve, one client", clients=1),
        Load(name="2 processes", clients=clients, options=processes),
        Load(name="answers not kept", clients=clients, options=("--answer-bytes", "1")),
        Load(name="nothing kept", clients=clients, options=nothing),
        Load(name="no image twice", clients=clients, once=True),
        Load(name="no image twice, 2 processes", clients=clients, options=processes, once=True),
    ]


def questions(model: str, number: int) -> list[dict[str, Any]]:
    """Return different images with two expressions each, and what the model answers in this process."""
    predictor = refseg.load(model, "cpu")
    photos = sorted(EXAMPLES.glob("*.jpg"))
    made = []
    for index in range(number):
        with Image.open(photos[index % len(photos)]) as photo:
            left, top = (index * side // (4 * number) for side in photo.size)
            image = photo.crop((left, top, photo.width - left, photo.height)).resize(SIZE)
        file = BytesIO()
        image.save(file, "JPEG")
        texts = [EXPRESSIONS[(index + step) % len(EXPRESSIONS)] for step in (0, 1)]
        found = predictor.segment(predictor.encode(file.getvalue()), texts)
        made.append(
            {
                "image": b64encode(file.getvalue()).decode("ascii"),
                "expressions": texts,
                "masks": [one.rle for one in found],
            }
        )
    return made


@contextmanager
def server(model: str, load: Load) -> Iterator[tuple[psutil.Process, str]]:
    """Start a server, and return its process and address."""
    if load.options is None:
        words = [str(HERE / "serve_plain.py"), model]
    else:
        limits = ["--queue", str(2 * load.clients), "--per-client", str(2 * load.clients)]
        words = ["-m", "refseg", "serve", "--model", model, "--device", "cpu", "--port", "0", *limits, *load.options]
    with psutil.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            address = process.stdout.readline().strip()
            ready = 0
            while ready < 8:  # of several processes, each has to be ready
                try:
                    urllib.request.urlopen(f"{address}/ready")
                    ready += 1
                except OSError:
                    if process.poll() is not None:
                        raise SystemExit("the server does not start") from None
                    ready = 0
                    time.sleep(0.1)
            yield process, address
        finally:
            process.terminate()


class Watched(threading.Thread):
    """Notes the memory of a process and its children each second, in MiB, and their CPU time."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__()
        self.process, self.memory, self.done = process, list[int](), threading.Event()

    def run(self) -> None:
        while not self.done.wait(1):
            self.memory.append(sum(one.memory_info().rss for one in self._family()) // 2**20)

    def cpu_seconds(self) -> float:
        """Return the CPU time until now."""
        return sum(sum(one.cpu_times()[:2]) for one in self._family())

    def _family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def measured(load: Load, process: psutil.Process, address: str, file: Path, seconds: int) -> dict[str, Any]:
    """Let clients ask for some seconds, and return what was measured."""
    command = [sys.executable, "-m", "locust", "-f", HERE / "serve_users.py", "--headless", "--json", "--only-summary"]
    command += ["--users", str(load.clients), "--spawn-rate", str(load.clients), "--host", address]
    watched = Watched(process)
    watched.start()
    start, own, others = time.monotonic(), watched.cpu_seconds(), _children_seconds()
    try:
        done = subprocess.run(
            [*command, "--run-time", f"{seconds}s"],
            env=os.environ | {"SERVE_LOAD": str(file)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        capacity = (time.monotonic() - start) * (os.cpu_count() or 1)
        own, others = watched.cpu_seconds() - own, _children_seconds() - others
        watched.done.set()
        watched.join()
    if not (totals := json.loads(done.stdout)):
        raise SystemExit(f"no question was answered within {seconds} seconds; give more --seconds")
    found = totals[0]
    times = sorted((float(time), count) for time, count in found["response_times"].items())
    return {
        "name": load.name,
        "clients": load.clients,
        "seconds": seconds,
        "requests": found["num_requests"],
        "wrong": found["num_failures"],
        "per_second": round(found["num_requests"] / seconds, 2),
        "milliseconds": {f"p{percent}": percentile(times, percent) for percent in (50, 95, 99)},
        "cpu_share": {"server": round(own / capacity, 3), "load_tool": round(others / capacity, 3)},
        "memory_MiB": watched.memory,
    }


def _children_seconds() -> float:
    """Return the CPU time of the child processes that have ended."""
    return sum(os.times()[2:4])


def percentile(times: list[tuple[float, int]], percent: int) -> float:
    """Return a percentile of pairs of a time and how often it was measured."""
    left = sum(count for _, count in times) * percent / 100
    for milliseconds, count in times:
        left -= count
        if left <= 0:
            return milliseconds
    return float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="photos")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=300, help="of the loads that are compared; the others: a fifth")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    results: dict[str, dict[str, Any]] = {}
    asked = questions(arguments.model, arguments.images)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "questions.json")
        for load in loads(arguments.clients):
            file.write_text(json.dumps({"questions": asked, "once": load.once}), encoding="utf-8")
            with server(arguments.model, load) as (process, address):
                seconds = max(1, round(load.part * arguments.seconds))
                result = results[load.name] = measured(load, process, address, file, seconds)
            latency = ", ".join(f"{name} {value:.0f} ms" for name, value in result["milliseconds"].items())
            memory, shares = result["memory_MiB"] or [0], result["cpu_share"]
            print(f"{load.name}: {load.clients} clients, {result['requests']} answers, {result['wrong']} wrong or lost")
            print(f"  {result['per_second']:.2f} a second; {latency}")
            print(f"  memory of the server: {memory[0]} MiB at first, {max(memory)} at most, {memory[-1]} at last")
            print(f"  of all cores: server {shares['server']:.0%}, load tool {shares['load_tool']:.0%}")
    baseline = results[PLAIN]["per_second"]
    ratios = {name: round(result["per_second"] / baseline, 3) for name, result in results.items()}
    print(f"throughput, {PLAIN} = 1:")
    for name, ratio in ratios.items():
        print(f"  {name}: {ratio:.2f}")
    write(arguments.out, {"seconds": arguments.seconds, "loads": list(results.values()), "ratios": ratios})
    return 1 if any(result["wrong"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
