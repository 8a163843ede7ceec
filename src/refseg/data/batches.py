"""Samples -> batches: pictures letterboxed once for all of their expressions, drawn in an order that a seed fixes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from refseg.inputs.image import letterbox
from refseg.inputs.text import Tokenizer
from refseg.types import Batch, Sample

__all__ = [
    "Draw",
    "DrawOrder",
    "Drawer",
    "Drawn",
    "PictureData",
    "batches",
    "collate",
    "form_of",
    "part_of",
    "shrink",
    "to_device",
]

STRIDE = 4
"""Pixels of the square to a pixel of the logits, on a side."""


@runtime_checkable
class PictureData(Protocol):
    """A data set seen picture by picture."""

    @property
    def pictures(self) -> int:
        """How many pictures there are."""
        ...

    def samples_of(self, index: int) -> tuple[Sample, ...]:
        """Return all samples of picture `index`."""
        ...


@dataclass(frozen=True, kw_only=True)
class DrawOrder:
    """Which pictures and expressions are drawn at which step: a function of these numbers and of nothing else."""

    pictures: int
    batch_size: int
    """Pictures in a batch."""
    expressions: int
    """The most expressions drawn for a picture."""
    sizes: tuple[tuple[int, int], ...]
    """Pairs (first step, side in pixels), in rising order of the step; the first starts at 0."""
    seed: int

    def size(self, step: int) -> int:
        """Return the side in pixels that pictures have at a step."""
        return [side for first, side in self.sizes if first <= step][-1]

    def at(self, step: int) -> list[Draw]:
        """Return the draws of a step. Pictures are passed through in a new order each time, none left out."""
        draws = []
        for position in range(step * self.batch_size, (step + 1) * self.batch_size):
            turn, place = divmod(position, self.pictures)
            picture = int(_permutation(self.seed, turn, self.pictures)[place])
            draws.append(Draw(picture, self.size(step), self.expressions, (self.seed, turn, picture)))
        return draws


class Draw(NamedTuple):
    """One picture to be drawn, and the seed that picks its expressions."""

    picture: int
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


class Drawn(NamedTuple):
    """One picture and K of its expressions, as tensors."""

    pixels: Float[Tensor, "3 S S"]
    tokens: Int64[Tensor, "K L"]
    padding: Bool[Tensor, "K L"]
    target: Float[Tensor, "K 1 h w"]
    weight: Float[Tensor, "K"]


class Drawer(Dataset[Drawn]):
    """Turns a draw into tensors: letterboxes the picture, tokenises its expressions, resizes their masks.

    Args:
        data: what is drawn from.
        word_length: tokens of an expression, at most.
        target: how masks are shrunk (see `shrink`).
        emphasis: how much an expression of a form counts, where others count 1.
    """

    def __init__(
        self,
        data: PictureData,
        word_length: int,
        target: str = "coverage",
        emphasis: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self.data, self.target, self.emphasis = data, target, dict(emphasis)
        self.tokenizer = Tokenizer(word_length)

    def __getitem__(self, draw: Draw) -> Drawn:
        rng = np.random.default_rng(draw.seed)
        samples = self.data.samples_of(draw.picture)
        pairs = [(sample, i) for sample in samples for i in range(len(sample.expressions))]
        chosen = [pairs[i] for i in rng.permutation(len(pairs))[: draw.expressions]]
        pixels, frame = letterbox(samples[0].load_image(), draw.size)
        masks: dict[str, Tensor] = {}
        for sample, _ in chosen:
            if sample.id not in masks:
                masks[sample.id] = (
                    torch.zeros(draw.size, draw.size)
                    if sample.load_mask is None
                    else frame.letterbox_mask(sample.load_mask())
                )
        words = self.tokenizer([sample.expressions[i] for sample, i in chosen])
        target = torch.stack([shrink(masks[sample.id], self.target) for sample, _ in chosen])
        weight = torch.tensor([self.emphasis.get(form_of(sample, i), 1.0) for sample, i in chosen])
        return Drawn(pixels, words.tokens, words.padding, target, weight)


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
    around = STRIDE // 2
    padded = F.pad(mask[None, None], (around,) * 4, mode="replicate")
    share = F.avg_pool2d(padded, 2 * around + 1, stride=1)
    side = len(mask) // STRIDE
    return F.interpolate(share, size=(side, side), mode="bilinear", align_corners=True)[0]


class _Steps(Sampler[list[Draw]]):
    def __init__(self, order: DrawOrder, steps: range) -> None:
        self.order, self.steps = order, steps

    def __iter__(self) -> Iterator[list[Draw]]:
        return (self.order.at(step) for step in self.steps)

    def __len__(self) -> int:
        return len(self.steps)


def collate(drawn: Sequence[Drawn]) -> Batch:
    """Join pictures and their expressions into a batch, as long as its longest expression: the rest is padding."""
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


def batches(drawer: Drawer, order: DrawOrder, steps: range, workers: int = 0) -> DataLoader[Drawn]:
    """Return a loader of the batches of some steps; the same whatever the number of worker processes."""
    return DataLoader(
        drawer,
        batch_sampler=_Steps(order, steps),
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread,
        # A loader draws a seed for its workers, which use none: from here, not from the model's random numbers.
        generator=torch.Generator(),
    )


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of a batch on a device."""
    return replace(batch, **{name: value.to(device, non_blocking=True) for name, value in vars(batch).items()})
