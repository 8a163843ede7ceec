"""How long it takes to score a split of RefCOCO val's size from stored masks, beside a plain decode-and-count loop.

The set is generated in REFER's format: 3,811 references with 10,834 sentences on 1,500 images of 640 x 480, outlines
of 20 to 60 points, predictions that are the true outlines, moved a little. Both ways give the same mean IoU.

python benchmarks/score_speed.py [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from measure import machine, report, side_by_side, write
from refseg.data.catalogue import open_data
from refseg.evaluation.metrics import summarise
from refseg.evaluation.predictions import Predictions, score
from refseg.evaluation.protocols import PROTOCOLS

REFERENCES, SENTENCES, IMAGES, HEIGHT, WIDTH = 3811, 10_834, 1500, 480, 640


def outline(rng: np.random.Generator) -> np.ndarray:
    """Return the points of a closed, wavy outline, (N, 2)."""
    angles = np.linspace(0, 2 * math.pi, int(rng.integers(20, 60)), endpoint=False)
    radius = rng.uniform(30, 120) * (1 + 0.2 * np.sin(3 * angles + rng.uniform(0, 6)))
    centre = rng.uniform((130, 130), (WIDTH - 130, HEIGHT - 130))
    return centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rle_of(points: np.ndarray) -> dict[str, object]:
    """Return the run lengths of an outline."""
    (rle,) = coco.frPyObjects([points.ravel().tolist()], HEIGHT, WIDTH)
    return {"size": [HEIGHT, WIDTH], "counts": rle["counts"].decode("ascii")}


def generate(root: Path) -> Path:
    """Write the data set under `root` and return the file of predictions."""
    rng = np.random.default_rng(0)
    images = [
        {"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": HEIGHT, "width": WIDTH} for i in range(IMAGES)
    ]
    annotations, references, lines = [], [], []
    sentence = 0
    for number in range(REFERENCES):
        points = outline(rng)
        polygon = points.round(2).ravel().tolist()
        annotations.append(
            {"id": number, "image_id": number % IMAGES, "category_id": 1, "segmentation": [polygon], "iscrowd": 0}
        )
        count = SENTENCES * (number + 1) // REFERENCES - SENTENCES * number // REFERENCES
        sentences = [
            {"sent_id": sentence + i, "sent": f"thing {sentence + i}", "raw": "", "tokens": []} for i in range(count)
        ]
        for one in sentences:
            moved = rle_of(points + rng.normal(0, 6, 2))
            lines.append(json.dumps({"sent_id": one["sent_id"], "rle": moved, "score": 0.5}))
        sentence += count
        references.append(
            {
                "ref_id": number,
                "ann_id": number,
                "category_id": 1,
                "image_id": number % IMAGES,
                "split": "val",
                "sentences": sentences,
            }
        )
    home = root / "refcoco"
    home.mkdir()
    categories = [{"id": 1, "name": "thing"}]
    (home / "instances.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories}), encoding="utf-8"
    )
    (home / "refs(unc).p").write_bytes(pickle.dumps(references, protocol=2))
    (root / "predictions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return root / "predictions.jsonl"


def plain(root: Path, predictions: Path) -> float:
    """Return the mean IoU by the loop that everybody writes: draw, decode, count, sentence by sentence."""
    annotations = {
        one["id"]: one["segmentation"]
        for one in json.loads((root / "refcoco" / "instances.json").read_text(encoding="utf-8"))["annotations"]
    }
    stored = {
        row["sent_id"]: row["rle"] for row in map(json.loads, predictions.read_text(encoding="utf-8").splitlines())
    }
    ious = []
    for reference in pickle.loads((root / "refcoco" / "refs(unc).p").read_bytes()):
        for one in reference["sentences"]:
            drawn = coco.frPyObjects(annotations[reference["ann_id"]], HEIGHT, WIDTH)
            truth = coco.decode(drawn).sum(axis=2) > 0
            found = coco.decode(stored[one["sent_id"]]) > 0
            ious.append(np.logical_and(found, truth).sum() / np.logical_or(found, truth).sum())
    return float(np.mean(ious))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REFSEG_CACHE"] = f"{folder}/cache"
        root = Path(folder)
        predictions = generate(root)
        begun = time.perf_counter()
        open_data("refcoco:val", root)
        print(f"\nopening the data for the first time: {time.perf_counter() - begun:.2f} s")

        def ours() -> float:
            stored = Predictions(predictions)
            return float(summarise(score(stored, open_data("refcoco:val", root), PROTOCOLS["refseg"]))["mean_iou"])

        def loop() -> float:
            return plain(root, predictions)

        assert abs(ours() - loop()) < 1e-9
        things = {"refseg score": ours, "plain loop": loop}
        results = report(
            f"{SENTENCES:,} stored masks of {WIDTH} x {HEIGHT}",
            side_by_side(things, arguments.rounds, warmup=0),
            ("plain loop", "refseg score"),
        )
    if arguments.out is not None:
        write(arguments.out, results)


if __name__ == "__main__":
    main()
