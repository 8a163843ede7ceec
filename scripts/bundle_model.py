"""Put a trained run into the package: weights in half precision, the threshold chosen on `shapes:val`, the run's log.

    python scripts/bundle_model.py runs/shapes

writes `src/refseg/models/weights/shapes` and `docs/results/shapes/{log.jsonl,training.json,threshold.json}`. Then

    refseg evaluate shapes shapes:test --out docs/results/shapes/test.json
    refseg evaluate shapes shapes:val --out docs/results/shapes/val.json
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch

from refseg.checkpoint import load_model, read_folder, save_model
from refseg.config import replace
from refseg.data.shapes import Shapes
from refseg.evaluation.metrics import overlap
from refseg.models.zoo import WEIGHTS
from refseg.predictor import Predictor

THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
PICTURES = 150


def main(run: Path) -> None:
    """Choose the threshold, then write everything."""
    model, about = load_model(run / "last"), read_folder(run / "last").about
    predictor, data = Predictor(model, "cpu"), Shapes("val")
    ious: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    for picture in range(PICTURES):
        samples = [sample for sample in data.samples_of(picture) if sample.load_mask is not None]
        encoded = predictor.encode(samples[0].load_image())
        for sample in samples:
            assert sample.load_mask is not None
            truth = sample.load_mask()
            for found in predictor.segment(encoded, sample.expressions):
                for threshold in THRESHOLDS:
                    shared, union = overlap(found.probability > threshold, truth)
                    ious[threshold].append(shared / union)
    means = {threshold: float(np.mean(values)) for threshold, values in ious.items()}
    best = max(means, key=lambda threshold: means[threshold])
    print("mean IoU on val by threshold:", means, "chosen:", best)

    model.config = replace(model.config, threshold=best)
    save_model(model, WEIGHTS / "shapes", dtype=torch.float16, name="shapes", extra=about)
    record = Path("docs/results/shapes")
    record.mkdir(parents=True, exist_ok=True)
    for name in ("log.jsonl", "training.json"):
        shutil.copyfile(run / name, record / name)
    chosen = {"data": "shapes:val", "pictures": PICTURES, "mean_iou_by_threshold": means, "chosen": best}
    (record / "threshold.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
