"""Overlays of masks on their images, and several of them in a grid with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from refseg.masks import outline

__all__ = ["overlay", "panels"]

COLOUR = (255, 40, 120)
"""Of the mask: a pink that is rare in photos."""
TINT = 0.45
DIM = 0.55
"""Brightness outside the mask."""
CAPTION = 24
"""Height of a caption under a panel, pixels."""


def overlay(image: Image.Image, mask: Bool[ndarray, "H W"], *, dim: bool = True) -> Image.Image:
    """Return the image with the mask tinted and outlined, and the rest dimmed.

    Args:
        image: RGB, (H, W).
        mask: is tinted and outlined.
        dim: whether to darken the rest.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    inside = mask[..., None]
    shown = np.where(
        inside, pixels * (1 - TINT) + np.array(COLOUR, dtype=np.float32) * TINT, pixels * (DIM if dim else 1)
    )
    shown[outline(mask, max(1, round(max(mask.shape) / 400)))] = COLOUR
    return Image.fromarray(shown.round().clip(0, 255).astype(np.uint8))


def panels(images: Sequence[tuple[Image.Image, str]], *, columns: int = 3, width: int = 320) -> Image.Image:
    """Return images in a grid, each with its caption beneath.

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
