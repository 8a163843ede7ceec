"""Time of `refseg predict` from start to end, and of one expression on an image when the model is loaded.

python benchmarks/predict_speed.py [--out FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

import refseg
from measure import machine, report, side_by_side, write
from refseg.data.shapes import EXAMPLE

EXPRESSIONS = (
    *("the red ball", "the largest ring", "second star from the left", "the cube on the right"),
    *("small striped heart", "the ball to the left of the cube", "middle triangle", "the green cross"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="photos")
    parser.add_argument("--image", type=Path, default=EXAMPLE)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20, help="of what is timed within a process; a fourth of it else")
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    about = machine()
    print("\n".join(f"{key}: {value}" for key, value in about.items()))
    processes = max(3, arguments.rounds // 4)
    results: dict[str, object] = {"model": arguments.model}

    def start(*words: str | Path, folder: str | None = None) -> None:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run([sys.executable, *map(str, words)], check=True, cwd=folder, **quiet)

    with tempfile.TemporaryDirectory() as folder:
        cold = ("-m", "refseg", "predict", arguments.image.resolve(), EXPRESSIONS[0])
        results["start"] = report(
            "A process from start to end",
            side_by_side(
                {
                    "refseg predict": lambda: start(*cold, "--model", arguments.model, folder=folder),
                    "refseg --help": lambda: start("-m", "refseg", "--help"),
                    "python -c 'import torch'": lambda: start("-c", "import torch"),
                },
                processes,
            ),
            ("refseg --help", "python -c 'import torch'"),
        )

    predictor = refseg.load(arguments.model, "cpu")

    def ask(scene: refseg.Encoding, expressions: Sequence[str]) -> list[object]:
        # Masks and scores are computed when asked for.
        return [(one.mask, one.score) for one in predictor.segment(scene, expressions)]

    image = Image.open(arguments.image).convert("RGB").resize((640, 480))
    scene = predictor.encode(image)
    one = EXPRESSIONS[:1]
    results["warm"] = report(
        f"One expression on an image of 640 x 480, {arguments.threads} threads",
        side_by_side(
            {
                "encode + segment": lambda: ask(predictor.encode(image), one),
                "encode": lambda: predictor.encode(image),
                "segment": lambda: ask(scene, one),
            },
            arguments.rounds,
            warmup=3,
        ),
    )
    results["eight"] = report(
        "Eight expressions on that image",
        side_by_side(
            {
                "eight times encode, ask one": lambda: [
                    ask(predictor.encode(image), [expression]) for expression in EXPRESSIONS
                ],
                "encode once, ask eight": lambda: ask(predictor.encode(image), EXPRESSIONS),
            },
            max(3, arguments.rounds // 2),
        ),
        ("eight times encode, ask one", "encode once, ask eight"),
    )
    write(arguments.out, results)


if __name__ == "__main__":
    main()
