"""The outlines of the kinds, in their own coordinates: the box is centred at 0, its longer side is -1..1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["HOLE", "OUTLINES", "REACH", "draw_silhouette", "turn", "visible_shares"]

HOLE = 0.5
"""Radius of the hole of a ring, whose outer radius is 1."""
LOW_RESOLUTION = 72
"""Short side, in pixels, of the label map that visibility is estimated on."""

Points = list[tuple[float, float]]


def _regular(corners: int, start: float) -> Points:
    angles = [start + 2 * math.pi * i / corners for i in range(corners)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def _star() -> Points:
    radii = (1.0, 0.46)
    angles = [-math.pi / 2 + math.pi * i / 5 for i in range(10)]
    return [(radii[i % 2] * math.cos(a), radii[i % 2] * math.sin(a)) for i, a in enumerate(angles)]


def _cross() -> Points:
    w = 0.33
    return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]


def _heart() -> Points:
    ts = [2 * math.pi * i / 40 for i in range(40)]
    return [
        (16 * math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)))
        for t in ts
    ]


def _moon() -> Points:
    offset, radius = 0.5, 0.8  # of the circle that is cut out of the unit circle
    x = (1 + offset**2 - radius**2) / (2 * offset)
    outer = math.acos(x)
    inner = math.atan2(math.sin(outer), x - offset)
    there = [outer + (2 * math.pi - 2 * outer) * i / 24 for i in range(25)]
    back = [2 * math.pi - inner - (2 * math.pi - 2 * inner) * i / 20 for i in range(1, 20)]
    return [(math.cos(a), math.sin(a)) for a in there] + [
        (offset + radius * math.cos(a), radius * math.sin(a)) for a in back
    ]


def _normalised(points: Points) -> Points:
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2
    centre = ((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2)
    return [((x - centre[0]) / half, (y - centre[1]) / half) for x, y in points]


_CIRCLE = _regular(64, 0.0)
OUTLINES: MappingProxyType[str, Points] = MappingProxyType(
    {
        "ball": _CIRCLE,
        "ring": _CIRCLE,
        "cube": _regular(6, math.pi / 6),
        "star": _normalised(_star()),
        "triangle": _normalised(_regular(3, -math.pi / 2)),
        "cross": _cross(),
        "heart": _normalised(_heart()),
        "moon": _normalised(_moon()),
    }
)
"""Corners of the outline of each kind, y downwards; the hole of the ring is `HOLE`."""
REACH = MappingProxyType({kind: max(math.hypot(x, y) for x, y in points) for kind, points in OUTLINES.items()})
"""Distance of the farthest corner from the centre."""


def turn(points: Sequence[tuple[float, float]], angle: float, radius: float, x: float, y: float) -> Points:
    """Return the points rotated by an angle (radians, clockwise), scaled by a radius and moved to (x, y)."""
    c, s = radius * math.cos(angle), radius * math.sin(angle)
    return [(c * px - s * py + x, s * px + c * py + y) for px, py in points]


def draw_silhouette(
    kind: str, x: float, y: float, radius: float, rotation: float, size: tuple[int, int]
) -> Image.Image:
    """Return a mask (0 or 255, mode L) of the given (width, height) with the object at a centre in pixels."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    # Integer coordinates are centres of pixels in Pillow, and edges of pixels here.
    if kind in ("ball", "ring"):
        draw.ellipse((x - radius - 0.5, y - radius - 0.5, x + radius - 0.5, y + radius - 0.5), fill=255)
        if kind == "ring":
            hole = HOLE * radius
            draw.ellipse((x - hole - 0.5, y - hole - 0.5, x + hole - 0.5, y + hole - 0.5), fill=0)
    else:
        draw.polygon(turn(OUTLINES[kind], rotation, radius, x - 0.5, y - 0.5), fill=255)
    return mask


def visible_shares(
    things: Sequence[tuple[str, float, float, float, float]], extent: tuple[float, float]
) -> list[float]:
    """Return the visible fraction of each object's pixels within the image, 0..1, at low resolution.

    Args:
        things: kind, x, y, diameter and rotation of each, from the back to the front.
        extent: width and height of the image; all lengths in units of its short side.
    """
    size = (round(extent[0] * LOW_RESOLUTION), round(extent[1] * LOW_RESOLUTION))
    labels = Image.new("L", size)
    whole = []
    for label, (kind, x, y, diameter, rotation) in enumerate(things, start=1):
        mask = draw_silhouette(
            kind, x * LOW_RESOLUTION, y * LOW_RESOLUTION, diameter * LOW_RESOLUTION / 2, rotation, size
        )
        whole.append(mask.histogram()[255])
        labels.paste(label, None, mask)
    seen = np.bincount(np.asarray(labels).ravel(), minlength=len(whole) + 1)
    return [float(seen[i + 1]) / max(1, area) for i, area in enumerate(whole)]
