"""Ultralytics' text files of segments (YOLO-seg), whose class names are the expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from refseg.files import write_text
from refseg.masks import joined, rings
from refseg.writers.labelled import LabelledImage, expressions_of, files_beside

__all__ = ["write_yolo"]


def write_yolo(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `data.yaml` and `labels/IMAGE.txt`, a line for each region: class, then x and y in fractions of the image.

    A line is one polygon. That of a region of several parts, or with holes, has lines between them (`masks.joined`).

    Args:
        images: what is written.
        photos: the folder of the images, which readers look for in `images` beside `labels`.
        out: a folder.

    Raises:
        OutputError: the names of two images differ in their endings only.

    https://docs.ultralytics.com/datasets/segment/
    """
    names = expressions_of(images)
    number_of = {expression: number for number, expression in enumerate(names)}
    for image, file in zip(images, files_beside(images, ".txt"), strict=True):
        height, width = image.size
        lines = []
        for region in image.regions:
            corners = joined([border for component in rings(region.mask) for border in component])
            scaled = (value / (height if index % 2 else width) for index, value in enumerate(corners))
            lines.append(" ".join([str(number_of[region.expression]), *(f"{value:.8f}" for value in scaled)]) + "\n")
        path = out / "labels" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(lines))
    content = {"path": ".", "train": "images", "val": "images", "names": dict(enumerate(names))}
    write_text(out / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
