"""Show what the bundled model makes of 24 photos of the test split, good and bad, and of the photos in the package.

    python scripts/photo_pictures.py PHOTOS docs/images

PHOTOS is a folder of annotated photos (docs/photos.md). Photos and expressions were chosen before any model had seen
them. Only photos whose licence permits it are shown; the lines that NOTICE has of them are printed.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path

import refseg
from refseg.data.examples import EXAMPLES
from refseg.inputs.read import read_image
from refseg.segmenter import BaseSegmenter
from refseg.writers.overlay import overlay, panels

SHOWN = {
    "000000252639": "the bus",
    "000000165518": "person on the motorcycle",
    "000000269314": "the bananas",
    "000000041888": "bird on the right",
    "000000215245": "the zebras",
    "000000000544": "person on the left",
    "000000325991": "person in red",
    "000000203639": "the skirt",
    "000000370375": "baseball bat",
    "000000158956": "person",
    "000000297084": "bottle on the left",
    "000000085376": "green motorcycle",
    "000000441286": "the surfboard",
    "000000427077": "the person",
    "000000000542": "the airplane",
    "000000547503": "second person from the left",
    "000000003553": "skateboard",
    "000000412151": "bicycle",
    "000000403385": "the toilet",
    "000000531286": "red bus",
    "000000118367": "hot dog",
    "000000535306": "the dog",
    "000000407002": "the submarine",
    "000000067534": "the tie",
}
"""COCO's number of a photo, and what is asked of it."""
FREE = ("CC BY 2.0", "CC BY-SA 2.0", "no known copyright restrictions")
PAGE = 12
"""Photos in an image file."""
TOP = {
    "cats.jpg": ("the cats", "the cat on the left"),
    "horse.jpg": ("the horse", "the person"),
    "room.jpg": ("the dog", "the violin"),
}
"""What is asked of the photos in the package, for the README."""


def answers(model: BaseSegmenter, photos: Sequence[tuple[Path, str]], file: Path, columns: int, width: int) -> None:
    """Write an image of what a model answers."""
    shown = []
    for path, expression in photos:
        image = read_image(path)
        (found,) = model.segment(model.encode(path), [expression])
        verdict = "nothing fits" if found.empty else f"score {found.score:.2f}"
        shown.append((overlay(image, found.mask), f"{expression} - {verdict}"))
    panels(shown, columns=columns, width=width).save(file, quality=85)


def _tallness(row: dict[str, int]) -> float:
    return row["height"] / row["width"]


def main() -> None:
    """Write the images, and print the credits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with annotations.jsonl")
    parser.add_argument("out", type=Path, help="the folder of the images")
    parser.add_argument("--model", default="photos")
    arguments = parser.parse_args()
    model = refseg.load(arguments.model)
    answers(
        model,
        [(EXAMPLES / name, expression) for name, expressions in TOP.items() for expression in expressions],
        arguments.out / "demo.jpg",
        columns=3,
        width=300,
    )
    rows = map(json.loads, (arguments.photos / "annotations.jsonl").read_text().splitlines())
    by_number = {
        row["image"][-16:-4]: row for row in rows if row.get("photo_licence") in FREE and row["split"] == "test"
    }
    chosen = [(arguments.photos / by_number[number]["image"], expression) for number, expression in SHOWN.items()]
    chosen.sort(key=lambda one: _tallness(by_number[one[0].stem[-12:]]))  # rows of photos of similar shapes
    for start in range(0, len(chosen), PAGE):
        file = arguments.out / f"photos-{start // PAGE + 1}.jpg"
        answers(model, chosen[start : start + PAGE], file, columns=4, width=260)
    for number in SHOWN:
        row = by_number[number]
        flickr = re.search(r"/(\d+)_", row["flickr_url"])
        link = f"https://www.flickr.com/photo.gne?id={flickr[1]}" if flickr else row["flickr_url"]
        print(f"  {number}  {row['photo_licence']:31}  {link}")


if __name__ == "__main__":
    main()
