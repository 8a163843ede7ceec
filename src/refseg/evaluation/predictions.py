"""Masks on disk, of our models or of any other's: written by an evaluation, scored by every convention.

A file of predictions has one JSON object a line:

- `sent_id`, the id of the expression in the data set; or `image` (the image's id or file name) and `text`;
- `rle`, the mask as COCO's run lengths, of the image's own size; or `mask`, the name of an image of it, relative to
  the file, where what is not 0 is found; neither, or null, says that nothing fits;
- `score`, 0..1, and `empty`, if the model says them.

A folder of PNGs works too: `<sent_id>.png`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm import tqdm

from refseg.data.batches import ImageData
from refseg.data.formats.record import safe_name, take
from refseg.data.formats.regions import check_part, decode, encode
from refseg.errors import DataError, ImageError
from refseg.evaluation.evaluate import Known, Objects, expression_id, known_of, outcome_of
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.protocols import Protocol
from refseg.inputs.read import read_mask
from refseg.values import Prediction, Sample

__all__ = ["Predictions", "line_of", "score"]


def line_of(sample: Sample, id: str, prediction: Prediction) -> str:
    """Return the line of a file of predictions that stores a prediction."""
    return json.dumps(
        {
            "sent_id": id,
            "image": sample.image_id,
            "text": prediction.expression,
            "rle": encode(prediction.mask),
            "score": round(prediction.score, 6),
            "empty": prediction.empty,
        },
        ensure_ascii=False,
    )


class Predictions:
    """Stored masks, looked up by expression; a mask is decoded when asked for."""

    def __init__(self, path: Path) -> None:
        """Read a file of predictions, or a folder of masks.

        Raises:
            DataError: it is missing, a line is wrong, or two lines are of the same expression.
        """
        self.path = path
        self._by_id: dict[str, Any] = {}
        self._by_words: dict[tuple[str, str], Any] = {}
        digest = hashlib.sha256()
        if path.is_dir():
            for file in sorted(path.glob("*.png")):
                self._by_id[file.stem] = {"mask": file.name}
                digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
            if not self._by_id:
                raise DataError(f"{path}: holds no masks (*.png)")
        else:
            self._read(digest.update)
        self.sha256 = digest.hexdigest()
        self._folder = path if path.is_dir() else path.parent

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
                self._take(json.loads(line))
            except (ValueError, RecursionError, DataError) as error:
                raise DataError(f"{self.path}: line {number}: {error}") from None

    def _take(self, row: Any) -> None:
        for kind in ("rle", "mask"):
            if take(row, kind, (dict, str, type(None)), None) is not None:
                check_part({"rle": row["rle"]}) if kind == "rle" else safe_name(row["mask"])
        score = take(row, "score", (int, float, type(None)), None)
        if score is not None and not 0 <= score <= 1:
            raise DataError(f"the score must lie in 0..1, got {score}")
        take(row, "empty", (bool, type(None)), None)
        id = take(row, "sent_id", (str, int), None)
        store: dict[Any, Any] = self._by_id
        key: Any = str(id)
        if id is None:
            image = Path(str(take(row, "image", (str, int)))).stem
            store, key = self._by_words, (image, take(row, "text", str).strip())
        if key in store:
            raise DataError(f"there is a line of {key} already")
        store[key] = row

    def __len__(self) -> int:
        return len(self._by_id) + len(self._by_words)

    def of(self, sample: Sample, index: int) -> Any:
        """Return what is stored of one of a sample's expressions, None where nothing is."""
        found = self._by_id.get(expression_id(sample, index))
        if found is not None:
            return found
        for image in (sample.image_id, Path(sample.image_id).stem, *_coco_names(sample.image_id)):
            if (image, sample.expressions[index].strip()) in self._by_words:
                return self._by_words[image, sample.expressions[index].strip()]
        return None

    def mask(self, row: Any, size: tuple[int, int]) -> Bool[ndarray, "H W"]:
        """Return a stored mask.

        Raises:
            DataError: it is broken, or not of that size, (height, width).
        """
        if row.get("rle") is not None:
            return decode(row["rle"], *size)
        if row.get("mask") is None:
            return np.zeros(size, dtype=bool)
        try:
            mask = read_mask(self._folder / safe_name(row["mask"]))
        except ImageError as error:
            raise DataError(str(error)) from None
        if mask.shape != size:
            raise DataError(f"{row['mask']}: is {mask.shape[1]} x {mask.shape[0]}, its image {size[1]} x {size[0]}")
        return mask


def _coco_names(image_id: str) -> Iterable[str]:
    if image_id.isdigit():
        yield from (f"COCO_{part}_{int(image_id):012d}" for part in ("train2014", "val2014"))
        yield f"{int(image_id):012d}"


def score(
    predictions: Predictions,
    data: ImageData,
    protocol: Protocol,
    *,
    objects: Objects | None = None,
    progress: bool = False,
) -> list[Outcome]:
    """Compare stored masks with a data set: each of its expressions once.

    Args:
        predictions: the masks.
        data: what they are of.
        protocol: how masks are compared; its threshold has no say here, as masks are.
        objects: to measure pointing, where a data set knows all objects.
        progress: whether to show a bar.

    Raises:
        DataError: an expression has no prediction, a prediction belongs to no expression, or a mask is broken or of
            another size than its image.
    """
    outcomes, used = [], 0
    for image in tqdm(range(data.num_images), unit="image", disable=not progress):
        masks = None if objects is None else objects(image)
        for sample, known, size in _with_masks(data.samples_of(image), protocol):
            for i, expression in enumerate(sample.expressions):
                row = predictions.of(sample, i)
                id = expression_id(sample, i)
                if row is None:
                    raise DataError(f"{predictions.path}: has no prediction for expression {id} ({expression[:60]!r})")
                used += 1
                try:
                    mask = predictions.mask(row, size)
                except DataError as error:
                    raise DataError(f"{predictions.path}: expression {id}: {error}") from None
                empty = bool(row.get("empty")) or not mask.any()
                outcomes.append(
                    outcome_of(
                        sample,
                        i,
                        mask,
                        protocol.place(mask),
                        known,
                        masks,
                        score=float(not empty) if row.get("score") is None else float(row["score"]),
                        empty=empty,
                    )
                )
    if used < len(predictions):
        raise DataError(
            f"{predictions.path}: {len(predictions) - used} predictions belong to no expression of the data"
        )
    return outcomes


def _with_masks(samples: tuple[Sample, ...], protocol: Protocol) -> Iterator[tuple[Sample, Known, tuple[int, int]]]:
    """Yield samples with what is known of them and the size of their image, read from a mask where that tells it."""
    size: tuple[int, int] | None = None
    for sample in samples:
        known = known_of(sample, protocol)
        if known[0] is not None and protocol.side is None:
            yield sample, known, known[0].shape
            continue
        if size is None:
            size = sample.load_image().size[::-1]
        yield sample, known, size
