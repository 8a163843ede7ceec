"""Draws scenes: the image, and a label map of the visible objects."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw

from refseg.data.shapes.outline import HOLE, OUTLINES, REACH, draw_silhouette, turn
from refseg.data.shapes.scene import Background, Scene, Thing
from refseg.data.shapes.vocabulary import TONES

__all__ = ["render", "thing_masks"]

PERIOD = {"striped": 0.25, "dotted": 0.27, "checkered": 0.36}
"""Of a texture, in diameters: coarse enough to be visible on an object of 25 pixels."""


def render(scene: Scene, scale: float = 1.0) -> tuple[UInt8[ndarray, "H W 3"], UInt8[ndarray, "H W"]]:
    """Draw a scene.

    Args:
        scene: the scene.
        scale: size of the result over the scene's own; any positive number.

    Returns:
        The image as RGB, and its labels: i + 1 where object i is visible (covers most of the pixel), 0 elsewhere.
    """
    width, height = max(1, round(scene.width * scale)), max(1, round(scene.height * scale))
    unit = min(width, height)
    image = _draw_background(scene.background, width, height)
    labels = Image.new("L", (width, height))
    for label, thing in enumerate(scene.things, start=1):
        if (shape := _draw_thing(thing, unit, width, height)) is None:
            continue
        colour, cover, corner = shape
        image.paste(colour, corner, cover)
        labels.paste(label, corner, cover.point(_MAJORITY))
    return np.asarray(image), np.asarray(labels)


def thing_masks(scene: Scene, scale: float = 1.0) -> Bool[ndarray, "N H W"]:
    """Return the visible mask of each of the N objects; no two overlap."""
    labels = render(scene, scale)[1]
    return np.asarray(labels[None] == np.arange(1, len(scene.things) + 1, dtype=np.uint8)[:, None, None])


_MAJORITY = [0] * 128 + [255] * 128


def _draw_thing(
    thing: Thing, unit: int, width: int, height: int
) -> tuple[Image.Image, Image.Image, tuple[int, int]] | None:
    """Return colours (RGB) and coverage (L) of the box around an object, and the box's top left corner.

    It is None where the object is outside the image, as it may be in a video.
    """
    radius = thing.diameter * unit / 2
    x, y = thing.x * unit, thing.y * unit
    reach = radius * REACH[thing.kind] + 1
    left, top = max(0, math.floor(x - reach)), max(0, math.floor(y - reach))
    right, bottom = min(width, math.ceil(x + reach)), min(height, math.ceil(y + reach))
    if left >= right or top >= bottom:
        return None
    fine = 2 if radius > 24 else 3 if radius > 12 else 4  # small objects need finer edges and cost little
    size = (fine * (right - left), fine * (bottom - top))
    x, y, radius = fine * (x - left), fine * (y - top), fine * radius
    cover = draw_silhouette(thing.kind, x, y, radius, thing.rotation, size)
    # Coordinates of each pixel relative to the object, -1..1, before its rotation.
    across = ((np.arange(size[0], dtype=np.float32) + 0.5 - x) / radius)[None, :]
    down = ((np.arange(size[1], dtype=np.float32) + 0.5 - y) / radius)[:, None]
    c, s = math.cos(thing.rotation), math.sin(thing.rotation)
    u, v = c * across + s * down, c * down - s * across
    if thing.kind == "cube":
        second, light = _cube_faces(thing.texture, u, v)
    elif thing.kind == "ring":
        second, light = _pattern_of_ring(thing.texture, u, v), _light(thing.kind, across, down)
    else:
        second, light = _pattern(thing.texture, u, v), _light(thing.kind, across, down)
    first_tone, second_tone, rim = TONES[thing.colour]
    brightness = light * (1 + thing.shade)
    if thing.colour == "black":  # black reflects only highlights: a factor would leave it flat
        brightness = 1 + 2.2 * np.maximum(brightness - 1.1, 0)
    tones = np.array([first_tone, second_tone], dtype=np.float32)[second.view(np.uint8)]
    colour = Image.fromarray(np.clip(tones * brightness[..., None], 0, 255).astype(np.uint8))
    _draw_rim(colour, thing, x, y, radius, max(fine, round(0.07 * radius)), rim)
    return colour.reduce(fine), cover.reduce(fine), (left, top)


def _pattern(
    texture: str, u: Float[ndarray, "h w"], v: Float[ndarray, "h w"], step: float | None = None
) -> Bool[ndarray, "h w"]:
    """Return the mask of the second tone of a texture."""
    if texture == "plain":
        return np.zeros(u.shape, dtype=bool)
    step = step or 2 * PERIOD[texture]
    if texture == "striped":
        return np.asarray(((u * 0.8 + v * 0.6) / step) % 1.0 < 0.45)
    if texture == "checkered":
        return np.asarray(((u / step) % 1.0 < 0.5) ^ ((v / step) % 1.0 < 0.5))
    a, b = (u / step + 0.5) % 1.0, (v / step + 0.5) % 1.0  # a dot in the middle
    return np.asarray((a - 0.5) ** 2 + (b - 0.5) ** 2 < 0.098)


def _pattern_of_ring(texture: str, u: Float[ndarray, "h w"], v: Float[ndarray, "h w"]) -> Bool[ndarray, "h w"]:
    """Return the mask of the second tone on a ring, whose band is too narrow for a pattern that does not follow it."""
    if texture == "plain":
        return np.zeros(u.shape, dtype=bool)
    if texture == "striped":
        return _pattern(texture, u, v, 0.42)
    middle, around = (1 + HOLE) / 2, 10  # of the band; how often the pattern repeats along it
    angle, radius = np.arctan2(v, u) * (around / (2 * math.pi)), np.hypot(u, v)
    if texture == "checkered":
        return np.asarray((angle % 1.0 < 0.5) ^ (radius < middle))
    along = (angle % 1.0 - 0.5) * (2 * math.pi * middle / around)
    return np.asarray(along**2 + (radius - middle) ** 2 < 0.018)


def _light(kind: str, across: Float[ndarray, "1 w"], down: Float[ndarray, "h 1"]) -> Float[ndarray, "h w"]:
    """Return the brightness that light from the top left gives, about 1."""
    if kind == "ball":
        distance = (across + 0.35) ** 2 + (down + 0.4) ** 2
        return np.asarray(1.05 - 0.2 * distance + 0.5 * np.exp(distance * -9.0))
    return np.asarray(1.0 - 0.09 * (across + down))


def _cube_faces(
    texture: str, u: Float[ndarray, "h w"], v: Float[ndarray, "h w"]
) -> tuple[Bool[ndarray, "h w"], Float[ndarray, "h w"]]:
    """Return the second tone and the brightness of a cube: three faces that meet in the middle."""
    # The faces meet along three edges from the middle: down, up right, up left.
    on_top = v < -np.abs(u) * math.tan(math.pi / 6)
    on_left = ~on_top & (u < 0)
    light = np.where(on_top, np.float32(1.12), np.where(on_left, np.float32(0.92), np.float32(0.7)))
    if texture == "plain":
        return np.zeros(u.shape, dtype=bool), light
    # Each face is a rhombus: coordinates along its two edges, 0..1.
    tilt = np.abs(u) / math.cos(math.pi / 6)
    side = v + tilt / 2
    along = np.where(on_top, -v - u * math.tan(math.pi / 6), tilt)
    other = np.where(on_top, -v + u * math.tan(math.pi / 6), side)
    steps = {"striped": 0.4, "dotted": 0.5, "checkered": 0.66}
    if texture == "striped":
        return np.asarray((other / 0.4) % 1.0 < 0.45), light
    shift = steps[texture] / 2 if texture == "dotted" else 0.0
    return _pattern(texture, along - shift, other - shift, steps[texture]), light


def _draw_rim(
    colour: Image.Image, thing: Thing, x: float, y: float, radius: float, line: int, rim: tuple[int, int, int]
) -> None:
    """Draw a thin outline, which separates an object from the background and from others of its colour."""
    draw = ImageDraw.Draw(colour)
    if thing.kind in ("ball", "ring"):
        draw.ellipse((x - radius - 0.5, y - radius - 0.5, x + radius - 0.5, y + radius - 0.5), outline=rim, width=line)
        if thing.kind == "ring":
            hole = HOLE * radius + line
            draw.ellipse((x - hole - 0.5, y - hole - 0.5, x + hole - 0.5, y + hole - 0.5), outline=rim, width=line)
        return
    corners = turn(OUTLINES[thing.kind], thing.rotation, radius, x - 0.5, y - 0.5)
    draw.line([*corners, corners[0], corners[1]], fill=rim, width=2 * line)
    if thing.kind == "cube":
        for corner in corners[1::2]:
            draw.line([(x - 0.5, y - 0.5), corner], fill=rim, width=line)


def _draw_background(background: Background, width: int, height: int) -> Image.Image:
    """Return an image of the background alone, (width, height) pixels."""
    rng = np.random.default_rng(background.seed)
    columns, rows = 20, max(4, round(20 * height / width))
    across, down = np.linspace(-0.5, 0.5, columns)[None, :], np.linspace(-0.5, 0.5, rows)[:, None]
    ramp = np.clip(0.5 + math.cos(background.angle) * across + math.sin(background.angle) * down, 0, 1)[..., None]
    coarse = np.array(background.start) * (1 - ramp) + np.array(background.end) * ramp
    coarse += background.blotches * (rng.random((rows, columns, 1)) - 0.5) * 2
    small = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    base = (np.array(background.start) + np.array(background.end)) / 2
    unit = min(width, height)
    for kind, x, y, a, b, tone, extra in rng.random((background.clutter, 7)).tolist():
        red, green, blue = (int(v) for v in base + (tone - 0.5) * 70)
        x, y = x * width, y * height
        if kind < 0.5:
            end = (x + (a - 0.5) * 1.6 * unit, y + (b - 0.5) * 1.6 * unit)
            draw.line([(x, y), end], fill=(red, green, blue), width=max(1, round(unit * (0.004 + 0.012 * extra))))
        elif kind < 0.75:
            box = (x, y, x + (0.05 + 0.3 * a) * unit, y + (0.05 + 0.3 * b) * unit)
            draw.rectangle(box, fill=(red, green, blue))
        else:
            corners = [
                (x + (0.04 + 0.12 * r) * unit * math.cos(t), y + (0.04 + 0.12 * r) * unit * math.sin(t))
                for r, t in zip((a, b, extra, tone, kind), (0.2, 1.5, 2.6, 3.9, 5.2), strict=True)
            ]
            draw.polygon(corners, fill=(red, green, blue))
    grain = rng.integers(-background.grain, background.grain + 1, (height, width, 1), dtype=np.int16)
    return Image.fromarray(np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8))
