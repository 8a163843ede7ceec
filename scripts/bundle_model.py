"""Put a trained run into the package: weights in half precision, thresholds chosen on `shapes:val`, the run's log.

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
SHARES = (0.35, 0.4, 0.45, 0.5, 0.55)
PICTURES = 150


def main(run: Path) -> None:
    """Choose the threshold, with it the relative one, then write everything."""
    model, about = load_model(run / "last"), read_folder(run / "last").about
    predictor, data = Predictor(model, "cpu"), Shapes("val")
    fixed: dict[float, list[float]] = {threshold: [] for threshold in THRESHOLDS}
    relative: dict[tuple[float, float], list[float]] = {(t, share): [] for t in THRESHOLDS for share in SHARES}
    for picture in range(PICTURES):
        samples = [sample for sample in data.samples_of(picture) if sample.load_mask is not None]
        encoded = predictor.encode(samples[0].load_image())
        for sample in samples:
            assert sample.load_mask is not None
            truth = sample.load_mask()
            for found in predictor.segment(encoded, sample.expressions):
                highest = float(found.probability.max())
                for threshold in THRESHOLDS:
                    fixed[threshold].append(iou(found.probability > threshold, truth))
                shares = {share: iou(found.probability > share * highest, truth) for share in SHARES}
                for threshold, share in relative:
                    relative[threshold, share].append(shares[share] if highest > threshold else 0.0)
    by_threshold = {threshold: float(np.mean(values)) for threshold, values in fixed.items()}
    best = max(by_threshold, key=lambda threshold: by_threshold[threshold])
    by_share = {share: float(np.mean(relative[best, share])) for share in SHARES}
    best_share = max(by_share, key=lambda share: by_share[share])
    print("mean IoU on val by threshold:", by_threshold, "chosen:", best)
    print("mean IoU on val by relative threshold beside it:", by_share, "chosen:", best_share)

    model.config = replace(model.config, threshold=best, relative_threshold=best_share)
    save_model(model, WEIGHTS / "shapes", dtype=torch.float16, name="shapes", extra=about)
    record = Path("docs/results/shapes")
    record.mkdir(parents=True, exist_ok=True)
    for name in ("log.jsonl", "training.json"):
        shutil.copyfile(run / name, record / name)
    chosen = {
        "data": "shapes:val",
        "pictures": PICTURES,
        "mean_iou_by_threshold": by_threshold,
        "chosen": best,
        "mean_iou_by_relative_threshold": by_share,
        "chosen_relative": best_share,
    }
    (record / "threshold.json").write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the intersection over union of two masks."""
    shared, union = overlap(found, truth)
    return shared / union


if __name__ == "__main__":
    main(Path(sys.argv[1]))
