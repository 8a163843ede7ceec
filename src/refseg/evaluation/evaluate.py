"""Evaluate a segmenter on a data set: every expression once, each image encoded once for all of its expressions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm import tqdm

from refseg.data.dataset import ImageData
from refseg.evaluation.metrics import Outcome, count
from refseg.evaluation.protocols import PROTOCOLS, Protocol
from refseg.masks import bounding_box, iou_of_boxes
from refseg.values import Decision, Expression, Prediction, Sample, Segmenter

__all__ = ["Objects", "Target", "Timing", "evaluate", "make_outcome", "points_at_target", "target_of"]

Objects: TypeAlias = Callable[[int], Bool[ndarray, "N H W"] | None]
"""Returns the masks of all objects in an image, or None if they are not known (`DataSet.objects`)."""
Target: TypeAlias = tuple[Bool[ndarray, "h w"] | None, Bool[ndarray, "h w"] | None]
"""The target mask, None where nothing fits, and the ignored pixels, None where there are none."""


@dataclass
class Timing:
    """The seconds that the parts of an evaluation took."""

    load: float = 0.0
    """Reading images and target masks."""
    encode: float = 0.0
    """Encoding images."""
    segment: float = 0.0
    """Answering expressions."""
    count: float = 0.0
    """Restoring masks to the image's own size and comparing them."""


def evaluate(
    segmenter: Segmenter,
    data: ImageData,
    images: Iterable[int] | None = None,
    objects: Objects | None = None,
    *,
    protocol: Protocol = PROTOCOLS["refseg"],
    decision: Decision | None = None,
    progress: bool = False,
    each: Callable[[Sample, Expression, Prediction], None] | None = None,
    timing: Timing | None = None,
) -> list[Outcome]:
    """Return the outcome of every expression of some images, all images by default.

    Args:
        segmenter: the model.
        data: the images and their samples.
        images: indices of the images. Several processes may take a part each: the joined outcomes, in any order, give
            the metrics of the whole.
        objects: the masks of all objects, for pointing.
        protocol: how masks are compared.
        decision: takes the place of the segmenter's own decision and of the protocol's threshold.
        progress: whether to show a progress bar.
        each: is called with every scored prediction, for instance to store it.
        timing: is added to.
    """
    timing = Timing() if timing is None else timing
    outcomes = []
    chosen = list(range(data.num_images) if images is None else images)
    for index in tqdm(chosen, unit="image", disable=not progress):
        started = time.perf_counter()
        samples = data.samples_of(index)
        image = samples[0].load_image()
        started = _add_time(timing, "load", started)
        (encoding,) = segmenter.encode([image])
        started = _add_time(timing, "encode", started)
        pairs = [(sample, expression) for sample in samples for expression in sample.expressions]
        predictions = segmenter.segment(encoding, [expression.text for _, expression in pairs])
        started = _add_time(timing, "segment", started)
        masks = None if objects is None else objects(index)
        targets = {sample.id: target_of(sample, protocol) for sample in samples}
        started = _add_time(timing, "load", started)
        for (sample, expression), prediction in zip(pairs, predictions, strict=True):
            # Everything that is counted or stored comes from this one prediction.
            scored = protocol.decide(prediction) if decision is None else prediction.decided_by(decision)
            compared = protocol.compared_mask(scored)
            outcomes.append(
                make_outcome(
                    sample,
                    expression,
                    compared if protocol.side is None else scored.mask,
                    compared,
                    targets[sample.id],
                    masks,
                    score=scored.score,
                    empty=scored.empty,
                    truncated=scored.truncated,
                    box=scored.detected_box,
                )
            )
            if each is not None:
                each(sample, expression, scored)
        _add_time(timing, "count", started)
    return outcomes


def make_outcome(
    sample: Sample,
    expression: Expression,
    mask: Bool[ndarray, "H W"],
    compared: Bool[ndarray, "h w"],
    target: Target,
    objects: Bool[ndarray, "N H W"] | None,
    *,
    score: float,
    empty: bool,
    truncated: bool = False,
    box: tuple[float, float, float, float] | None = None,
) -> Outcome:
    """Return the outcome of one expression.

    Args:
        sample: the reference of the expression.
        expression: one of the sample's.
        mask: the predicted mask at the image's own size.
        compared: the predicted mask at the size at which masks are compared.
        target: of the sample (see `target_of`).
        objects: the masks of all objects in the image, None if they are not known.
        score: of the prediction, 0..1.
        empty: whether the answer is that nothing fits.
        truncated: whether the end of the expression was not read.
        box: that the model detected, in pixels of the image; None if it detects none.
    """
    target_mask, ignored = target
    pointing = None
    if objects is not None and target_mask is not None and sample.target_object is not None:
        pointing = points_at_target(mask, objects, sample.target_object)
    return Outcome(
        id=expression.id,
        reference=sample.id,
        image=sample.image_id,
        expression=expression.text,
        present=target_mask is not None,
        score=score,
        empty=empty,
        truncated=truncated,
        points_at_target=pointing,
        box_iou=_box_iou(box, sample),
        attributes={**sample.attributes, **expression.attributes},
        **count(compared, target_mask, ignored),
    )


def _box_iou(box: tuple[float, float, float, float] | None, sample: Sample) -> float | None:
    if box is None or sample.load_mask is None or (around := bounding_box(sample.load_mask())) is None:
        return None
    return iou_of_boxes(box, around)


def target_of(sample: Sample, protocol: Protocol) -> Target:
    """Return a sample's target mask and its ignored pixels at the size at which the protocol compares masks."""
    target = None if sample.load_mask is None else protocol.resize_mask(sample.load_mask())
    ignored = None if sample.load_ignored is None else protocol.resize_mask(sample.load_ignored())
    return target, ignored


def points_at_target(mask: Bool[ndarray, "H W"], objects: Bool[ndarray, "N H W"], target: int) -> bool:
    """Return whether a mask shares more pixels with object `target` than with any other object."""
    shared = np.count_nonzero(objects & mask, axis=(1, 2))
    others = np.delete(shared, target)
    return bool(shared[target] > (others.max() if len(others) else 0))


def _add_time(timing: Timing, part: str, started: float) -> float:
    """Add the time since `started` to a part, and return the present time."""
    now = time.perf_counter()
    setattr(timing, part, getattr(timing, part) + now - started)
    return now
