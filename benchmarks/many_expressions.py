"""Peak memory and time of many expressions on a large image, all predictions kept.

python benchmarks/many_expressions.py [--expressions 100] [--megapixels 12] [--out FILE]
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

import refseg
from measure import machine, write
from refseg.data.shapes import EXAMPLE
from refseg.inputs.read import read_image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--expressions", type=int, default=100)
    parser.add_argument("--megapixels", type=float, default=12)
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    predictor = refseg.load(arguments.model, "cpu")
    width = round((arguments.megapixels * 1e6 * 4 / 3) ** 0.5)
    image = read_image(EXAMPLE).resize((width, width * 3 // 4))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    scene = predictor.encode(image)
    predictions = predictor.segment(scene, [f"the ring number {number}" for number in range(arguments.expressions)])
    areas = [int(np.count_nonzero(one.mask)) for one in predictions]
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "image": f"{image.width} x {image.height}",
        "expressions": len(areas),
        "seconds": round(seconds, 2),
        "peak_MiB_before": before // 1024,
        "peak_MiB": peak // 1024,
    }
    print("\n".join(f"{key}: {value}" for key, value in figures.items()))
    write(arguments.out, figures)


if __name__ == "__main__":
    main()
