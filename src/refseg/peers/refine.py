"""Sharper borders for the masks of any model, which SAM or SAM 2 draws anew, or SAM 3 has found too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Protocol, runtime_checkable

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
from refseg.peers.table import Part
from refseg.segmenter import BaseSegmenter
from refseg.values import Decision, Encoding, PatchMap, Prediction, WordMap, WordSource

__all__ = ["MaskMaker", "Refined", "Refiner"]

SAME_OBJECT = 0.5
"""A refined mask of lower IoU with the mask that it was made of is of something else, and is not used."""


@runtime_checkable
class MaskMaker(Protocol):
    """A network that makes a mask anew from a draft of it."""

    def encode(self, image: Image.Image, /) -> dict[str, Tensor]:
        """Return all that is computed from an RGB image alone, by name."""
        ...

    def redraw(
        self, levels: Mapping[str, Tensor], words: str, box: Float[Tensor, "4"], draft: Float[Tensor, "H W"], /
    ) -> Float[Tensor, "h w"]:
        """Return the logits of the object's pixels, of the image without border at any size and proportions.

        Args:
            levels: of `encode`.
            words: what the mask is of.
            box: around the mask, (x0, y0, x1, y1) in fractions of the image.
            draft: logits of the image's pixels, which may be infinite.
        """
        ...


class Refiner:
    """What makes masks sharper; the image is encoded once, and each mask takes the rest of the network.

    Args:
        name: in the table of refiners.
        part: its files.
        masks: the network.
        device: where it computes.
    """

    def __init__(self, name: str, part: Part, masks: MaskMaker, device: torch.device) -> None:
        self.name, self.part, self.masks, self.device = name, part, masks, device
        self._one_at_a_time = Lock()

    def encode(self, image: Image.Image) -> dict[str, ndarray]:
        """Return what is computed from an RGB image alone, by name."""
        with computing(self._one_at_a_time):
            return {name: level.float().cpu().numpy() for name, level in self.masks.encode(image).items()}

    def sharpen(self, levels: Mapping[str, Tensor], own: Prediction) -> Float[ndarray, "H W"]:
        """Return probabilities whose mask, at the threshold of a prediction, has sharper borders than its own.

        The draft is the logits of its probabilities relative to the threshold. Where the answer is another object, the
        probabilities of the prediction itself are returned.

        Args:
            levels: of `encode`.
            own: a prediction that is not empty.
        """
        assert own.box is not None
        height, width = own.frame.height, own.frame.width
        probability = own.probability
        with computing(self._one_at_a_time):
            box = torch.tensor(own.box) / torch.tensor([width, height, width, height])
            draft = torch.from_numpy(probability).logit() - _logit(own.threshold)
            logits = self.masks.redraw(levels, own.expression, box.to(self.device), draft.to(self.device))
            whole = F.interpolate(logits[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0].cpu()
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
        super().__init__(segmenter.decision, segmenter.domain, segmenter.family)
        self.segmenter, self.refiner = segmenter, refiner

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        return self.segmenter.device

    @property
    def runtime_name(self) -> str:
        """The runtime of the segmenter; PyTorch refines."""
        return self.segmenter.runtime_name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the segmenter's fingerprint and the refiner's revision."""
        part = self.refiner.part
        return hashlib.sha256(f"{self.segmenter.fingerprint} {part.source}".encode()).hexdigest()

    def ground(self, image: Encoding, expression: str, /) -> PatchMap:
        """Return the patch-level map of an expression (see `BaseSegmenter.ground`)."""
        self._check(image)
        return self.segmenter.ground(self._of_segmenter(image), expression)

    @property
    def word_source(self) -> WordSource | None:
        """What `word_maps` returns: that of the segmenter."""
        return self.segmenter.word_source

    def word_maps(self, image: Encoding, expression: str, /) -> list[WordMap]:
        """Return where each word of an expression looks (see `BaseSegmenter.word_maps`)."""
        self._check(image)
        return self.segmenter.word_maps(self._of_segmenter(image), expression)

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
            name: torch.tensor(array, device=self.refiner.device)
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
