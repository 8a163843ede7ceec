"""Sharper borders for the masks of any model: its mask and its box are the prompt of SAM, or of SAM 2."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock

import torch
from jaxtyping import Float
from numpy import ndarray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refseg.inputs.read import ImageSource, read_image
from refseg.masks import iou
from refseg.peers.base import named, part_of
from refseg.peers.library import computing
from refseg.peers.sam import Sam
from refseg.peers.table import Part
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, Encoding, PatchMap, Prediction

__all__ = ["Refined", "Refiner"]

SAME_OBJECT = 0.5
"""A refined mask of lower IoU with the mask that it was made of is of something else, and is not used."""


class Refiner:
    """SAM as a maker of sharper masks; the image is encoded once, and each mask takes the small mask decoder.

    Args:
        name: in the table of refiners.
        part: its files.
        masks: the network.
    """

    def __init__(self, name: str, part: Part, masks: Sam) -> None:
        self.name, self.part, self.masks = name, part, masks
        self._one_at_a_time = Lock()

    def encode(self, image: Image.Image) -> dict[str, ndarray]:
        """Return what is computed from an RGB image alone, by name."""
        with computing(self._one_at_a_time):
            return {name: level.float().cpu().numpy() for name, level in self.masks.encode(image).items()}

    def sharpen(self, levels: Mapping[str, Tensor], own: Prediction) -> Float[ndarray, "H W"]:
        """Return probabilities whose mask, at the threshold of a prediction, has sharper borders than its own.

        The prompt is the box of its mask, and the logits of its probabilities relative to the threshold. Where the
        answer is another object, the probabilities of the prediction itself are returned.

        Args:
            levels: of `encode`.
            own: a prediction that is not empty.
        """
        assert own.box is not None
        height, width = own.frame.height, own.frame.width
        probability = own.probability
        with computing(self._one_at_a_time):
            box = torch.tensor([own.box]) / torch.tensor([width, height, width, height])
            draft = torch.from_numpy(probability).logit() - _logit(own.threshold)
            device = self.masks.network.device
            logits, _ = self.masks.logits(levels, box.to(device), height, width, draft.to(device))
            whole = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0, 0].cpu()
            # Their own threshold is a logit of 0.
            sharp = (whole + _logit(own.threshold)).sigmoid().numpy()
        return sharp if iou(sharp > own.threshold, own.mask) >= SAME_OBJECT else probability


class Refined(BaseSegmenter):
    """A segmenter whose masks are refined. Its scores, and its decision whether anything fits, stay its own.

    Args:
        segmenter: any model.
        refiner: sharpens its masks.
    """

    def __init__(self, segmenter: BaseSegmenter, refiner: Refiner) -> None:
        super().__init__(segmenter.decision, segmenter.domain)
        self.segmenter, self.refiner = segmenter, refiner

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        return self.segmenter.device

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the segmenter's fingerprint and the refiner's revision."""
        part = self.refiner.part
        return hashlib.sha256(f"{self.segmenter.fingerprint} {part.source}".encode()).hexdigest()

    def ground(self, image: Encoding, expression: str, /) -> PatchMap:
        """Return the patch-level map of an expression (see `BaseSegmenter.ground`)."""
        self._check(image)
        return self.segmenter.ground(self._of_segmenter(image), expression)

    def _encode(self, images: Sequence[ImageSource], max_pixels: int) -> list[Encoding]:
        encodings = []
        for source in images:
            image = read_image(source, max_pixels=max_pixels)
            own = self.segmenter.encode(image, max_pixels=max_pixels)
            arrays = named("segmenter", own.arrays) | named("refiner", self.refiner.encode(image))
            encodings.append(Encoding(self.fingerprint, own.frame, arrays))
        return encodings

    def _answer(self, image: Encoding, expressions: Sequence[str], decision: Decision) -> list[Prediction]:
        # Copied, as PyTorch has no read-only tensors.
        levels = {
            name: torch.tensor(array, device=self.refiner.masks.network.device)
            for name, array in part_of("refiner", image.arrays).items()
        }
        return [
            replace(prediction, decision=decision, refine=partial(self.refiner.sharpen, levels))
            for prediction in self.segmenter.segment(self._of_segmenter(image), expressions)
        ]

    def _of_segmenter(self, image: Encoding) -> Encoding:
        return Encoding(self.segmenter.fingerprint, image.frame, part_of("segmenter", image.arrays))


def _logit(probability: float) -> float:
    return float(torch.tensor(probability, dtype=torch.float64).logit())
