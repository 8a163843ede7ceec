"""What a server adds to the direct call, for one client on a kept connection.

python benchmarks/serve_latency.py [MODEL] [--rounds 100] [--out FILE]

Each round asks one expression about a photo of new bytes, by the direct call and by a request in turn, so that both
have to read and encode it; then by a request about the same photo again, whose answer the server has kept. Prints the
median of what a request takes longer than the direct call of its round, and how much of that the server's stages are
not.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from base64 import b64decode
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import refseg
from measure import machine, report, side_by_side, write
from refseg.memory import keep_freed_memory
from serve_load import Load, questions, server

EXPRESSION = "the cat on the left"
HEADERS = {"Content-Type": "image/jpeg"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="photos")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    keep_freed_memory()  # as the server does
    predictor = refseg.load(arguments.model, "cpu")
    photo = b64decode(questions(arguments.model, 1)[0]["image"])
    stages: list[dict[str, float]] = []

    def new() -> bytes:
        return photo + random.randbytes(16)  # bytes after the end of a JPEG are not read

    def direct() -> None:
        (found,) = predictor.segment(predictor.encode(new()), [EXPRESSION])
        json.dumps(found.to_dict())

    def request(image: Callable[[], bytes]) -> dict[str, Any]:
        connection.request("POST", f"/v1/segment?expression={EXPRESSION.replace(' ', '+')}", image(), HEADERS)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer

    things = {
        "direct call": direct,
        "request": lambda: stages.append(request(new)["timings"]),
        "request, kept answer": lambda: request(lambda: photo),
    }
    with server(arguments.model, Load(name="one client", clients=1)) as (_, address):
        connection = HTTPConnection(urlsplit(address).netloc)
        seconds = side_by_side(things, arguments.rounds, warmup=5)
    result = report(f"one expression about one photo, {arguments.model}", seconds)
    pairs = zip(seconds["request"], seconds["direct call"], strict=True)
    added = 1000 * statistics.median(request - direct for request, direct in pairs)
    measured = [sum(one.values()) for one in stages[-arguments.rounds :]]
    outside = statistics.median(1000 * all_ - stage for all_, stage in zip(seconds["request"], measured, strict=True))
    print(f"a request takes {added:.1f} ms longer than the direct call; {outside:.1f} ms are outside of its stages")
    write(arguments.out, {**result, "added_ms": round(added, 2), "outside_of_stages_ms": round(outside, 2)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
