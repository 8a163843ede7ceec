"""Large images, asked tile by tile: what the tiles answer is merged into one mask without seams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from refseg.errors import ConfigError
from refseg.masks import encode_rle
from refseg.segmenter import BaseSegmenter
from refseg.values import Prediction

__all__ = ["TiledAnswer", "check_side", "segment_tiles"]

SMALLEST = 64
"""Side of a tile, pixels."""
STEP = 0.75
"""The distance of tiles is at most this fraction of their side: the rest overlaps."""


@dataclass(frozen=True, kw_only=True)
class TiledAnswer:
    """The answer to one expression about all tiles of an image."""

    expression: str
    """Verbatim."""
    score: float
    """The mean of the tiles' scores, each weighted by the pixels of its mask; 0 where nothing fits."""
    rle: dict[str, Any] | None
    """The mask as COCO's run lengths; None where nothing fits."""


def check_side(side: int) -> None:
    """Check the side of a tile.

    Raises:
        ConfigError: it is too small.
    """
    if side < SMALLEST:
        raise ConfigError(f"a tile must be at least {SMALLEST} pixels wide, got {side}")


def segment_tiles(
    segmenter: BaseSegmenter, image: Image.Image, expressions: Sequence[str], side: int
) -> list[TiledAnswer]:
    """Segment an image in overlapping square tiles; an image that fits into one tile is segmented as it is.

    The probabilities of a tile are divided by its own threshold, and averaged where tiles overlap, with weights that
    fall linearly to the edges of a tile: a pixel is in the mask where the average exceeds 1. A tile in which nothing
    fits counts as 0. The expression is asked of each tile by itself: words for places ("on the left") are about a tile.

    Args:
        segmenter: the model.
        image: of mode RGB.
        expressions: what is asked.
        side: of a tile, pixels.

    Returns:
        The answers, in the order of the expressions.

    Raises:
        ConfigError: the side is too small.
        ExpressionError: as `BaseSegmenter.segment`.
    """
    check_side(side)
    places = [
        (slice(top, top + side), slice(left, left + side))
        for top in _starts(image.height, side)
        for left in _starts(image.width, side)
    ]
    pixels = np.asarray(image)
    # Predictions hold the scores of the model's square only, so that those of all tiles fit in memory.
    found = [segmenter.segment(segmenter.encode(pixels[place]), expressions) for place in places]
    return [_merged([one[index] for one in found], places, pixels.shape[:2]) for index in range(len(expressions))]


def _merged(tiles: Sequence[Prediction], places: Sequence[tuple[slice, slice]], size: tuple[int, int]) -> TiledAnswer:
    total, weights = np.zeros(size, np.float32), np.zeros(size, np.float32)
    pixels, scores = [], []
    for tile, place in zip(tiles, places, strict=True):
        height, width = total[place].shape
        weight = np.outer(_ramp(height), _ramp(width))
        weights[place] += weight
        if not tile.empty:
            total[place] += weight * (tile.probability / np.float32(tile.threshold))
            pixels.append(int(np.count_nonzero(tile.mask)))
            scores.append(tile.score)
    mask = total > weights
    if not mask.any():
        return TiledAnswer(expression=tiles[0].expression, score=0.0, rle=None)
    score = float(np.average(scores, weights=pixels))
    return TiledAnswer(expression=tiles[0].expression, score=score, rle=encode_rle(mask))


def _starts(length: int, side: int) -> list[int]:
    """Return where tiles start along an axis: at equal distances, the first at its start and the last at its end."""
    beyond = max(0, length - side)
    steps = ceil(beyond / (STEP * side))
    return [round(beyond * step / max(1, steps)) for step in range(steps + 1)]


def _ramp(length: int) -> Float[ndarray, "{length}"]:
    """Return weights that rise linearly from both ends to the middle."""
    rising = np.arange(1, length + 1, dtype=np.float32)
    return np.minimum(rising, rising[::-1])
