"""Evaluation: every expression once, each image encoded once, at its own size, by every protocol."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.data.shapes import Shapes
from refseg.evaluation.evaluate import Timing, evaluate
from refseg.evaluation.metrics import breakdown, summarise
from refseg.evaluation.protocols import PROTOCOLS
from refseg.values import Prediction, Sample

LEFT, RIGHT = np.zeros((2, 8, 10), dtype=bool)
LEFT[:, :5], RIGHT[:, 5:] = True, True
OBJECTS = np.stack([LEFT, RIGHT])


class Data:
    """Two images, each with a left thing of two expressions, a right thing, and nothing."""

    images = 2

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
            sample(0, ("left", "the left"), LEFT, styles="terse,plain", forms="side,side", target=0, held_out=False),
            sample(1, ("right",), RIGHT, styles="plain", forms="side", target=1, held_out=True),
            sample(2, ("nothing",), None, styles="plain", forms="absent", target=-1, held_out=False),
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


def test_every_expression_once_and_every_image_encoded_once(oracle):
    outcomes = evaluate(oracle, Data(), objects=lambda image: OBJECTS)
    assert oracle.encoded == [(10, 8)] * 2
    assert oracle.asked == ["left", "the left", "right", "nothing"] * 2
    assert [one.expression for one in outcomes] == oracle.asked
    assert len({one.id for one in outcomes}) == 8
    assert summarise(outcomes)["n"] == 6
    assert summarise(outcomes)["n_absent"] == 2


def test_how_each_came_out(oracle):
    outcomes = evaluate(oracle, Data(), range(1), lambda image: OBJECTS)
    assert [one.iou for one in outcomes] == [1.0, 0.0, 0.5, 0.0]
    assert [one.present for one in outcomes] == [True, True, True, False]
    assert [one.pointed for one in outcomes] == [True, False, False, None]  # as much of the other is not pointing
    assert [one.attributes["style"] for one in outcomes] == ["terse", "plain", "plain", "plain"]
    assert [one.attributes["form"] for one in outcomes] == ["side", "side", "side", "absent"]
    assert [one.empty for one in outcomes] == [False, False, False, True]
    assert [one.id for one in outcomes] == ["0/0/0", "0/0/1", "0/1/0", "0/2/0"]


def test_the_summary_adds_up(oracle):
    outcomes = evaluate(oracle, Data(), objects=lambda image: OBJECTS)
    summary = summarise(outcomes)
    assert (summary["mean_iou"], summary["pointing"], summary["n"]) == (0.5, pytest.approx(1 / 3), 6)
    assert summary["overall_iou"] == pytest.approx((40 + 0 + 40) / (40 + 80 + 80))
    assert (summary["n_acc"], summary["t_acc"]) == (1.0, 1.0)
    by = breakdown(outcomes)
    assert by["style"]["terse"] == {"n": 2, "mean_iou": 1.0, "overall_iou": 1.0, "pointing": 1.0}
    assert by["style"]["plain"]["mean_iou"] == 0.25
    assert by["held_out"].keys() == {"false", "true"}
    assert "absent" not in by["form"]


def test_without_objects_there_is_no_pointing(oracle):
    assert summarise(evaluate(oracle, Data()))["pointing"] is None


def test_shards_are_the_whole(oracle):
    whole = evaluate(oracle, Data())
    parts = evaluate(oracle, Data(), range(1, 2)) + evaluate(oracle, Data(), range(1))
    assert sorted(parts, key=lambda one: one.id) == whole


def test_ignored_pixels_do_not_count(oracle):
    class WithIgnored(Data):
        def samples_of(self, index):
            sample = super().samples_of(index)[1]
            return (dataclasses.replace(sample, load_ignored=lambda: LEFT),)

    (one, _) = evaluate(oracle, WithIgnored())
    assert (one.iou, one.found) == (1.0, 40)


def test_the_time_of_each_part_is_added(oracle):
    timing = Timing()
    evaluate(oracle, Data(), timing=timing)
    assert all(value > 0 for value in vars(timing).values())


def test_every_prediction_is_handed_on(oracle):
    seen = []
    outcomes = evaluate(oracle, Data(), each=lambda sample, id, prediction: seen.append((id, prediction.expression)))
    assert seen == [(one.id, one.expression) for one in outcomes]


def test_a_real_predictor_on_real_scenes(predictor):
    data = Shapes("test")
    outcomes = evaluate(predictor, data, [3, 5], data.masks)
    assert len(outcomes) == sum(len(sample.expressions) for i in (3, 5) for sample in data.samples_of(i))
    assert sum(not one.present for one in outcomes) == 2


# ── the protocols, each against a plain implementation of its own ──


def plain(name, cases):
    """What a protocol says, written as its authors' loops are: cases are (probability, truth or None) pairs."""
    ious, shared, unions, hits = [], 0, 0, []
    n_right = n_all = t_right = 0
    for probability, truth in cases:
        if name == "cris":
            found = probability > 0.35
            inter, union = np.logical_and(found, truth).sum(), np.logical_or(found, truth).sum()
            iou = inter / (union + 1e-6)
            hits.append([iou > x / 10 for x in range(5, 10)])
        elif name == "lavt":
            found, truth = squared(probability) > 0.5, squared_truth(truth)
            inter, union = (found & truth).sum(), (found | truth).sum()
            iou = inter / union if union else 0.0
            hits.append([iou >= x / 10 for x in range(5, 10)])
        else:
            found = squared(probability) > 0.5
            nothing = found.sum() < 50
            if truth is None:
                n_all, n_right = n_all + 1, n_right + nothing
                inter, union, iou = 0, 0 if nothing else found.sum(), float(nothing)
            else:
                truth = squared_truth(truth)
                t_right += not nothing
                inter, union = (0 if nothing else (found & truth).sum()), (found | truth).sum()
                iou = inter / union
                hits.append([iou >= x / 10 for x in range(7, 10)])
        ious.append(iou)
        shared, unions = shared + inter, unions + union
    return {
        "mean": np.mean(ious),
        "overall": shared / unions,
        "precision": np.mean(hits, axis=0),
        "n_acc": n_right / n_all if n_all else None,
        "t_acc": t_right / len(hits),
    }


def squared(probability):
    maps = torch.from_numpy(probability)[None, None]
    return torch.nn.functional.interpolate(maps, (480, 480), mode="bilinear", align_corners=False)[0, 0].numpy()


def squared_truth(truth):
    rows = (np.arange(480) + 0.5) * truth.shape[0] / 480
    columns = (np.arange(480) + 0.5) * truth.shape[1] / 480
    return truth[rows.astype(int)][:, columns.astype(int)]


@pytest.mark.parametrize("name", ["cris", "lavt", "gres"])
def test_each_protocol_says_what_a_plain_loop_says(oracle, name):
    rng = np.random.default_rng(5)
    smooth = [np.kron(rng.random((4, 5)), np.ones((15, 16))).astype(np.float32) for _ in range(12)]
    truths = [np.kron(rng.random((6, 8)) < 0.4, np.ones((10, 10))).astype(bool) for _ in range(12)]
    for number in (2, 7):  # nearly right ones
        smooth[number] = np.where(truths[number], 0.9, 0.1).astype(np.float32)
    smooth[4][:] = 0.01
    cases = list(zip(smooth, truths, strict=True))
    if name == "gres":
        cases = [(p, None if number in (3, 4) else t) for number, (p, t) in enumerate(cases)]

    class Cases(Data):
        images = 12

        def samples_of(self, index):
            truth = cases[index][1]
            return (
                Sample(
                    id=str(index),
                    image_id=str(index),
                    expressions=(str(index),),
                    load_image=lambda: Image.new("RGB", (80, 60)),
                    load_mask=None if truth is None else lambda: truth,
                    split="x",
                    source="x",
                ),
            )

    oracle.answers = {str(number): probability for number, (probability, _) in enumerate(cases)}
    protocol = PROTOCOLS[name]
    figures = summarise(evaluate(oracle, Cases(), protocol=protocol), protocol)
    expected = plain(name, cases)
    assert figures["giou" if name == "gres" else "mean_iou"] == pytest.approx(expected["mean"], abs=1e-9)
    assert figures["ciou" if name == "gres" else "overall_iou"] == pytest.approx(expected["overall"], abs=1e-12)
    assert list(figures["precision"].values()) == pytest.approx(expected["precision"].tolist())
    if name == "gres":
        assert figures["t_acc"] == pytest.approx(expected["t_acc"])
        assert figures["n_acc"] == pytest.approx(expected["n_acc"])
        assert 0 < expected["n_acc"] < 1
    assert 0 < expected["precision"][-1] < 1


def test_the_models_own_threshold_is_asked_unless_the_protocol_has_one():
    probability = np.array([[0.2, 0.3, 0.4, 0.6]], dtype=np.float32)
    found = {name: protocol.find(probability, 0.25) for name, protocol in PROTOCOLS.items()}
    assert found["refseg"].tolist() == [[False, True, True, True]]
    assert found["cris"].tolist() == [[False, False, True, True]]
    assert found["lavt"].shape == found["gres"].shape == (480, 480)
