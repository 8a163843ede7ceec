"""PyTorch, ONNX Runtime and OpenVINO side by side in one process: an image, and 1, 16 and 64 expressions about it.

python benchmarks/runtime_speed.py [--model photos] [--runtimes torch onnx openvino] [--rounds 20] [--out FILE]

Each round times every runtime once, in turn. No expression is asked twice, since PyTorch keeps those that it has read.
By default the time is that of the processor, summed over threads, which other programs on the machine change least;
--wall takes the clock. OMP_NUM_THREADS sets the threads of all three.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np

import refseg
from measure import machine, write
from refseg.data.shapes import EXAMPLE

THINGS, PLACES = ("ring", "star", "ball", "cube"), ("on the left", "on the right", "at the top", "at the bottom")
COUNTS = (1, 16, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="photos")
    parser.add_argument("--runtimes", nargs="+", default=["torch", "onnx", "openvino"])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--counts", nargs="+", type=int, default=COUNTS)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    clock = time.perf_counter if arguments.wall else time.process_time
    predictors = {name: refseg.load(arguments.model, "cpu", runtime=name) for name in arguments.runtimes}
    scenes = {name: predictor.encode(EXAMPLE) for name, predictor in predictors.items()}
    inputs = predictors[arguments.runtimes[0]].inputs
    pixels = inputs.pixels(EXAMPLE)[0][None]
    fresh = (
        f"the {thing} {place} {n}" for n in itertools.count() for thing, place in itertools.product(THINGS, PLACES)
    )
    seconds: dict[str, dict[str, list[float]]] = {}
    for turn in range(1 + arguments.rounds):
        for name, predictor in predictors.items():
            works = {"encode": lambda runtime=predictor.runtime: runtime.encode(pixels)}
            for count in arguments.counts:
                words = list(itertools.islice(fresh, count))
                works[f"{count} expressions"] = lambda predictor=predictor, name=name, words=words: [
                    np.asarray(one.scores) for one in predictor.segment(scenes[name], words)
                ]
            for title, work in works.items():
                begun = clock()
                work()
                if turn:
                    seconds.setdefault(title, {}).setdefault(name, []).append(clock() - begun)
    medians = {
        title: {name: statistics.median(values) for name, values in by_name.items()}
        for title, by_name in seconds.items()
    }
    for title, by_name in medians.items():
        first = by_name[arguments.runtimes[0]]
        shown = (f"{name} {1000 * value:.1f} ms ({first / value:.2f})" for name, value in by_name.items())
        print(f"{title:<16} {', '.join(shown)}")
    write(arguments.out, {"model": arguments.model, "wall": arguments.wall, "seconds": seconds, "medians": medians})


if __name__ == "__main__":
    main()
