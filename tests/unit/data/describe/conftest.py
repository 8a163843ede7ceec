"""Small drawn photos: rectangles and ellipses with names."""

from __future__ import annotations

import types

import numpy as np
import pytest

from refseg.data.describe.photo import Photo, things_of
from refseg.masks import encode_rle

HEIGHT, WIDTH = 120, 160
PAINTS = {"red": (200, 20, 20), "green": (20, 150, 30), "black": (15, 15, 15), "white": (240, 240, 240)}
PAINTS |= {"brown": (120, 70, 30), "blue": (20, 40, 200), "": (150, 105, 150)}
BACKGROUND = (200, 160, 90)


def ellipse(left, top, right, bottom):
    """A mask; the edges are fractions of the photo's sides."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    x, y = (x + 0.5) / WIDTH, (y + 0.5) / HEIGHT
    return ((2 * x - left - right) / (right - left)) ** 2 + ((2 * y - top - bottom) / (bottom - top)) ** 2 <= 1


def box(left, top, right, bottom):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[round(top * HEIGHT) : round(bottom * HEIGHT), round(left * WIDTH) : round(right * WIDTH)] = True
    return mask


def drawn(*things, labelled=(), hidden=False, components="lone"):
    """A photo of things, each a name, its edges, and perhaps a colour and a kind; later ones hide earlier ones."""
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:] = BACKGROUND
    masks, annotated = [], []
    for name, edges, *more in things:
        mask = box(*edges) if name in ("couch", "table", "grass", "car") else ellipse(*edges)
        for other in masks:
            other &= ~mask
        masks.append(mask)
        pixels[mask] = PAINTS[more[0] if more else ""]
        annotated.append((name, more[1] if len(more) > 1 else "instance"))
    found = [(name, kind, encode_rle(mask)) for (name, kind), mask in zip(annotated, masks, strict=True)]
    return Photo(
        things=things_of(found, (HEIGHT, WIDTH), components=components),
        labelled=frozenset(labelled),
        hidden=hidden,
        read=lambda: pixels,
    )


@pytest.fixture(scope="session")
def draw():
    """The functions of this file, which cannot be imported."""
    return types.SimpleNamespace(photo=drawn, box=box, ellipse=ellipse, size=(HEIGHT, WIDTH), paints=PAINTS)
