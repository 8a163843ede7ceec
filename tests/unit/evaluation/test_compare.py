"""Comparisons of two results: numbers by hand, and properties of all comparisons."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refseg.errors import DataError
from refseg.evaluation.compare import compare, sign_flip, verdict
from refseg.evaluation.result import Result

FIRST = [(0, 50), (0, 70), (1, 20), (1, 80)]
SECOND = [(0, 60), (0, 70), (1, 50), (1, 60)]


def test_the_difference_by_hand(result_of):
    found = compare(result_of(FIRST, made_by="old"), result_of(SECOND, made_by="new"))
    mean = found.metrics["mean_iou"]
    assert (mean.first, mean.second, mean.n) == (pytest.approx(0.55), pytest.approx(0.6), 4)
    assert mean.difference == pytest.approx(0.05)
    # Both images gain 0.05 in the mean, so that every draw does.
    assert (mean.low, mean.high) == (pytest.approx(0.05), pytest.approx(0.05))
    assert found.metrics["precision@0.6"].difference == pytest.approx(0.25)
    assert (found.wins, found.ties, found.losses) == (2, 1, 1)
    assert found.p_value == 0.5  # of four ways to flip two images, two are as far from 0
    assert (found.first, found.second, found.num_images, found.n) == ("old", "new", 2, 4)
    assert [(one.id, one.first, one.second) for one in found.improved] == [("0002", 0.2, 0.5), ("0000", 0.5, 0.6)]
    assert [one.id for one in found.worsened] == ["0003"]


def test_the_difference_broken_down_by_hand(result_of):
    found = compare(result_of(FIRST), result_of(SECOND))
    words = found.by["words"]  # those of even numbers have one word, the others three
    assert words["1-2 words"].difference == pytest.approx(0.2)
    assert words["3-5 words"].difference == pytest.approx(-0.1)
    assert (words["1-2 words"].n, words["3-5 words"].n) == (2, 2)


def test_expressions_that_fit_nothing_are_compared_by_their_answer(result_of):
    rows = [(0, 50), (1, None), (2, None)]
    told = result_of(rows)
    outcomes = [
        dataclasses.replace(one, predicted_pixels=0, union=0, empty=True) if one.id == "0002" else one
        for one in told.outcomes
    ]
    found = compare(told, result_of(outcomes))
    assert found.metrics["n_acc"].difference == pytest.approx(0.5)
    assert (found.metrics["n_acc"].n, found.n, found.n_absent) == (2, 1, 2)
    assert found.metrics["giou"].difference == pytest.approx(1 / 3)
    assert found.metrics["ciou"].n == 3
    assert found.metrics["mean_iou"].difference == 0


def test_without_targets_nothing_is_compared(result_of):
    found = compare(result_of([(0, None), (1, None)]), result_of([(0, None), (1, None)]))
    assert found.p_value is None
    assert "mean_iou" not in found.metrics
    assert verdict(found).startswith("Nothing to compare")


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 100), st.integers(0, 100)), min_size=2, max_size=25)
many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(rows=ROWS)
def test_a_result_equals_itself(result_of, rows):
    result = result_of([row[:2] for row in rows])
    found = compare(result, result)
    assert {one.difference for one in found.metrics.values()} == {0}
    assert {(one.low, one.high) for one in found.metrics.values()} <= {(0, 0), (None, None)}
    assert (found.p_value, found.wins, found.losses) == (1, 0, 0)
    assert (found.improved, found.worsened) == ((), ())
    assert verdict(found).startswith("There is no difference")


@many
@given(rows=ROWS)
def test_swapping_the_sides_negates(result_of, rows):
    a, b = result_of([row[:2] for row in rows]), result_of([(row[0], row[2]) for row in rows])
    there, back = compare(a, b), compare(b, a)
    for name, one in there.metrics.items():
        other = back.metrics[name]
        assert (one.first, one.second, one.difference) == (other.second, other.first, -other.difference)
        if one.low is not None:
            assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))
    assert there.p_value == back.p_value
    assert (there.wins, there.ties, there.losses) == (back.losses, back.ties, back.wins)
    assert [one.id for one in there.improved] == [one.id for one in back.worsened]


def test_the_seed_fixes_everything(result_of):
    rng = np.random.default_rng(0)
    a = result_of([(i // 2, int(x)) for i, x in enumerate(rng.integers(0, 101, 60))])
    b = result_of([(i // 2, int(x)) for i, x in enumerate(rng.integers(0, 101, 60))])
    assert compare(a, b) == compare(a, b)
    assert compare(a, b, seed=1).metrics["mean_iou"].low != compare(a, b).metrics["mean_iou"].low


def test_it_can_be_written_as_json(result_of):
    found = compare(result_of(FIRST), result_of(SECOND))
    json.dumps(dataclasses.asdict(found), allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([0.1, 0.2], 2 / 4),
        ([0.1, 0.2, 0.3], 2 / 8),
        ([0.3, -0.1], 4 / 4),  # the sum is 0.2: no flip comes closer to 0
        ([0.0, 0.0], 1.0),
        ([], 1.0),
        ([0.5], 1.0),
    ],
)
def test_p_values_by_hand(changes, expected):
    assert sign_flip(np.array(changes), np.arange(len(changes))) == expected


def test_expressions_of_one_image_are_flipped_together():
    changes = np.full(40, 0.1)
    assert sign_flip(changes, np.arange(40)) < 0.001
    assert sign_flip(changes, np.zeros(40, dtype=np.int64)) == 1.0


def test_p_values_of_chance_are_uniform():
    rng = np.random.default_rng(5)
    found = []
    for trial in range(150):
        # 30 images, 5 expressions each, whose changes are correlated.
        changes = np.repeat(rng.normal(0, 0.2, 30), 5) + rng.normal(0, 0.05, 150)
        found.append(sign_flip(changes, np.repeat(np.arange(30), 5), seed=trial))
    ordered = np.sort(found)
    distance = np.abs(ordered - (np.arange(150) + 0.5) / 150).max()
    assert distance < 1.63 / np.sqrt(150)  # Kolmogorov and Smirnov's, at 1 %
    assert 0.3 < np.mean(found) < 0.7


def test_results_that_cannot_be_compared_are_an_error(result_of):
    a = result_of(FIRST)
    with pytest.raises(DataError, match="different data, squares:val and other:val"):
        compare(a, result_of(FIRST, name="other", digest="another"))
    with pytest.raises(DataError, match="different contents"):
        compare(a, result_of(FIRST, digest="another"))
    with pytest.raises(DataError, match="different protocols, refseg and cris"):
        compare(a, result_of(FIRST, protocol="cris"))
    with pytest.raises(DataError, match="2 expressions are only in the first result, 0 only in the second"):
        compare(a, result_of(FIRST[:2]))
    with pytest.raises(DataError, match="expression 0000"):
        compare(a, result_of([(7, 50), *FIRST[1:]]))


@pytest.mark.parametrize("missing", ["data", "protocol", "n", "by", "whole"])
def test_broken_results_are_an_error(result_of, missing):
    a = result_of(FIRST)
    figures = {key: value for key, value in a.figures.items() if key != missing}
    with pytest.raises(DataError, match=f"broken result: has no field '{missing}'"):
        compare(a, Result(figures, a.outcomes))


def test_the_verdict_says_whether_the_difference_is_significant(result_of):
    rng = np.random.default_rng(2)
    base = [int(x) for x in rng.integers(20, 60, 60)]
    a = result_of([(i // 2, x) for i, x in enumerate(base)])
    better = result_of([(i // 2, x + 10 + int(rng.integers(-5, 6))) for i, x in enumerate(base)])
    noise = result_of([(i // 2, x + int(rng.integers(-9, 10))) for i, x in enumerate(base)])
    assert "The second result is better by" in verdict(compare(a, better))
    assert "is significant" in verdict(compare(a, better))
    assert "The first result is better by" in verdict(compare(better, a))
    assert "is not significant" in verdict(compare(a, noise))
    one = verdict(compare(result_of([(0, 10), (0, 20)]), result_of([(0, 30), (0, 40)])))
    assert one.startswith("Too few images to test the difference of 20.00 points")
    assert verdict(compare(a, better)).count(". ") == 0
