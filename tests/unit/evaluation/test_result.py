"""Result files: the same bytes for the same masks, whole, and refused where they were tampered with."""

from __future__ import annotations

import json
import random

import pytest

from refseg.data.shapes import Shapes
from refseg.errors import DataError, OutputError
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import Result, load_result, make_result, outcomes_path, save_result


class Few(Shapes):
    """The test split, were it of three scenes; counting all of it takes generating it."""

    def totals(self):
        return {"images": 3, "references": 12, "expressions": 22}


@pytest.fixture(scope="module")
def outcomes(predictor):
    data = Shapes("test")
    return evaluate(predictor, data, range(3), data.masks)


@pytest.fixture
def make(outcomes):
    def make(found=None, **changes) -> Result:
        values = {"made_by": {"model": "tiny"}, "whole": False} | changes
        return make_result(outcomes if found is None else found, Few("test"), PROTOCOLS["refseg"], **values)

    return make


def test_order_leaves_no_trace(make, outcomes, tmp_path):
    save_result(make(), tmp_path / "a.json")
    shuffled = list(outcomes)
    random.Random(3).shuffle(shuffled)
    save_result(make(shuffled), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_result_comes_back_as_it_was(make, tmp_path):
    made = make()
    save_result(made, tmp_path / "a.json")
    assert load_result(tmp_path / "a.json") == made
    assert made.figures["data"]["digest"] == Shapes("test").digest()
    assert {"n", "mean_iou", "overall_iou", "precision", "n_acc", "pointing", "intervals", "by"} <= made.figures.keys()


def test_an_expression_counts_once(make, outcomes):
    with pytest.raises(DataError, match="was scored twice"):
        make([*outcomes, outcomes[0]])


def test_a_whole_lacks_nothing(make, outcomes):
    assert make(whole=True).figures["whole"]
    with pytest.raises(DataError, match=r"shapes:test has .* but scored were"):
        make(outcomes[:-1], whole=True)
    with pytest.raises(DataError, match="nothing was scored"):
        make([])


def test_changed_outcomes_are_noticed(make, tmp_path):
    save_result(make(), tmp_path / "a.json")
    path = outcomes_path(tmp_path / "a.json")
    path.write_text(path.read_text(encoding="utf-8").replace('"found": ', '"found": 1'), encoding="utf-8")
    with pytest.raises(DataError, match=r"does not belong to a\.json, or was changed since"):
        load_result(tmp_path / "a.json")


@pytest.mark.parametrize("written", ["", "[]", "{}", '{"schema": "other/1"}', '{"schema"'])
def test_other_files_are_no_results(tmp_path, written):
    (tmp_path / "a.json").write_text(written, encoding="utf-8")
    with pytest.raises(DataError, match=r"is no result|broken"):
        load_result(tmp_path / "a.json")


def test_what_cannot_be_written_leaves_what_was_there(make, tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        save_result(make(), tmp_path / "none" / "a.json")
    save_result(make(), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["schema"] == "refseg-result/1"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.jsonl"]
