"""Stored masks of any model: written by an evaluation, scored by every protocol.

A file of predictions has one JSON object a line:

- `sent_id`, the id of the expression in the data set; or `image` and `text`. The image is its path within the data set
  (its id); its file name, or that without the ending, will do if no other image of the data set has it;
- `rle`, the mask as COCO's run lengths, of the image's own size; or `mask`, the name of an image file, relative to the
  file of predictions, whose pixels that are not black are the mask (see `read_mask`); neither, or null, means that
  nothing fits. A mask may also be of the size at which the protocol compares masks, if it has one;
- `score`, 0..1, and `empty`, if the model gives them;
- `model` and `fingerprint`, the name and the weights of the model, which `refseg evaluate --save` writes.

A row may be repeated, but not contradicted. A folder of PNGs named `<sent_id>.png` works too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm import tqdm

from refseg.data.dataset import DataSet
from refseg.data.formats.record import safe_name, take
from refseg.errors import DataError, ImageError, counted
from refseg.evaluation import strict_json
from refseg.evaluation.evaluate import Objects, Target, make_outcome, target_of
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.protocols import Protocol
from refseg.inputs.read import read_mask
from refseg.masks import check_mask_size, check_rle, decode_rle
from refseg.values import Expression, Prediction, Sample

__all__ = ["Matched", "Predictions", "Row", "line_of", "score"]

IMAGE_ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
COCO_NAME = re.compile(r"(?:COCO_(?:train|val|test)2014_)?(\d{12})")
"""The file names of COCO's images, without their ending; data sets on COCO call the images by the number alone."""


def line_of(sample: Sample, expression: Expression, prediction: Prediction, *, model: str, fingerprint: str) -> str:
    """Return the line of a file of predictions that stores a prediction of a model."""
    return json.dumps(
        {
            "sent_id": expression.id,
            "image": sample.image_id,
            "text": prediction.expression,
            "rle": prediction.rle,
            "score": round(prediction.score, 6),
            "empty": prediction.empty,
            "model": model,
            "fingerprint": fingerprint,
        },
        ensure_ascii=False,
        allow_nan=False,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One stored prediction, checked; its mask is not decoded yet."""

    place: str
    """For messages: `line 17`, or the name of a mask file."""
    rle: dict[str, Any] | None = None
    mask: str | None = None
    """The name of a mask file."""
    score: float | None = None
    empty: bool = False

    def repeats(self, other: Row) -> bool:
        """Return whether another row stores the same prediction."""
        return vars(self) | {"place": ""} == vars(other) | {"place": ""}


class Predictions:
    """Stored masks; `match` finds the one of each expression."""

    def __init__(self, path: Path) -> None:
        """Read a file of predictions, or a folder of masks.

        Raises:
            DataError: it is missing, a line is wrong, or two lines contradict each other.
        """
        self.path = path
        self._models: set[str | None] = set()
        self._fingerprints: set[str | None] = set()
        self.by_id: dict[str, Row] = {}
        """By the id of the expression."""
        self.by_text: dict[tuple[str, str], Row] = {}
        """By the name of the image, as it was written, and the expression."""
        digest = hashlib.sha256()
        if path.is_dir():
            for file in sorted(path.glob("*.png")):
                self.by_id[file.stem] = Row(place=file.name, mask=file.name)
                digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
            if not self.by_id:
                raise DataError(f"{path}: holds no masks (*.png)")
        else:
            self._read(digest.update)
        self.sha256 = digest.hexdigest()
        self._folder = path if path.is_dir() else path.parent

    @property
    def model(self) -> str:
        """The name of the model that all rows name; otherwise that of the file."""
        return _only(self._models) or self.path.name

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the model of all rows; None if they are of several or do not say it."""
        return _only(self._fingerprints)

    def _read(self, update: Callable[[bytes], None]) -> None:
        try:
            written = self.path.read_bytes()
            text = written.decode("utf-8-sig")
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise DataError(f"{self.path}: not UTF-8; predictions are JSON lines, or a folder of PNGs") from None
        update(written)
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                self._add(f"line {number}", strict_json.loads(line))
            except (ValueError, RecursionError, DataError) as error:
                raise DataError(f"{self.path}: line {number}: {error}") from None

    def _add(self, place: str, values: Any) -> None:
        rle = take(values, "rle", (dict, type(None)), None)
        mask = take(values, "mask", (str, type(None)), None)
        score = take(values, "score", (int, float, type(None)), None)
        if score is not None and not 0 <= score <= 1:
            raise DataError(f"the score must lie in 0..1, got {score}")
        row = Row(
            place=place,
            rle=None if rle is None else check_rle(rle),
            mask=None if mask is None else safe_name(mask),
            score=None if score is None else float(score),
            empty=bool(take(values, "empty", (bool, type(None)), None)),
        )
        self._models.add(take(values, "model", (str, type(None)), None))
        self._fingerprints.add(take(values, "fingerprint", (str, type(None)), None))
        id = take(values, "sent_id", (str, int), None)
        if id is not None:
            other = self.by_id.setdefault(str(id), row)
        else:
            key = str(take(values, "image", (str, int))), take(values, "text", str).strip()
            other = self.by_text.setdefault(key, row)
        if not row.repeats(other):
            raise DataError(f"contradicts {other.place}, which is of the same expression; remove one of them")

    def match(self, data: DataSet) -> Matched:
        """Return the rows by the expressions of a data set.

        Raises:
            DataError: the name of an image could be that of several images, or two rows contradict each other.
        """
        return Matched(self, data)

    def mask(self, row: Row, size: tuple[int, int], side: int | None = None) -> Bool[ndarray, "H W"]:
        """Return the mask of a row.

        Args:
            row: one of these.
            size: of the image, (height, width).
            side: of the square at which the protocol compares masks; a mask of that size is returned as it is.

        Raises:
            DataError: it is broken, or of another size.
        """
        square = None if side is None else (side, side)
        try:
            if row.rle is not None:
                return decode_rle(row.rle, size=square if tuple(row.rle["size"]) == square else size)
            if row.mask is None:
                return np.zeros(size, dtype=bool)
            mask = read_mask(self._folder / row.mask)
            if mask.shape != square:
                check_mask_size(mask.shape, size)
        except (DataError, ImageError) as error:
            raise DataError(f"{self.path}: {row.place}: {error}") from None
        return mask


def _only(values: set[str | None]) -> str | None:
    return next(iter(values)) if len(values) == 1 else None


class Matched:
    """Stored predictions by the expressions of a data set."""

    def __init__(self, predictions: Predictions, data: DataSet) -> None:
        """Match the names of images in the rows with the images of the data (see `Predictions.match`)."""
        self.path, self._by_id = predictions.path, predictions.by_id
        self._by_text: dict[tuple[str, str], Row] = {}
        self._unused = {*predictions.by_id.values(), *predictions.by_text.values()}
        if not predictions.by_text:
            return
        images = _ImageNames(data)
        for (name, text), row in predictions.by_text.items():
            found = images.find(name)
            if len(found) > 1:
                raise DataError(
                    f"{self.path}: {row.place}: image {name[:60]!r} could be {' or '.join(found[:2])}; write its path"
                )
            if not found:
                continue
            other = self._by_text.setdefault((found[0], text), row)
            if not row.repeats(other):
                raise DataError(f"{self.path}: {row.place}: contradicts {other.place}, which is of the same expression")
            if other is not row:
                self._unused.discard(row)

    def row(self, sample: Sample, expression: Expression) -> Row:
        """Return the row of an expression.

        Raises:
            DataError: there is none.
        """
        row = self._by_id.get(expression.id) or self._by_text.get((sample.image_id, expression.text.strip()))
        if row is None:
            raise DataError(f"{self.path}: has no prediction for expression {expression.id} ({expression.text[:60]!r})")
        self._unused.discard(row)
        return row

    def check_all_used(self) -> None:
        """Check that every row was returned by `row`.

        Raises:
            DataError: one was not.
        """
        if self._unused:
            places = [row.place for row in self._unused]
            first = min(places, key=lambda place: (len(place), place))
            belong = counted(len(places), "prediction belongs", "predictions belong")
            raise DataError(f"{self.path}: {belong} to no expression of the data, as {first}")


class _ImageNames:
    """The names by which files of predictions may call the images of a data set."""

    def __init__(self, data: DataSet) -> None:
        files = data.files() or {data.samples_of(index)[0].image_id: [] for index in range(data.num_images)}
        self.ids = files.keys()
        self.paths: dict[str, set[str]] = {}
        """Ids by the paths of their files, with and without the ending."""
        self.names: dict[str, set[str]] = {}
        """Ids by the last part of those paths."""
        for id, paths in files.items():
            for path in {id, *paths}:
                for written in (path, _without_ending(path)):
                    self.paths.setdefault(written, set()).add(id)
                    self.names.setdefault(PurePosixPath(written).name, set()).add(id)

    def find(self, name: str) -> list[str]:
        """Return the ids of the images that a name can be of, sorted; the id and the path go before the bare name."""
        if name in self.ids:
            return [name]
        path = str(PurePosixPath(name.replace("\\", "/")))
        coco = COCO_NAME.fullmatch(PurePosixPath(_without_ending(path)).name)
        for id in (path, _without_ending(path), str(int(coco[1])) if coco else path):
            if id in self.ids:
                return [id]
        return sorted(self.paths.get(path) or self.names.get(path) or ())


def _without_ending(name: str) -> str:
    """Return a file name without the ending of an image; other dots are part of the name."""
    path = PurePosixPath(name)
    return str(path.with_suffix("")) if path.suffix.lower() in IMAGE_ENDINGS else name


def score(
    predictions: Predictions,
    data: DataSet,
    protocol: Protocol,
    *,
    objects: Objects | None = None,
    progress: bool = False,
) -> list[Outcome]:
    """Compare stored masks with a data set: each of its expressions once.

    Args:
        predictions: the masks.
        data: the images and their samples.
        protocol: how masks are compared; its threshold is not used, because masks have none.
        objects: the masks of all objects, for pointing.
        progress: whether to show a progress bar.

    Raises:
        DataError: an expression has no prediction, a prediction belongs to no expression, or a mask is broken or of
            another size than its image and than those that the protocol compares.
    """
    matched = predictions.match(data)
    outcomes = []
    for image in tqdm(range(data.num_images), unit="image", disable=not progress):
        masks = None if objects is None else objects(image)
        for sample, target, size in _with_targets(data.samples_of(image), protocol):
            for expression in sample.expressions:
                row = matched.row(sample, expression)
                mask = predictions.mask(row, size, protocol.side)
                empty = row.empty or not mask.any()
                outcomes.append(
                    make_outcome(
                        sample,
                        expression,
                        mask,
                        protocol.resize_mask(mask),
                        target,
                        masks if mask.shape == size else _resized(masks, protocol),
                        score=float(not empty) if row.score is None else row.score,
                        empty=empty,
                    )
                )
    matched.check_all_used()
    return outcomes


def _resized(objects: Bool[ndarray, "N H W"] | None, protocol: Protocol) -> Bool[ndarray, "N h w"] | None:
    """Return the masks of objects at the size at which a protocol compares masks."""
    return None if objects is None else np.stack([protocol.resize_mask(one) for one in objects])


def _with_targets(samples: tuple[Sample, ...], protocol: Protocol) -> Iterator[tuple[Sample, Target, tuple[int, int]]]:
    """Yield samples with their targets and the sizes of their images, taken from the target mask if there is one."""
    size: tuple[int, int] | None = None
    for sample in samples:
        target = target_of(sample, protocol)
        if target[0] is not None and protocol.side is None:
            yield sample, target, target[0].shape
            continue
        if size is None:
            image = sample.load_image()
            size = image.height, image.width
        yield sample, target, size
