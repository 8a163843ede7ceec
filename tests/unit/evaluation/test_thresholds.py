"""Thresholds are chosen by their mean IoU; the fixed one decides whether a mask is empty."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from refseg.errors import DataError
from refseg.evaluation.metrics import summarise
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.thresholds import Thresholds, evaluate_with_own
from refseg.inputs.frame import Frame
from refseg.values import Decision, Encoding, Expression, Prediction, Sample

SURE, RIM, UNSURE = 0.95, 0.43, 0.5
"""Probabilities inside a target, at a rim that is not part of it, and inside a target with low probability."""


class Whole(Prediction):
    """A prediction whose scores are the probabilities of its pixels."""

    @property
    def probability(self):
        return self.scores if self.refine is None else self.refine(self.unrefined)


def sample(target, ignored=None):
    return Sample(
        id="a",
        image_id="a",
        split="val",
        source="test",
        expressions=(Expression(text="cup", id="a/0"),),
        load_image=lambda: None,
        load_mask=None if target is None else lambda: np.array([target], dtype=bool),
        load_ignored=None if ignored is None else lambda: np.array([ignored], dtype=bool),
    )


def collect(*cases):
    tried = Thresholds()
    for values, *masks in cases:
        one = sample(*masks)
        scores = np.array([values], dtype=np.float32)
        tried.add(one, one.expressions[0], Whole("cup", scores, Frame(1, len(values), 4), Decision(threshold=0.3)))
    return tried


def test_thresholds_are_chosen_for_the_model_s_own_mask_of_a_refined_one():
    one, tried = sample([1, 1, 0, 0]), Thresholds()
    scores = np.array([[0.9, 0.48, 0.1, 0.0]], dtype=np.float32)
    wrong = np.ones((1, 4), np.float32)
    refined = Whole("cup", scores, Frame(1, 4, 4), Decision(threshold=0.3), refine=lambda _: wrong)
    tried.add(one, one.expressions[0], refined)
    own = collect(([0.9, 0.48, 0.1, 0.0], [1, 1, 0, 0]))
    assert tried.choose() == own.choose()


def test_by_hand():
    chosen = collect(([0.9, 0.48, 0.1, 0.0], [1, 1, 0, 0]), ([0.9, 0.48, 0.1, 0.0], [1, 0, 0, 0])).choose()
    assert chosen.mean_iou["0.1"] == chosen.mean_iou["0.45"] == pytest.approx((1 + 0.5) / 2)
    assert chosen.mean_iou["0.5"] == pytest.approx((0.5 + 1) / 2)
    assert chosen.threshold == 0.1  # the first of those that are equally good
    assert chosen.mean_iou_relative["0.5"] == pytest.approx((1 + 0.5) / 2)
    assert chosen.mean_iou_relative["0.55"] == pytest.approx((0.5 + 1) / 2)
    assert chosen.relative_threshold is None  # no relative one is better
    assert chosen.decision == Decision(threshold=0.1)


def test_a_relative_threshold_is_better_for_low_probabilities():
    sure = ([SURE, SURE, RIM, 0.0], [1, 1, 0, 0])
    unsure = ([UNSURE, 0.3, 0.0, 0.0], [1, 1, 0, 0])
    chosen = collect(sure, sure, unsure).choose()
    assert chosen.threshold == 0.45
    assert chosen.mean_iou["0.45"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert chosen.relative_threshold == 0.5
    assert chosen.mean_iou_relative["0.5"] == 1
    assert chosen.decision == Decision(threshold=0.45, relative_threshold=0.5)


def test_a_mask_that_the_threshold_leaves_empty_stays_empty():
    sure = ([SURE, SURE, RIM, 0.0], [1, 1, 0, 0])
    unseen = ([0.04, 0.03, 0.0, 0.0], [1, 1, 0, 0])
    chosen = collect(sure, sure, unseen).choose()
    assert chosen.mean_iou_relative["0.5"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("rejections", "empty"), [(0.0, 0), (0.25, 1), (0.5, 2), (0.74, 2)])
def test_with_a_share_of_rejections_the_threshold_decides_what_is_empty(rejections, empty):
    highest = (0.9, 0.6, 0.3, 0.07)
    tried = collect(*(([one, one, 0.42 * one, 0.0], [1, 1, 0, 0]) for one in highest))
    chosen = tried.choose(rejections)
    assert sum(np.float32(one) <= chosen.threshold for one in highest) == empty
    assert chosen.relative_threshold == 0.45
    assert chosen.mean_iou_relative["0.45"] == 1 - empty / 4


def test_expressions_that_fit_nothing_and_ignored_pixels_are_not_counted():
    chosen = collect(([SURE, RIM], [1, 0], [0, 1]), ([SURE, SURE], None)).choose()
    assert set(chosen.mean_iou.values()) == {1.0}
    with pytest.raises(DataError):
        collect(([SURE, SURE], None)).choose()


class Timid:
    """Gives the target of each image of `Squares` the probability 0.2, and the first row 0.07."""

    device, domain, fingerprint = "cpu", None, "timid"
    decision = Decision(threshold=0.35)

    def encode(self, images, /):
        numbers = [image.getpixel((0, 0))[0] for image in images]  # the image holds its number
        return [Encoding(self.fingerprint, Frame(16, 16, 16), {"number": np.array([number])}) for number in numbers]

    def segment(self, image, expressions, /):
        scores = np.where(Squares.mask(int(image.arrays["number"][0])), 0.2, 0.0).astype(np.float32)
        scores[0] = 0.07
        return [Prediction(one, scores, image.frame, self.decision) for one in expressions]


class Squares:
    """Five images, each with a square of its own size."""

    num_images = 5

    @staticmethod
    def mask(index):
        mask = np.zeros((16, 16), dtype=bool)
        mask[4 : 8 + index, 4:8] = True
        return mask

    def samples_of(self, index):
        return (
            Sample(
                id=str(index),
                image_id=str(index),
                expressions=(Expression(text="square", id=str(index)),),
                load_image=lambda: Image.new("RGB", (16, 16), (index, 0, 0)),
                load_mask=lambda: self.mask(index),
                split="val",
                source="test",
            ),
        )


@pytest.mark.parametrize("name", ["refseg", "cris"])
def test_own_thresholds_give_masks_that_a_fixed_threshold_leaves_empty(name):
    timid = Timid()
    fixed, own = (summarise(outcomes) for outcomes in evaluate_with_own(timid, Squares(), 5, protocol=PROTOCOLS[name]))
    assert (fixed["n"], fixed["mean_iou"]) == (5, 0.0)
    assert (own["n"], own["mean_iou"]) == (5, 1.0)
    assert timid.decision == Decision(threshold=0.35)


def test_a_half_without_images_chooses_nothing():
    assert evaluate_with_own(Timid(), Squares(), 1)[1] == []
