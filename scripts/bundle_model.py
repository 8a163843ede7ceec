"""Train a bundled model, or put a trained run into the package: weights in half precision, graphs, and its log.

    python scripts/bundle_model.py shapes runs --train     # runs/shapes-1 to runs/shapes-12, about eight hours
    python scripts/bundle_model.py shapes runs             # src/refseg/models/weights/shapes and docs/results/shapes
    refseg calibrate shapes shapes:val --thresholds --rejections 0.015 --out src/refseg/models/weights/shapes
    refseg evaluate shapes shapes:test --out docs/results/shapes/test.json

and for photos (docs/photos.md), with a folder PHOTOS of annotated ones, ImageNet's weights of EfficientNet-Lite0, and
word vectors of GloVe

    python scripts/bundle_model.py photos runs --train --photos PHOTOS --backbone efficientnet-lite0-57934424.pth \
        --vectors glove.6B.100d.txt
    python scripts/bundle_model.py photos runs
    refseg calibrate photos PHOTOS:val --thresholds --rejections 0.05 --out src/refseg/models/weights/photos
    refseg evaluate photos PHOTOS:test --out docs/results/photos/test.json

The stages are recipes (`refseg train --list`), whose numbers are those that trained the model on record; the weights
come out different (see `docs/training.md`). A stage that is done is not repeated, and one that was stopped is resumed.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from compose_photos import make_folder
from fit_presence import add_presence
from lend_vectors import lend
from name_looks import name_looks
from part_words import part_words

from refseg.cli.main import main as refseg
from refseg.models.families import WEIGHTS
from refseg.models.folder import load_model, read_folder, save_model
from refseg.runtimes.export import add_graphs

STAGES = {"shapes": 12, "photos": 4}
"""The number of stages of each model."""
DOMAINS = {"shapes": "generated scenes", "photos": "photos"}


def train_shapes(runs: Path) -> None:
    """Run all stages of the model for generated scenes."""
    for number in range(1, STAGES["shapes"] + 1):
        start = runs / f"shapes-{number - 1}" / "last"
        if number == 7:
            start = _once(name_looks, start, runs / "encoder")
        if number == 8:
            start = _once(part_words, start, runs / "words")
        _run(runs / f"shapes-{number}", *(() if number == 1 else ("--init", str(start))))


def train_photos(runs: Path, photos: Path, backbone: Path, vectors: Path) -> None:
    """Run all stages of the model for photos."""
    composed, further = runs / "composed", runs / "composed-further"
    for folder, count, seed in ((composed, 4000, 0), (further, 3000, 7)):
        if not (folder / "annotations.jsonl").exists():
            make_folder(photos, folder, count, seed)
    data = f"data={photos}:train"
    _run(runs / "photos-1", "--backbone", str(backbone), data)
    _run(runs / "photos-2", "--init", str(runs / "photos-1" / "last"), data)
    both = f"{data},{composed}:train"
    validation = f"validation={photos}:val"
    _run(runs / "photos-3", "--init", str(runs / "photos-2" / "last"), both, validation)
    _run(runs / "photos-4", "--init", str(runs / "photos-3" / "last"), f"{both},{further}:train", validation)
    last, texts = runs / "photos-4" / "last", [f"{photos}:train"]
    words = _once(lambda source, target: lend(source, vectors, target, texts), last, runs / "photos-words")
    _once(lambda source, target: add_presence(source, target, f"{photos}:train"), words, runs / "photos-presence")


def _run(folder: Path, *words: str) -> None:
    if refseg(["train", folder.name, "--out", str(folder), *words]):
        raise SystemExit(1)


def _once(make: Callable[[Path, Path], object], source: Path, target: Path) -> Path:
    if not (target / "config.json").exists():
        make(source, target)
    return target


def bundle(name: str, run: Path, last: Path) -> None:
    """Write the model folder and the record.

    Args:
        name: of the model.
        run: the last run.
        last: the model that came of it.
    """
    model, about = load_model(last), read_folder(last).about
    save_model(model, WEIGHTS / name, dtype=torch.float16, name=name, domain=DOMAINS[name], extra=about)
    add_graphs(WEIGHTS / name)
    record = Path("docs/results") / name
    record.mkdir(parents=True, exist_ok=True)
    for file in ("log.jsonl", "training.json"):
        shutil.copyfile(run / file, record / file)


def main() -> None:
    """Train or bundle."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=STAGES)
    parser.add_argument("runs", type=Path, help="the folder of the runs")
    parser.add_argument("--train", action="store_true", help="run the stages that are not done")
    parser.add_argument("--photos", type=Path, help="the folder of annotated photos, to train photos")
    parser.add_argument("--backbone", type=Path, help="ImageNet's weights of EfficientNet-Lite0, to train photos")
    parser.add_argument("--vectors", type=Path, help="word vectors, such as glove.6B.100d.txt, to train photos")
    arguments = parser.parse_args()
    if not arguments.train:
        run = arguments.runs / f"{arguments.model}-{STAGES[arguments.model]}"
        last = arguments.runs / "photos-presence" if arguments.model == "photos" else run / "last"
        bundle(arguments.model, run, last)
    elif arguments.model == "shapes":
        train_shapes(arguments.runs)
    elif None in (arguments.photos, arguments.backbone, arguments.vectors):
        parser.error("photos --train needs --photos, --backbone and --vectors")
    else:
        train_photos(arguments.runs, arguments.photos, arguments.backbone, arguments.vectors)


if __name__ == "__main__":
    main()
