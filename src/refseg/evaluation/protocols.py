"""The conventions by which published code turns masks into numbers, each under the name of its project."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from PIL import Image

from refseg.errors import UnknownNameError
from refseg.values import Prediction

__all__ = ["PROTOCOLS", "Protocol", "protocol", "resize_bilinear"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a prediction and a target mask become pixel counts, and counts become metrics."""

    name: str
    threshold: float | None
    """A pixel belongs to the mask where its probability is greater; None: by the model's own decision."""
    side: int | None
    """Masks are compared after both are resized to a square of this side; None: at the image's own size."""
    strict: bool
    """Whether precision at X counts IoUs greater than X; otherwise IoUs equal to X count too."""
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9)
    """The values X of precision at X."""
    overlap: Literal["union", "lavt"] = "union"
    """How pixels are counted that several polygons of the target mask cover (see `data.formats.regions`)."""
    text_field: Literal["sent", "raw"] = "sent"
    """The form of an expression that is used, in REFER's files."""
    min_pixels: int = 1
    """A mask of fewer pixels is the answer that nothing fits."""
    no_target: bool = True
    """Whether there is a rule for expressions that fit nothing."""
    epsilon: float = 0.0
    """Added to every union."""
    grown: bool = False
    """Whether masks grow where they are enlarged: the mask of the model's square is resized, linearly, and every pixel
    that it touches counts; otherwise the probability is resized, and compared with the threshold."""

    def decide(self, prediction: Prediction) -> Prediction:
        """Return the prediction that this protocol scores.

        A protocol with a threshold of its own uses nothing else: a relative threshold is part of the model's decision,
        and a calibration is only valid for the thresholds that it was measured with.
        """
        if self.threshold is None:
            return prediction
        return prediction.decided_by(prediction.decision.at(self.threshold))

    def compared_mask(self, prediction: Prediction) -> Bool[ndarray, "h w"]:
        """Return the mask of a decided prediction at the size at which masks are compared.

        Where masks are resized, the probability is resized (bilinear) before the threshold is applied.
        """
        if self.grown:
            return prediction.frame.restore((prediction.scores > prediction.threshold).astype(np.float32)) > 0
        if self.side is None:
            return prediction.mask
        if prediction.empty:
            return np.zeros((self.side, self.side), dtype=bool)
        return resize_bilinear(prediction.probability, self.side) > prediction.threshold

    def resize_mask(self, mask: Bool[ndarray, "H W"]) -> Bool[ndarray, "h w"]:
        """Return a mask of the image's own size at the size at which masks are compared (nearest pixel)."""
        if self.side is None:
            return mask
        grey = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(grey.resize((self.side, self.side), Image.Resampling.NEAREST)) > 0


def resize_bilinear(values: Float[ndarray, "H W"], side: int) -> Float[ndarray, "{side} {side}"]:
    """Return values at another size: bilinear, between the centres of pixels, without smoothing, float32.

    Source: PyTorch's `interpolate(mode="bilinear", align_corners=False)`, which the code of LAVT and ReLA calls.
    """
    rows = _interpolate(np.asarray(values, dtype=np.float32), side)
    return np.ascontiguousarray(_interpolate(rows.T, side).T)


def _interpolate(values: Float[ndarray, "n m"], side: int) -> Float[ndarray, "{side} m"]:
    """Return values interpolated along the first axis."""
    length = len(values)
    # PyTorch computes positions in float32, with one rounding after the multiplication and the subtraction.
    scale = float(np.float32(length / side))
    at = np.maximum((np.arange(side) + 0.5) * scale - 0.5, 0).astype(np.float32)
    low = np.minimum(at.astype(np.int64), length - 1)
    high = np.minimum(low + 1, length - 1)
    share = (at - low.astype(np.float32))[:, None]
    return np.asarray(values[low] * (1 - share) + values[high] * share, dtype=np.float32)


PROTOCOLS: MappingProxyType[str, Protocol] = MappingProxyType(
    {
        one.name: one
        for one in (
            Protocol(name="refseg", threshold=None, side=None, strict=False),
            # CRIS, engine/engine.py: inverse letterbox, probability > 0.35, I / (U + 1e-6), Pr@X with >.
            Protocol(name="cris", threshold=0.35, side=None, strict=True, epsilon=1e-6, no_target=False),
            # LAVT, test.py: both at 480 x 480, the larger of two channels, raw sentences, overlapping polygons lost.
            Protocol(
                name="lavt",
                threshold=0.5,
                side=480,
                strict=False,
                overlap="lavt",
                text_field="raw",
                no_target=False,
            ),
            # EFN, test.py: the thresholded mask is resized to the image, and what is not zero counts; Pr@X with >=.
            Protocol(name="efn", threshold=0.5, side=None, strict=False, no_target=False, grown=True),
            # ReLA, refer_evaluation.py: at the size of its input; fewer than 50 pixels mean that nothing fits.
            Protocol(
                name="gres",
                threshold=0.5,
                side=480,
                strict=False,
                thresholds=(0.7, 0.8, 0.9),
                text_field="raw",
                min_pixels=50,
            ),
        )
    }
)


def protocol(name: str) -> Protocol:
    """Return the protocol of a name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PROTOCOLS:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    return PROTOCOLS[name]
