"""Score a model on a data set: every expression once, at the picture's own size, each picture encoded once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm import tqdm

from refseg.data.batches import PictureData
from refseg.evaluation.metrics import SegmentationMetrics
from refseg.predictor import Predictor
from refseg.types import Prediction, Sample

__all__ = ["Scored", "evaluate", "summarise"]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """How one expression came out."""

    sample: Sample
    expression: str
    temper: str
    form: str
    iou: float | None
    """None where the expression fits nothing."""
    score: float
    empty: bool
    pointed: bool | None
    """Whether the mask overlaps the meant object more than any other; None where objects are not known."""


def evaluate(
    predictor: Predictor,
    data: PictureData,
    pictures: Iterable[int] | None = None,
    objects: Callable[[int], Bool[ndarray, "N H W"]] | None = None,
    *,
    progress: bool = False,
) -> tuple[SegmentationMetrics, list[Scored]]:
    """Segment every expression of some pictures, all of them by default.

    Args:
        predictor: the model.
        data: the pictures and their samples.
        pictures: which pictures.
        objects: returns the masks of all objects in a picture, of which a sample's `target` attribute is one.
        progress: whether to show a bar.
    """
    metrics, scored = SegmentationMetrics(), []
    for picture in tqdm(
        list(range(data.pictures) if pictures is None else pictures), unit="picture", disable=not progress
    ):
        samples = data.samples_of(picture)
        encoded = predictor.encode(samples[0].load_image())
        asked = [(sample, i) for sample in samples for i in range(len(sample.expressions))]
        predictions = predictor.segment(encoded, [sample.expressions[i] for sample, i in asked])
        masks = None if objects is None else objects(picture)
        truths = {sample.id: None if sample.load_mask is None else sample.load_mask() for sample in samples}
        for (sample, i), prediction in zip(asked, predictions, strict=True):
            iou = metrics.update(prediction.mask, truths[sample.id])
            scored.append(
                Scored(
                    sample=sample,
                    expression=prediction.expression,
                    temper=_part(sample, "tempers", i),
                    form=_part(sample, "forms", i),
                    iou=iou,
                    score=prediction.score,
                    empty=prediction.empty,
                    pointed=None if masks is None or iou is None else _points(prediction, masks, sample),
                )
            )
    return metrics, scored


def summarise(metrics: SegmentationMetrics, scored: list[Scored]) -> dict[str, object]:
    """Return the metrics, the share of expressions that point at the meant object, and both broken down."""
    groups: dict[str, dict[str, list[Scored]]] = {
        "temper": defaultdict(list),
        "form": defaultdict(list),
        "held_out": defaultdict(list),
    }
    for one in scored:
        if one.iou is not None:
            groups["temper"][one.temper].append(one)
            groups["form"][one.form].append(one)
            groups["held_out"][str(one.sample.attributes.get("held_out", "unknown")).lower()].append(one)
    return {
        **metrics.compute(),
        **_means([one for one in scored if one.iou is not None]),
        "by": {
            name: {key: _means(members) for key, members in sorted(group.items())} for name, group in groups.items()
        },
    }


def _means(scored: list[Scored]) -> dict[str, object]:
    ious = [one.iou for one in scored if one.iou is not None]
    pointed = [one.pointed for one in scored if one.pointed is not None]
    return {
        "n": len(ious),
        "mean_iou": float(np.mean(ious)) if ious else None,
        "pointing": float(np.mean(pointed)) if pointed else None,
    }


def _part(sample: Sample, attribute: str, index: int) -> str:
    parts = str(sample.attributes.get(attribute, "")).split(",")
    return parts[index] if index < len(parts) else ""


def _points(prediction: Prediction, objects: Bool[ndarray, "N H W"], sample: Sample) -> bool:
    shared = np.count_nonzero(objects & prediction.mask, axis=(1, 2))
    target = int(sample.attributes["target"])
    others = np.delete(shared, target)
    return bool(shared[target] > (others.max() if len(others) else 0))
