"""What all models of other people share: one computation at a time, and answers in the square of a frame."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refseg.inputs.frame import Frame
from refseg.inputs.read import ImageSource, read_image
from refseg.peers.library import computing
from refseg.peers.table import PeerEntry
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, Encoding, Prediction

__all__ = ["Found", "Peer", "named", "part_of", "several", "size_in_square"]

T = TypeVar("T")

LARGEST_SQUARE = 1024
"""Side of the square that answers are kept in, pixels; of smaller images it is their longer side."""


class Found(NamedTuple):
    """The answer to one expression."""

    probabilities: Float[Tensor, "h w"] | None
    """Of the pixels, at any size and proportions; None: nothing fits."""
    object_score: float
    """The probability that this is the target, 0..1."""
    truncated: bool
    """Whether the end of the expression was not read."""


class Peer(BaseSegmenter):
    """A model of other people, computed by the library transformers (see `values.Segmenter`).

    Args:
        entry: of the table.
        device: where it computes.
        decision: how its scores become masks.
    """

    def __init__(self, entry: PeerEntry, device: torch.device, decision: Decision) -> None:
        super().__init__(decision, domain="photos", family=entry.name)
        self.entry, self._device = entry, device
        self._one_at_a_time = Lock()

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        return str(self._device)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the revisions, which determine weights and preprocessing."""
        revisions = " ".join(part.source for part in self.entry.parts)
        return hashlib.sha256(f"{self.entry.name} {revisions}".encode()).hexdigest()

    @abstractmethod
    def look(self, image: Image.Image) -> dict[str, Tensor]:
        """Return all that is computed from an RGB image alone, by name."""

    @abstractmethod
    def find(self, seen: Mapping[str, Tensor], frame: Frame, expressions: Sequence[str]) -> Iterator[Found]:
        """Yield the answer to each expression.

        Args:
            seen: of `look`.
            frame: of the image.
            expressions: the texts.
        """

    def _encode(self, images: Sequence[ImageSource], max_pixels: int) -> list[Encoding]:
        encodings = []
        for source in images:
            image = read_image(source, max_pixels=max_pixels)
            with computing(self._one_at_a_time):
                arrays = {name: value.float().cpu().numpy() for name, value in self.look(image).items()}
            frame = Frame(image.height, image.width, min(max(image.size), LARGEST_SQUARE))
            encodings.append(Encoding(self.fingerprint, frame, arrays))
        return encodings

    def _answer(self, image: Encoding, expressions: Sequence[str], decision: Decision) -> list[Prediction]:
        with computing(self._one_at_a_time):
            # Copied, as PyTorch has no read-only tensors.
            seen = {name: torch.tensor(array, device=self._device) for name, array in image.arrays.items()}
            return [
                Prediction(
                    expression,
                    _in_square(found.probabilities, image.frame),
                    image.frame,
                    decision,
                    truncated=found.truncated,
                    object_score=found.object_score,
                )
                for expression, found in zip(expressions, self.find(seen, image.frame, expressions), strict=True)
            ]


def several(maps: Float[Tensor, "n h w"], scores: Float[Tensor, "n"], truncated: bool) -> Found:
    """Return the answer of a model that finds any number of objects.

    An expression may have several referents. The probability of a pixel is that of an object's mask times the object's
    score relative to the best one's. So the decision's threshold says how much weaker than the best a second referent
    may be: at 0.5, half as probable.

    Args:
        maps: the probabilities of the pixels of each object.
        scores: of the objects, 0..1.
        truncated: whether the end of the expression was not read.
    """
    if not len(scores):
        return Found(None, 0.0, truncated)
    best = scores.max().clamp(min=1e-6)  # an IoU of 0 may be expected of all masks
    return Found((maps * (scores / best)[:, None, None]).amax(dim=0), float(scores.max()), truncated)


def named(part: str, values: Mapping[str, T]) -> dict[str, T]:
    """Return values by names that say which part of a model they belong to."""
    return {f"{part}.{name}": value for name, value in values.items()}


def part_of(part: str, values: Mapping[str, T]) -> dict[str, T]:
    """Return the values of a part under their own names."""
    return {name.removeprefix(f"{part}."): value for name, value in values.items() if name.startswith(f"{part}.")}


def size_in_square(frame: Frame) -> tuple[int, int]:
    """Return the height and the width of an image in its square, pixels."""
    return max(1, round(frame.height * frame.scale)), max(1, round(frame.width * frame.scale))


def _in_square(probabilities: Float[Tensor, "h w"] | None, frame: Frame) -> Float[ndarray, "S S"]:
    """Return probabilities where the image lies in the square, half as precise to take half of the memory.

    Of images that are larger than the square, the position is rounded to half a pixel of the square.
    """
    if probabilities is None:
        return np.zeros((frame.size, frame.size), np.float16)
    height, width = size_in_square(frame)
    resized = F.interpolate(probabilities[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]
    return Frame(height, width, frame.size).place_mask(resized.cpu().numpy()).astype(np.float16)
