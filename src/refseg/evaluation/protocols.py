"""The conventions by which the field turns masks into numbers, each under the name of whose code it is."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image
from torch.nn import functional

from refseg.errors import UnknownNameError

__all__ = ["PROTOCOLS", "Protocol", "protocol"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a prediction and a true mask become pixels that are counted, and counts become numbers."""

    name: str
    threshold: float | None
    """A pixel is found where its probability is greater; None: the threshold that the model has for this answer."""
    side: int | None
    """Masks are compared after both were resized to a square of this side; None: at the image's own size."""
    strict: bool
    """Whether precision at X counts IoUs above X, or also those of just X."""
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    """The X of precision at X."""
    overlap: Literal["union", "lavt"] = "union"
    """What pixels of the true mask are that several polygons cover (see `data.formats.regions`)."""
    text_field: Literal["sent", "raw"] = "sent"
    """Which of a sentence's two forms is asked, in REFER's files."""
    fewest: int = 1
    """A mask of fewer pixels says that nothing fits."""
    absent: bool = True
    """Whether there is a rule for expressions that fit nothing."""
    guard: float = 0.0
    """Added to every union."""

    def find(self, probability: Float[ndarray, "H W"], own: float) -> Bool[ndarray, "h w"]:
        """Return the mask that is compared.

        Args:
            probability: at the image's own size.
            own: the threshold that the model has for this answer.
        """
        if self.side is not None:
            maps = torch.from_numpy(np.ascontiguousarray(probability))[None, None].float()
            maps = functional.interpolate(maps, (self.side, self.side), mode="bilinear", align_corners=False)
            probability = maps[0, 0].numpy()
        return probability > (own if self.threshold is None else self.threshold)

    def place(self, mask: Bool[ndarray, "H W"]) -> Bool[ndarray, "h w"]:
        """Return a mask of the image's own size as it is compared: the nearest pixel's value, where it is resized."""
        if self.side is None:
            return mask
        grey = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(grey.resize((self.side, self.side), Image.Resampling.NEAREST)) > 0


PROTOCOLS: MappingProxyType[str, Protocol] = MappingProxyType(
    {
        one.name: one
        for one in (
            Protocol(name="refseg", threshold=None, side=None, strict=False),
            # CRIS, engine/engine.py: inverse letterbox, probability > 0.35, I / (U + 1e-6), Pr@X with >.
            Protocol(name="cris", threshold=0.35, side=None, strict=True, guard=1e-6, absent=False),
            # LAVT, test.py: both at 480 x 480, the larger of two channels, raw sentences, overlapping polygons lost.
            Protocol(
                name="lavt",
                threshold=0.5,
                side=480,
                strict=False,
                overlap="lavt",
                text_field="raw",
                absent=False,
            ),
            # ReLA, refer_evaluation.py: at the size of its input; models without a flag say "nothing" by < 50 pixels.
            Protocol(
                name="gres",
                threshold=0.5,
                side=480,
                strict=False,
                thresholds=(0.7, 0.8, 0.9),
                text_field="raw",
                fewest=50,
            ),
        )
    }
)


def protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
