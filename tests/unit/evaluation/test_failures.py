"""Hints at why an expression failed: the rules, on masks drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.evaluation.failures import KINDS, Masks, near_border, parts
from refseg.evaluation.metrics import Outcome, count


def square(top, left, side, size=60):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


NOTHING = np.zeros((60, 60), dtype=bool)


def outcome(found, truth, **changes):
    values = {
        "id": "1",
        "reference": "1",
        "image": "1",
        "expression": "left cup",
        "present": truth is not None,
        "score": 0.5,
        "empty": not found.any(),
        **count(found, truth),
    }
    return Outcome(**values | changes)


def kinds(found, truth, other=None, **changes):
    """The kinds that an expression is of, by all of its masks."""
    one = outcome(found, truth, **changes)
    masks = None if truth is None else Masks(truth=truth, found=found, other=other)
    return {
        name
        for name, kind in KINDS.items()
        if kind.suspect(one)
        and (kind.seen is None or (("other" not in kind.needs or other is not None) and kind.seen(masks)))
    }


def test_each_kind_on_what_it_is_made_for():
    truth = square(10, 10, 30)
    assert kinds(square(10, 10, 30), truth) == set()
    assert kinds(square(12, 12, 28), truth) == set()  # too good to fail
    assert kinds(square(10, 13, 25), truth) == {"boundary"}
    assert kinds(square(45, 45, 10), truth) == {"wrong object"}
    assert kinds(NOTHING, truth) == {"nothing found"}
    assert kinds(square(0, 0, 5), None) == {"found what is not there"}
    assert kinds(NOTHING, None) == set()


def test_errors_far_from_the_border_are_no_boundary():
    truth = square(10, 10, 30)
    far = truth.copy()
    far[10:40, 10:20] = False  # a third of it, ten pixels deep
    assert 0.5 <= outcome(far, truth).iou < 0.8
    assert "boundary" not in kinds(far, truth)


def test_of_thin_things_every_error_is_near_the_border():
    truth = square(10, 10, 8)
    assert 0.5 <= outcome(square(10, 10, 6), truth).iou < 0.8
    assert "boundary" not in kinds(square(10, 10, 6), truth)


def test_few_words_are_ambiguous_only_beside_others_of_the_kind():
    truth, found = square(10, 10, 10), square(15, 15, 10)
    assert "ambiguous words" in kinds(found, truth, attributes={"distractors": 1})
    assert "ambiguous words" not in kinds(found, truth, attributes={"distractors": 0})
    assert "ambiguous words" not in kinds(found, truth)  # the data do not know
    assert "ambiguous words" not in kinds(found, truth, attributes={"distractors": 1}, expression="the cup on the left")


def test_a_mask_in_parts_hints_at_occlusion():
    truth = square(10, 10, 10) | square(30, 30, 10)
    found = square(45, 45, 10)
    assert kinds(found, truth) == {"wrong object", "true mask in several parts"}
    crumb = square(10, 10, 20) | square(50, 50, 1)
    assert kinds(square(45, 5, 5), crumb) == {"wrong object"}


def test_two_models_against_the_annotation_take_two_models():
    truth, found = square(0, 0, 10), square(30, 30, 20)
    assert "two models against the annotation" in kinds(found, truth, other=square(31, 31, 19))
    assert "two models against the annotation" not in kinds(found, truth, other=square(0, 0, 10))
    assert "two models against the annotation" not in kinds(found, truth)


def test_every_rule_is_told():
    for kind in KINDS.values():
        assert kind.rule.endswith(".")
        assert len(kind.rule) > 40
    shown = {kind.shown_as for kind in KINDS.values()}
    assert {"imperfect expressions", "noisy annotation", "boundaries", "occlusion"} <= shown


def flooded(mask):
    """The parts of a mask by filling one after the other."""
    left, sizes = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    while left:
        reached, size = [left.pop()], 0
        while reached:
            y, x = reached.pop()
            size += 1
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            reached += around
        sizes.append(size)
    return sorted(sizes, reverse=True)


def test_parts_are_those_that_filling_finds():
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = rng.random(rng.integers(1, 14, 2)) < rng.random()
        assert parts(mask) == flooded(mask)
    assert parts(NOTHING) == []


@pytest.mark.parametrize("reach", [1, 3])
def test_near_the_border_is_what_a_window_finds(reach):
    rng = np.random.default_rng(1)
    mask = rng.random((12, 9)) < 0.9
    near = near_border(mask, reach)
    for y, x in np.ndindex(mask.shape):
        window = mask[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        assert near[y, x] == (window.any() and not window.all())
    assert not near_border(np.ones((9, 9), dtype=bool), reach).any()  # the image's edge is none
