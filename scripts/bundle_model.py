"""Put a trained run into the package: its weights in half precision, and its log beside the other results.

    python scripts/bundle_model.py runs/shapes

writes `src/refseg/models/weights/shapes` and `docs/results/shapes/{log.jsonl,training.json}`. Then

    refseg calibrate shapes shapes:val --thresholds --rejections 0.015 --out src/refseg/models/weights/shapes
    refseg evaluate shapes shapes:test --out docs/results/shapes/test.json
"""

import shutil
import sys
from pathlib import Path

import torch

from refseg.models.families import WEIGHTS
from refseg.models.folder import load_model, read_folder, save_model


def main(run: Path) -> None:
    """Write everything."""
    model, about = load_model(run / "last"), read_folder(run / "last").about
    save_model(model, WEIGHTS / "shapes", dtype=torch.float16, name="shapes", extra=about)
    record = Path("docs/results/shapes")
    record.mkdir(parents=True, exist_ok=True)
    for name in ("log.jsonl", "training.json"):
        shutil.copyfile(run / name, record / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
