"""Label Studio's JSON of tasks, as rows of a folder of photos: brush masks and polygons.

A task has `data`, in which one text is the address of the image, and `annotations`, of which the last that was not
cancelled counts; without any, the last of `predictions`. Its `result` is a list of regions, each with `type`,
`original_width`, `original_height` and `value`: `rle` for brush masks (see `masks_of_brushes`), `points` in percent for
polygons, and a list of labels. Regions of one label are one object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from refseg.data.formats.record import Problem, Report, numbered, read_json, shown, take, take_size
from refseg.data.formats.regions import Part, check_part, is_number
from refseg.data.formats.row import find_image, painted_instance
from refseg.errors import DataError
from refseg.masks import encode_rle

__all__ = ["brush_mask", "holds_tasks", "task_rows"]

CHANNELS = 4
"""A brush mask is an image of red, green, blue and alpha; its mask is where alpha is not 0."""


def holds_tasks(file: Path) -> bool:
    """Return whether a JSON file is a list of tasks.

    Raises:
        DataError: it cannot be read.
    """
    with file.open("rb") as opened:
        if not opened.read(64).lstrip().startswith(b"["):
            return False
    content = read_json(file)
    return all(isinstance(one, dict) and "data" in one for one in content)


def task_rows(files: Iterable[Path], photos: Path, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each annotated photo with its place.

    Args:
        files: JSON files, of which those that are not lists of tasks are left out.
        photos: the folder of the photos, which those in rows are relative to.
        report: called for each task that cannot be used.

    Raises:
        DataError: a file cannot be read.
    """
    for file in files:
        if not holds_tasks(file):
            continue
        for place, task in numbered(read_json(file), "task"):
            try:
                row = _row(task, photos)
            except DataError as error:
                report(Problem(file=str(file), row=place, kind="row", message=str(error)))
            else:
                yield place, row


def _row(task: Any, photos: Path) -> dict[str, Any]:
    results = _results(task)
    image = _image(take(task, "data", dict), photos)
    objects: dict[str, list[Part]] = {}
    size = None
    for number, result in enumerate(results, 1):
        try:
            sides = {"height": result.get("original_height"), "width": result.get("original_width")}
            if size not in (None, take_size(sides)):
                raise DataError("is of another size than the one before")
            size = take_size(sides)
            label, part = _region(take(result, "type", str), take(result, "value", dict), size)
        except DataError as error:
            raise DataError(f"result {number}: {error}") from None
        objects.setdefault(label, []).append(part)
    if size is None:
        raise DataError("has no brush mask and no polygon")
    return {
        "image": image,
        "height": size[0],
        "width": size[1],
        "instances": [painted_instance(label, "instance", parts, size) for label, parts in objects.items()],
    }


def _results(task: Any) -> list[dict[str, Any]]:
    """Return the regions of the annotation that counts; other results, such as choices, are left out."""
    made = [one for one in take(task, "annotations", list, []) if not take(one, "was_cancelled", bool, False)]
    chosen = made or take(task, "predictions", list, [])
    found = take(chosen[-1], "result", list) if chosen else []
    kinds = ("brushlabels", "polygonlabels")
    return [one for one in found if isinstance(one, dict) and one.get("type") in kinds]


def _image(data: dict[str, Any], photos: Path) -> str:
    for value in data.values():
        if isinstance(value, str):
            address = urlsplit(value)
            local = parse_qs(address.query).get("d", ())
            for path in (*local, unquote(address.path)):
                try:
                    return find_image(photos, path)
                except DataError:
                    continue
    raise DataError(f"its data name no image in {photos}: {', '.join(map(shown, data.values())) or 'they are empty'}")


def _region(kind: str, value: dict[str, Any], size: tuple[int, int]) -> tuple[str, Part]:
    labels = take(value, kind, list)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise DataError("must have one label")
    if kind == "brushlabels":
        return labels[0], {"rle": encode_rle(brush_mask(take(value, "rle", list), size))}
    height, width = size
    points = take(value, "points", list)
    if not all(isinstance(point, list) and len(point) == 2 and all(map(is_number, point)) for point in points):
        raise DataError("field 'points' must be a list of points [x, y]")
    polygon = [number for x, y in points for number in (x * width / 100, y * height / 100)]
    return labels[0], check_part({"polygons": [polygon]}, size)


def brush_mask(runs: list[Any], size: tuple[int, int]) -> Bool[ndarray, "H W"]:
    """Return the mask of Label Studio's brush (see `writers.label_studio.brush_runs`).

    Args:
        runs: a list of bytes, which may come from an untrusted file.
        size: height and width, pixels.

    Raises:
        DataError: the runs are malformed, or do not add up to the size.
    """
    if not all(type(byte) is int and 0 <= byte < 256 for byte in runs):
        raise DataError("the run lengths of a brush must be bytes")
    bits = _Bits(np.array(runs, dtype=np.uint8))
    height, width = size
    count, value_bits = bits.number(32), bits.number(5) + 1
    if count != height * width * CHANNELS or value_bits != 8:
        raise DataError(f"the run lengths of a brush are not those of {width} x {height} pixels")
    length_bits = [bits.number(4) + 1 for _ in range(4)]
    values = np.empty(count, dtype=np.uint8)
    start = 0
    while start < count:
        repeated = bits.number(1)
        end = start + bits.number(length_bits[bits.number(2)]) + 1
        if end > count:
            raise DataError("the run lengths of a brush are longer than its image")
        values[start:end] = bits.number(8) if repeated else bits.octets(end - start)
        start = end
    return np.asarray(values.reshape(height, width, CHANNELS)[..., -1] > 0)


class _Bits:
    """Reads numbers of some bits each from bytes."""

    def __init__(self, octets: UInt8[ndarray, "N"]) -> None:
        self._bits, self._place = np.unpackbits(octets), 0
        self._text = "".join(map(str, self._bits.tolist()))

    def number(self, width: int) -> int:
        start = self._advance(width)
        return int(self._text[start : self._place], 2)

    def octets(self, count: int) -> UInt8[ndarray, "M"]:
        start = self._advance(8 * count)
        return np.packbits(self._bits[start : self._place])

    def _advance(self, width: int) -> int:
        start, self._place = self._place, self._place + width
        if self._place > len(self._bits):
            raise DataError("the run lengths of a brush are cut off")
        return start
