"""Samples to training batches: each image is loaded once for all of its expressions, in a seeded order."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from refseg.data.dataset import ImageData
from refseg.data.words import mirrored, says_looks_alone
from refseg.errors import RefsegError
from refseg.inputs.frame import Frame
from refseg.inputs.preprocessing import Inputs
from refseg.masks import bounding_box
from refseg.models.grid import STRIDE
from refseg.values import Expression, Sample

__all__ = [
    "Batch",
    "ByReference",
    "Shard",
    "TrainIndex",
    "TrainItem",
    "TrainOrder",
    "TrainTransform",
    "batches",
    "collate",
    "shrink",
    "to_device",
]

CROP_FRACTION = (0.3, 0.6)
"""Least and greatest side of a crop, as a fraction of the image's side."""
ROUNDING = 1e-3
"""A cell counts as ignored if less of it is valid."""
INSIDE = 0.8
"""A target counts as inside a crop if at least this fraction of its pixels is."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Training input: N images, and B expressions each of which refers to one of them."""

    pixels: Float[Tensor, "N 3 S S"]
    """Letterboxed and normalised."""
    tokens: Int64[Tensor, "B L"]
    padding: Bool[Tensor, "B L"]
    """True where a token is padding."""
    image_index: Int64[Tensor, "B"]
    """The image of each expression, 0..N-1."""
    target: Float[Tensor, "B 1 h w"]
    """The target mask at the side of the model's logits: the fraction of the valid part of each cell, 0..1."""
    valid: Float[Tensor, "B 1 h w"]
    """The weight of each cell in the loss: the fraction of it that is not ignored, 0..1."""
    weight: Float[Tensor, "B"]
    """The weight of each expression in the loss of the batch; positive."""
    box: Float[Tensor, "B 4"]
    """Around the target, (x0, y0, x1, y1) in pixels of the square; zeros where nothing fits."""


@dataclass(frozen=True)
class ByReference:
    """Samples as images with one sample each: the published runs go through references, whose image may repeat."""

    samples: Sequence[Sample]

    @property
    def num_images(self) -> int:
        """The number of samples."""
        return len(self.samples)

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return sample `index` alone."""
        return (self.samples[index],)


# ── the order ────────────────────────────────────────────────────────────────────────────────────────────────────────


class TrainIndex(NamedTuple):
    """One image of a step, and the seed that chooses its expressions."""

    image: int
    size: int
    expressions: int
    seed: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TrainOrder:
    """The images of every step: a function of these numbers and of nothing else."""

    num_images: int
    batch_size: int
    """Images of a step."""
    expressions: int
    """The greatest number of expressions chosen for an image."""
    sizes: tuple[tuple[int, int], ...]
    """Pairs (first step, side in pixels), in rising order of the step; the first starts at 0."""
    seed: int

    def size(self, step: int) -> int:
        """Return the side of the images at a step, pixels."""
        return [side for first, side in self.sizes if first <= step][-1]

    def at(self, step: int) -> list[TrainIndex]:
        """Return the images of a step. All images are used once, in a new order each time, before any is repeated."""
        indices = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            turn, place = divmod(position, self.num_images)
            image = int(_permutation(self.seed, turn, self.num_images)[place])
            indices.append(TrainIndex(image, self.size(step), self.expressions, (self.seed, turn, image)))
        return indices


@lru_cache(maxsize=2)  # a batch touches two passes at most
def _permutation(seed: int, turn: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, turn, count)).permutation(count)


class Shard(NamedTuple):
    """The part of every step that one of several processes computes, cut into equally large pieces."""

    rank: int = 0
    num_processes: int = 1
    pieces: int = 1

    def of(self, indices: list[TrainIndex]) -> Iterator[list[TrainIndex]]:
        """Yield the pieces of this shard."""
        length = len(indices) // (self.num_processes * self.pieces)
        for piece in range(self.pieces):
            start = (self.rank * self.pieces + piece) * length
            yield indices[start : start + length]


WHOLE = Shard()
"""All of every step, in one piece."""


# ── one image ────────────────────────────────────────────────────────────────────────────────────────────────────────


class TrainItem(NamedTuple):
    """One image and K of its expressions, as tensors (see `Batch`)."""

    pixels: Float[Tensor, "3 S S"]
    tokens: Int64[Tensor, "K L"]
    padding: Bool[Tensor, "K L"]
    target: Float[Tensor, "K 1 h w"]
    valid: Float[Tensor, "K 1 h w"]
    weight: Float[Tensor, "K"]
    box: Float[Tensor, "K 4"]


_Pair = tuple[Sample, Expression]


class TrainTransform(Dataset[TrainItem | RefsegError]):
    """Turns an image of a step into tensors: letterboxes the image, tokenises its expressions, resizes their masks.

    An error of the data is returned, not raised: it may have to travel from a worker process.

    Args:
        data: the images.
        inputs: the preprocessing of the model; the side of the square is that of the step.
        target: how masks are shrunk (see `shrink`).
        emphasis: the weight of expressions by their form; 1 for all others.
        mirror: the probability that an image is mirrored, 0..1, if all expressions chosen for it can be (see
            `mirrored`).
        zoom: the probability that an image is replaced by a crop of it, 0..1, with the expressions that describe
            appearance alone.
        stride: the side in pixels of the cell that one logit of the model stands for.
    """

    def __init__(
        self,
        data: ImageData,
        inputs: Inputs,
        target: str = "coverage",
        emphasis: Mapping[str, float] = MappingProxyType({}),
        *,
        mirror: float = 0.0,
        zoom: float = 0.0,
        stride: int = STRIDE,
    ) -> None:
        self.data, self.inputs, self.target, self.emphasis = data, inputs, target, dict(emphasis)
        self.mirror, self.zoom, self.stride = mirror, zoom, stride

    def __getitem__(self, index: TrainIndex) -> TrainItem | RefsegError:
        try:
            return self._item(index)
        except RefsegError as error:
            return error

    def _item(self, index: TrainIndex) -> TrainItem:
        rng = np.random.default_rng(index.seed)
        samples = self.data.samples_of(index.image)
        pairs = [(sample, expression) for sample in samples for expression in sample.expressions]
        image = samples[0].load_image()
        masks = _Masks(image.height, image.width)
        if self.zoom > 0 and rng.random() < self.zoom:
            pairs = masks.zoom(pairs, rng)
        chosen = [pairs[i] for i in rng.permutation(len(pairs))[: index.expressions]]
        texts = [expression.text for _, expression in chosen]
        flipped = [mirrored(text) for text in texts] if self.mirror > 0 else [None]
        masks.flip = None not in flipped and rng.random() < self.mirror
        if not masks.whole:
            image = Image.fromarray(masks.view(np.asarray(image)))
        pixels, frame = replace(self.inputs, image_size=index.size).pixels(image)
        shrunk = {  # once for all expressions of a sample
            sample.id: self._shrink(sample, masks, frame)
            for sample in {sample.id: sample for sample, _ in chosen}.values()
        }
        words = self.inputs.tokens([text for text in flipped if text is not None] if masks.flip else texts)
        return TrainItem(
            pixels=torch.from_numpy(pixels),
            tokens=torch.from_numpy(words.tokens),
            padding=torch.from_numpy(words.padding),
            target=torch.stack([shrunk[sample.id][0] for sample, _ in chosen]),
            valid=torch.stack([shrunk[sample.id][1] for sample, _ in chosen]),
            weight=torch.tensor([self.emphasis.get(_form(expression), 1.0) for _, expression in chosen]),
            box=torch.stack([_box(masks.view(masks.of(sample)), frame) for sample, _ in chosen]),
        )

    def _shrink(
        self, sample: Sample, masks: _Masks, frame: Frame
    ) -> tuple[Float[Tensor, "1 h w"], Float[Tensor, "1 h w"]]:
        """Return the target of a sample and the weight of its cells (see `Batch`)."""

        def small(mask: Bool[ndarray, "H W"]) -> Float[Tensor, "1 h w"]:
            return shrink(torch.from_numpy(frame.place_mask(masks.view(mask))), self.target, self.stride)

        if sample.load_ignored is None:
            target = small(masks.of(sample))
            return target, torch.ones_like(target)
        ignored = sample.load_ignored()
        target, valid = small(masks.of(sample) & ~ignored), (1 - small(ignored)).clamp(0, 1)
        valid = torch.where(valid < ROUNDING, 0, valid)
        # The fraction of the valid part: the cross-entropy of a cell is then the mean over its valid pixels.
        return torch.where(valid > 0, target / valid, 0).clamp(0, 1), valid


def _box(mask: Bool[ndarray, "H W"], frame: Frame) -> Float[Tensor, "4"]:
    box = bounding_box(mask)
    if box is None:
        return torch.zeros(4)
    return torch.from_numpy(frame.to_square(np.array(box, np.float64))).float()


def _form(expression: Expression) -> str:
    return str(expression.attributes.get("form", ""))


class _Masks:
    """The masks of an image's samples, each loaded once, and the crop of the image that is used."""

    def __init__(self, height: int, width: int) -> None:
        self.size = height, width
        self.window = slice(0, height), slice(0, width)
        self.flip = False
        self.loaded: dict[str, Bool[ndarray, "H W"]] = {}

    @property
    def whole(self) -> bool:
        """Whether the image is used unchanged."""
        return not self.flip and self.window == (slice(0, self.size[0]), slice(0, self.size[1]))

    def of(self, sample: Sample) -> Bool[ndarray, "H W"]:
        """Return the target mask of a sample; all False if nothing fits its expressions."""
        if sample.id not in self.loaded:
            self.loaded[sample.id] = np.zeros(self.size, bool) if sample.load_mask is None else sample.load_mask()
        return self.loaded[sample.id]

    def view(self, whole: ndarray) -> ndarray:
        """Return the crop of an image or mask, mirrored if the image is."""
        part = whole[self.window]
        return np.ascontiguousarray(part[:, ::-1] if self.flip else part)

    def zoom(self, pairs: list[_Pair], rng: np.random.Generator) -> list[_Pair]:
        """Choose a crop around one of the targets, and return the expressions that hold in it.

        Those describe a target by its appearance alone, and the target is nearly all inside, or all outside: then
        nothing fits them. If no expression is of that kind, the image stays whole.
        """
        of_appearance = [pair for pair in pairs if says_looks_alone(pair[1].text)]
        present = [pair for pair in of_appearance if self.of(pair[0]).any()]
        if not present:
            return pairs
        mask = self.of(present[int(rng.integers(len(present)))][0])
        fraction = rng.uniform(*CROP_FRACTION)
        for axis, length in enumerate(self.size):
            inside = np.flatnonzero(mask.any(axis=1 - axis))
            side = max(round(fraction * length), int(inside[-1] - inside[0]) + 1)
            first, last = max(0, int(inside[-1]) + 1 - side), min(int(inside[0]), length - side)
            start = int(rng.integers(min(first, last), max(first, last) + 1))
            window = slice(start, start + side)
            self.window = (window, self.window[1]) if axis == 0 else (self.window[0], window)
        return [pair for pair in of_appearance if self._holds(self.of(pair[0]))]

    def _holds(self, mask: Bool[ndarray, "H W"]) -> bool:
        inside, whole = np.count_nonzero(mask[self.window]), np.count_nonzero(mask)
        return bool(inside == 0 or inside >= INSIDE * whole)


def shrink(mask: Float[Tensor, "S S"], target: str, stride: int = STRIDE) -> Float[Tensor, "1 h w"]:
    """Return a mask at S / `stride` on a side, as a target for logits.

    Logits are enlarged with aligned corners: logit i of n is enlarged to pixel i * (S - 1) / (n - 1).

    Args:
        mask: 0..1.
        target: `coverage` takes the mean of the cell around that pixel. `strided` takes every fourth pixel, as CRIS
            does (its code: nearest neighbour); its masks come out shifted, by nothing at the left and top edges and up
            to 3 pixels at the right and bottom ones.
        stride: the side of a cell in pixels; with 1 the mask stays as it is.
    """
    if target == "strided":
        return mask[None, ::stride, ::stride]
    cells = _cells(len(mask), stride)
    return (cells @ mask @ cells.T)[None]


@lru_cache(maxsize=8)
def _cells(side: int, stride: int) -> Float[Tensor, "h S"]:
    """Return the weight of each pixel of a line in the mean of each cell."""
    around = stride // 2
    padded = F.pad(torch.eye(side)[:, None], (around, around), mode="replicate")
    mean = F.avg_pool1d(padded, 2 * around + 1, stride=1)
    return F.interpolate(mean, size=side // stride, mode="linear", align_corners=True)[:, 0].T.contiguous()


# ── batches ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Steps(Sampler[list[TrainIndex]]):
    def __init__(self, order: TrainOrder, steps: range, shard: Shard) -> None:
        self.order, self.steps, self.shard = order, steps, shard

    def __iter__(self) -> Iterator[list[TrainIndex]]:
        return (piece for step in self.steps for piece in self.shard.of(self.order.at(step)))

    def __len__(self) -> int:
        return len(self.steps) * self.shard.pieces


def collate(items: Sequence[TrainItem | RefsegError]) -> Batch | RefsegError:
    """Join images and their expressions into a batch, with the tokens of its longest expression.

    If an item is an error, the first error is returned instead.
    """
    for item in items:
        if isinstance(item, RefsegError):
            return item
    return _join([item for item in items if isinstance(item, TrainItem)])


def _join(items: Sequence[TrainItem]) -> Batch:
    counts = torch.tensor([len(item.tokens) for item in items])
    tokens = torch.cat([item.tokens for item in items])
    padding = torch.cat([item.padding for item in items])
    longest = int((~padding).sum(dim=1).max())
    return Batch(
        pixels=torch.stack([item.pixels for item in items]),
        tokens=tokens[:, :longest],
        padding=padding[:, :longest],
        image_index=torch.arange(len(items)).repeat_interleave(counts),
        target=torch.cat([item.target for item in items]),
        valid=torch.cat([item.valid for item in items]),
        weight=torch.cat([item.weight for item in items]),
        box=torch.cat([item.box for item in items]),
    )


def batches(
    transform: TrainTransform, order: TrainOrder, steps: range, workers: int = 0, shard: Shard = WHOLE
) -> Iterator[Batch]:
    """Yield the batches of some steps, one for each piece of the shard; equal for any number of workers.

    Raises:
        RefsegError: an image or a mask cannot be read.
    """
    loader = DataLoader(
        transform,
        batch_sampler=_Steps(order, steps, shard),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker,
        # A loader draws a seed for its workers, which use none: take it from here, not from the model's generator.
        generator=torch.Generator(),
    )
    for batch in loader:
        if isinstance(batch, RefsegError):
            raise batch
        yield batch


def _start_worker(worker: int) -> None:
    """Use one thread, and ignore the signals that ask the training process to stop.

    A terminal, or SLURM, signals the whole group of processes. The training process may need this one's batch to finish
    its step; it ends its workers itself.
    """
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of a batch on a device."""
    return replace(batch, **{name: value.to(device, non_blocking=True) for name, value in vars(batch).items()})
