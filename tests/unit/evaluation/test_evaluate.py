"""Evaluation: every expression once, each picture encoded once, at its own size, broken down by what is known."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from refseg.data.shapes import Shapes
from refseg.evaluation.evaluate import evaluate, summarise
from refseg.types import Prediction, Sample

LEFT, RIGHT = np.zeros((2, 8, 10), dtype=bool)
LEFT[:, :5], RIGHT[:, 5:] = True, True
OBJECTS = np.stack([LEFT, RIGHT])


class Data:
    """Two pictures, each with a left thing of two expressions, a right thing, and nothing."""

    pictures = 2

    def samples_of(self, index):
        def sample(number, expressions, mask, **attributes):
            return Sample(
                id=f"{index}/{number}",
                image_id=str(index),
                expressions=expressions,
                load_image=lambda: Image.new("RGB", (10, 8)),
                load_mask=None if mask is None else lambda: mask,
                split="x",
                source="x",
                attributes=attributes,
            )

        return (
            sample(0, ("left", "the left"), LEFT, tempers="terse,plain", forms="side,side", target=0, held_out=False),
            sample(1, ("right",), RIGHT, tempers="plain", forms="side", target=1, held_out=True),
            sample(2, ("nothing",), None, tempers="plain", forms="absent", target=-1, held_out=False),
        )


@pytest.fixture
def oracle(monkeypatch):
    """Answers `left` by what it is told to; counts what it is asked. Stands in for a Predictor."""

    class Oracle(SimpleNamespace):
        def encode(self, image):
            self.encoded.append(image.size)
            return image

        def segment(self, image, expressions):
            self.asked += expressions
            return [Prediction(words, self.answers[words].astype(np.float32), 0.5) for words in expressions]

    monkeypatch.setattr("refseg.evaluation.evaluate.Predictor", Oracle)
    answers = {"left": LEFT, "the left": RIGHT, "right": LEFT | RIGHT, "nothing": LEFT & RIGHT}
    return Oracle(answers=answers, encoded=[], asked=[])


pytestmark = pytest.mark.usefixtures("unchecked")  # the oracle is no Predictor


def test_every_expression_once_and_every_picture_encoded_once(oracle):
    metrics, scored = evaluate(oracle, Data(), objects=lambda picture: OBJECTS)
    assert oracle.encoded == [(10, 8)] * 2
    assert oracle.asked == ["left", "the left", "right", "nothing"] * 2
    assert [one.expression for one in scored] == oracle.asked
    assert metrics.compute()["n"] == 6
    assert metrics.compute()["n_absent"] == 2


def test_how_each_came_out(oracle):
    _, scored = evaluate(oracle, Data(), range(1), lambda picture: OBJECTS)
    assert [one.iou for one in scored] == [1.0, 0.0, 0.5, None]
    assert [one.pointed for one in scored] == [True, False, False, None]  # as much of the other is not pointing
    assert [one.temper for one in scored] == ["terse", "plain", "plain", "plain"]
    assert [one.form for one in scored] == ["side", "side", "side", "absent"]
    assert [one.empty for one in scored] == [False, False, False, True]


def test_the_summary_adds_up_and_is_json(oracle):
    summary = summarise(*evaluate(oracle, Data(), objects=lambda picture: OBJECTS))
    assert (summary["mean_iou"], summary["pointing"], summary["n"]) == (0.5, pytest.approx(1 / 3), 6)
    assert summary["overall_iou"] == pytest.approx((40 + 0 + 40) / (40 + 80 + 80))
    assert (summary["n_acc"], summary["t_acc"]) == (1.0, 1.0)
    by = summary["by"]
    assert by["temper"]["terse"] == {"n": 2, "mean_iou": 1.0, "pointing": 1.0}
    assert by["temper"]["plain"] == {"n": 4, "mean_iou": 0.25, "pointing": 0.0}
    assert by["held_out"].keys() == {"false", "true"}
    assert "absent" not in by["form"]
    json.dumps(summary, allow_nan=False)


def test_without_objects_there_is_no_pointing(oracle):
    summary = summarise(*evaluate(oracle, Data()))
    assert summary["pointing"] is None


def test_a_real_predictor_on_real_scenes(predictor):
    data = Shapes("test")
    metrics, scored = evaluate(predictor, data, [3, 5], data.masks)
    assert len(scored) == sum(len(sample.expressions) for i in (3, 5) for sample in data.samples_of(i))
    assert metrics.absent == 2
    assert all((one.iou is None) == (one.sample.load_mask is None) for one in scored)
