"""Thresholds are chosen by what they are worth, and what is found at all stays with the fixed one."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from refseg.errors import DataError
from refseg.evaluation.metrics import summarise
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.thresholds import Thresholds, evaluate_with_own
from refseg.models.cris.model import cris_compact
from refseg.predictor import Predictor
from refseg.values import Prediction, Sample

SURE, RIM, DOUBT = 0.95, 0.43, 0.5
"""Probabilities inside a thing, at a rim that is not its own, and inside another that the model is in doubt of."""


def sample(truth, ignored=None):
    return Sample(
        id="a",
        image_id="a",
        split="val",
        source="test",
        expressions=("cup",),
        load_image=lambda: None,
        load_mask=None if truth is None else lambda: np.array([truth], dtype=bool),
        load_ignored=None if ignored is None else lambda: np.array([ignored], dtype=bool),
    )


def collect(*cases):
    tried = Thresholds()
    for number, (values, *known) in enumerate(cases):
        tried.add(sample(*known), str(number), Prediction("cup", np.array([values], dtype=np.float32), 0.3))
    return tried


def test_by_hand():
    chosen = collect(([0.9, 0.48, 0.1, 0.0], [1, 1, 0, 0]), ([0.9, 0.48, 0.1, 0.0], [1, 0, 0, 0])).choose()
    assert chosen.mean_iou["0.1"] == chosen.mean_iou["0.45"] == pytest.approx((1 + 0.5) / 2)
    assert chosen.mean_iou["0.5"] == pytest.approx((0.5 + 1) / 2)
    assert chosen.threshold == 0.1, "the first of those that are equally good"
    assert chosen.mean_iou_relative["0.5"] == pytest.approx((1 + 0.5) / 2)
    assert chosen.mean_iou_relative["0.55"] == pytest.approx((0.5 + 1) / 2)
    assert chosen.relative_threshold is None, "no relative one is better"


def test_what_is_in_doubt_asks_for_a_relative_one():
    sure = ([SURE, SURE, RIM, 0.0], [1, 1, 0, 0])
    doubt = ([DOUBT, 0.3, 0.0, 0.0], [1, 1, 0, 0])
    chosen = collect(sure, sure, doubt).choose()
    assert chosen.threshold == 0.45
    assert chosen.mean_iou["0.45"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert chosen.relative_threshold == 0.5
    assert chosen.mean_iou_relative["0.5"] == 1


def test_what_the_threshold_does_not_find_a_relative_one_does_not_either():
    sure = ([SURE, SURE, RIM, 0.0], [1, 1, 0, 0])
    unseen = ([0.04, 0.03, 0.0, 0.0], [1, 1, 0, 0])
    chosen = collect(sure, sure, unseen).choose()
    assert chosen.mean_iou_relative["0.5"] == pytest.approx(2 / 3)


def test_what_fits_nothing_and_what_is_ignored_have_no_say():
    chosen = collect(([SURE, RIM], [1, 0], [0, 1]), ([SURE, SURE], None)).choose()
    assert set(chosen.mean_iou.values()) == {1.0}
    with pytest.raises(DataError, match="no expression means something"):
        collect(([SURE, SURE], None)).choose()


class Timid(Predictor):
    """Knows what is meant in each image of `Squares`, and gives it the probability 0.2, its rim 0.07."""

    def __init__(self, config):
        self.model = SimpleNamespace(config=config)

    def encode(self, image):
        return int(image.getpixel((0, 0))[0])  # the image says which it is

    def segment(self, encoded, expressions):
        probability = np.where(Squares.mask(encoded), 0.2, 0.0).astype(np.float32)
        probability[0] = 0.07
        return [Prediction(one, probability, self._threshold(probability)) for one in expressions]


class Squares:
    """Five images, each with a square of its own."""

    images = 5

    @staticmethod
    def mask(index):
        found = np.zeros((16, 16), dtype=bool)
        found[4 : 8 + index, 4:8] = True
        return found

    def samples_of(self, index):
        sample = Sample(
            id=str(index),
            image_id=str(index),
            expressions=("square",),
            load_image=lambda: Image.new("RGB", (16, 16), (index, 0, 0)),
            load_mask=lambda: self.mask(index),
            split="val",
            source="test",
        )
        return [sample]


def test_what_a_fixed_threshold_hides_is_found_with_one_of_the_models_own():
    config = cris_compact()
    timid = Timid(config)

    def figures(images, name):
        return [summarise(some) for some in evaluate_with_own(timid, Squares(), images, protocol=PROTOCOLS[name])]

    for name in ("refseg", "cris"):
        fixed, own = figures(5, name)
        assert (fixed["n"], fixed["mean_iou"]) == (5, 0.0)
        assert (own["n"], own["mean_iou"]) == (5, 1.0)
        assert timid.model.config == config, "the thresholds of the model are as before"
    assert evaluate_with_own(timid, Squares(), 1)[1] == [], "a half without images chooses nothing"
