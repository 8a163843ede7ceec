"""The colours of an object in a photo: the fraction of its pixels to which each colour word certainly applies."""

from __future__ import annotations

from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

__all__ = ["CERTAIN", "PALETTES", "POSSIBLE", "Shares", "colour_shares", "has_colours"]

PALETTES: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "paint": ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white", "black"),
        "fruit": ("red", "green", "yellow"),
        "fur": ("black", "white", "brown", "gray"),
        "cat": ("black", "white", "gray"),  # brown and orange are hard to tell apart
        "coat": ("black", "white", "brown"),
        "wool": ("black", "white"),
        # Worn by a person. Skin, hair, denim and shadows have the other colours.
        "clothes": ("red", "yellow", "green", "purple", "white"),
    }
)
"""The colour words that are said of objects of a kind."""
CERTAIN = MappingProxyType({"clothes": 0.4, "": 0.6})
"""The fraction of an object's pixels from which on everybody says the colour: of clothes, of anything else."""
POSSIBLE = MappingProxyType({"clothes": 0.06, "": 0.15})
"""The fraction from which on somebody might."""
HUES = (
    ("red", -12, 10),
    ("orange", 18, 40),
    ("yellow", 46, 66),
    ("green", 80, 165),
    ("blue", 195, 250),
    ("purple", 262, 295),
    ("pink", 305, 342),
)
"""Colour words with the hues, in degrees, to which they certainly apply if the colour is saturated."""
BESIDE = 8
"""Degrees beyond these to which they may still apply."""
COLOURLESS = 0.05
"""Mean difference of the channels, 0..1, up to which a photo is taken for black and white."""


class Shares(NamedTuple):
    """The fractions of an object's pixels, by colour word."""

    certain: dict[str, float]
    """To which the word certainly applies."""
    possible: dict[str, float]
    """To which somebody might say that it applies: a pale yellow, what is black or brown in the shade."""


def colour_shares(pixels: UInt8[ndarray, "N 3"]) -> Shares:
    """Return the colours of some pixels, at least one."""
    values = pixels.astype(np.float32) / 255
    top, low = values.max(axis=1), values.min(axis=1)
    spread = top - low
    saturation = np.divide(spread, top, out=np.zeros_like(top), where=top > 0)
    hue = _hue(values, top, spread)
    certain = {
        "black": (top < 0.15) | ((top < 0.23) & (saturation < 0.35)),
        "white": (saturation < 0.18) & (low > 0.62),
        "gray": (saturation < 0.15) & (top > 0.36) & (top < 0.6),
        "brown": (hue > 8) & (hue < 42) & (saturation > 0.3) & (top > 0.28) & (top < 0.6),
    }
    possible = {
        "black": top < 0.4,
        "white": (saturation < 0.4) & (top > 0.45),
        "gray": (saturation < 0.3) & (top > 0.2) & (top < 0.85),
        "brown": ((hue < 50) | (hue > 340)) & (saturation > 0.2) & (top < 0.8),
    }
    vivid = (saturation > 0.45) & (top > 0.35)
    coloured = (saturation > 0.15) & (top > 0.15)
    for name, start, end in HUES:
        inside = vivid & _between(hue, start, end)
        if name == "orange":
            inside &= (saturation > 0.6) & (top > 0.7)
        certain[name] = inside
        possible[name] = coloured & _between(hue, start - BESIDE, end + BESIDE)
    certain["pink"] &= top > 0.6
    possible["pink"] |= possible["red"]  # pale red is pink
    return Shares(
        {name: float(fits.mean()) for name, fits in certain.items()},
        {name: float(fits.mean()) for name, fits in possible.items()},
    )


def _between(hue: ndarray, start: float, end: float) -> ndarray:
    """Return which hues lie in an arc of the circle of 360 degrees."""
    inside: ndarray = (hue - start) % 360 <= end - start
    return inside


def _hue(values: ndarray, top: ndarray, spread: ndarray) -> ndarray:
    red, green, blue = values.T
    safe = np.where(spread > 0, spread, 1)
    sector = np.where(
        top == red, (green - blue) / safe % 6, np.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    )
    degrees: ndarray = np.where(spread > 0, 60 * sector, 0)
    return degrees


def has_colours(image: UInt8[ndarray, "H W 3"]) -> bool:
    """Return whether a photo is more than black and white."""
    sample = image[::4, ::4].astype(np.float32) / 255
    return float((sample.max(axis=2) - sample.min(axis=2)).mean()) > COLOURLESS
