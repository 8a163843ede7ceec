"""Compare the loading of batches with that of the authors' code, which does the same with OpenCV.

Images are JPEGs of COCO's usual size, 640 x 480, with masks and expressions, in a folder with a table. The authors'
steps, re-implemented here: decode, `warpAffine` cubic for the image and linear for the mask, tokenise one expression.
Ours with one expression does the same; with eight, the image is decoded once for them.

python benchmarks/loading_speed.py [--out FILE]        needs: pip install opencv-python-headless
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from authors import authors_pixels
from measure import machine, report, side_by_side, write
from refseg.data.batches import TrainOrder, TrainTransform, batches
from refseg.data.catalogue import open_data
from refseg.data.shapes import Shapes
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.preprocessing import Inputs

SIDE, LENGTH, IMAGES = 416, 17, 96
INPUTS = Inputs(image_size=SIDE, word_length=LENGTH)


def write_data(folder: Path) -> None:
    """Write generated scenes as JPEGs, with masks, and with noise so that the files are as large as photos."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    data = Shapes("train", scale=2.0)
    with (folder / "data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "text"])
        for scene in range(IMAGES):
            samples = data.samples_of(scene)
            pixels = np.asarray(samples[0].load_image()).astype(np.float32)
            noisy = (pixels + rng.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / "images" / f"{scene}.jpg", quality=92)
            for member, sample in enumerate(samples[:3]):
                assert sample.load_mask is not None
                Image.fromarray(sample.load_mask().astype(np.uint8) * 255).save(
                    folder / "masks" / f"{scene}-{member}.png"
                )
                for expression in sample.expressions:
                    rows.writerow([f"{scene}.jpg", f"{scene}-{member}.png", expression.text])


def load_as_the_authors(folder: Path) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Load every image once, with one mask and one expression."""
    import cv2

    tokenizer = Tokenizer(LENGTH)
    with (folder / "data.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    loaded = []
    for row in rows.values():
        pixels, matrix, _ = authors_pixels(folder / "images" / row["image"], INPUTS)
        mask = cv2.imdecode(np.fromfile(folder / "masks" / row["mask"], np.uint8), cv2.IMREAD_GRAYSCALE)
        target = cv2.warpAffine(mask, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderValue=0) / 255.0
        loaded.append((pixels, torch.from_numpy(tokenizer([row["text"]]).tokens), torch.from_numpy(target).float()))
    return loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="write all timings there as JSON")
    arguments = parser.parse_args()
    try:
        import cv2
    except ImportError:
        parser.exit(2, "the comparison needs OpenCV: pip install opencv-python-headless\n")
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print("\n".join(f"{key}: {value}" for key, value in machine().items()))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        transform = TrainTransform(open_data(f"{folder}:all"), INPUTS)

        def ours(expressions: int, workers: int = 0) -> int:
            order = TrainOrder(num_images=IMAGES, batch_size=8, expressions=expressions, sizes=((0, SIDE),), seed=0)
            return sum(len(batch.tokens) for batch in batches(transform, order, range(IMAGES // 8), workers))

        timed = report(
            f"{IMAGES} JPEGs of 640 x 480 into {SIDE} x {SIDE}, one core, but two in the last line",
            side_by_side(
                {
                    "the authors' code": lambda: load_as_the_authors(folder),
                    "ours, one expression": lambda: ours(1),
                    "ours, up to eight expressions": lambda: ours(8),
                    "ours, eight, two workers": lambda: ours(8, workers=2),
                },
                arguments.rounds,
            ),
            ("the authors' code", "ours, one expression"),
        )
        expressions = ours(8)
    medians = timed["medians"]
    assert isinstance(medians, dict)
    for name, seconds in medians.items():
        answered = expressions if "eight" in name else IMAGES
        print(f"  {name}: {IMAGES / seconds:.0f} images and {answered / seconds:.0f} expressions a second")
    write(arguments.out, {"load": timed, "images": IMAGES, "expressions_of_eight": expressions})


if __name__ == "__main__":
    main()
