"""Memory of a process that answers 10,000 expressions, about images of many sizes and in calls of many lengths.

python benchmarks/soak.py [--model photos] [--runtime onnx] [--predictions 10000] [--out FILE]

The memory is that of the whole process (resident set size), sampled after each hundredth of the predictions. The first
fifth is left out of the slope: libraries allocate what they keep when they first see a size. The slope is that of the
line of least squares through the other samples.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import psutil

import refseg
from measure import machine, write
from refseg.runtimes.choose import RUNTIMES

SIDES = (1, 16, 100, 333, 640, 1080, 1600)
"""Pixels."""
MOST_EXPRESSIONS = 40
"""In a call; 16 are computed together."""
WORDS = ("the", "left", "right", "small", "red", "cat", "dog", "person", "bus", "cup", "behind", "near", "striped")
SAMPLES, LEFT_OUT = 100, 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="photos")
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto")
    parser.add_argument("--predictions", type=int, default=10_000)
    parser.add_argument("--out", type=Path, help="write all samples there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    predictor = refseg.load(arguments.model, "cpu", runtime=arguments.runtime)
    rng, pixels = random.Random(0), np.random.default_rng(0)
    process, samples, begun, done, calls = psutil.Process(), [], time.perf_counter(), 0, 0
    while done < arguments.predictions:
        image = pixels.integers(0, 256, (rng.choice(SIDES), rng.choice(SIDES), 3), np.uint8)
        count = min(rng.randint(1, MOST_EXPRESSIONS), arguments.predictions - done)
        expressions = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]
        answers = predictor.segment(predictor.encode(image), expressions)
        assert all(np.isfinite(one.score) and one.mask.shape == image.shape[:2] for one in answers)
        done, calls = done + count, calls + 1
        if done * SAMPLES >= (len(samples) + 1) * arguments.predictions:
            samples.append((done, process.memory_info().rss / 2**20))
    seconds = time.perf_counter() - begun
    counts, memory = np.array(samples[len(samples) * LEFT_OUT // 100 :]).T
    slope = 1000 * float(np.polyfit(counts, memory, 1)[0])
    print(f"{done} predictions in {calls} calls, {seconds:.0f} s")
    print(f"memory: {memory.min():.0f} to {memory.max():.0f} MiB, {slope:+.2f} MiB per 1000 predictions")
    write(
        arguments.out,
        {
            "model": arguments.model,
            "runtime": predictor.runtime.name,
            "predictions": done,
            "calls": calls,
            "seconds": round(seconds, 1),
            "slope_MiB_per_1000": round(slope, 4),
            "samples": [(int(count), round(mib, 2)) for count, mib in samples],
        },
    )


if __name__ == "__main__":
    main()
