"""The rules of the kinds of failures, on masks drawn by hand."""

from __future__ import annotations

import numpy as np

from refseg.evaluation.metrics import Outcome, count
from refseg.report.failures import KINDS, Masks


def square(top, left, side, size=60):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


NOTHING = np.zeros((60, 60), dtype=bool)


def outcome(predicted, target, **changes):
    values = {
        "id": "1",
        "reference": "1",
        "image": "1",
        "expression": "left cup",
        "present": target is not None,
        "score": 0.5,
        "empty": not predicted.any(),
        **count(predicted, target),
    }
    return Outcome(**values | changes)


def kinds(predicted, target, other=None, **changes):
    """The kinds of an expression, by all of its masks."""
    one = outcome(predicted, target, **changes)
    masks = None if target is None else Masks(target=target, predicted=predicted, other=other)
    return {
        name
        for name, kind in KINDS.items()
        if kind.suspect(one)
        and (kind.seen is None or (("other" not in kind.needs or other is not None) and kind.seen(masks)))
    }


def test_each_kind_on_its_example():
    target = square(10, 10, 30)
    assert kinds(square(10, 10, 30), target) == set()
    assert kinds(square(12, 12, 28), target) == set()  # no failure
    assert kinds(square(10, 13, 25), target) == {"boundary"}
    assert kinds(square(45, 45, 10), target) == {"wrong object"}
    assert kinds(NOTHING, target) == {"target without a mask"}
    assert kinds(square(0, 0, 5), None) == {"mask without a target"}
    assert kinds(NOTHING, None) == set()


def test_errors_far_from_the_border_are_no_border_errors():
    target = square(10, 10, 30)
    far = target.copy()
    far[10:40, 10:20] = False  # a third of it, ten pixels deep
    assert 0.5 <= outcome(far, target).iou < 0.8
    assert "boundary" not in kinds(far, target)


def test_thin_targets_have_no_border_errors():
    target = square(10, 10, 8)
    assert 0.5 <= outcome(square(10, 10, 6), target).iou < 0.8
    assert "boundary" not in kinds(square(10, 10, 6), target)


def test_short_expressions_are_ambiguous_only_with_distractors():
    target, predicted = square(10, 10, 10), square(15, 15, 10)
    assert "ambiguous expression" in kinds(predicted, target, attributes={"distractors": 1})
    assert "ambiguous expression" not in kinds(predicted, target, attributes={"distractors": 0})
    assert "ambiguous expression" not in kinds(predicted, target)  # not known
    assert "ambiguous expression" not in kinds(
        predicted, target, attributes={"distractors": 1}, expression="the cup on the left"
    )


def test_a_target_in_several_parts():
    target = square(10, 10, 10) | square(30, 30, 10)
    predicted = square(45, 45, 10)
    assert kinds(predicted, target) == {"wrong object", "target mask in several parts"}
    speck = square(10, 10, 20) | square(50, 50, 1)
    assert kinds(square(45, 5, 5), speck) == {"wrong object"}


def test_two_models_against_the_annotation_need_two_models():
    target, predicted = square(0, 0, 10), square(30, 30, 20)
    assert "two models against the annotation" in kinds(predicted, target, other=square(31, 31, 19))
    assert "two models against the annotation" not in kinds(predicted, target, other=square(0, 0, 10))
    assert "two models against the annotation" not in kinds(predicted, target)


def test_every_rule_has_a_text():
    for kind in KINDS.values():
        assert kind.rule.endswith(".")
        assert len(kind.rule) > 40
    shown = {kind.shown_as for kind in KINDS.values()}
    assert {"imperfect expressions", "noisy annotation", "boundaries", "occlusion"} <= shown
