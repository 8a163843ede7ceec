"""The expressions that a report shows with their images: the best, the median, the worst, and those that failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from refseg.data.catalogue import DataSet
from refseg.errors import DataError
from refseg.evaluation.evaluate import expression_id, known_of
from refseg.evaluation.failures import KINDS, Kind, Masks
from refseg.evaluation.metrics import Outcome, overlap
from refseg.evaluation.predictions import Predictions
from refseg.evaluation.protocols import Protocol
from refseg.evaluation.tables import percent
from refseg.values import Sample
from refseg.writers.overlay import overlay

__all__ = ["Gallery", "Group", "Panel", "Shown", "groups"]

EACH = 3
"""Expressions of each group."""
LOOKED_AT = 150
"""The most expressions, the worst first, whose masks are loaded to tell a kind of failure."""
WIDEST, HIGHEST = 320, 480
"""Of an image in a panel, pixels."""
QUALITY = 78


@dataclass(frozen=True, kw_only=True)
class Group:
    """Expressions that are shown together."""

    title: str
    rule: str
    """How they were chosen."""
    found: str = ""
    """How many there are of their kind, in words."""
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


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where an expression is in the data."""

    sample: Sample
    index: int


@dataclass(kw_only=True)
class Gallery:
    """The data and the stored masks that panels are drawn from."""

    data: DataSet
    protocol: Protocol
    predictions: Predictions | None = None
    other: Predictions | None = None
    _places: dict[str, _Place] = field(default_factory=dict)

    def find(self, outcomes: Iterable[Outcome]) -> None:
        """Look up where some expressions are, in one pass over the data.

        Raises:
            DataError: one is not in the data.
        """
        wanted = {one.id for one in outcomes} - self._places.keys()
        for image in range(self.data.num_images):
            if not wanted:
                return
            for sample in self.data.samples_of(image):
                for index in range(len(sample.expressions)):
                    id = expression_id(sample, index)
                    if id in wanted:
                        self._places[id] = _Place(sample=sample, index=index)
                        wanted.remove(id)
        if wanted:
            raise DataError(f"{self.data.name}:{self.data.split} has no expression {min(wanted)}")

    def masks(self, one: Outcome) -> Masks:
        """Return the masks of an expression that means something, as they are compared.

        Raises:
            DataError: the data or the predictions have none, or a broken one.
        """
        sample = self._places[one.id].sample
        truth, ignored = known_of(sample, self.protocol)
        if truth is None or sample.load_mask is None:
            raise DataError(f"{self.data.name}:{self.data.split}: expression {one.id} means nothing in these data")
        size = truth.shape if self.protocol.side is None else sample.load_mask().shape
        counted = np.ones_like(truth) if ignored is None else ~ignored
        found, other = (
            None if stored is None else self.protocol.place(self._stored(stored, one, size)) & counted
            for stored in (self.predictions, self.other)
        )
        return Masks(truth=truth & counted, found=found, other=other)

    def _stored(self, predictions: Predictions, one: Outcome, size: tuple[int, ...]) -> Bool[ndarray, "H W"]:
        place = self._places[one.id]
        row = predictions.of(place.sample, place.index)
        if row is None:
            raise DataError(f"{predictions.path}: has no prediction for expression {one.id} ({one.expression[:60]!r})")
        try:
            return predictions.mask(row, (size[0], size[1]))
        except DataError as error:
            raise DataError(f"{predictions.path}: expression {one.id}: {error}") from None

    def panel(self, one: Outcome) -> Panel:
        """Return an expression with its image, the true mask and the predicted ones.

        Raises:
            DataError: one of them is missing, broken, or of another size than the image.
        """
        sample = self._places[one.id].sample
        image = sample.load_image()
        size = (image.height, image.width)
        layers: list[tuple[str, str, Bool[ndarray, "H W"] | None]] = [("image", "The image alone", None)]
        if sample.load_mask is not None:
            layers.append(("truth", "What the expression means", sample.load_mask()))
        if self.predictions is not None:
            layers.append(("prediction", "What was found", self._stored(self.predictions, one, size)))
        if self.other is not None:
            layers.append(("second model", "What the second model found", self._stored(self.other, one, size)))
        shown = []
        for label, alt, mask in layers:
            if mask is not None and mask.shape != size:
                raise DataError(
                    f"{one.id}: a mask is {mask.shape[1]} x {mask.shape[0]}, its image {size[1]} x {size[0]}"
                )
            shown.append(_draw(image, mask, label, f"{alt}, tinted pink" if mask is not None and mask.any() else alt))
        return Panel(outcome=one, images=tuple(shown), remarks=tuple(self._remarks(one)))

    def _remarks(self, one: Outcome) -> Iterator[str]:
        if not one.present:
            yield "The expression fits nothing in the image."
            return
        masks = self.masks(one)
        if masks.found is not None and abs(_iou(masks.found, masks.truth) - one.iou) > 0.001:
            stored = _iou(masks.found, masks.truth)
            yield f"The mask as stored has IoU {percent(stored)} %: another threshold or size was used for counting."
        if masks.other is not None:
            yield f"Second model: IoU {percent(_iou(masks.other, masks.truth))} %."


def groups(outcomes: Sequence[Outcome], gallery: Gallery) -> list[Group]:
    """Return what to show: best, median and worst expressions, then the worst of each kind of failure.

    All of the chosen are looked up in the gallery, ready for `Gallery.panel`.

    Raises:
        DataError: an expression is not in the data, or has no stored mask.
    """
    ranked = sorted((one for one in outcomes if one.present), key=_worst_first)
    suspects = {name: _suspects(kind, ranked, outcomes) for name, kind in KINDS.items()}
    middle = max((len(ranked) - EACH) // 2, 0)
    found = [
        Group(title="Best", rule="The highest IoU.", chosen=tuple(ranked[: -EACH - 1 : -1])),
        Group(title="Median", rule="Around the median IoU.", chosen=tuple(ranked[middle : middle + EACH])),
        Group(title="Worst", rule="The lowest IoU; of equals the surest first.", chosen=tuple(ranked[:EACH])),
    ]
    looked_at = {
        name: members[:LOOKED_AT] for name, members in suspects.items() if KINDS[name].seen and _ready(name, gallery)
    }
    counted = [members[:EACH] for name, members in suspects.items() if not KINDS[name].seen]
    gallery.find(
        one for members in (*(group.chosen for group in found), *counted, *looked_at.values()) for one in members
    )
    masks = _Seen(gallery)
    return found + [_group(kind, suspects[name], looked_at.get(name), masks) for name, kind in KINDS.items()]


class _Seen:
    """Says of expressions what masks say; each expression's are loaded once for all kinds."""

    def __init__(self, gallery: Gallery) -> None:
        self.gallery = gallery
        self.said: dict[str, frozenset[str]] = {}

    def shows(self, one: Outcome, kind: Kind) -> bool:
        if one.id not in self.said:
            masks = self.gallery.masks(one)
            self.said[one.id] = frozenset(
                name
                for name, other in KINDS.items()
                if other.seen is not None and other.suspect(one) and _ready(name, self.gallery) and other.seen(masks)
            )
        return kind.name in self.said[one.id]


def _ready(name: str, gallery: Gallery) -> bool:
    stored = {"found": gallery.predictions, "other": gallery.other}
    return all(stored[need] is not None for need in KINDS[name].needs)


def _suspects(kind: Kind, ranked: Sequence[Outcome], outcomes: Sequence[Outcome]) -> list[Outcome]:
    suspects = [one for one in ranked if kind.suspect(one)]
    if kind.name == "nothing found":
        return sorted(suspects, key=lambda one: (-one.meant / max(one.pixels, 1), one.id))
    if kind.name == "found what is not there":
        return sorted((one for one in outcomes if kind.suspect(one)), key=lambda one: (-one.score, one.id))
    return suspects


def _group(kind: Kind, suspects: Sequence[Outcome], looked_at: Sequence[Outcome] | None, masks: _Seen) -> Group:
    title = kind.name.capitalize() + (f" (hints at what CRIS' authors call {kind.shown_as})" if kind.shown_as else "")
    if kind.seen is None:
        return Group(title=title, rule=kind.rule, found=_many(len(suspects)), chosen=tuple(suspects[:EACH]))
    if looked_at is None:
        needed = "masks of two models" if "other" in kind.needs else "the predicted masks"
        return Group(title=title, rule=kind.rule, found=f"Not told: it takes {needed}.")
    members = [one for one in looked_at if masks.shows(one, kind)]
    of = f" of the {len(looked_at):,} worst that were looked at" if len(looked_at) < len(suspects) else ""
    return Group(title=title, rule=kind.rule, found=_many(len(members), of), chosen=tuple(members[:EACH]))


def _many(count: int, of: str = "") -> str:
    return f"{count:,} {'expression' if count == 1 else 'expressions'}{of}."


def _worst_first(one: Outcome) -> tuple[float, float, str]:
    return one.iou, -one.score, one.id


def _iou(found: Bool[ndarray, "h w"], truth: Bool[ndarray, "h w"]) -> float:
    intersection, union = overlap(found, truth)
    return intersection / union if union else 0.0


def _draw(image: Image.Image, mask: Bool[ndarray, "H W"] | None, label: str, alt: str) -> Shown:
    """Draw a mask over an image, both made small first."""
    small = image.copy()
    small.thumbnail((WIDEST, HIGHEST), Image.Resampling.LANCZOS)
    if mask is not None:
        small = overlay(small, _shrunk(mask, small.size))
    written = BytesIO()
    small.save(written, "JPEG", quality=QUALITY, optimize=True)
    return Shown(label=label, alt=alt, width=small.width, height=small.height, jpeg=written.getvalue())


def _shrunk(mask: Bool[ndarray, "H W"], size: tuple[int, int]) -> Bool[ndarray, "h w"]:
    """Return a mask at another size, (width, height): where at least half of a pixel is covered, or any of it is."""
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    half = share >= 0.5
    return half if half.any() else share > 0  # what is thinner than a pixel is to be seen all the same
