"""Speed of the scene generator, with expressions, images and masks, on one core.

python benchmarks/shapes_speed.py [--scenes N]
"""

from __future__ import annotations

import argparse
import time

from measure import machine
from refseg.data.shapes import Shapes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=1000)
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    data = Shapes("train")
    samples = expressions = 0
    started = time.process_time()
    for index in range(arguments.scenes):
        for sample in data.samples_of(index):
            sample.load_image()
            if sample.load_mask is not None:
                sample.load_mask()
            samples += 1
            expressions += len(sample.expressions)
    minutes = (time.process_time() - started) / 60
    print(f"scenes a minute: {arguments.scenes / minutes:,.0f}")
    print(f"samples a minute: {samples / minutes:,.0f}, with {expressions / minutes:,.0f} expressions")


if __name__ == "__main__":
    main()
