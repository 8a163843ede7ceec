"""The attributes of objects in generated scenes, and the words for them."""

from __future__ import annotations

from types import MappingProxyType

__all__ = [
    "COLOURS",
    "EASY_COLOURS",
    "EASY_KINDS",
    "HELD_OUT",
    "KINDS",
    "SIZES",
    "TEXTURES",
    "TONES",
    "VARIANTS",
]

KINDS = ("ball", "cube", "ring", "star", "triangle", "cross", "heart", "moon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white", "black")
EASY_KINDS = ("ball", "ring", "triangle", "cross")
EASY_COLOURS = ("red", "yellow", "green", "blue")
"""Of the easy scenes; no pair of them is held out."""
TEXTURES = ("plain", "striped", "dotted", "checkered")

SIZES = MappingProxyType({"small": (0.19, 0.23), "medium": (0.29, 0.35), "large": (0.43, 0.51)})
"""Diameters of each size, in units of the short side of the image. Expressions name only small and large."""

HELD_OUT = frozenset(
    {
        ("red", "moon"),
        ("orange", "cross"),
        ("yellow", "cube"),
        ("green", "heart"),
        ("blue", "star"),
        ("purple", "ball"),
        ("white", "triangle"),
        ("black", "ring"),
    }
)
"""Pairs of colour and kind that never occur in `train` and `val`; every colour and every kind is in exactly one."""

Tone = tuple[int, int, int]

TONES: MappingProxyType[str, tuple[Tone, Tone, Tone]] = MappingProxyType(
    {
        "red": ((222, 42, 40), (128, 8, 18), (95, 5, 12)),
        "orange": ((246, 130, 20), (255, 206, 140), (150, 70, 5)),
        "yellow": ((250, 222, 40), (212, 162, 8), (135, 105, 5)),
        "green": ((35, 155, 65), (160, 230, 145), (12, 80, 30)),
        "blue": ((38, 88, 218), (150, 195, 252), (15, 35, 110)),
        "purple": ((132, 48, 172), (212, 160, 240), (66, 18, 92)),
        "white": ((246, 246, 244), (166, 169, 175), (110, 112, 118)),
        "black": ((26, 26, 30), (122, 124, 132), (66, 68, 74)),
    }
)
"""RGB of each colour, of the second tone of its textures, and of its outline."""

VARIANTS: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        "ball": ("sphere",),
        "cube": ("box", "block"),
        "ring": ("hoop",),
        "cross": ("plus",),
        "moon": ("crescent",),
        "purple": ("violet",),
        "plain": ("solid",),
        "striped": ("stripy",),
        "dotted": ("spotted",),
        "checkered": ("checked",),
    }
)
"""Synonyms that sometimes replace the canonical word."""
