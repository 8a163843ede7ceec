"""The motion between frames of a video, and masks that move with it."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from refseg.errors import ConfigError
from refseg.video.read import NEEDS_VIDEO

__all__ = ["Carry", "Motion"]

Carry: TypeAlias = Literal["flow", "hold"]
"""How a mask gets from one frame to the next: along the optical flow, or unchanged."""
FLOW_SIDE = 640
"""The longer side of the images whose motion is computed, pixels at most."""


class Motion:
    """Follows the motion of a video from frame to frame; keeps one small grey image.

    The flow is dense inverse search (Kroeger et al., ECCV 2016) as OpenCV implements it, with its preset `medium`, from
    each frame back to the one before.

    Args:
        image: the first frame.
        carry: `flow`, or `hold`: nothing moves.

    Raises:
        ConfigError: OpenCV is not installed.
    """

    def __init__(self, image: UInt8[ndarray, "H W 3"], carry: Carry) -> None:
        try:
            import cv2
        except ModuleNotFoundError:
            raise ConfigError(NEEDS_VIDEO) from None
        self._cv2: Any = cv2  # its stubs do not accept None where it is the default
        self._search: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) if carry == "flow" else None
        self._grey = self._small(image)
        self._from: Float32[ndarray, "h w 2"] = _places(*self._grey.shape)
        self._difference: Float32[ndarray, "h w"] = np.zeros(self._grey.shape, np.float32)

    def follow(self, image: UInt8[ndarray, "H W 3"]) -> None:
        """Compute the motion from the frame before to this one."""
        grey = self._small(image)
        self._from = _places(*grey.shape)
        if self._search is not None:
            self._from += self._search.calc(grey, self._grey, None)
        moved = self._cv2.remap(
            self._grey, self._from, None, self._cv2.INTER_LINEAR, borderMode=self._cv2.BORDER_REPLICATE
        )
        self._difference = self._cv2.absdiff(moved, grey).astype(np.float32)
        self._grey = grey

    def carried(self, mask: UInt8[ndarray, "H W"]) -> UInt8[ndarray, "H W"]:
        """Return where a mask of the frame before is in this one; 255 is inside, values between are at its border."""
        if self._search is None:
            return mask
        height, width = mask.shape
        scale = np.array([width, height], np.float32) / np.array(self._grey.shape[::-1], np.float32)
        places = self._from
        if places.shape[:2] != mask.shape:
            shift = self._cv2.resize((places - _places(*places.shape[:2])) * scale, (width, height))
            places = _places(height, width) + shift
        return np.asarray(self._cv2.remap(mask, places, None, self._cv2.INTER_LINEAR), np.uint8)

    def change(self, mask: UInt8[ndarray, "H W"] | None = None) -> float:
        """Return how much this frame differs from the one before, moved: the mean over pixels, in grey levels.

        Args:
            mask: of this frame; None: over all pixels. It is 0 where the mask is empty.
        """
        if mask is None:
            return float(self._difference.mean())
        size = self._difference.shape[::-1]
        inside = self._cv2.resize(mask, size, interpolation=self._cv2.INTER_AREA) > 127
        return float(self._difference[inside].mean()) if inside.any() else 0.0

    def _small(self, image: UInt8[ndarray, "H W 3"]) -> UInt8[ndarray, "h w"]:
        grey = self._cv2.cvtColor(image, self._cv2.COLOR_RGB2GRAY)
        share = FLOW_SIDE / max(grey.shape)
        if share >= 1:
            return np.asarray(grey)
        size = [max(1, round(side * share)) for side in grey.shape[::-1]]
        return np.asarray(self._cv2.resize(grey, size, interpolation=self._cv2.INTER_AREA))


def _places(height: int, width: int) -> Float[ndarray, "{height} {width} 2"]:
    """Return the x and y of each pixel."""
    return np.stack(np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)), axis=-1)
