"""Evaluation of any segmenter: every expression once, each image encoded once, all by the protocol `Segmenter`."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from refseg.data.shapes import Shapes
from refseg.evaluation.calibrate import calibrate
from refseg.evaluation.distributed import gather, rank_and_size
from refseg.evaluation.evaluate import Timing, evaluate, points_at_target
from refseg.evaluation.metrics import breakdown, summarise
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import make_result
from refseg.report.report import html, markdown
from refseg.values import Decision


@pytest.fixture
def counting(by_colour):
    """A segmenter that counts its calls."""

    class Counting(by_colour):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.encoded, self.expressions = 0, []

        def encode(self, images, /):
            self.encoded += len(images)
            return super().encode(images)

        def segment(self, image, expressions, /):
            self.expressions += expressions
            return super().segment(image, expressions)

    return Counting()


def test_every_expression_once_and_every_image_encoded_once(counting, squares):
    data = squares(2)
    outcomes = evaluate(counting, data, objects=data.objects)
    assert counting.encoded == 2
    assert counting.expressions == ["red", "the red square", "blue one", "green square"] * 2
    assert [one.expression for one in outcomes] == counting.expressions
    assert [one.id for one in outcomes[:4]] == ["0/0/0", "0/0/1", "0/1/0", "0/2/0"]
    assert len({one.id for one in outcomes}) == 8
    assert (summarise(outcomes)["n"], summarise(outcomes)["n_absent"]) == (6, 2)


def test_the_values_of_an_outcome(by_colour, squares):
    data = squares(1)
    outcomes = evaluate(by_colour(Decision(threshold=0.5)), data, objects=data.objects)
    assert [one.iou for one in outcomes] == [1.0, 1.0, 1.0, 0.0]
    assert [one.present for one in outcomes] == [True, True, True, False]
    assert [one.points_at_target for one in outcomes] == [True, True, True, None]
    assert [one.empty for one in outcomes] == [False, False, False, True]
    assert [one.attributes["style"] for one in outcomes] == ["terse", "plain", "plain", "plain"]
    assert outcomes[2].attributes == {"distractors": 1, "held_out": True, "style": "plain"}
    assert (outcomes[2].predicted_pixels, outcomes[2].target_pixels, outcomes[2].image_pixels) == (280, 280, 48 * 48)
    assert (outcomes[2].reference, outcomes[2].image) == ("0/1", "000.png")


def test_attributes_of_the_expression_take_precedence(by_colour, squares):
    data = squares(1)
    sample = data.samples_of(0)[0]
    expression = dataclasses.replace(sample.expressions[0], attributes={"distractors": 7})
    data.samples_of = lambda index: (dataclasses.replace(sample, expressions=(expression,)),)
    (outcome,) = evaluate(by_colour(), data)
    assert outcome.attributes["distractors"] == 7


def test_the_summary_adds_up(by_colour, squares):
    data = squares(2)
    outcomes = evaluate(by_colour(Decision(threshold=0.5)), data, objects=data.objects)
    by = breakdown(outcomes)
    assert by["style"]["terse"] == {"n": 2, "mean_iou": 1.0, "overall_iou": 1.0, "pointing": 1.0}
    assert by["held_out"].keys() == {"false", "true"}
    assert (summarise(outcomes)["n_acc"], summarise(outcomes)["t_acc"]) == (1.0, 1.0)


def test_as_many_pixels_of_another_object_is_not_pointing():
    left, right = np.zeros((2, 8, 10), dtype=bool)
    left[:, :5], right[:, 5:] = True, True
    assert points_at_target(left, np.stack([left, right]), 0)
    assert not points_at_target(left | right, np.stack([left, right]), 0)
    assert not points_at_target(right, np.stack([left, right]), 0)
    assert points_at_target(left, left[None], 0)


def test_without_objects_there_is_no_pointing(by_colour, squares):
    assert summarise(evaluate(by_colour(), squares(1)))["pointing"] is None
    assert summarise(evaluate(by_colour(), squares(1), objects=lambda index: None))["pointing"] is None


def test_parts_of_the_images_give_the_whole(by_colour, squares):
    whole = evaluate(by_colour(), squares(2))
    parts = evaluate(by_colour(), squares(2), range(1, 2)) + evaluate(by_colour(), squares(2), range(1))
    assert sorted(parts, key=lambda one: one.id) == whole


def test_one_process_gathers_its_own_outcomes(by_colour, squares, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    outcomes = evaluate(by_colour(), squares(1))
    assert rank_and_size() == (0, 1)
    assert gather(outcomes) is outcomes


def test_ignored_pixels_are_not_counted(by_colour, squares):
    data = squares(1)
    sample = dataclasses.replace(data.samples_of(0)[1], load_ignored=lambda: data.objects(0)[0])
    first_row = np.zeros((48, 48), dtype=bool)
    first_row[0] = True
    data.samples_of = lambda index: (dataclasses.replace(sample, load_ignored=lambda: first_row),)
    (one,) = evaluate(by_colour(), data)
    assert (one.iou, one.predicted_pixels) == (1.0, 280)


def test_the_time_of_each_part_is_added(by_colour, squares):
    timing = Timing()
    evaluate(by_colour(), squares(1), timing=timing)
    assert all(value > 0 for value in vars(timing).values())


def test_each_is_called_with_every_scored_prediction(by_colour, squares):
    calls = []
    outcomes = evaluate(by_colour(), squares(2), each=lambda *arguments: calls.append(arguments))
    assert [(sample.id, expression.id) for sample, expression, _ in calls] == [
        (one.reference, one.id) for one in outcomes
    ]
    assert [prediction.score for *_, prediction in calls] == [one.score for one in outcomes]


def test_a_predictor_on_generated_scenes(predictor):
    data = Shapes("test")
    outcomes = evaluate(predictor, data, [3, 5], data.objects)
    assert len(outcomes) == sum(len(sample.expressions) for i in (3, 5) for sample in data.samples_of(i))
    assert sum(not one.present for one in outcomes) == 2
    assert all(one.points_at_target is not None for one in outcomes if one.present)


def test_another_segmenter_goes_through_evaluation_calibration_and_report(by_colour, squares):
    data = squares(50)
    calibrated = calibrate(by_colour(), data)
    assert calibrated.decision.calibration is not None
    outcomes = evaluate(by_colour(calibrated.decision), data, objects=data.objects)
    result = make_result(outcomes, data, PROTOCOLS["refseg"], made_by={"model": "by colour"})
    assert result.figures["n_acc"] == 1.0  # a mask of the first row alone is rejected
    assert "by colour on squares:val" in markdown(result)
    assert "data:image/jpeg" in html(result, data=data)


SCRIPT = """
import runpy, sys
from refseg.evaluation.calibrate import calibrate
from refseg.evaluation.compare import compare
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.predictions import Predictions
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import make_result
from refseg.report.comparison import comparison_text
from refseg.report.report import html

names = runpy.run_path(sys.argv[1])
data, segmenter = names["Squares"](50), names["ByColour"]()
calibrate(segmenter, data)
results = [
    make_result(evaluate(segmenter, data, protocol=PROTOCOLS[name]), data, PROTOCOLS[name], made_by={})
    for name in ("refseg", "gres")
]
html(results[1], data=data)
comparison_text(compare(results[0], results[0]))
print([name for name in sys.modules if name.split(".")[0] == "torch"])
"""


def test_evaluation_and_reports_do_not_import_torch():
    script = Path(__file__).with_name("by_colour.py")
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(script)], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
