"""COCO's JSON of instances, whose categories are the expressions; and CVAT's use of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from refseg.masks import bounding_box, joined, rings
from refseg.writers.labelled import LabelledImage, Region, expressions_of, short_names, write_json

__all__ = ["write_coco", "write_coco_polygons", "write_cvat"]


def write_coco(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `annotations.json` with masks as compressed run lengths.

    Args:
        images: what is written; a region is one annotation, with its `score`.
        photos: the folder of the images, which `file_name` is relative to.
        out: a folder.

    https://cocodataset.org/#format-data
    """
    names = {expression: expression for expression in expressions_of(images)}
    write_json(out / "annotations.json", _instances(images, names, _runs))


def write_coco_polygons(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `annotations.json` as `write_coco`, with masks as polygons along the edges of pixels.

    Each connected component is one polygon. COCO has none with holes, so that lines lead to the borders of holes and
    back (`masks.joined`); COCO's tools rasterise them exactly.
    """
    names = {expression: expression for expression in expressions_of(images)}
    write_json(out / "annotations.json", _instances(images, names, _polygons))


def write_cvat(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `annotations.json`, to be imported as COCO 1.0, and `labels.json`, for the raw form of CVAT's labels.

    Names of labels are short; the attribute `expression` of each annotation has the words.

    https://docs.cvat.ai/docs/dataset_management/formats/format-coco/
    """
    names = short_names(expressions_of(images))
    content = _instances(images, names, _runs)
    for annotation, region in zip(
        content["annotations"], (region for image in images for region in image.regions), strict=True
    ):
        annotation["attributes"] = {"expression": region.expression}
    write_json(out / "annotations.json", content)
    labels = [
        {
            "name": name,
            "attributes": [
                {
                    "name": "expression",
                    "input_type": "text",
                    "mutable": False,
                    "values": [expression],
                    "default_value": expression,
                }
            ],
        }
        for expression, name in names.items()
    ]
    write_json(out / "labels.json", labels)


def _runs(region: Region) -> Any:
    return region.rle


def _polygons(region: Region) -> Any:
    return [joined(borders) for borders in rings(region.mask)]


def _instances(
    images: Sequence[LabelledImage], names: Mapping[str, str], segmentation: Callable[[Region], Any]
) -> dict[str, Any]:
    category = {expression: number for number, expression in enumerate(names, 1)}
    annotations: list[dict[str, Any]] = []
    for image_id, image in enumerate(images, 1):
        for region in image.regions:
            mask = region.mask
            x0, y0, x1, y1 = bounding_box(mask) or (0, 0, 0, 0)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category[region.expression],
                    "segmentation": segmentation(region),
                    "area": int(mask.sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "iscrowd": 0,
                    "score": region.score,
                }
            )
    return {
        "images": [
            {"id": number, "file_name": image.file, "height": image.size[0], "width": image.size[1]}
            for number, image in enumerate(images, 1)
        ],
        "categories": [
            {"id": category[expression], "name": name, "supercategory": ""} for expression, name in names.items()
        ],
        "annotations": annotations,
    }
