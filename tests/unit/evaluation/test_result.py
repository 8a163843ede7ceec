"""Result files: the same bytes for the same outcomes, complete, and an error where they were changed."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest

from refseg.errors import DataError, OutputError
from refseg.evaluation.about import about
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import Result, load_result, make_result, outcomes_path, save_result


@pytest.fixture
def data(squares):
    return squares(3)


@pytest.fixture
def outcomes(by_colour, data):
    return evaluate(by_colour(), data, objects=data.objects)


@pytest.fixture
def make(outcomes, data):
    def make(some=None, **changes) -> Result:
        values = {"made_by": {"model": "by colour"}} | changes
        return make_result(outcomes if some is None else some, data, PROTOCOLS["refseg"], **values)

    return make


def test_the_order_of_outcomes_does_not_matter(make, outcomes, tmp_path):
    save_result(make(), tmp_path / "a.json")
    shuffled = list(outcomes)
    random.Random(3).shuffle(shuffled)
    save_result(make(shuffled), tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_a_result_is_loaded_as_it_was_saved(make, tmp_path):
    made = make()
    save_result(made, tmp_path / "a.json")
    assert load_result(tmp_path / "a.json") == made
    assert {"n", "mean_iou", "overall_iou", "precision", "n_acc", "pointing", "intervals", "by"} <= made.figures.keys()
    line = json.loads(outcomes_path(tmp_path / "a.json").read_text(encoding="utf-8").splitlines()[0])
    assert {"predicted_pixels", "target_pixels", "image_pixels", "points_at_target"} <= line.keys()


def test_a_result_tells_how_many_rows_were_skipped(make, data):
    assert make().figures["data"]["skipped"] == 0
    data.skipped_count = 2
    assert make().figures["data"]["skipped"] == about(make()).skipped == 2


def test_an_expression_counts_once(make, outcomes):
    with pytest.raises(DataError, match="scored twice"):
        make([*outcomes, outcomes[0]])


def test_a_whole_is_complete(make, outcomes):
    assert make(whole=True).figures["whole"]
    with pytest.raises(DataError, match="but scored were"):
        make(outcomes[:-1], whole=True)
    with pytest.raises(DataError, match="nothing was scored"):
        make([])


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error(make, outcomes, score):
    with pytest.raises(DataError, match="finite"):
        make([dataclasses.replace(outcomes[0], score=score), *outcomes[1:]])


def test_metrics_over_no_expressions_are_stored_as_null(make, outcomes, tmp_path):
    save_result(make([one for one in outcomes if not one.present], whole=False), tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=pytest.fail)["mean_iou"] is None


def test_a_file_with_nan_is_an_error(make, tmp_path):
    save_result(make(), tmp_path / "a.json")
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    (tmp_path / "a.json").write_text(text.replace('"n": 9', '"n": NaN'), encoding="utf-8")
    with pytest.raises(DataError, match="NaN"):
        load_result(tmp_path / "a.json")


def test_changed_outcomes_are_an_error(make, tmp_path):
    save_result(make(), tmp_path / "a.json")
    path = outcomes_path(tmp_path / "a.json")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"predicted_pixels": ', '"predicted_pixels": 1'), encoding="utf-8")
    with pytest.raises(DataError, match="changed since"):
        load_result(tmp_path / "a.json")


@pytest.mark.parametrize("written", ["", "[]", "{}", '{"schema": "other/1"}', '{"schema": "refseg-result/1"}', '{"s"'])
def test_other_files_are_an_error(tmp_path, written):
    (tmp_path / "a.json").write_text(written, encoding="utf-8")
    with pytest.raises(DataError):
        load_result(tmp_path / "a.json")


def test_an_error_of_writing_leaves_the_old_file(make, tmp_path):
    with pytest.raises(OutputError):
        save_result(make(), tmp_path / "none" / "a.json")
    save_result(make(), tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["schema"] == "refseg-result/2"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.jsonl"]
