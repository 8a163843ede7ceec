"""A server under load: many clients at once, against one client that waits for each answer; every answer is compared.

python benchmarks/serve_load.py [MODEL] [--clients 50] [--seconds 60] [--out FILE]

Prints for both the requests per second, the latency and the memory of the server; exits with 1 if an answer differs
from the model's own. No image is sent twice with the same bytes, so that each is encoded. Needs locust.
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
from collections.abc import Iterator
from contextlib import contextmanager
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
def server(model: str, clients: int) -> Iterator[tuple[psutil.Process, str]]:
    """Start the server, and return its process and address."""
    limits = ["--queue", str(2 * clients), "--per-client", str(2 * clients)]
    command = [sys.executable, "-m", "refseg", "serve", "--model", model, "--device", "cpu", "--port", "0", *limits]
    with psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            address = process.stdout.readline().strip()
            while True:
                try:
                    urllib.request.urlopen(f"{address}/ready")
                    break
                except OSError:
                    if process.poll() is not None:
                        raise SystemExit("the server does not start") from None
                    time.sleep(0.1)
            yield process, address
        finally:
            process.terminate()


@contextmanager
def watched(process: psutil.Process) -> Iterator[list[int]]:
    """Note the memory of a process each second, in MiB."""
    memory: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(1):
            memory.append(process.memory_info().rss // 2**20)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield memory
    finally:
        done.set()
        thread.join()


def load(process: psutil.Process, address: str, file: Path, clients: int, seconds: int) -> dict[str, Any]:
    """Let clients ask for some seconds, and return what they measured."""
    command = [sys.executable, "-m", "locust", "-f", HERE / "serve_users.py", "--headless", "--json", "--only-summary"]
    command += ["--users", str(clients), "--spawn-rate", str(clients), "--run-time", f"{seconds}s", "--host", address]
    with watched(process) as memory:
        done = subprocess.run(
            command, env=os.environ | {"SERVE_LOAD": str(file)}, capture_output=True, text=True, check=False
        )
    if not (totals := json.loads(done.stdout)):
        raise SystemExit(f"no question was answered within {seconds} seconds; give more --seconds")
    found = totals[0]
    times = sorted((float(time), count) for time, count in found["response_times"].items())
    return {
        "clients": clients,
        "requests": found["num_requests"],
        "wrong": found["num_failures"],
        "per_second": round(found["num_requests"] / (found["last_request_timestamp"] - found["start_time"]), 2),
        "milliseconds": {f"p{percent}": percentile(times, percent) for percent in (50, 95, 99)},
        "memory_MiB": memory,
    }


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
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    results = []
    with tempfile.TemporaryDirectory() as folder, server(arguments.model, arguments.clients) as (process, address):
        file = Path(folder, "questions.json")
        file.write_text(json.dumps(questions(arguments.model, arguments.images)), encoding="utf-8")
        for clients in (1, arguments.clients):
            result = load(process, address, file, clients, arguments.seconds)
            results.append(result)
            latency = ", ".join(f"{name} {value:.0f} ms" for name, value in result["milliseconds"].items())
            memory = result["memory_MiB"] or [0]
            print(f"{clients} clients: {result['requests']} answers, {result['wrong']} of them wrong")
            print(f"  {result['per_second']:.2f} a second; {latency}")
            print(f"  memory of the server: {memory[0]} MiB at first, {max(memory)} at most, {memory[-1]} at last")
    ratio = results[1]["per_second"] / results[0]["per_second"]
    print(f"throughput of {arguments.clients} clients: {ratio:.2f} times that of one request at a time")
    write(arguments.out, {"loads": results, "ratio": round(ratio, 3)})
    return 1 if any(result["wrong"] for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
