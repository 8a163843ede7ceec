"""Compare going from JPEG files to masks on disk with the authors' code: CRIS on CLIP's ResNet-50, three expressions.

Both have the same random weights and run in one process, a few images at a time in turn. Their way is that of their
test program: OpenCV reads, warps and writes, and each expression is a pass through the whole model. Ours reads in
threads, encodes several images at once, asks all expressions of an image together, and writes in threads while the next
ones are computed. The images are generated scenes of 640 x 480 with noise, so that the files are as large as photos. It
needs OpenCV: pip install opencv-python-headless. Ctrl+C ends it with the files that all sides have answered.

python benchmarks/files_to_masks.py --authors CLONE [--images 1000] [--out FILE]

CLONE is a clone of https://github.com/DerrickWang005/CRIS.pytorch.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from PIL import Image
from torch import nn

from against_authors import both_sides, parse
from authors import authors_pixels, authors_scores
from measure import report, side_by_side, write
from refseg.data.shapes import Shapes
from refseg.inputs.read import read_image
from refseg.masks import agreement
from refseg.predictor import Predictor

WORDS = ("the red ball", "the largest ring on the left", "second star from the left")
"""Of each image."""
TOGETHER = 4
"""Images of a turn, which ours encodes at once."""


def their_masks(theirs: nn.Module, like: Predictor, files: Sequence[Path], folder: Path) -> None:
    """Write the masks of some files as their test program does: one file and one expression after the other."""
    import cv2

    inputs, threshold = like.inputs, like.decision.threshold
    for file in files:
        pixels, matrix, size = authors_pixels(file, inputs)
        for number, tokens in enumerate(inputs.tokens(WORDS).tokens):
            with torch.inference_mode():
                logits = theirs(pixels[None], torch.from_numpy(tokens[None]))
            mask = authors_scores(logits, inputs.image_size, matrix, size) > threshold
            cv2.imwrite(str(mask_path(folder, file, number)), mask.astype(np.uint8) * 255)


def our_masks(predictor: Predictor, files: Sequence[Path], folder: Path, threads: ThreadPoolExecutor) -> None:
    """Write the masks of some files, which threads read, and write while others are computed."""
    images = list(threads.map(read_image, files))
    written = [
        threads.submit(prediction.save, mask_path(folder, file, number))
        for file, encoding in zip(files, predictor.encode(images), strict=True)
        for number, prediction in enumerate(predictor.segment(encoding, WORDS))
    ]
    for one in written:
        one.result()


def mask_path(folder: Path, file: Path, number: int) -> Path:
    """Return the name of the mask of an expression."""
    return folder / f"{file.stem}-{number}.png"


def write_scenes(folder: Path, count: int) -> list[Path]:
    """Write generated scenes with noise as JPEG files."""
    rng, data = np.random.default_rng(0), Shapes("test", scale=2.0)
    files = []
    for number in range(count):
        scene = np.asarray(data.samples_of(number % data.num_images)[0].load_image()).astype(np.float32)
        noisy = (scene + rng.normal(0, 12, scene.shape)).clip(0, 255).astype(np.uint8)
        files.append(folder / f"{number}.jpg")
        Image.fromarray(noisy).save(files[-1], quality=92)
    return files


def read_mask(path: Path) -> ndarray:
    """Return a mask that either side wrote."""
    with Image.open(path) as image:
        return np.asarray(image) > 127


def mean_iou(folders: Sequence[Path], files: Sequence[Path]) -> float:
    """Return the mean IoU of the masks in two folders."""
    places = [(file, number) for file in files for number in range(len(WORDS))]

    def masks(folder: Path) -> Iterator[ndarray]:
        return (read_mask(mask_path(folder, *place)) for place in places)

    return agreement(*map(masks, folders))


def compare(theirs: nn.Module, ours: dict[str, Predictor], images: int, folder: Path) -> dict[str, object]:
    """Time all sides, some files in each turn; the files of the first turn are not counted."""
    turns = -(-images // TOGETHER)
    files = write_scenes(folder, (turns + 1) * TOGETHER)
    names = ["theirs", *ours]
    folders = {name: folder / name for name in names}
    for one in folders.values():
        one.mkdir()

    with ThreadPoolExecutor(2) as threads:

        def write_masks(name: str, some: Sequence[Path]) -> None:
            if name == "theirs":
                their_masks(theirs, ours["ours, exact"], some, folders[name])
            else:
                our_masks(ours[name], some, folders[name], threads)

        def in_turns(name: str) -> Callable[[], None]:
            parts = iter([files[start : start + TOGETHER] for start in range(0, len(files), TOGETHER)])
            return lambda: write_masks(name, next(parts))

        seconds = side_by_side({name: in_turns(name) for name in names}, turns)
    turns = len(seconds["theirs"])
    files = files[: (turns + 1) * TOGETHER]
    title = f"{TOGETHER} JPEG files of 640 x 480 to {len(WORDS)} masks each on disk, of {turns * TOGETHER} files"
    result = report(title, seconds, ("theirs", "ours, exact"))
    result["images"] = turns * TOGETHER
    medians = result["medians"]
    assert isinstance(medians, dict)
    for name in ours:
        ratio, same = medians["theirs"] / medians[name], mean_iou([folders["theirs"], folders[name]], files)
        print(f"  theirs / {name}: {ratio:.2f}; mean IoU of its masks with theirs: {same:.4f}")
        result[name] = {"ratio": round(ratio, 4), "iou_with_theirs": round(same, 4)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="JPEG files (default: %(default)s)")
    if find_spec("cv2") is None:
        parser.error("OpenCV is missing: pip install opencv-python-headless")
    arguments = parse(parser)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as exports:
        theirs, ours = both_sides(arguments.authors, arguments.side, Path(exports))
        result = compare(theirs, ours, arguments.images, Path(folder))
    write(arguments.out, {"settings": vars(arguments) | {"authors": "", "out": ""}, "files": result})


if __name__ == "__main__":
    main()
