"""Train the bundled model, or put a trained run into the package: its weights in half precision, and its log.

    python scripts/bundle_model.py runs --train     # runs/shapes-1 to runs/shapes-12, about eight hours
    python scripts/bundle_model.py runs             # src/refseg/models/weights/shapes and docs/results/shapes

then

    refseg calibrate shapes shapes:val --thresholds --rejections 0.015 --out src/refseg/models/weights/shapes
    refseg evaluate shapes shapes:test --out docs/results/shapes/test.json

The stages are recipes (`refseg train --list`), whose numbers are those that trained the model on record; the weights
come out different (see `docs/training.md`). A stage that is done is not repeated, and one that was stopped is resumed.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from name_looks import name_looks
from part_words import part_words

from refseg.cli.main import main as refseg
from refseg.models.families import WEIGHTS
from refseg.models.folder import load_model, read_folder, save_model

STAGES = range(1, 13)


def train(runs: Path) -> None:
    """Run all stages."""
    for number in STAGES:
        start = runs / f"shapes-{number - 1}" / "last"
        if number == 7:
            start = _once(name_looks, start, runs / "encoder")
        if number == 8:
            start = _once(part_words, start, runs / "words")
        words = ["train", f"shapes-{number}", "--out", str(runs / f"shapes-{number}")]
        if refseg([*words, *(() if number == 1 else ("--init", str(start)))]):
            raise SystemExit(1)


def _once(make: Callable[[Path, Path], float], source: Path, target: Path) -> Path:
    if not (target / "config.json").exists():
        make(source, target)
    return target


def bundle(run: Path) -> None:
    """Write the model folder and the record."""
    model, about = load_model(run / "last"), read_folder(run / "last").about
    save_model(model, WEIGHTS / "shapes", dtype=torch.float16, name="shapes", domain="generated scenes", extra=about)
    record = Path("docs/results/shapes")
    record.mkdir(parents=True, exist_ok=True)
    for name in ("log.jsonl", "training.json"):
        shutil.copyfile(run / name, record / name)


def main() -> None:
    """Train or bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    parser.add_argument("--train", action="store_true", help="run the stages that are not done")
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments.runs)
    else:
        bundle(arguments.runs / f"shapes-{STAGES[-1]}")


if __name__ == "__main__":
    main()
