"""Instance annotations that annotation tools write, as rows of a folder of photos.

- COCO: one JSON file in the folder, or in its `annotations`, with `images`, `annotations` and `categories`. The
  attribute `expression` of an annotation, which CVAT keeps, replaces the name of its category;
- YOLO: `data.yaml` and text files of segments (see `formats.yolo`);
- Label Studio: a JSON file of tasks (see `formats.label_studio`);
- LabelMe: a JSON file for each photo, with `imagePath`, `imageHeight`, `imageWidth` and `shapes`. Shapes of the same
  label and `group_id` are one object.

The photos are looked up in their folder, and in its `images` and other usual folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from refseg.data.formats.label_studio import holds_tasks, task_rows
from refseg.data.formats.pieces import read_lists
from refseg.data.formats.reasonseg import shape_polygon
from refseg.data.formats.record import Problem, Report, read_json, take, take_size
from refseg.data.formats.regions import Part, check_part, coco_parts
from refseg.data.formats.row import find_image, painted_instance
from refseg.data.formats.yolo import CLASSES, yolo_rows
from refseg.errors import DataError

__all__ = ["instance_rows"]


def instance_rows(
    folder: Path, report: Report, *, images: Path | None = None, complete: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each annotated photo with its place, as a row of a folder of photos (see `formats.photos`).

    Args:
        folder: as above.
        report: called for each photo, and for each object, that cannot be used.
        images: the folder of the photos, which those in rows are relative to; None: that of the annotations.
        complete: whether every object of each name that occurs in the data is annotated in every photo, so that names
            that a photo lacks are known to be absent.

    Raises:
        DataError: the folder holds no such annotations, or several files of COCO's kind.
    """
    photos = folder if images is None else images
    rows = list(_rows(folder, photos, report))
    if not rows:
        raise DataError(f"{folder}: no photo with masks is annotated there, in a format that is read")
    names = sorted({one["category"] for _, row in rows for one in row["instances"]})
    for place, row in rows:
        yield place, row | {"labelled": names if complete else []}


def _rows(folder: Path, photos: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    if (folder / CLASSES).is_file():
        return yolo_rows(folder, photos, report)
    files = sorted(file for file in folder.rglob("*.json") if not file.name.startswith("."))
    coco = [file for file in files if _is_coco(file)]
    if len(coco) > 1:
        raise DataError(
            f"{folder}: holds several files of COCO's annotations ({coco[0].name}, {coco[1].name}); keep one"
        )
    if coco:
        return _coco(photos, coco[0], report)
    if any(map(holds_tasks, files)):
        return task_rows(files, photos, report)
    return _labelme(photos, files, report)


def _is_coco(file: Path) -> bool:
    """Return whether a file has lists of images and of annotations; whether they are complete is seen later."""
    with file.open("rb") as opened:
        start = opened.read(1 << 16)
    if b'"shapes"' in start or b'"imagePath"' in start:
        return False
    content = read_json(file)
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def _coco(folder: Path, file: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    images: dict[int, Any] = {}
    names: dict[int, str] = {}
    annotations: dict[int, list[tuple[str, Any]]] = {}
    for field, number, one in read_lists(file, ("images", "annotations", "categories")):
        try:
            if field == "images":
                images[take(one, "id", int)] = one
            elif field == "categories":
                names[take(one, "id", int)] = take(one, "name", str)
            else:
                annotations.setdefault(take(one, "image_id", int), []).append((f"{field} {number}", one))
        except DataError as error:
            report(Problem(file=str(file), row=f"{field} {number}", kind="row", message=str(error)))
    for id, image in images.items():
        place = f"image {id}"
        try:
            size = take_size(image)
            row = {"image": find_image(folder, image.get("file_name")), "height": size[0], "width": size[1]}
        except DataError as error:
            report(Problem(file=str(file), row=place, kind="row", message=str(error)))
            continue
        instances = []
        for where, one in annotations.get(id, []):
            try:
                name = names.get(take(one, "category_id", int))
                if name is None:
                    raise DataError(f"is of category {one['category_id']}, which the file does not have")
                attributes = one.get("attributes")
                if isinstance(attributes, dict):
                    name = take(attributes, "expression", str, name)
                parts = coco_parts(take(one, "segmentation", (list, dict)), size)
                instances.append(painted_instance(name, "crowd" if one.get("iscrowd") else "instance", parts, size))
            except DataError as error:  # an object without a mask makes its name unclear in this photo
                report(Problem(file=str(file), row=where, kind="row", message=f"{place} is left out: {error}"))
                break
        else:
            yield place, row | {"instances": instances}


def _labelme(folder: Path, files: Iterable[Path], report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
        try:
            content = read_json(file)
            if not isinstance(content, dict) or "shapes" not in content:
                continue
            row = _labelme_row(folder, file, content)
        except DataError as error:
            report(Problem(file=str(file), row="", kind="row", message=str(error)))
        else:
            yield file.name, row


def _labelme_row(folder: Path, file: Path, content: Any) -> dict[str, Any]:
    size = take_size({"height": content.get("imageHeight"), "width": content.get("imageWidth")})
    image = find_image(folder, take(content, "imagePath", str), beside=file.parent)
    objects: dict[tuple[str, int], list[Part]] = {}
    for number, shape in enumerate(take(content, "shapes", list)):
        try:
            group = take(shape, "group_id", (int, type(None)), None)
            if take(shape, "shape_type", (str, type(None)), None) == "rectangle":
                raise DataError("is a box, which is no mask; draw a polygon")
            # Of shapes without a group, each is an object of its own.
            key = take(shape, "label", str), -1 - number if group is None else group
            part = check_part({"polygons": [shape_polygon(shape)]}, size)
        except DataError as error:
            raise DataError(f"shape {number + 1}: {error}") from None
        objects.setdefault(key, []).append(part)
    return {
        "image": image,
        "height": size[0],
        "width": size[1],
        "instances": [painted_instance(label, "instance", parts, size) for (label, _), parts in objects.items()],
    }
