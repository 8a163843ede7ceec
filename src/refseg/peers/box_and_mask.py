"""Boxes by one network, their masks by another: Grounding DINO with SAM, or with SAM 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from PIL import Image
from torch import Tensor

from refseg.inputs.frame import Frame
from refseg.peers.base import Found, Peer, named, part_of, several
from refseg.peers.grounding_dino import GroundingDino
from refseg.peers.sam import Sam
from refseg.peers.table import PeerEntry
from refseg.values import Decision

__all__ = ["BoxAndMask"]


class BoxAndMask(Peer):
    """A detector of what an expression names, and a maker of masks; both encode the image once.

    The score of an object is its box's score times the IoU expected of its mask.

    Args:
        entry: of the table.
        detector: finds boxes.
        masks: makes masks of boxes.
        device: where it computes.
        decision: how its scores become masks.
    """

    def __init__(
        self, entry: PeerEntry, detector: GroundingDino, masks: Sam, device: torch.device, decision: Decision
    ) -> None:
        super().__init__(entry, device, decision)
        self.detector, self.masks = detector, masks

    def look(self, image: Image.Image) -> dict[str, Tensor]:
        """Return what both networks compute from an RGB image alone."""
        return named("boxes", self.detector.encode(image)) | named("masks", self.masks.encode(image))

    def find(self, seen: Mapping[str, Tensor], frame: Frame, expressions: Sequence[str]) -> Iterator[Found]:
        """Yield the answer to each expression."""
        for expression in expressions:
            truncated = self.detector.is_too_long(expression)
            boxes, scores = self.detector.boxes(part_of("boxes", seen), expression)
            if not len(boxes):
                yield Found(None, 0.0, truncated)
                continue
            maps, expected = self.masks.masks(part_of("masks", seen), boxes, frame.height, frame.width)
            yield several(maps, scores * expected, truncated)
