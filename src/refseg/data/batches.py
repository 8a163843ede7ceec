"""Samples -> batches: images letterboxed once for all of their expressions, drawn in an order that a seed fixes."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from refseg.data.words import mirrored, says_looks_alone
from refseg.errors import RefsegError
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.read import letterbox
from refseg.models.grid import STRIDE
from refseg.values import Batch, Sample

__all__ = [
    "ImageData",
    "Share",
    "TrainIndex",
    "TrainItem",
    "TrainOrder",
    "TrainTransform",
    "batches",
    "collate",
    "form_of",
    "part_of",
    "shrink",
    "to_device",
]

ZOOM = (0.3, 0.6)
"""Share of the image's sides that a part has which takes its place."""
NEARLY_ALL = 0.8


@runtime_checkable
class ImageData(Protocol):
    """A data set seen image by image."""

    @property
    def num_images(self) -> int:
        """How many images there are."""
        ...

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples of image `index`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainOrder:
    """What is drawn at which step: a function of these numbers and of nothing else."""

    items: int
    """How many images there are, or references if those are drawn."""
    batch_size: int
    """Items of a step."""
    expressions: int
    """The most expressions drawn of an item."""
    sizes: tuple[tuple[int, int], ...]
    """Pairs (first step, side in pixels), in rising order of the step; the first starts at 0."""
    seed: int

    def size(self, step: int) -> int:
        """Return the side in pixels that images have at a step."""
        return [side for first, side in self.sizes if first <= step][-1]

    def at(self, step: int) -> list[TrainIndex]:
        """Return the draws of a step. Items are passed through in a new order each time, none left out."""
        draws = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            turn, place = divmod(position, self.items)
            item = int(_permutation(self.seed, turn, self.items)[place])
            draws.append(TrainIndex(item, self.size(step), self.expressions, (self.seed, turn, item)))
        return draws


class TrainIndex(NamedTuple):
    """One image or reference to be drawn, and the seed that picks its expressions."""

    item: int
    size: int
    expressions: int
    seed: tuple[int, ...]


_permutations: dict[tuple[int, int, int], np.ndarray] = {}


def _permutation(seed: int, turn: int, count: int) -> np.ndarray:
    key = (seed, turn, count)
    if key not in _permutations:
        while len(_permutations) > 1:  # a batch touches two at most
            _permutations.pop(next(iter(_permutations)))
        _permutations[key] = np.random.default_rng(key).permutation(count)
    return _permutations[key]


class TrainItem(NamedTuple):
    """One image and K of its expressions, as tensors."""

    pixels: Float[Tensor, "3 S S"]
    tokens: Int64[Tensor, "K L"]
    padding: Bool[Tensor, "K L"]
    target: Float[Tensor, "K 1 h w"]
    weight: Float[Tensor, "K"]


class TrainTransform(Dataset[TrainItem | RefsegError]):
    """Turns a draw into tensors: letterboxes the image, tokenises its expressions, resizes their masks.

    What cannot be read is returned as the error that says so: it may have to travel from another process.

    Args:
        data: what is drawn from.
        word_length: tokens of an expression, at most.
        target: how masks are shrunk (see `shrink`).
        emphasis: how much an expression of a form counts, where others count 1.
        mirror: how often an image is mirrored, 0..1, where all of the words drawn for it can be (see `mirrored`).
        zoom: how often a part of an image takes its place, 0..1, with the expressions that tell things by their looks.
        by_reference: whether draws are of references instead of images; `data` is then a sequence of samples too.
    """

    def __init__(
        self,
        data: ImageData,
        word_length: int,
        target: str = "coverage",
        emphasis: Mapping[str, float] = MappingProxyType({}),
        *,
        mirror: float = 0.0,
        zoom: float = 0.0,
        by_reference: bool = False,
    ) -> None:
        self.data, self.target, self.emphasis, self.mirror = data, target, dict(emphasis), mirror
        self.zoom, self.by_reference = zoom, by_reference
        self.tokenizer = Tokenizer(word_length)

    def __getitem__(self, draw: TrainIndex) -> TrainItem | RefsegError:
        try:
            return self._draw(draw)
        except RefsegError as error:
            return error

    def _draw(self, draw: TrainIndex) -> TrainItem:
        rng = np.random.default_rng(draw.seed)
        samples = self._samples(draw.item)
        pairs = [(sample, i) for sample in samples for i in range(len(sample.expressions))]
        image = samples[0].load_image()
        masks = _Masks(image.height, image.width)
        if self.zoom > 0 and rng.random() < self.zoom:
            pairs = masks.zoom(pairs, rng)
        chosen = [pairs[i] for i in rng.permutation(len(pairs))[: draw.expressions]]
        expressions = [sample.expressions[i] for sample, i in chosen]
        other_way = [mirrored(expression) for expression in expressions] if self.mirror > 0 else [None]
        masks.flip = None not in other_way and rng.random() < self.mirror
        pixels, frame = letterbox(image if masks.whole else Image.fromarray(masks.view(np.asarray(image))), draw.size)
        seen = {  # once for all expressions of a sample
            sample.id: shrink(frame.letterbox_mask(masks.view(masks.of(sample))), self.target)
            for sample in {sample.id: sample for sample, _ in chosen}.values()
        }
        words = self.tokenizer([words for words in other_way if words is not None] if masks.flip else expressions)
        target = torch.stack([seen[sample.id] for sample, _ in chosen])
        weight = torch.tensor([self.emphasis.get(form_of(sample, i), 1.0) for sample, i in chosen])
        return TrainItem(pixels, words.tokens, words.padding, target, weight)

    def _samples(self, item: int) -> tuple[Sample, ...]:
        if not self.by_reference:
            return self.data.samples_of(item)
        assert isinstance(self.data, Sequence)
        return (self.data[item],)


class _Masks:
    """The masks of an image's samples, each loaded once, and the part of the image that is looked at."""

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        self.window = slice(0, height), slice(0, width)
        self.flip = False
        self.loaded: dict[str, Bool[ndarray, "H W"]] = {}

    @property
    def whole(self) -> bool:
        """Whether the image is looked at as it is."""
        return not self.flip and self.window == (slice(0, self.size[0]), slice(0, self.size[1]))

    def of(self, sample: Sample) -> Bool[ndarray, "H W"]:
        """Return where a sample's meaning is; nowhere for what fits nothing."""
        if sample.id not in self.loaded:
            self.loaded[sample.id] = np.zeros(self.size, bool) if sample.load_mask is None else sample.load_mask()
        return self.loaded[sample.id]

    def view(self, whole: ndarray) -> ndarray:
        """Return the part of an image or mask that is looked at."""
        part = whole[self.window]
        return np.ascontiguousarray(part[:, ::-1] if self.flip else part)

    def zoom(self, pairs: list[tuple[Sample, int]], rng: np.random.Generator) -> list[tuple[Sample, int]]:
        """Look at a part around one of the meant things, and return the expressions that hold in it.

        Those tell a thing by its looks alone, and the thing is nearly all inside, or all outside: there they fit
        nothing. Where no expression is of that kind, all stays as it was.
        """
        alone = [(sample, i) for sample, i in pairs if says_looks_alone(sample.expressions[i])]
        meant = [pair for pair in alone if self.of(pair[0]).any()]
        if not meant:
            return pairs
        mask = self.of(meant[int(rng.integers(len(meant)))][0])
        share = rng.uniform(*ZOOM)
        for axis, length in enumerate(self.size):
            inside = np.flatnonzero(mask.any(axis=1 - axis))
            side = max(round(share * length), int(inside[-1] - inside[0]) + 1)
            first, last = max(0, int(inside[-1]) + 1 - side), min(int(inside[0]), length - side)
            start = int(rng.integers(min(first, last), max(first, last) + 1))
            window = slice(start, start + side)
            self.window = (window, self.window[1]) if axis == 0 else (self.window[0], window)
        return [pair for pair in alone if self._holds(self.of(pair[0]))]

    def _holds(self, mask: Bool[ndarray, "H W"]) -> bool:
        inside, whole = np.count_nonzero(mask[self.window]), np.count_nonzero(mask)
        return bool(inside == 0 or inside >= NEARLY_ALL * whole)


def form_of(sample: Sample, index: int) -> str:
    """Return the form of one expression of a sample, where its `forms` attribute says it, else an empty text."""
    return part_of(sample, "forms", index)


def part_of(sample: Sample, attribute: str, index: int) -> str:
    """Return what an attribute that lists the expressions, joined by commas, says of one of them."""
    parts = str(sample.attributes.get(attribute, "")).split(",")
    return parts[index] if index < len(parts) else ""


def shrink(mask: Float[Tensor, "S S"], target: str) -> Float[Tensor, "1 h w"]:
    """Return a mask at a quarter of its side, as a target for logits.

    Logits are enlarged with aligned corners: logit i of n comes to lie at pixel i * (S - 1) / (n - 1).

    Args:
        mask: 0..1.
        target: `coverage` takes the mask's share of the cell around just that place. `strided` takes every fourth
            pixel, as the reference does (its code: nearest neighbour): there masks come out shifted, by nothing at the
            left and top edges and up to 3 pixels at the right and bottom ones.
    """
    if target == "strided":
        return mask[None, ::STRIDE, ::STRIDE]
    cells = _cells(len(mask))
    return (cells @ mask @ cells.T)[None]


@lru_cache(maxsize=8)
def _cells(side: int) -> Float[Tensor, "h S"]:
    """Return the share that each pixel of a line has in each cell around where its logit comes to lie."""
    around = STRIDE // 2
    padded = F.pad(torch.eye(side)[:, None], (around, around), mode="replicate")
    share = F.avg_pool1d(padded, 2 * around + 1, stride=1)
    return F.interpolate(share, size=side // STRIDE, mode="linear", align_corners=True)[:, 0].T.contiguous()


class Share(NamedTuple):
    """The part of every step that one of several processes computes, and in how many pieces."""

    rank: int = 0
    size: int = 1
    pieces: int = 1

    def of(self, draws: list[TrainIndex]) -> Iterator[list[TrainIndex]]:
        """Yield the pieces of this share, equally long."""
        length = len(draws) // (self.size * self.pieces)
        for piece in range(self.pieces):
            start = (self.rank * self.pieces + piece) * length
            yield draws[start : start + length]


WHOLE = Share()
"""All of every step, in one piece."""


class _Steps(Sampler[list[TrainIndex]]):
    def __init__(self, order: TrainOrder, steps: range, share: Share) -> None:
        self.order, self.steps, self.share = order, steps, share

    def __iter__(self) -> Iterator[list[TrainIndex]]:
        return (piece for step in self.steps for piece in self.share.of(self.order.at(step)))

    def __len__(self) -> int:
        return len(self.steps) * self.share.pieces


def collate(drawn: Sequence[TrainItem | RefsegError]) -> Batch | RefsegError:
    """Join images and their expressions into a batch, as long as its longest expression: the rest is padding.

    Where something could not be read, the first error that says so is returned instead.
    """
    for item in drawn:
        if isinstance(item, RefsegError):
            return item
    return _join([item for item in drawn if isinstance(item, TrainItem)])


def _join(drawn: Sequence[TrainItem]) -> Batch:
    counts = torch.tensor([len(item.tokens) for item in drawn])
    tokens = torch.cat([item.tokens for item in drawn])
    padding = torch.cat([item.padding for item in drawn])
    longest = int((~padding).sum(dim=1).max())
    return Batch(
        pixels=torch.stack([item.pixels for item in drawn]),
        tokens=tokens[:, :longest],
        padding=padding[:, :longest],
        image_index=torch.arange(len(drawn)).repeat_interleave(counts),
        target=torch.cat([item.target for item in drawn]),
        weight=torch.cat([item.weight for item in drawn]),
    )


def batches(
    drawer: TrainTransform, order: TrainOrder, steps: range, workers: int = 0, share: Share = WHOLE
) -> Iterator[Batch]:
    """Yield the batches of some steps, as many a step as a share has pieces; the same for any number of workers.

    Raises:
        RefsegError: something that was drawn cannot be read.
    """
    loader = DataLoader(
        drawer,
        batch_sampler=_Steps(order, steps, share),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_serve,
        # A loader draws a seed for its workers, which use none: from here, not from the model's random numbers.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, RefsegError):
            raise batch
        yield batch


def _serve(worker: int) -> None:
    """Work on one thread, until the process that asks for batches says that it is done, or is gone.

    A terminal, or SLURM, signals the whole group of processes to stop. The one that learns may need this one's batch to
    come to a whole step.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of a batch on a device."""
    return replace(batch, **{name: value.to(device, non_blocking=True) for name, value in vars(batch).items()})
