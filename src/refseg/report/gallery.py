"""The expressions that a report shows with images: the best, median and worst, and examples of each kind of failure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from refseg.data.dataset import DataSet
from refseg.errors import DataError, counted
from refseg.evaluation.evaluate import target_of
from refseg.evaluation.metrics import Outcome
from refseg.evaluation.predictions import Matched, Predictions
from refseg.evaluation.protocols import Protocol
from refseg.masks import check_mask_size, iou
from refseg.report.failures import KINDS, Kind, Masks
from refseg.values import Expression, Sample
from refseg.writers.overlay import overlay, shrunk
from refseg.writers.table import percent, shortened

__all__ = ["Gallery", "Group", "Panel", "Shown", "groups"]

EACH = 3
"""Expressions of each group."""
MAX_EXAMINED = 150
"""At most this many expressions, the worst first, are examined by their masks for each kind of failure."""
MAX_WIDTH, MAX_HEIGHT = 320, 480
"""Of an image in a panel, pixels."""
QUALITY = 78


@dataclass(frozen=True, kw_only=True)
class Group:
    """Expressions that are shown together."""

    title: str
    rule: str
    """How they were chosen."""
    size: str = ""
    """How many expressions are of this kind, as a sentence."""
    chosen: tuple[Outcome, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image of a panel."""

    label: str
    alt: str
    width: int
    height: int
    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class Panel:
    """An expression with its images."""

    outcome: Outcome
    images: tuple[Shown, ...]
    remarks: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Gallery:
    """Draws panels from the data and stored masks."""

    data: DataSet
    protocol: Protocol
    model: str
    """The name of the model whose masks are the predictions."""
    predictions: Predictions | None = None
    other: Predictions | None = None
    _places: dict[str, tuple[Sample, Expression]] = field(default_factory=dict)
    """By the id of the expression."""
    _matched: dict[Predictions, Matched] = field(default_factory=dict)

    def find(self, outcomes: Iterable[Outcome]) -> None:
        """Look up the samples of some expressions, in one pass over the data.

        Raises:
            DataError: one is not in the data.
        """
        wanted = {one.id for one in outcomes} - self._places.keys()
        for image in range(self.data.num_images):
            if not wanted:
                return
            for sample in self.data.samples_of(image):
                for expression in sample.expressions:
                    if expression.id in wanted:
                        self._places[expression.id] = sample, expression
                        wanted.remove(expression.id)
        if wanted:
            raise DataError(f"{self.data.name}:{self.data.split} has no expression {min(wanted)}")

    def masks(self, one: Outcome) -> Masks:
        """Return the masks of an expression with a target, at the size at which they are compared.

        Raises:
            DataError: the data or the predictions have none, or a broken one.
        """
        sample, _ = self._places[one.id]
        target, ignored = target_of(sample, self.protocol)
        if target is None or sample.load_mask is None:
            raise DataError(f"{self.data.name}:{self.data.split}: expression {one.id} has no target in these data")
        size = target.shape if self.protocol.side is None else sample.load_mask().shape
        counted = np.ones_like(target) if ignored is None else ~ignored
        predicted, other = (
            None if stored is None else self.protocol.resize_mask(self._stored(stored, one, size)) & counted
            for stored in (self.predictions, self.other)
        )
        return Masks(target=target & counted, predicted=predicted, other=other)

    def _stored(self, predictions: Predictions, one: Outcome, size: tuple[int, ...]) -> Bool[ndarray, "H W"]:
        if predictions not in self._matched:
            self._matched[predictions] = predictions.match(self.data)
        row = self._matched[predictions].row(*self._places[one.id])
        return predictions.mask(row, (size[0], size[1]), self.protocol.side)

    def panel(self, one: Outcome) -> Panel:
        """Return an expression with its image, the target mask and the predicted masks.

        Raises:
            DataError: one of them is missing, broken, or of another size than the image.
        """
        sample, _ = self._places[one.id]
        image = sample.load_image()
        size = (image.height, image.width)
        layers: list[tuple[str, str, Bool[ndarray, "H W"] | None]] = [("image", "The image alone", None)]
        if sample.load_mask is not None:
            target = sample.load_mask()
            check_mask_size(target.shape, size)
            layers.append(("target", "The target mask", target))
        if self.predictions is not None:
            label = "prediction" if self.other is None else f"first model: {shortened(self.model)}"
            layers.append((label, "The predicted mask", self._stored(self.predictions, one, size)))
        if self.other is not None:
            label = f"second model: {shortened(self.other.model)}"
            layers.append((label, "The mask of the second model", self._stored(self.other, one, size)))
        shown = tuple(
            _draw(image, mask, label, f"{alt}, tinted pink" if mask is not None and mask.any() else alt)
            for label, alt, mask in layers
        )
        return Panel(outcome=one, images=shown, remarks=tuple(self._remarks(one)))

    def _remarks(self, one: Outcome) -> Iterator[str]:
        if not one.present:
            yield "Nothing in the image fits the expression."
            return
        masks = self.masks(one)
        if masks.predicted is not None and abs(iou(masks.predicted, masks.target) - one.iou) > 0.001:
            stored = iou(masks.predicted, masks.target)
            yield f"The stored mask has IoU {percent(stored)} %: it is of another threshold, size or model."
        if masks.other is not None:
            yield f"Second model: IoU {percent(iou(masks.other, masks.target))} %."


def groups(outcomes: Sequence[Outcome], gallery: Gallery) -> list[Group]:
    """Return the best, median and worst expressions, then the worst of each kind of failure.

    All of them are looked up in the gallery, as `Gallery.panel` needs.

    Raises:
        DataError: an expression is not in the data, or has no stored mask.
    """
    ranked = sorted((one for one in outcomes if one.present), key=_worst_first)
    suspects = {name: _suspects(kind, ranked, outcomes) for name, kind in KINDS.items()}
    middle = max((len(ranked) - EACH) // 2, 0)
    found = [
        Group(title="Best", rule="The highest IoU.", chosen=tuple(ranked[: -EACH - 1 : -1])),
        Group(title="Median", rule="Around the median IoU.", chosen=tuple(ranked[middle : middle + EACH])),
        Group(title="Worst", rule="The lowest IoU, then the highest score.", chosen=tuple(ranked[:EACH])),
    ]
    examined = {
        name: members[:MAX_EXAMINED] for name, members in suspects.items() if KINDS[name].seen and _ready(name, gallery)
    }
    counted = [members[:EACH] for name, members in suspects.items() if not KINDS[name].seen]
    gallery.find(
        one for members in (*(group.chosen for group in found), *counted, *examined.values()) for one in members
    )
    masks = _Examined(gallery)
    return found + [_group(kind, suspects[name], examined.get(name), masks) for name, kind in KINDS.items()]


class _Examined:
    """Examines the masks of expressions; those of each expression are loaded once for all kinds."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.kinds: dict[str, frozenset[str]] = {}

    def is_of(self, one: Outcome, kind: Kind) -> bool:
        if one.id not in self.kinds:
            masks = self.gallery.masks(one)
            self.kinds[one.id] = frozenset(
                name
                for name, other in KINDS.items()
                if other.seen is not None and other.suspect(one) and _ready(name, self.gallery) and other.seen(masks)
            )
        return kind.name in self.kinds[one.id]


def _ready(name: str, gallery: Gallery) -> bool:
    stored = {"predicted": gallery.predictions, "other": gallery.other}
    return all(stored[need] is not None for need in KINDS[name].needs)


def _suspects(kind: Kind, ranked: Sequence[Outcome], outcomes: Sequence[Outcome]) -> list[Outcome]:
    suspects = [one for one in ranked if kind.suspect(one)]
    if kind.name == "target without a mask":
        return sorted(suspects, key=lambda one: (-one.target_pixels / max(one.image_pixels, 1), one.id))
    if kind.name == "mask without a target":
        return sorted((one for one in outcomes if kind.suspect(one)), key=lambda one: (-one.score, one.id))
    return suspects


def _group(kind: Kind, suspects: Sequence[Outcome], examined: Sequence[Outcome] | None, masks: _Examined) -> Group:
    title = kind.name.capitalize() + (
        f" (similar to what the authors of CRIS call {kind.shown_as})" if kind.shown_as else ""
    )
    if kind.seen is None:
        return Group(title=title, rule=kind.rule, size=_many(len(suspects)), chosen=tuple(suspects[:EACH]))
    if examined is None:
        needed = "masks of two models" if "other" in kind.needs else "the predicted masks"
        return Group(title=title, rule=kind.rule, size=f"Not examined: the rule needs {needed}.")
    members = [one for one in examined if masks.is_of(one, kind)]
    of = f" of the {len(examined):,} worst that were examined" if len(examined) < len(suspects) else ""
    return Group(title=title, rule=kind.rule, size=_many(len(members), of), chosen=tuple(members[:EACH]))


def _many(count: int, of: str = "") -> str:
    return f"{counted(count, 'expression')}{of}."


def _worst_first(one: Outcome) -> tuple[float, float, str]:
    return one.iou, -one.score, one.id


def _draw(image: Image.Image, mask: Bool[ndarray, "H W"] | None, label: str, alt: str) -> Shown:
    """Draw a mask over an image, both reduced first."""
    small = image.copy()
    small.thumbnail((MAX_WIDTH, MAX_HEIGHT), Image.Resampling.LANCZOS)
    if mask is not None:
        small = overlay(small, shrunk(mask, small.size))
    written = BytesIO()
    small.save(written, "JPEG", quality=QUALITY, optimize=True)
    return Shown(label=label, alt=alt, width=small.width, height=small.height, jpeg=written.getvalue())
