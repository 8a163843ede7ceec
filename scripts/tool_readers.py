"""Read labels by the readers of the tools that they are for. Runs in the environment of each tool, without refseg.

    python scripts/tool_readers.py TOOL FORMAT FOLDER MASKS.npz

FOLDER is that of a format which `refseg label --to FORMAT` wrote; the photos are in `images` beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from PIL import Image

Masks = Iterator[tuple[str, str, Any]]
"""The name of a photo, an expression, and a mask (H, W) of one of its objects."""


def _pillow_png(folder: Path) -> Masks:
    for line in (folder / "data.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        with Image.open(folder / "masks" / row["mask"]) as mask:
            yield row["image"], row["text"], np.asarray(mask)


def _pycocotools_coco(folder: Path) -> Masks:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):  # it prints how long it took
        coco = COCO(folder / "annotations.json")
    for one in coco.loadAnns(coco.getAnnIds()):
        category = coco.cats[one["category_id"]]["name"]
        expression = one.get("attributes", {}).get("expression", category)
        yield coco.imgs[one["image_id"]]["file_name"], expression, coco.annToMask(one)


def _supervision_coco(folder: Path) -> Masks:
    from supervision import DetectionDataset

    photos, file = folder.parent / "images", folder / "annotations.json"
    yield from _detections(DetectionDataset.from_coco(str(photos), str(file), force_masks=True))


def _supervision_yolo(folder: Path) -> Masks:
    from supervision import DetectionDataset

    paths = map(str, (folder / "images", folder / "labels", folder / "data.yaml"))
    yield from _detections(DetectionDataset.from_yolo(*paths, force_masks=True))


def _detections(data: Any) -> Masks:
    for path, _, found in data:
        for number, mask in zip(found.class_id, found.mask, strict=True):
            yield path, data.classes[number], mask


def _ultralytics_yolo(folder: Path) -> Masks:
    from ultralytics.data.dataset import YOLODataset
    from ultralytics.data.utils import check_det_dataset, polygon2mask

    data = check_det_dataset(str(folder / "data.yaml"))
    for label in YOLODataset(img_path=str(folder / "images"), data=data, task="segment", augment=False).labels:
        height, width = label["shape"]
        for number, segment in zip(label["cls"][:, 0], label["segments"], strict=True):
            mask = polygon2mask((height, width), [(segment * (width, height)).reshape(-1)])
            yield label["im_file"], data["names"][int(number)], mask


def _datumaro_coco(folder: Path) -> Masks:
    yield from _datumaro(folder / "annotations.json", Path("annotations", "instances_train.json"), "coco_instances")


def _datumaro(file: Path, place: Path, kind: str) -> Masks:
    from datumaro import AnnotationType, Dataset

    with tempfile.TemporaryDirectory() as laid_out:  # it looks for files at fixed places
        target = Path(laid_out, place)
        target.parent.mkdir(parents=True)
        target.symlink_to(file)
        Path(laid_out, "images").mkdir()
        Path(laid_out, "images", "train").symlink_to(file.parents[1] / "images", target_is_directory=True)
        data = Dataset.import_from(laid_out, kind)
        data.transform("polygons_to_masks")
        names = data.categories()[AnnotationType.label]
        for item in data:
            for one in item.annotations:
                if one.type == AnnotationType.mask:  # others are the boxes beside them
                    yield f"{item.id}.png", names[one.label].name, one.image


def _fiftyone_coco(folder: Path) -> Masks:
    """By its reader of COCO alone, since its data sets need a server of MongoDB."""
    from fiftyone.utils.coco import load_coco_detection_annotations

    _, classes, supercategories, images, annotations = load_coco_detection_annotations(str(folder / "annotations.json"))
    for id, image in images.items():
        size = image["width"], image["height"]
        for one in annotations.get(id, ()):
            found = one.to_detection(size, classes, supercategories, load_segmentation=True)
            yield image["file_name"], found.label, found.to_segmentation(frame_size=size).mask


def _labelme_json(folder: Path) -> Masks:
    from labelme._label_file import LabelFile
    from labelme.utils import shape_to_mask

    for file in sorted(folder.rglob("*.json")):
        read = LabelFile(str(file))
        with Image.open(io.BytesIO(read.image_data)) as image:
            width, height = image.size
        for shape in read.shapes:
            yield read.image_path, shape["label"], shape_to_mask((height, width), shape["points"], shape["shape_type"])


def _label_studio_brush(folder: Path) -> Masks:
    from label_studio_sdk.converter.brush import decode_rle

    for task in _valid_tasks(folder):
        for one in task["predictions"][0]["result"]:
            decoded = decode_rle(one["value"]["rle"]).reshape(one["original_height"], one["original_width"], 4)
            yield task["data"]["file"], one["value"]["brushlabels"][0], decoded[..., 3]


def _label_studio_polygons(folder: Path) -> Masks:
    """By its converter to COCO, which takes annotations: the predictions, as if a person had accepted them."""
    from label_studio_sdk.converter import Converter
    from pycocotools.coco import COCO

    with tempfile.TemporaryDirectory() as made:
        tasks = [
            {"id": number, "data": task["data"], "annotations": [{"id": number, **task["predictions"][0]}]}
            for number, task in enumerate(_valid_tasks(folder), 1)
        ]
        accepted = Path(made, "tasks.json")
        accepted.write_text(json.dumps(tasks), encoding="utf-8")
        converter = Converter(str(folder / "config.xml"), made, download_resources=False)
        converter.convert_to_coco(str(accepted), made, output_image_dir=made, is_dir=False)
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(Path(made, "result.json"))
        for one in coco.loadAnns(coco.getAnnIds()):
            address = coco.imgs[one["image_id"]]["file_name"]
            yield unquote(address), coco.cats[one["category_id"]]["name"], coco.annToMask(one)


def _valid_tasks(folder: Path) -> list[dict[str, Any]]:
    """Return the tasks, which Label Studio's own checks of the labelling configuration accept."""
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / "config.xml").read_text(encoding="utf-8"))
    tasks: list[dict[str, Any]] = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    for task in tasks:
        assert interface.validate_task({"data": task["data"]}), task["data"]
        faults = interface.validate_prediction(task["predictions"][0], return_errors=True)
        assert not faults, faults
    return tasks


def _geopandas_geojson(folder: Path) -> Masks:
    import geopandas
    import shapely

    for file in sorted(folder.rglob("*.geojson")):
        name = json.loads(file.read_text(encoding="utf-8"))["image"]
        with Image.open(folder.parent / "images" / name) as image:
            width, height = image.size
        y, x = np.mgrid[:height, :width] + 0.5
        for row in geopandas.read_file(file).itertuples():
            assert row.geometry.is_valid, shapely.is_valid_reason(row.geometry)
            yield name, row.expression, shapely.contains_xy(row.geometry, x, y)


def _datasets_parquet(folder: Path) -> Masks:
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        files = [str(file) for file in sorted(folder.rglob("*.parquet"))]
        for row in datasets.Dataset.from_parquet(files, cache_dir=cache):
            for expression, mask in zip(row["expression"], row["mask"], strict=True):
                yield row["file"], expression, np.asarray(mask)


READERS: dict[str, dict[str, Callable[[Path], Masks]]] = {
    "pillow": {"png": _pillow_png},
    "pycocotools": {"coco": _pycocotools_coco, "coco-polygons": _pycocotools_coco, "cvat": _pycocotools_coco},
    "supervision": {"coco-polygons": _supervision_coco, "yolo": _supervision_yolo},
    "geopandas": {"geojson": _geopandas_geojson},
    "datasets": {"parquet": _datasets_parquet},
    "labelme": {"labelme": _labelme_json},
    "label-studio-sdk": {"label-studio": _label_studio_brush, "label-studio-polygons": _label_studio_polygons},
    "datumaro": {"coco": _datumaro_coco, "coco-polygons": _datumaro_coco},
    "ultralytics": {"yolo": _ultralytics_yolo},
    "fiftyone": {"coco": _fiftyone_coco},
}
"""By the name of a package, and of a format of `refseg label`."""


def read(tool: str, name: str, folder: Path) -> dict[tuple[str, str], Any]:
    """Return the mask (H, W), bool, of each photo and expression: the union of its objects."""
    found: dict[tuple[str, str], Any] = {}
    for file, expression, part in READERS[tool][name](folder):
        key, mask = (Path(file).name, expression), np.asarray(part) > 0
        found[key] = found[key] | mask if key in found else mask
    return found


def main() -> None:
    """Carry out the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool", choices=READERS)
    parser.add_argument("format")
    parser.add_argument("folder", type=Path)
    parser.add_argument("masks", type=Path)
    arguments = parser.parse_args()
    found = read(arguments.tool, arguments.format, arguments.folder.absolute())
    arrays = {json.dumps(key): mask for key, mask in found.items()}
    np.savez(arguments.masks, **{str(number): mask for number, mask in enumerate(arrays.values())})
    print(json.dumps({"version": metadata.version(arguments.tool), "keys": [*found]}))


if __name__ == "__main__":
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
    main()
