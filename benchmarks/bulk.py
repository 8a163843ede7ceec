"""The throughput of `refseg bulk` beside a plain loop over as many processes, on the same cores, in the same run.

python benchmarks/bulk.py [--images 600] [--workers 2] [--rounds 3] [--out FILE]

Both answer the same shards by the same function and write the same files, which are compared: what differs is who hands
out the shards. Prints the images per second once all processes work (from the times at which shards were done), the
seconds from start to end, and the memory of all processes. Needs psutil.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from measure import machine, write
from refseg.bulk.compute import Limits, compute_shard
from refseg.bulk.listing import Listing, list_source
from refseg.bulk.sink import MASKS, Sink
from refseg.predictor import load

EXAMPLES = Path(__file__).parents[1] / "src" / "refseg" / "data" / "examples"
EXPRESSIONS = ("the cat on the left", "the person", "the horse", "the violin")


def make_source(folder: Path, images: int) -> tuple[Path, Path]:
    """Write photos of 640 pixels, each cut out differently of the examples, and a file of expressions."""
    photos = folder / "photos"
    photos.mkdir()
    examples = [Image.open(path) for path in sorted(EXAMPLES.glob("*.jpg"))]
    for number in range(images):
        example = examples[number % len(examples)]
        left, top = number % 37, number % 23
        cut = example.crop((left, top, example.width - 23, example.height - 37))
        cut.thumbnail((640, 640))
        file = BytesIO()
        cut.save(file, "JPEG", quality=90)
        (photos / f"{number:06d}.jpg").write_bytes(file.getvalue())
    words = folder / "words.txt"
    words.write_text("".join(f"{text}\n" for text in EXPRESSIONS), encoding="utf-8")
    return photos, words


def loop(listing: Listing, sink: Sink, first: int, step: int) -> None:
    """Answer every `step`-th shard."""
    segmenter = load()
    for number in range(first, len(listing.shards), step):
        compute_shard(segmenter, listing.shards[number], number, sink, listing.asked, Limits())


def by_loop(photos: Path, words: Path, out: Path, arguments: argparse.Namespace) -> None:
    sink = Sink(out, "parquet")
    sink.begin({"of": "a plain loop"})
    listing = list_source(photos, words, None, arguments.shard)
    context = get_context("spawn")
    workers = range(arguments.workers)
    processes = [context.Process(target=loop, args=(listing, sink, one, arguments.workers)) for one in workers]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit("a process of the loop failed")


def by_ray(photos: Path, words: Path, out: Path, arguments: argparse.Namespace) -> None:
    command = [sys.executable, "-m", "refseg", "bulk", str(photos), str(out), "--expressions", str(words)]
    command += ["--shard", str(arguments.shard), "--workers", str(arguments.workers)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def highest_memory(stop: threading.Event, found: list[float]) -> None:
    """Add the MiB of this process and all below it, as often as they can be read."""
    own = psutil.Process()
    while not stop.wait(0.5):
        total = 0
        for process in (own, *own.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.Error:  # it has ended
                continue
        found.append(total / 2**20)


def measured(run: Callable[..., None], photos: Path, words: Path, out: Path, arguments: Any) -> dict[str, float]:
    stop, memory = threading.Event(), [0.0]
    watcher = threading.Thread(target=highest_memory, args=(stop, memory))
    watcher.start()
    start = time.time()
    run(photos, words, out, arguments)
    seconds = time.time() - start
    stop.set()
    watcher.join()
    times = sorted(path.stat().st_mtime for path in (out / "done").iterdir())
    later = times[arguments.workers - 1 :]  # every process has done a shard
    return {
        "images_per_second": (len(later) - 1) * arguments.shard / (later[-1] - later[0]),
        "seconds": seconds,
        "memory_MiB": max(memory),
    }


def content(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((out / MASKS).iterdir())]


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(one[name] for one in rounds), 3) for name in rounds[0]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--shard", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    if arguments.images % arguments.shard or arguments.images < 2 * arguments.shard * arguments.workers:
        parser.error("the images must be a multiple of the shard, and two shards for each worker")
    os.environ["OMP_NUM_THREADS"] = "1"  # as Ray sets it for processes of one core
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    rounds: dict[str, list[dict[str, float]]] = {"loop": [], "ray": []}
    with tempfile.TemporaryDirectory() as folder:
        photos, words = make_source(Path(folder), arguments.images)
        for turn in range(arguments.rounds):
            outs = {name: Path(folder, f"{name}-{turn}") for name in rounds}
            for name, run in (("loop", by_loop), ("ray", by_ray)):
                rounds[name].append(measured(run, photos, words, outs[name], arguments))
                print(name, {key: round(value, 2) for key, value in rounds[name][-1].items()}, flush=True)
            if content(outs["loop"]) != content(outs["ray"]):
                raise SystemExit("the answers differ")
    middle = {name: medians(values) for name, values in rounds.items()}
    ratio = middle["ray"]["images_per_second"] / middle["loop"]["images_per_second"]
    hours = 1e6 / middle["ray"]["images_per_second"] / 3600
    print(f"Ray beside the loop: {ratio:.3f} times its images per second; a million images: {hours:.1f} hours")
    write(
        arguments.out,
        {
            "command": f"python benchmarks/bulk.py --images {arguments.images} --rounds {arguments.rounds}",
            "images": arguments.images,
            "expressions": len(EXPRESSIONS),
            "workers": arguments.workers,
            "shard": arguments.shard,
            "rounds": rounds,
            "medians": middle,
            "ratio": round(ratio, 4),
            "hours_for_a_million_images": round(hours, 2),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
