"""Score a model on a data set: every expression once, each image encoded once for all of its expressions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from tqdm import tqdm

from refseg.data.batches import ImageData, form_of, part_of
from refseg.evaluation.metrics import Outcome, count
from refseg.evaluation.protocols import PROTOCOLS, Protocol
from refseg.predictor import Predictor
from refseg.values import Prediction, Sample

__all__ = [
    "Known",
    "Objects",
    "Timing",
    "attributes_of",
    "evaluate",
    "expression_id",
    "known_of",
    "outcome_of",
    "points_at",
]

Objects = Callable[[int], Bool[ndarray, "N H W"]]
"""Returns the masks of all objects in an image, of which a sample's `target` attribute is one."""
Known = tuple[Bool[ndarray, "h w"] | None, Bool[ndarray, "h w"] | None]
"""What an expression means, if anything, and what is ignored."""


@dataclass
class Timing:
    """Where the time of an evaluation went, in seconds."""

    load: float = 0.0
    """Reading images and true masks."""
    encode: float = 0.0
    """Encoding images."""
    segment: float = 0.0
    """Answering expressions, with the way back to the image's own size."""
    count: float = 0.0
    """Comparing masks."""


def evaluate(
    predictor: Predictor,
    data: ImageData,
    images: Iterable[int] | None = None,
    objects: Objects | None = None,
    *,
    protocol: Protocol = PROTOCOLS["refseg"],
    progress: bool = False,
    each: Callable[[Sample, str, Prediction], None] | None = None,
    timing: Timing | None = None,
) -> list[Outcome]:
    """Segment every expression of some images, all of them by default.

    Args:
        predictor: the model.
        data: the images and their samples.
        images: which images. Several processes may take a part each: the outcomes of all, put together in any
            order, give the numbers of the whole.
        objects: to measure pointing, where a data set knows all objects.
        protocol: how masks are compared.
        progress: whether to show a bar.
        each: is called with every prediction and its expression's id, to store it for instance.
        timing: is added to.
    """
    timing = Timing() if timing is None else timing
    outcomes = []
    chosen = list(range(data.num_images) if images is None else images)
    for index in tqdm(chosen, unit="image", disable=not progress):
        begun = time.perf_counter()
        samples = data.samples_of(index)
        image = samples[0].load_image()
        begun = _spent(timing, "load", begun)
        encoded = predictor.encode(image)
        begun = _spent(timing, "encode", begun)
        asked = [(sample, i) for sample in samples for i in range(len(sample.expressions))]
        predictions = predictor.segment(encoded, [sample.expressions[i] for sample, i in asked])
        begun = _spent(timing, "segment", begun)
        masks = None if objects is None else objects(index)
        known = {sample.id: known_of(sample, protocol) for sample in samples}
        begun = _spent(timing, "load", begun)
        for (sample, i), prediction in zip(asked, predictions, strict=True):
            found = protocol.find(prediction.probability, prediction.threshold)
            if prediction.rejected and protocol.threshold is None:
                found = np.zeros_like(found)
            outcomes.append(
                outcome_of(
                    sample,
                    i,
                    prediction.mask,
                    found,
                    known[sample.id],
                    masks,
                    score=prediction.score,
                    empty=prediction.empty if protocol.threshold is None else not found.any(),
                    truncated=prediction.truncated,
                )
            )
            if each is not None:
                each(sample, expression_id(sample, i), prediction)
        _spent(timing, "count", begun)
    return outcomes


def outcome_of(
    sample: Sample,
    index: int,
    mask: Bool[ndarray, "H W"],
    found: Bool[ndarray, "h w"],
    known: Known,
    objects: Bool[ndarray, "N H W"] | None,
    *,
    score: float,
    empty: bool,
    truncated: bool = False,
) -> Outcome:
    """Return what came of one expression of a sample.

    Args:
        sample: with the expression.
        index: of the expression in it.
        mask: what was answered.
        found: the same as the protocol compares it.
        known: what is true, as the protocol compares it (see `known_of`).
        objects: all objects of the image, where the data know them.
        score: of the answer, 0..1.
        empty: whether the answer is that nothing fits.
        truncated: whether the end of the expression was not read.
    """
    truth, ignored = known
    return Outcome(
        id=expression_id(sample, index),
        reference=sample.id,
        image=sample.image_id,
        expression=sample.expressions[index],
        present=truth is not None,
        score=score,
        empty=empty,
        truncated=truncated,
        pointed=None if objects is None or truth is None else points_at(mask, objects, sample),
        attributes=attributes_of(sample, index),
        **count(found, truth, ignored),
    )


def known_of(sample: Sample, protocol: Protocol) -> Known:
    """Return what a sample's expressions mean, and what is ignored, as a protocol compares them."""
    truth = None if sample.load_mask is None else protocol.place(sample.load_mask())
    ignored = None if sample.load_ignored is None else protocol.place(sample.load_ignored())
    return truth, ignored


def expression_id(sample: Sample, index: int) -> str:
    """Return the id of one of a sample's expressions; made of the sample's own where the data have none."""
    return sample.expression_ids[index] if sample.expression_ids else f"{sample.id}/{index}"


def attributes_of(sample: Sample, index: int) -> dict[str, str | int | bool]:
    """Return what is known of one of a sample's expressions."""
    found = {name: value for name, value in sample.attributes.items() if name not in ("forms", "styles", "target")}
    own = {"style": part_of(sample, "styles", index), "form": form_of(sample, index)}
    return found | {name: value for name, value in own.items() if value}


def _spent(timing: Timing, part: str, begun: float) -> float:
    """Add the time since `begun` to a part, and return the time."""
    now = time.perf_counter()
    setattr(timing, part, getattr(timing, part) + now - begun)
    return now


def points_at(mask: Bool[ndarray, "H W"], objects: Bool[ndarray, "N H W"], sample: Sample) -> bool:
    """Return whether a mask overlaps the object that a sample means more than any other object of its image."""
    shared = np.count_nonzero(objects & mask, axis=(1, 2))
    target = int(sample.attributes["target"])
    others = np.delete(shared, target)
    return bool(shared[target] > (others.max() if len(others) else 0))
