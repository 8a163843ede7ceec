"""How long a data set of RefCOCO's size takes to open for the first time and for the second, and in how much memory.

The set is made up: 50,000 references with 142,210 expressions on 19,994 images, and 197,000 annotations of one to
three polygons of 20 to 60 points, in REFER's format. There are no images; nothing of them is read when a set is
opened. Each opening is in a process of its own. Seconds of the processor are told beside those of the clock, as other
work on the machine adds to the latter; the memory is the most that the process ever held, Python and PyTorch included.

python benchmarks/data_index.py [--part SHARE] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from measure import write

REFERENCES, EXPRESSIONS, IMAGES, ANNOTATIONS = 50_000, 142_210, 19_994, 197_000
WORDS = (
    "the",
    "a",
    "man",
    "woman",
    "dog",
    "cup",
    "red",
    "blue",
    "left",
    "right",
    "second",
    "third",
    "in",
    "on",
    "of",
    "with",
    "front",
    "behind",
    "small",
    "chair",
)

OPEN = """
import json, resource, sys, time
def used(): return time.perf_counter(), time.process_time()
def most():
    try:  # what getrusage tells includes the process that started this one
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
from refseg.data.catalogue import open_data
before = most()
clock, processor = used()
data = open_data("refcoco:train", sys.argv[1])
opened, worked = used()
middle = data[len(data) // 2]
mask = middle.load_mask()
end, _ = used()
peak = most()
print(json.dumps({
    "seconds": opened - clock, "processor seconds": worked - processor,
    "MiB": peak / 1024, "MiB before": before / 1024, "seconds of a sample's mask": end - opened,
    **data.totals(), "pixels": int(mask.sum()),
}))
"""


def polygons(rng: np.random.Generator, count: int) -> list[str]:
    """Outlines with two decimals, as annotators draw and COCO writes them."""
    made = []
    for _ in range(count):
        points = int(rng.integers(20, 61))
        angles = np.sort(rng.uniform(0, 2 * np.pi, points))
        radii = rng.uniform(0.6, 1.0, points)[:, None] * rng.uniform(8, 120, 2)
        around = rng.uniform(120, 300, 2) + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        made.append("[" + ", ".join(f"{value:.2f}" for value in around.ravel()) + "]")
    return made


def make(root: Path, share: float) -> None:
    """Write the set."""
    rng = np.random.default_rng(0)
    references, images, annotations = (max(2, int(n * share)) for n in (REFERENCES, IMAGES, ANNOTATIONS))
    folder = root / "refcoco"
    folder.mkdir()
    of_image = rng.integers(0, images, annotations)
    outlines = polygons(rng, 3000)
    with (folder / "instances.json").open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        for id in range(images):
            image = {"id": id, "file_name": f"COCO_train2014_{id:012}.jpg", "height": 427, "width": 640, "license": 3}
            file.write((", " if id else "") + json.dumps(image | {"coco_url": f"http://images.cocodataset.org/{id}"}))
        file.write('], "annotations": [')
        for id in range(annotations):
            region = ", ".join(outlines[one] for one in rng.integers(0, len(outlines), rng.integers(1, 4)))
            rest = {"id": id, "image_id": int(of_image[id]), "category_id": int(rng.integers(1, 81)), "iscrowd": 0}
            rest |= {"area": 1234.5, "bbox": [1.0, 2.0, 3.0, 4.0]}
            file.write((", " if id else "") + f'{{"segmentation": [{region}], {json.dumps(rest)[1:]}')
        categories = [{"id": id, "name": f"category {id}", "supercategory": "thing"} for id in range(1, 81)]
        file.write(f'], "categories": {json.dumps(categories)}}}')
    said = np.full(references, EXPRESSIONS // REFERENCES)
    said[: EXPRESSIONS * references // REFERENCES - said.sum()] += 1
    rows, number = [], 0
    for id, annotation in enumerate(rng.permutation(annotations)[:references].tolist()):
        sentences = []
        for _ in range(int(said[id])):
            tokens = [WORDS[one] for one in rng.integers(0, len(WORDS), rng.integers(1, 9))]
            text = " ".join(tokens)
            sentences.append({"tokens": tokens, "raw": text.capitalize(), "sent_id": number, "sent": text})
            number += 1
        row = {"ref_id": id, "ann_id": annotation, "image_id": int(of_image[annotation]), "split": "train"}
        row |= {"file_name": f"COCO_train2014_{id:012}_{id}.jpg", "sentences": sentences, "category_id": 1}
        rows.append(row | {"sent_ids": [one["sent_id"] for one in sentences]})
    (folder / "refs(unc).p").write_bytes(pickle.dumps(rows, protocol=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=float, default=1.0, help="share of the size (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="write the numbers as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root, cache = Path(place, "data"), Path(place, "cache")
        root.mkdir()
        make(root, arguments.part)
        sizes = {path.name: path.stat().st_size / 2**20 for path in (root / "refcoco").iterdir()}
        environment = os.environ | {"REFSEG_CACHE": str(cache)}
        openings = {}
        for which in ("first", "second"):
            done = subprocess.run(
                [sys.executable, "-c", OPEN, str(root)], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            openings[which] = json.loads(done.stdout)
        sizes["index"] = sum(path.stat().st_size for path in cache.rglob("*.sqlite")) / 2**20
    for name, size in sizes.items():
        print(f"{name:<16} {size:8.1f} MiB")
    for which, numbers in openings.items():
        print(f"\nthe {which} opening")
        print("\n".join(f"  {name:<28} {value:12,.2f}" for name, value in numbers.items()))
    write(arguments.out, {"sizes": sizes, "openings": openings})


if __name__ == "__main__":
    main()
