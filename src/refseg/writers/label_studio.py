"""Label Studio's JSON of tasks with predictions, as brush masks or as polygons, and its labelling configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from refseg.files import write_bytes
from refseg.masks import joined, rings
from refseg.writers.labelled import LabelledImage, Region, expressions_of, write_json

__all__ = [
    "KINDS",
    "Control",
    "brush_runs",
    "region_results",
    "write_label_studio",
    "write_label_studio_polygons",
]

KINDS = MappingProxyType({tag.lower(): tag for tag in ("BrushLabels", "Brush", "PolygonLabels", "Polygon")})
"""The kinds of results that masks can be, and the tags of a labelling configuration that make them."""

RUN_BITS, VALUE_BITS = 16, 8
CHANNELS = 4
"""A brush mask is an image of red, green, blue and alpha, all 0 or 255."""


@dataclass(frozen=True, kw_only=True)
class Control:
    """A tag of a labelling configuration with which a person marks pixels of an image."""

    kind: str
    """Of `KINDS`."""
    name: str = "label"
    image: str = "image"
    """The name of the tag of the image that it is for."""


def write_label_studio(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `tasks.json`, whose masks are exact brush strokes, and `config.xml`.

    Args:
        images: what is written; a region is one result of the prediction of its task, with its `score`.
        photos: the folder of the images, which the local storage of Label Studio is to serve.
        out: a folder.

    https://labelstud.io/guide/predictions
    """
    _write(images, out, Control(kind="brushlabels"))


def write_label_studio_polygons(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `tasks.json`, with a polygon for each connected component of a region, and `config.xml`.

    Lines lead to the borders of holes and back (`masks.joined`). Coordinates are percentages of the image's sides.
    """
    _write(images, out, Control(kind="polygonlabels"))


def brush_runs(mask: Bool[ndarray, "H W"]) -> list[int]:
    """Return a mask in the run lengths of Label Studio's brush: those of the library rle-pack, as a list of bytes.

    The bits are: 32 for the number of values, 5 for the width of a value less 1, four times 4 for the widths of lengths
    less 1, then the runs: 1 for a repeated value, 2 for which width, the length less 1, the value.

    https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack
    """
    values = mask.ravel()
    starts = np.concatenate([[0], np.flatnonzero(values[1:] != values[:-1]) + 1])
    lengths = np.diff(np.append(starts, values.size)) * CHANNELS
    longest = 2**RUN_BITS
    pieces = -(-lengths // longest)
    last = np.cumsum(pieces) - 1
    runs = np.full(int(pieces.sum()), longest, dtype=np.int64)
    runs[last] = lengths - (pieces - 1) * longest
    colours = np.repeat(values[starts], pieces)
    header = (values.size * CHANNELS, 32), (VALUE_BITS - 1, 5), *[(RUN_BITS - 1, 4)] * 4
    head = "".join(f"{number:0{bits}b}" for number, bits in header)
    # A run: 1 (repeated), 3 (the fourth width), its length less 1, its value.
    numbers = (((1 << 2 | 3) << RUN_BITS) + runs - 1 << VALUE_BITS) + np.where(colours, 255, 0)
    width = 3 + RUN_BITS + VALUE_BITS
    bits = numbers[:, None] >> np.arange(width - 1, -1, -1) & 1
    packed = np.packbits(np.concatenate([np.array([*map(int, head)]), bits.ravel()]).astype(np.uint8))
    return [int(byte) for byte in packed]


def region_results(region: Region, control: Control, label: str) -> list[dict[str, Any]]:
    """Return the results of a prediction that a region is: a brush stroke, or a polygon for each of its components.

    Args:
        region: the mask of an expression.
        control: of the project.
        label: of the control; one without labels does not use it.
    """
    height, width = region.rle["size"]
    values = _brush(region) if control.kind.startswith("brush") else _polygons(region)
    labelled = {control.kind: [label]} if control.kind.endswith("labels") else {}
    return [
        {
            "id": f"{region.id}/{number}",
            "type": control.kind,
            "from_name": control.name,
            "to_name": control.image,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "score": region.score,
            "value": value | labelled,
        }
        for number, value in enumerate(values)
    ]


def _brush(region: Region) -> list[dict[str, Any]]:
    return [{"format": "rle", "rle": brush_runs(region.mask)}]


def _polygons(region: Region) -> list[dict[str, Any]]:
    height, width = region.rle["size"]
    return [
        {
            "points": [[100 * x / width, 100 * y / height] for x, y in zip(corners[::2], corners[1::2], strict=True)],
            "closed": True,
        }
        for corners in map(joined, rings(region.mask))
    ]


def _write(images: Sequence[LabelledImage], out: Path, control: Control) -> None:
    tasks = []
    for image in images:
        results = [result for region in image.regions for result in region_results(region, control, region.expression)]
        score = sum(region.score for region in image.regions) / len(image.regions)
        address = f"/data/local-files/?d=images/{quote(image.file)}"
        tasks.append(
            {
                "data": {"file": image.file, "image": address},
                "predictions": [{"model_version": "refseg", "score": score, "result": results}],
            }
        )
    write_json(out / "tasks.json", tasks)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=control.image, value="$image")
    labels = ElementTree.SubElement(view, KINDS[control.kind], name=control.name, toName=control.image)
    for expression in expressions_of(images):
        ElementTree.SubElement(labels, "Label", value=expression)
    write_bytes(out / "config.xml", ElementTree.tostring(view, encoding="utf-8", xml_declaration=False))
