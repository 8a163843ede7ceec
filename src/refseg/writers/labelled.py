"""Images with the masks of expressions: the one type that every format of labels is written from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from jaxtyping import Bool
from numpy import ndarray

from refseg.errors import OutputError
from refseg.files import write_text
from refseg.masks import decode_rle, encode_rle, joined, polygon_mask, rings
from refseg.writers.result import file_name

__all__ = [
    "LabelledImage",
    "Region",
    "expressions_of",
    "files_beside",
    "separated_objects",
    "short_names",
    "write_json",
]

LONGEST_SHORT_NAME = 60


@dataclass(frozen=True, kw_only=True)
class Region:
    """The mask of an expression."""

    id: str
    """Unique among all images."""
    expression: str
    """Verbatim."""
    score: float
    rle: dict[str, Any]
    """COCO's run lengths, of the size of the image."""

    @property
    def mask(self) -> Bool[ndarray, "H W"]:
        """The pixels."""
        return decode_rle(self.rle)


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image and its regions, of which at least one exists."""

    file: str
    """Relative to the folder of the images, with forward slashes."""
    regions: tuple[Region, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, pixels."""
        height, width = self.regions[0].rle["size"]
        return height, width

    @property
    def stem(self) -> PurePosixPath:
        """The path for files about the image, without an ending: unique, also for `a.jpg` beside `a.png`."""
        path = PurePosixPath(self.file)
        return path.with_name(path.name.replace(".", "_"))


def expressions_of(images: Iterable[LabelledImage]) -> list[str]:
    """Return all expressions, each once, in the order of their first use."""
    return list(dict.fromkeys(region.expression for image in images for region in image.regions))


def short_names(expressions: Sequence[str]) -> dict[str, str]:
    """Return a short name of each expression, of letters, digits and hyphens: no two are the same."""
    names: dict[str, str] = {}
    taken = set[str]()
    for expression in expressions:
        stem = name = file_name(expression, LONGEST_SHORT_NAME)
        for number in count(2):
            if name.casefold() not in taken:
                break
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names[expression] = name
    return names


def files_beside(images: Iterable[LabelledImage], ending: str) -> list[PurePosixPath]:
    """Return the path of a file for each image, as its own with another ending, by which tools find it.

    Raises:
        OutputError: two images would have the same.
    """
    of_path: dict[PurePosixPath, str] = {}
    for image in images:
        path = PurePosixPath(image.file).with_suffix(ending)
        other = of_path.setdefault(path, image.file)
        if other != image.file:
            raise OutputError(f"{other} and {image.file} would both have {path}; rename one, or choose another format")
    return list(of_path)


def separated_objects(image: LabelledImage) -> LabelledImage:
    """Return an image whose regions are the connected components (4 neighbours) of its regions."""
    regions = []
    for region in image.regions:
        for number, borders in enumerate(rings(region.mask)):
            mask = polygon_mask([joined(borders)], size=image.size)
            id = f"{region.id}/{number}"
            regions.append(Region(id=id, expression=region.expression, score=region.score, rle=encode_rle(mask)))
    return LabelledImage(file=image.file, regions=tuple(regions))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, and the folders above it.

    Raises:
        OutputError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, ensure_ascii=False, allow_nan=False))
