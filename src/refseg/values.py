"""The values that flow through the package, and the call that turns an image and expressions into predictions.

An image is encoded once into an `Encoding`; each expression asked of it gives a `Prediction`. Any model
that does this (in PyTorch, in another runtime, of another project) is a `Segmenter`.

| letter | axis                                                           |
|--------|----------------------------------------------------------------|
| N      | images computed together                                       |
| B      | expressions (each with its image) computed together            |
| S      | side of the square that an image is letterboxed into, pixels   |
| L      | tokens of an expression, start and end token included          |
| H, W   | height and width of the original image, pixels                 |
| h, w   | height and width of a map of scores, S/4 for most models       |
| C      | channels                                                       |
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from refseg.errors import ConfigError, ImageError, InputError, OutputError, WeightsError, one_line
from refseg.files import replacing
from refseg.inputs.frame import Frame
from refseg.inputs.read import ImageSource, read_image
from refseg.masks import MAX_PIXELS, bounding_box, decode_rle, encode_rle
from refseg.writers.html import escaped
from refseg.writers.overlay import fitted, mask_image, overlay
from refseg.writers.result import write_mask

__all__ = [
    "Calibration",
    "Decision",
    "DetectedBox",
    "Encoding",
    "Expression",
    "PatchMap",
    "Prediction",
    "Sample",
    "Segmenter",
    "WordMap",
    "WordSource",
]

# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A referring expression of a data set."""

    text: str
    """Verbatim."""
    id: str
    """Unique within the data set."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    """What is known of this expression, such as its `style` and its `form`; `Sample.attributes` holds for all."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One reference of a data set: an image, the expressions that refer to the same target in it, and its mask.

    Images and masks are loaded when asked for, so that a list of samples costs only its text.
    """

    id: str
    """Unique within the data set."""
    image_id: str
    """Shared by all samples of one image."""
    expressions: tuple[Expression, ...]
    load_image: Callable[[], Image.Image]
    """Returns the image as RGB, (H, W)."""
    load_mask: Callable[[], Bool[ndarray, "H W"]] | None
    """Returns the target mask, or is None where nothing in the image fits the expressions."""
    load_ignored: Callable[[], Bool[ndarray, "H W"]] | None = None
    """Returns the pixels that are left out of training and of every count, or is None where there are none."""
    target_object: int | None = None
    """Index of the target among all objects of the image, where the data set knows them."""
    split: str
    source: str
    """The data set that the sample comes from."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict)
    """What else is known of the reference, for breakdowns: `distractors`, `category`, `held_out`..."""


# ── decisions ────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The measured relation of a model's confidence to the IoU of its masks (`refseg calibrate`)."""

    knots: tuple[tuple[float, float], ...]
    """Pairs (confidence, score), both rising; linear in between, constant beyond the ends."""
    reject_below: float = 0.0
    """Masks of lower confidence are rejected: the answer is that nothing fits."""

    def __post_init__(self) -> None:
        values = [value for knot in self.knots for value in knot]
        if not values or not all(0 <= value <= 1 for value in (*values, self.reject_below)):
            raise ConfigError("calibration needs knots, and its values must lie in 0..1")
        for (confidence, score), (next_confidence, next_score) in pairwise(self.knots):
            if not (confidence < next_confidence and score <= next_score):
                raise ConfigError("the knots of calibration must rise")

    def score(self, confidence: float) -> float:
        """Return the mean IoU of masks with this confidence, 0..1."""
        confidences, scores = zip(*self.knots, strict=True)
        return float(np.interp(confidence, confidences, scores))


@dataclass(frozen=True, kw_only=True)
class Decision:
    """How scores become a mask and a verdict. It is stored beside a model's architecture and may be replaced."""

    threshold: float = 0.5
    """A pixel belongs to the mask where its probability is greater; where none is, nothing fits."""
    relative_threshold: float | None = None
    """Where something fits, this fraction of the highest probability is the threshold instead; None: it is not.

    A model in doubt gives all of an object a lower probability, and a fixed threshold would cut off its border.
    """
    calibration: Calibration | None = None
    """Measured with these thresholds."""
    box_weighting: Literal["soft", "hard"] | None = None
    """How the box of a model that detects one changes the probabilities, before the threshold (see `DetectedBox`)."""

    def __post_init__(self) -> None:
        for name in ("threshold", "relative_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigError(f"{name} must lie between 0 and 1, got {value}")

    def unmeasured(self) -> Decision:
        """Return the decision without what was measured with certain weights: its calibration and relative threshold.

        Other weights, such as those after more training, have other probabilities: masks of a confidence that was
        low before would still be rejected.
        """
        return self.at(self.threshold)

    def at(self, threshold: float) -> Decision:
        """Return the decision with another threshold, without what was measured with its own."""
        return Decision(threshold=threshold, box_weighting=self.box_weighting)

    def threshold_for(self, highest: float) -> float:
        """Return the threshold for a map of probabilities whose highest is given."""
        if self.relative_threshold is None or highest <= self.threshold:
            return self.threshold
        return self.relative_threshold * highest


# ── encodings ────────────────────────────────────────────────────────────────────────────────────────────────────────

SCHEMA = "refseg-encoding/1"


@dataclass(frozen=True, eq=False)
class Encoding:
    """All that a model computes from an image alone. It is immutable; `save`, `load` and pickle keep it exactly.

    Any `Segmenter` of the same fingerprint answers expressions from it, in another thread or process too.
    """

    fingerprint: str
    """Of the weights and the preprocessing that made it."""
    frame: Frame
    """The size of the image, and its place in the model's square."""
    arrays: Mapping[str, ndarray]
    """Read-only, by name."""

    def __post_init__(self) -> None:
        views = {name: array.view() for name, array in self.arrays.items()}
        for view in views.values():
            view.flags.writeable = False
        object.__setattr__(self, "arrays", MappingProxyType(views))

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoding, (self.fingerprint, self.frame, dict(self.arrays))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file.

        Raises:
            OutputError: it cannot be written; what was there before stays.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        about = {
            "schema": SCHEMA,
            "fingerprint": self.fingerprint,
            "frame": f"{self.frame.height} {self.frame.width} {self.frame.size} {self.frame.fit}",
        }
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        try:
            with replacing(Path(path)) as draft:
                save_file(arrays, draft, metadata=about)
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{os.fspath(path)}: cannot be written: {one_line(error)}") from None

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Encoding:
        """Read a file that `save` wrote.

        Raises:
            InputError: the file is missing, broken, or no encoding.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="numpy") as file:
                about = file.metadata() or {}
                if about.get("schema") != SCHEMA:
                    raise InputError(f"{os.fspath(path)}: is no encoding that this version of refseg reads ({SCHEMA})")
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            height, width, size, fit = about["frame"].split()
            return Encoding(about["fingerprint"], Frame(int(height), int(width), int(size), fit), arrays)
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{os.fspath(path)}: cannot be read as an encoding: {one_line(error)}") from None


# ── predictions ──────────────────────────────────────────────────────────────────────────────────────────────────────


KEPT_PIXELS = 2**22
"""Pixels of the largest image whose probabilities are kept from one pass to the next."""


NOTEBOOK_SIDE = 480
"""The longer side of a mask in a notebook, pixels at most."""


class _Measured(NamedTuple):
    """What is computed from the full-size probabilities, which are not kept."""

    threshold: float
    confidence: float
    rle: dict[str, Any]
    box: tuple[int, int, int, int] | None


@dataclass(frozen=True)
class DetectedBox:
    """The box around the target by a model that detects one beside the mask, as MCN does."""

    box: tuple[float, float, float, float]
    """(x0, y0, x1, y1) in pixels of the model's square."""
    score: float
    """The probability that it is the target's, 0..1."""

    def weigh(self, probabilities: Float[ndarray, "S S"], weighting: Literal["soft", "hard"]) -> Float[ndarray, "S S"]:
        """Return the probabilities of the square's pixels, weighed by whether they lie in the box.

        `soft` multiplies those inside by 2 - score, which may exceed 1, and those outside by the score; `hard` sets
        those outside to 0. The edges of the box are rounded to pixels, and its last row and column belong to it.

        Source: adaptive soft non-located suppression of MCN, section 3.3, and its code.
        """
        size = len(probabilities)
        x0, y0, x1, y1 = (int(np.floor(edge + 0.5)) for edge in self.box)
        inside = np.s_[max(y0, 0) : max(min(y1, size) + 1, 0), max(x0, 0) : max(min(x1, size) + 1, 0)]
        weighed = probabilities * np.float32(self.score if weighting == "soft" else 0)
        weighed[inside] = probabilities[inside] * np.float32(2 - self.score if weighting == "soft" else 1)
        return np.asarray(weighed)


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answer of a model to one expression.

    Only the scores of the model's square are kept, (h, w); full-size arrays are restored when asked for, so that a
    hundred predictions on a large photo fit in memory. What is derived from them is computed once.

    Raises:
        WeightsError: the scores are not finite.
    """

    expression: str
    """Verbatim."""
    scores: Float[ndarray, "h w"]
    """The probability that each cell of the model's square belongs to the target, 0..1."""
    frame: Frame
    """The place of the image in that square."""
    decision: Decision
    """How the scores become a mask and a verdict."""
    truncated: bool = False
    """Whether the expression was longer than the model reads, so that its end was cut off."""
    object_score: float = 1.0
    """The probability that this is the target, 0..1, by a model that finds objects first and then their pixels.

    `confidence` is multiplied by it. A model that computes the probability of each pixel alone has none: 1.
    """
    detected: DetectedBox | None = None
    """The box that the model detected, if it detects one."""
    refine: Callable[[Prediction], Float[ndarray, "H W"]] | None = field(default=None, repr=False)
    """Computes the probabilities of a mask with sharper borders (`peers.refine`), when the mask is asked for.

    It is given this prediction without itself, if that is not empty. `scores` and what follows from them, the
    confidence, the score and whether anything fits, stay those of the model.
    """

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scores).all() and 0 <= self.object_score <= 1):
            raise WeightsError(
                "the model's probabilities are not finite: its weights are damaged, or overflow in this precision"
            )

    def decided_by(self, decision: Decision) -> Prediction:
        """Return the same scores under another decision."""
        return replace(self, decision=decision)

    @property
    def unrefined(self) -> Prediction:
        """The prediction of the model alone."""
        return replace(self, refine=None)

    @property
    def probability(self) -> Float[ndarray, "H W"]:
        """The probability that each pixel of the original image belongs to the target, 0..1, float32; not kept."""
        if self.refine is not None and not (own := self.unrefined).empty:
            return self.refine(own)
        return np.asarray(np.clip(self.frame.restore(self._weighed), 0, 1))

    @property
    def _weighed(self) -> Float[ndarray, "h w"]:
        """The scores, weighed by the detected box if the decision says so; a value may exceed 1."""
        weighting = self.decision.box_weighting
        if self.detected is None or weighting is None:
            return self.scores
        return self.detected.weigh(self.frame.enlarge(self.scores), weighting)

    @property
    def detected_box(self) -> tuple[float, float, float, float] | None:
        """The detected box (x0, y0, x1, y1) in pixels of the image; None if the model detects none."""
        if self.detected is None:
            return None
        x0, y0, x1, y1 = self.frame.to_image(np.array(self.detected.box, np.float64)).tolist()
        return x0, y0, x1, y1

    @cached_property
    def _measured(self) -> _Measured:
        if self.refine is not None:
            own = self.unrefined
            if own.empty:
                return own._measured
            mask = self.refine(own) > own.threshold
            return own._measured._replace(rle=encode_rle(mask), box=bounding_box(mask))
        frame = self.frame
        # Restored once, or, where that would take much memory, once for each pass.
        kept = list(self._blocks()) if frame.height * frame.width <= KEPT_PIXELS else None
        highest = 0.0
        if self.decision.relative_threshold is not None:
            highest = max(float(block.max()) for _, block in kept or self._blocks())
        threshold = self.decision.threshold_for(highest)
        mask = np.empty((frame.height, frame.width), bool)
        inside = everything = 0.0
        for rows, block in kept or self._blocks():
            np.greater(block, threshold, out=mask[rows])
            inside += float(block.sum(where=mask[rows], dtype=np.float64))
            everything += float(block.sum(dtype=np.float64))
        union = float(np.count_nonzero(mask)) + everything - inside
        confidence = min(1.0, inside / union) if inside > 0 else 0.0
        return _Measured(threshold, confidence, encode_rle(mask), bounding_box(mask))

    def _blocks(self) -> Iterator[tuple[slice, Float[ndarray, "rows width"]]]:
        for rows, block in self.frame.restore_blocks(self._weighed):
            yield rows, np.clip(block, 0, 1, out=block)

    @property
    def threshold(self) -> float:
        """A pixel is in the mask where its probability is greater: as decided for these scores."""
        return self._measured.threshold

    @property
    def confidence(self) -> float:
        """The intersection over union that the model itself expects of its mask, 0..1.

        With p the probabilities and M the pixels above the threshold it is sum(p in M) / (|M| + sum(p outside M)): the
        expected intersection over the expected union if every pixel were right with just its probability. It falls when
        the inside is unsure and when other places are nearly as likely. It is 0 where no pixel is above the threshold.
        The probability that the object is the right one, `object_score`, multiplies it.
        """
        return self.object_score * self._measured.confidence

    @property
    def rejected(self) -> bool:
        """Whether the mask is discarded for its low confidence."""
        calibration = self.decision.calibration
        return calibration is not None and self.confidence < calibration.reject_below

    @property
    def mask(self) -> Bool[ndarray, "H W"]:
        """The predicted mask at the original size; nothing where the answer is that nothing fits."""
        if self.empty:
            return np.zeros((self.frame.height, self.frame.width), bool)
        size = (self.frame.height, self.frame.width)
        return np.ascontiguousarray(decode_rle(self._measured.rle, size=size))

    @property
    def rle(self) -> dict[str, Any]:
        """The predicted mask as COCO's compressed run lengths."""
        return encode_rle(self.mask) if self.rejected else dict(self._measured.rle)

    @property
    def empty(self) -> bool:
        """Whether the answer is that nothing fits: no pixel exceeds the threshold, or the mask is rejected."""
        return self._measured.box is None or self.rejected

    @property
    def box(self) -> tuple[int, int, int, int] | None:
        """The smallest box (x0, y0, x1, y1) around the mask in pixels, x1 and y1 exclusive; None where it is empty."""
        return None if self.empty else self._measured.box

    @property
    def score(self) -> float:
        """The intersection over union to expect of the mask, 0..1; 0 where it is empty.

        For a calibrated model it is the mean IoU that masks of the same `confidence` had on a validation split, where
        expressions that fit nothing counted 0; otherwise it is the confidence itself. It holds for images like those of
        that split; on other images a model may be wrong with high confidence.
        """
        if self.empty:
            return 0.0
        calibration = self.decision.calibration
        return self.confidence if calibration is None else calibration.score(self.confidence)

    def to_dict(self) -> dict[str, Any]:
        """Return the prediction as JSON values: expression, score, box, and the mask as COCO's run lengths."""
        return {
            "expression": self.expression,
            "score": round(self.score, 6),
            "empty": self.empty,
            "box": None if self.box is None else list(self.box),
            "segmentation": self.rle,
            "threshold": self.threshold,
            "truncated": self.truncated,
            **({} if self.detected is None else {"detected": self._detected_values()}),
        }

    def _detected_values(self) -> dict[str, Any]:
        assert self.detected is not None
        assert self.detected_box is not None
        box = [round(edge, 2) for edge in self.detected_box]
        return {"box": box, "score": round(self.detected.score, 6)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as a PNG of 0 and 255, at the image's own size; a file of this name is replaced.

        Raises:
            OutputError: it cannot be written, or the name does not end with `.png`.
        """
        write_mask(Path(path), self.mask)

    def overlay(self, image: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
        """Return the image with the mask tinted and outlined, and the rest dimmed.

        Args:
            image: the one that was segmented, which a prediction does not keep.
            max_pixels: the largest width times height that is accepted.

        Raises:
            ImageError: the image is missing, broken or too large, or of another size than the mask.
        """
        pixels = read_image(image, max_pixels=max_pixels)
        if pixels.size != (self.frame.width, self.frame.height):
            raise ImageError(
                f"the image is {pixels.width}x{pixels.height}, that of the prediction {self.frame.width}x"
                f"{self.frame.height}; give the image that was segmented"
            )
        return overlay(pixels, self.mask)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the expression, the verdict and the mask."""
        verdict = "nothing fits" if self.empty else f"score {self.score:.2f}, box {self.box}"
        file = BytesIO()
        fitted(mask_image(self.mask), NOTEBOOK_SIDE).save(file, "PNG")
        source = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
        return f'<p>{escaped(self.expression)}: {verdict}</p><img alt="the mask" src="{source}">'


@dataclass(frozen=True, eq=False)
class PatchMap:
    """The similarity of each image patch to the expression, from a model that computes one (RISCLIP, plain CLIP)."""

    expression: str
    """Verbatim."""
    cosines: Float[ndarray, "g g"]
    """Of each patch of the model's square and the sentence, -1..1, float32."""
    probability: Float[ndarray, "H W"]
    """The probability of each pixel by the map alone, 0..1, float32, at the image's own size."""


WordSource: TypeAlias = Literal["attention", "patches"]
"""What the maps of words are: a model's attention to each word, or its patch-level map of each word alone."""


@dataclass(frozen=True, eq=False)
class WordMap:
    """Where a word of an expression looks, from a model that can tell (see `BaseSegmenter.word_maps`)."""

    word: str
    """As written."""
    scores: Float[ndarray, "h w"]
    """Of each cell of the model's square, 0..1."""
    frame: Frame
    """The place of the image in that square."""

    @property
    def map(self) -> Float[ndarray, "H W"]:
        """The same of each pixel of the original image, 0..1, float32; not kept."""
        return np.asarray(np.clip(self.frame.restore(self.scores), 0, 1))

    def within(self, side: int) -> WordMap:
        """Return the same for the image scaled down to a longer side of at most `side` pixels."""
        return replace(self, frame=self.frame.within(side))


# ── the call ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class Segmenter(Protocol):
    """Anything that segments images by expressions; predicting, evaluating and calibrating ask nothing else.

    Implementations may be called from several threads at once.
    """

    @property
    def fingerprint(self) -> str:
        """Identifies weights and preprocessing: encodings of the same fingerprint are interchangeable."""
        ...

    @property
    def decision(self) -> Decision:
        """The decision of its predictions."""
        ...

    @property
    def domain(self) -> str | None:
        """The kind of images that it was trained on, such as `photos`; None: not known."""
        ...

    @property
    def device(self) -> str:
        """What it computes on, such as `cpu`."""
        ...

    def encode(self, images: list[Any] | tuple[Any, ...], /) -> list[Encoding]:
        """Encode images (see `inputs.read.ImageSource`), in their order.

        Raises:
            ImageError: an image is missing, broken or too large.
        """
        ...

    def segment(self, image: Encoding, expressions: Sequence[str], /) -> list[Prediction]:
        """Answer expressions about one image, in their order.

        Raises:
            ExpressionError: an expression is blank or not text.
            InputError: the encoding has another fingerprint.
        """
        ...
