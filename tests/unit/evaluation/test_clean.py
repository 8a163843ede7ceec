"""Metrics without the images that a model was trained on."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from refseg.errors import DataError, UnknownNameError
from refseg.evaluation.clean import check_same_data, protocol_of, score_parts
from refseg.evaluation.metrics import Outcome, summarise
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import Result


def outcome(number, image, intersection):
    return Outcome(
        id=str(number),
        reference=str(number),
        image=image,
        expression="a cup",
        present=True,
        intersection=intersection,
        union=100,
        predicted_pixels=100,
        target_pixels=intersection,
        image_pixels=1000,
        score=0.5,
        empty=False,
    )


class Data:
    """A split with a name and a digest only."""

    name, split, num_images, skipped_count = "refcoco", "val", 3, 0

    def digest(self):
        return "abc"

    def notes(self):
        return ()

    def objects(self, index):
        return None

    def files(self):
        return {}

    def totals(self):
        return {}

    def samples_of(self, index):
        return ()


OUTCOMES = (outcome(1, "a", 80), outcome(2, "a", 60), outcome(3, "b", 40), outcome(4, "c", 20))


def result(**changes):
    figures = {
        "protocol": asdict(PROTOCOLS["cris"]),
        "data": {"name": "refcoco", "split": "val", "digest": "abc"},
    }
    return Result(figures | changes, OUTCOMES)


def test_the_parts_are_scored_by_the_rules_of_the_result():
    parts = score_parts(result(), {"a", "elsewhere"})
    assert {name: (part["images"], part["n"]) for name, part in parts.items()} == {
        "all": (3, 4),
        "clean": (2, 2),
        "leaked": (1, 2),
    }
    assert parts["clean"]["mean_iou"] == pytest.approx(0.3)
    assert parts["leaked"]["mean_iou"] == pytest.approx(0.7)
    whole = summarise(OUTCOMES, PROTOCOLS["cris"])
    assert {name: parts["all"][name] for name in whole} == whole
    assert set(parts["clean"]["intervals"]) >= {"mean_iou"}


def test_a_part_without_images_has_no_score():
    parts = score_parts(result(), set())
    assert (parts["leaked"]["images"], parts["leaked"]["mean_iou"], parts["leaked"]["intervals"]) == (0, None, {})
    assert parts["clean"]["mean_iou"] == parts["all"]["mean_iou"]


def test_a_result_of_other_data_is_an_error():
    check_same_data(result(), Data())
    other = {"name": "refcoco", "split": "testA", "digest": "abc"}
    with pytest.raises(DataError, match="of refcoco:testA, not of refcoco:val"):
        check_same_data(result(data=other), Data())
    with pytest.raises(DataError, match="changed"):
        check_same_data(result(data=other | {"split": "val", "digest": "abd"}), Data())


def test_a_result_without_a_protocol_is_an_error():
    assert protocol_of(result()) == PROTOCOLS["cris"]
    for protocol in (None, {}, []):
        with pytest.raises(DataError, match="protocol"):
            protocol_of(result(protocol=protocol))
    with pytest.raises(UnknownNameError, match="protocol"):
        protocol_of(result(protocol={"name": "other"}))
