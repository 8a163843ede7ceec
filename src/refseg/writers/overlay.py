"""Images to look at: a mask over its photo, and several of them side by side with their words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

__all__ = ["overlay", "panels"]

COLOUR = (255, 40, 120)
"""Of the mask: a pink that few photos hold."""
TINT = 0.45
DIM = 0.55
"""Brightness of what is not meant."""
CAPTION = 24
"""Height of a line of words under a panel, pixels."""


def overlay(image: Image.Image, mask: Bool[ndarray, "H W"], *, dim: bool = True) -> Image.Image:
    """Return the image with the mask tinted and outlined, and the rest dimmed.

    Args:
        image: RGB, (H, W).
        mask: the meant pixels.
        dim: whether to darken what is not meant.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    inside = mask[..., None]
    shown = np.where(
        inside, pixels * (1 - TINT) + np.array(COLOUR, dtype=np.float32) * TINT, pixels * (DIM if dim else 1)
    )
    shown[_border(mask, max(1, round(max(mask.shape) / 400)))] = COLOUR
    return Image.fromarray(shown.round().clip(0, 255).astype(np.uint8))


def panels(images: Sequence[tuple[Image.Image, str]], *, columns: int = 3, width: int = 320) -> Image.Image:
    """Return images in a grid, each with its words beneath.

    Args:
        images: each with its caption; at least one.
        columns: the most in a row.
        width: of each panel, pixels.
    """
    scaled = [
        (image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS), words)
        for image, words in images
    ]
    columns = min(columns, len(scaled))
    height = max(image.height for image, _ in scaled) + CAPTION + 8
    sheet = Image.new("RGB", (columns * (width + 8) + 8, math.ceil(len(scaled) / columns) * height + 8), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for index, (image, words) in enumerate(scaled):
        x, y = 8 + index % columns * (width + 8), 8 + index // columns * height
        sheet.paste(image, (x, y))
        draw.text((x + width / 2, y + image.height + CAPTION / 2), words, fill="black", font=font, anchor="mm")
    return sheet


def _border(mask: Bool[ndarray, "H W"], thickness: int) -> Bool[ndarray, "H W"]:
    """Return the pixels around a mask, outside of it, up to a thickness."""
    grown: ndarray = mask
    for _ in range(2):  # along one axis, then along the other: is there a pixel of the mask among so many neighbours?
        sums = np.pad(grown, ((thickness + 1, thickness), (0, 0))).cumsum(axis=0, dtype=np.int32)
        grown = (sums[2 * thickness + 1 :] > sums[: -2 * thickness - 1]).T
    around: ndarray = grown & ~mask
    return around
