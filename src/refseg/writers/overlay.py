"""Overlays of masks on their images, and several of them in a grid with captions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from refseg.masks import outline

__all__ = ["COLOURS", "fitted", "mask_image", "overlay", "overlays", "panels", "shrunk"]

COLOUR = (255, 40, 120)
"""Of the mask: a pink that is rare in photos."""
COLOURS = (COLOUR, (40, 200, 255), (255, 190, 0), (60, 220, 100), (170, 90, 255), (255, 110, 30))
"""Of several masks; they repeat."""
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
    return overlays(image, [mask], dim=dim)


def overlays(image: Image.Image, masks: Sequence[Bool[ndarray, "H W"]], *, dim: bool = True) -> Image.Image:
    """Return the image with each mask tinted and outlined in a colour of `COLOURS`, and the rest dimmed.

    Args:
        image: RGB, (H, W).
        masks: where two overlap, the later one is on top.
        dim: whether to darken the rest.
    """
    image = image.convert("RGB")
    shown = image.point([round(value * DIM) for value in range(256)] * 3) if dim else image.copy()
    line = max(1, round(max(image.size) / 400))
    for mask, colour in zip(masks, cycle(COLOURS), strict=False):
        tinted = Image.blend(image, Image.new("RGB", image.size, colour), TINT)
        shown.paste(tinted, mask=mask_image(mask))
        shown.paste(colour, mask=mask_image(outline(mask, line)))
    return shown


def mask_image(mask: Bool[ndarray, "H W"]) -> Image.Image:
    """Return a mask as a grey image of 0 and 255."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Return the image with its longer side scaled down to `side` pixels, if it is longer."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    return small


def shrunk(mask: Bool[ndarray, "H W"], size: tuple[int, int]) -> Bool[ndarray, "h w"]:
    """Return a mask at another size, (width, height): pixels covered by half or more, or by any share if none is."""
    if mask.shape == size[::-1]:
        return mask
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    half: ndarray = share >= 0.5
    return half if half.any() else share > 0  # masks thinner than a pixel must be visible too


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
