"""Tiles of a large image are merged as if it had been one."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refseg.errors import ConfigError
from refseg.inputs.frame import Frame
from refseg.inputs.read import read_image
from refseg.masks import decode_rle
from refseg.segmenter import BaseSegmenter
from refseg.tiles import segment_tiles
from refseg.values import Decision, Encoding, Prediction


class Brightness(BaseSegmenter):
    """Its probabilities are the grey levels of the image, pixel by pixel; it counts the tiles that it is given."""

    device, fingerprint = "cpu", "brightness"

    def __init__(self):
        super().__init__(Decision(threshold=0.5))
        self.tiles = []

    def _encode(self, images, max_pixels):
        found = [np.asarray(read_image(image))[..., 0].astype(np.float32) / 255 for image in images]
        self.tiles += [one.shape for one in found]
        return [Encoding(self.fingerprint, Frame(*one.shape, 64), {"levels": one}) for one in found]

    def _answer(self, image, expressions, decision):
        levels = image.arrays["levels"]
        scores = np.full((16, 16), levels.max(), np.float32)
        return [Prediction(text, scores, image.frame, decision, refine=lambda _: levels) for text in expressions]


def image_of(levels):
    return Image.fromarray(np.repeat(levels[..., None], 3, axis=2))


@pytest.mark.parametrize("size", [(150, 210), (64, 300), (50, 60), (65, 64)])
def test_the_mask_is_that_of_the_whole_image(size):
    levels = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    levels[:, 100:140] = 0  # a tile may lie within, where nothing fits
    segmenter = Brightness()
    one, other = segment_tiles(segmenter, image_of(levels), ["the bright pixels", "others"], 64)
    assert max(map(max, segmenter.tiles)) <= 64
    assert np.array_equal(decode_rle(one.rle), levels > 127)
    assert (one.expression, other.rle) == ("the bright pixels", one.rle)
    assert 0 < one.score <= 1


def test_where_no_tile_has_it_nothing_fits():
    (answer,) = segment_tiles(Brightness(), image_of(np.full((100, 100), 9, np.uint8)), ["the bright pixels"], 64)
    assert (answer.score, answer.rle) == (0.0, None)


def test_where_tiles_disagree_the_border_lies_between_their_edges():
    """The left tile is sure, the right one sees nothing: the mask ends in the overlap, on a straight line."""
    levels = np.full((64, 112), 255, np.uint8)

    class Left(Brightness):
        def _answer(self, image, expressions, decision):
            sure = len(self.tiles) == 1
            levels = np.full(image.arrays["levels"].shape, 0.75 if sure else 0.0, np.float32)
            return Brightness._answer(
                self, Encoding("brightness", image.frame, {"levels": levels}), expressions, decision
            )

    (answer,) = segment_tiles(Left(), image_of(levels), ["it"], 64)
    mask = decode_rle(answer.rle)
    edge = int(mask[0].sum())
    assert 48 < edge < 64
    assert np.array_equal(mask, np.arange(112) < np.full((64, 1), edge))


def test_tiles_that_are_too_small_are_an_error():
    with pytest.raises(ConfigError, match="at least 64 pixels"):
        segment_tiles(Brightness(), image_of(np.zeros((90, 90), np.uint8)), ["it"], 10)
