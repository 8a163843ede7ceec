"""LabelMe's JSON, a file for each image, whose labels are the expressions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refseg.masks import joined, rings
from refseg.writers.labelled import LabelledImage, files_beside, write_json

__all__ = ["write_labelme"]

VERSION = "5.5.0"
"""Of LabelMe, whose fields these are."""


def write_labelme(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `IMAGE.json` for each image: a polygon for each connected component of a region.

    The polygons of a region share a `group_id`. Lines lead to the borders of holes and back (`masks.joined`).

    Args:
        images: what is written.
        photos: the folder of the images, which lies in `images` beside `out`.
        out: a folder.

    Raises:
        OutputError: the names of two images differ in their endings only.

    https://github.com/wkentaro/labelme
    """
    for image, file in zip(images, files_beside(images, ".json"), strict=True):
        shapes: list[dict[str, Any]] = []
        for number, region in enumerate(image.regions):
            for borders in rings(region.mask):
                corners = joined(borders)
                shapes.append(
                    {
                        "label": region.expression,
                        "points": [[float(x), float(y)] for x, y in zip(corners[::2], corners[1::2], strict=True)],
                        "group_id": number,
                        "description": f"score {region.score:.3f}",
                        "shape_type": "polygon",
                        "flags": {},
                    }
                )
        height, width = image.size
        write_json(
            out / file,
            {
                "version": VERSION,
                "flags": {},
                "shapes": shapes,
                "imagePath": f"{'../' * len(file.parts)}images/{image.file}",
                "imageData": None,
                "imageHeight": height,
                "imageWidth": width,
            },
        )
