"""Writes the image of docs/shapes.md: the bundled model's masks in the bundled scene.

python scripts/readme_image.py docs/images/demo.png
"""

import sys

from PIL import Image

import refseg
from refseg.data.shapes import EXAMPLE
from refseg.writers.overlay import overlay, panels

EXPRESSIONS = (
    "the top ring",
    "second ring from the top",
    "the leftmost ring",
    "the checkered heart",
    "the triangle to the left of the white triangle",
    "the blue star",
)


def main(target: str) -> None:
    """Segment the scene by each expression and write the panels."""
    image = Image.open(EXAMPLE).convert("RGB")
    predictor = refseg.load("shapes")
    found = predictor.segment(predictor.encode(image), EXPRESSIONS)
    shown = [
        (overlay(image, one.mask), f"{one.expression} - " + ("nothing fits" if one.empty else f"score {one.score:.2f}"))
        for one in found
    ]
    panels(shown, columns=3, width=300).save(target, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
