"""Metrics, against numbers computed by hand, and properties of all numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.evaluation.metrics import Outcome, breakdown, count, intervals, summarise
from refseg.evaluation.protocols import PROTOCOLS

NUMBERS = itertools.count()


def square(top, left, side, size=10):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


NOTHING = np.zeros((10, 10), dtype=bool)


def outcome(prediction, truth, *, ignored=None, **changes):
    number = str(next(NUMBERS))
    values = {
        "id": number,
        "reference": number,
        "image": number,
        "expression": "the left cup",
        "present": truth is not None,
        "score": 0.5,
        "empty": not prediction.any(),
        **count(prediction, truth, ignored),
    }
    return Outcome(**values | changes)


def test_counts_by_hand():
    assert count(square(0, 0, 4), square(2, 2, 4)) == {
        "intersection": 4,
        "union": 28,
        "predicted_pixels": 16,
        "target_pixels": 16,
        "image_pixels": 100,
    }
    assert count(square(0, 0, 4), None) == {
        "intersection": 0,
        "union": 16,
        "predicted_pixels": 16,
        "target_pixels": 0,
        "image_pixels": 100,
    }


def test_ignored_pixels_are_not_counted():
    counted = count(square(0, 0, 4), square(2, 2, 4), ignored=square(0, 0, 3))
    assert (counted["intersection"], counted["predicted_pixels"], counted["target_pixels"]) == (3, 7, 15)
    assert counted["union"] == 19


def test_the_iou_of_each_expression():
    assert outcome(square(0, 0, 4), square(2, 2, 4)).iou == 4 / 28
    assert outcome(square(1, 1, 3), square(1, 1, 3)).iou == 1
    assert outcome(NOTHING, square(0, 0, 2)).iou == 0
    assert outcome(NOTHING, NOTHING).iou == 0


def test_mean_and_overall_iou_differ():
    figures = summarise([outcome(square(0, 0, 8), square(0, 0, 8)), outcome(square(0, 0, 1), square(5, 5, 1))])
    assert figures["mean_iou"] == 0.5
    assert figures["overall_iou"] == 64 / 66


def test_precision_at_the_threshold_itself_depends_on_strictness():
    half = [outcome(square(0, 0, 2), square(0, 0, 2) | square(4, 4, 2))]
    assert half[0].iou == 0.5
    assert summarise(half)["precision"] == {"0.5": 1.0, "0.6": 0.0, "0.7": 0.0, "0.8": 0.0, "0.9": 0.0}
    assert summarise(half, PROTOCOLS["cris"])["precision"]["0.5"] == 0.0
    assert summarise(half, PROTOCOLS["lavt"])["precision"]["0.5"] == 1.0


def test_expressions_that_fit_nothing_are_counted_separately():
    figures = summarise(
        [
            outcome(square(0, 0, 4), square(0, 0, 4)),
            outcome(NOTHING, square(0, 0, 4)),
            outcome(NOTHING, None),
            outcome(NOTHING, None),
            outcome(square(0, 0, 1), None),
        ]
    )
    assert (figures["n"], figures["n_absent"]) == (2, 3)
    assert figures["n_acc"] == pytest.approx(2 / 3)
    assert figures["t_acc"] == 0.5
    assert figures["mean_iou"] == 0.5
    assert figures["overall_iou"] == 0.5
    assert figures["giou"] == pytest.approx((1 + 0 + 1 + 1 + 0) / 5)
    assert figures["ciou"] == pytest.approx(16 / (16 + 16 + 1))


def test_a_target_that_is_denied_adds_its_union_with_the_mask():
    # gRefCOCO's code leaves the mask in the union when the flag is the answer.
    denied = outcome(square(0, 0, 7), square(0, 0, 8), empty=True)
    figures = summarise([denied, outcome(NOTHING, None)], PROTOCOLS["gres"])
    assert (figures["giou"], figures["ciou"], figures["t_acc"]) == (0.5, 0.0, 0.0)


def test_fewer_than_fifty_pixels_mean_that_nothing_fits_under_gres():
    few, enough = outcome(square(0, 0, 7), None), outcome(square(0, 0, 8), None)
    assert summarise([few, enough], PROTOCOLS["gres"])["n_acc"] == 0.5
    assert summarise([few, enough])["n_acc"] == 0.0


@pytest.mark.parametrize("name", ["cris", "lavt"])
def test_classic_protocols_have_no_rule_for_expressions_that_fit_nothing(name):
    with pytest.raises(DataError, match="no rule"):
        summarise([outcome(NOTHING, None)], PROTOCOLS[name])


def test_metrics_over_no_expressions_are_none():
    figures = summarise([])
    assert (figures["n"], figures["n_absent"]) == (0, 0)
    assert figures["precision"] == dict.fromkeys(("0.5", "0.6", "0.7", "0.8", "0.9"))
    assert [figures[name] for name in ("mean_iou", "overall_iou", "n_acc", "t_acc", "pointing")] == [None] * 5
    assert intervals([]) == {}


def test_by_reference_each_reference_counts_once():
    figures = summarise(
        [
            outcome(square(0, 0, 4), square(0, 0, 4), reference="a"),
            outcome(NOTHING, square(0, 0, 4), reference="a"),
            outcome(square(0, 0, 4), square(0, 0, 4), reference="b"),
        ]
    )
    assert figures["mean_iou"] == pytest.approx(2 / 3)
    assert figures["mean_iou_by_reference"] == 0.75


# ── properties ──


sides = st.integers(0, 8)
masks = st.builds(square, st.integers(0, 5), st.integers(0, 5), sides)
cases = st.lists(
    st.builds(
        lambda found, truth, image, expression: outcome(found, truth, image=str(image), expression=expression),
        masks,
        st.none() | masks,
        st.integers(0, 3),
        st.sampled_from(["cup", "left cup", "the cup that is on the far right"]),
    ),
    min_size=1,
    max_size=12,
)


@given(cases, st.randoms())
def test_order_does_not_matter(outcomes, random):
    figures, edges = summarise(outcomes), intervals(outcomes)
    random.shuffle(outcomes)
    assert flat(summarise(outcomes)) == flat(figures)  # to the last digit
    assert intervals(outcomes).keys() == edges.keys()


@given(cases, st.integers(0, 12))
def test_the_whole_follows_from_its_shards(outcomes, cut):
    figures = [summarise(part) for part in (outcomes[:cut], outcomes[cut:], outcomes)]
    parts, whole = figures[:2], figures[2]
    assert sum(part["n"] for part in parts) == whole["n"]
    total = sum(part["mean_iou"] * part["n"] for part in parts if part["n"])
    assert total == pytest.approx((whole["mean_iou"] or 0) * whole["n"])


@given(cases)
def test_figures_are_fractions_and_lie_in_their_intervals(outcomes):
    figures = flat(summarise(outcomes))
    assert all(0 <= value <= 1 for name, value in figures.items() if name not in ("n", "n_absent"))
    for low, high in intervals(outcomes).values():
        assert 0 <= low <= high <= 1


@given(cases)
def test_groups_add_up(outcomes):
    present = sum(one.present for one in outcomes)
    for groups in breakdown(outcomes).values():
        assert sum(group["n"] for group in groups.values()) in (0, present)


def flat(figures):
    values = {name: value for name, value in figures.items() if isinstance(value, int | float)}
    return values | {f"at {name}": value for name, value in figures["precision"].items() if value is not None}


def test_an_interval_of_a_share_is_that_of_its_standard_error():
    # 400 images, half of them right: the standard error of the share is 0.025.
    outcomes = [outcome(square(0, 0, 4) if number % 2 else NOTHING, square(0, 0, 4)) for number in range(400)]
    low, high = intervals(outcomes)["mean_iou"]
    assert low == pytest.approx(0.5 - 1.96 * 0.025, abs=0.006)
    assert high == pytest.approx(0.5 + 1.96 * 0.025, abs=0.006)
    assert intervals(outcomes) == intervals(outcomes)
    assert intervals(outcomes, seed=1) != intervals(outcomes)


def test_expressions_of_one_image_are_drawn_together():
    alone = [outcome(square(0, 0, 4) if n % 2 else NOTHING, square(0, 0, 4)) for n in range(100)]
    together = [
        outcome(square(0, 0, 4) if (n // 10) % 2 else NOTHING, square(0, 0, 4), image=str(n // 10)) for n in range(100)
    ]
    low, high = intervals(alone)["mean_iou"]
    wide_low, wide_high = intervals(together)["mean_iou"]
    assert wide_high - wide_low > 2 * (high - low)


def test_the_groups_of_an_outcome():
    groups = breakdown(
        [
            outcome(square(0, 0, 1), square(0, 0, 1), expression="cup", attributes={"distractors": 0}),
            outcome(
                NOTHING, square(0, 0, 4), expression="the cup, left.", attributes={"distractors": 5, "held_out": True}
            ),
        ]
    )
    assert {name: sorted(group) for name, group in groups.items()} == {
        "size": ["1 to 5 %", "5 to 20 %"],
        "words": ["1-2 words", "3-5 words"],
        "location_words": ["no", "yes"],
        "distractors": ["0", "3 or more"],
        "held_out": ["true"],
    }
    assert groups["location_words"]["yes"]["mean_iou"] == 0
    assert groups["distractors"]["0"] == {"n": 1, "mean_iou": 1.0, "overall_iou": 1.0, "pointing": None}


def test_accuracy_of_detected_boxes():
    outcomes = [outcome(NOTHING, square(0, 0, 2), box_iou=iou) for iou in (0.5, 0.49, 0.9, None)]
    assert summarise(outcomes)["box_accuracy"] == pytest.approx(2 / 3)
    assert "box_accuracy" not in summarise(outcomes[3:])
