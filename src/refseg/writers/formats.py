"""The formats of labels by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from refseg.writers.coco import write_coco, write_coco_polygons, write_cvat
from refseg.writers.geojson import write_geojson
from refseg.writers.label_studio import write_label_studio, write_label_studio_polygons
from refseg.writers.labelled import LabelledImage
from refseg.writers.labelme import write_labelme
from refseg.writers.parquet import write_parquet
from refseg.writers.png import write_png
from refseg.writers.yolo import write_yolo

__all__ = ["FORMATS", "Writer"]

Writer: TypeAlias = Callable[[Sequence[LabelledImage], Path, Path], None]
"""Writes images into an empty folder (third), given the folder of their files (second)."""
FORMATS: MappingProxyType[str, Writer] = MappingProxyType(
    {
        "png": write_png,
        "coco": write_coco,
        "coco-polygons": write_coco_polygons,
        "cvat": write_cvat,
        "yolo": write_yolo,
        "labelme": write_labelme,
        "label-studio": write_label_studio,
        "label-studio-polygons": write_label_studio_polygons,
        "geojson": write_geojson,
        "parquet": write_parquet,
    }
)
