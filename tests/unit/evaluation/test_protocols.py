"""The protocols: each against a plain loop of its own, and every value of an outcome from one prediction."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from refseg.errors import UnknownNameError
from refseg.evaluation.evaluate import evaluate
from refseg.evaluation.metrics import summarise
from refseg.evaluation.protocols import PROTOCOLS, protocol, resize_bilinear
from refseg.inputs.frame import Frame
from refseg.values import Calibration, Decision, Encoding, Expression, Prediction, Sample

SIDE = 64


def interpolate(probability, side=480):
    maps = torch.from_numpy(np.ascontiguousarray(probability))[None, None]
    return torch.nn.functional.interpolate(maps, (side, side), mode="bilinear", align_corners=False)[0, 0].numpy()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 99))
def test_resizing_equals_that_of_pytorch(height, width, seed):
    values = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    assert np.abs(resize_bilinear(values, 480) - interpolate(values)).max() < 1e-6


def test_resizing_large_maps_equals_that_of_pytorch():
    values = np.random.default_rng(0).random((3001, 1999)).astype(np.float32)
    assert np.abs(resize_bilinear(values, 480) - interpolate(values)).max() < 1e-6


class Fixed:
    """A segmenter whose scores are given by expression, at the size of the image."""

    device, domain, fingerprint = "cpu", None, "fixed"

    def __init__(self, scores, decision):
        self.all_scores, self.decision = scores, decision

    def encode(self, images, /):
        return [Encoding(self.fingerprint, Frame(SIDE, SIDE, SIDE), {}) for _ in images]

    def segment(self, image, expressions, /):
        return [Prediction(one, self.all_scores[one], image.frame, self.decision) for one in expressions]


class Cases:
    """Images with one expression each, "0", "1"..., and the given target masks."""

    def __init__(self, targets, target_object=None):
        self.targets, self.num_images, self.target_object = targets, len(targets), target_object

    def samples_of(self, index):
        target = self.targets[index]
        return (
            Sample(
                id=str(index),
                image_id=str(index),
                expressions=(Expression(text=str(index), id=str(index)),),
                load_image=lambda: Image.new("RGB", (SIDE, SIDE)),
                load_mask=None if target is None else lambda: target,
                target_object=self.target_object,
                split="x",
                source="x",
            ),
        )


def plain(name, cases):
    """The metrics of a protocol, written as a loop: cases are (probability, target or None) pairs."""
    ious, shared, unions, hits = [], 0, 0, []
    n_right = n_all = t_right = 0
    for probability, target in cases:
        if name == "cris":
            mask = probability > 0.35
            inter, union = np.logical_and(mask, target).sum(), np.logical_or(mask, target).sum()
            iou = inter / (union + 1e-6)
            hits.append([iou > x / 10 for x in range(5, 10)])
        elif name == "lavt":
            mask, target = interpolate(probability) > 0.5, resized(target)
            inter, union = (mask & target).sum(), (mask | target).sum()
            iou = inter / union if union else 0.0
            hits.append([iou >= x / 10 for x in range(5, 10)])
        else:
            mask = interpolate(probability) > 0.5
            nothing = mask.sum() < 50
            if target is None:
                n_all, n_right = n_all + 1, n_right + nothing
                inter, union, iou = 0, 0 if nothing else mask.sum(), float(nothing)
            else:
                target = resized(target)
                t_right += not nothing
                inter, union = (0 if nothing else (mask & target).sum()), (mask | target).sum()
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


def resized(target):
    places = ((np.arange(480) + 0.5) * SIDE / 480).astype(int)
    return target[places][:, places]


@pytest.mark.parametrize("name", ["cris", "lavt", "gres"])
def test_each_protocol_equals_a_plain_loop(name):
    rng = np.random.default_rng(5)
    blocks = [np.kron(rng.random((4, 4)), np.ones((16, 16))).astype(np.float32) for _ in range(12)]
    targets = [np.kron(rng.random((8, 8)) < 0.4, np.ones((8, 8))).astype(bool) for _ in range(12)]
    for number in (2, 7):  # nearly right ones
        blocks[number] = np.where(targets[number], 0.9, 0.1).astype(np.float32)
    blocks[4][:] = 0.01
    if name == "gres":
        targets = [None if number in (3, 4) else target for number, target in enumerate(targets)]
    # The protocol's threshold must replace all of the model's own decision.
    own = Decision(threshold=0.05, relative_threshold=0.99, calibration=Calibration(knots=((0.5, 0.5),)))
    segmenter = Fixed({str(number): scores for number, scores in enumerate(blocks)}, own)
    probabilities = []
    outcomes = evaluate(
        segmenter,
        Cases(targets),
        protocol=PROTOCOLS[name],
        each=lambda sample, expression, prediction: probabilities.append(prediction.probability),
    )
    figures = summarise(outcomes, PROTOCOLS[name])
    expected = plain(name, list(zip(probabilities, targets, strict=True)))
    assert figures["giou" if name == "gres" else "mean_iou"] == pytest.approx(expected["mean"], abs=1e-9)
    assert figures["ciou" if name == "gres" else "overall_iou"] == pytest.approx(expected["overall"], abs=1e-12)
    assert list(figures["precision"].values()) == pytest.approx(expected["precision"].tolist())
    if name == "gres":
        assert figures["t_acc"] == pytest.approx(expected["t_acc"])
        assert figures["n_acc"] == pytest.approx(expected["n_acc"])
        assert 0 < expected["n_acc"] < 1
    assert 0 < expected["precision"][-1] < 1


CALIBRATED = Decision(
    threshold=0.3,
    relative_threshold=0.8,
    calibration=Calibration(knots=((0.1, 0.2), (0.9, 0.3)), reject_below=0.5),
)


@pytest.mark.parametrize("name", ["cris", "lavt", "gres"])
def test_a_protocol_with_a_threshold_uses_one_prediction_for_everything(name):
    """Mask, counts, pointing, emptiness, score and what is stored are of the threshold of the protocol."""
    left, right = np.zeros((2, SIDE, SIDE), dtype=bool)
    left[10:50, 5:25], right[10:50, 35:55] = True, True
    # By the model's own decision the mask is the right square, and is rejected for its low confidence.
    scores = np.full((SIDE, SIDE), 0.02, dtype=np.float32)
    scores[left], scores[right] = 0.58, 0.8
    scores[10:50, 35:38] = 0.4
    target = left | right
    stored = []
    (outcome,) = evaluate(
        Fixed({"0": scores}, CALIBRATED),
        Cases([target]),
        protocol=PROTOCOLS[name],
        each=lambda sample, expression, prediction: stored.append(prediction),
    )
    threshold = PROTOCOLS[name].threshold
    expected = Prediction("0", scores, Frame(SIDE, SIDE, SIDE), Decision(threshold=threshold))
    assert stored[0].decision == expected.decision
    assert np.array_equal(stored[0].mask, expected.probability > threshold)
    assert outcome.score == expected.score == expected.confidence > 0
    assert not outcome.empty
    side = PROTOCOLS[name].side
    if side is None:
        assert outcome.predicted_pixels == np.count_nonzero(expected.probability > threshold)
    else:
        assert outcome.predicted_pixels == np.count_nonzero(interpolate(expected.probability) > threshold)
        assert outcome.image_pixels == side * side


def test_the_protocol_without_a_threshold_uses_the_models_own_decision():
    scores = np.full((SIDE, SIDE), 0.02, dtype=np.float32)
    scores[10:50, 5:25], scores[10:50, 35:55] = 0.58, 0.8
    target = scores > 0.7
    own = Decision(threshold=0.3, relative_threshold=0.8, calibration=Calibration(knots=((0.1, 0.2), (0.9, 0.7))))
    for decision in (own, CALIBRATED):
        expected = Prediction("0", scores, Frame(SIDE, SIDE, SIDE), decision)
        (outcome,) = evaluate(Fixed({"0": scores}, decision), Cases([target]))
        assert (outcome.empty, outcome.score) == (expected.empty, expected.score)
        assert outcome.predicted_pixels == np.count_nonzero(expected.mask)
    assert expected.rejected
    assert outcome.empty


def test_a_decision_takes_the_place_of_all_others():
    scores = np.full((SIDE, SIDE), 0.2, dtype=np.float32)
    segmenter = Fixed({"0": scores}, CALIBRATED)
    for name in ("refseg", "cris"):
        (outcome,) = evaluate(
            segmenter, Cases([scores > 0]), protocol=PROTOCOLS[name], decision=Decision(threshold=0.1)
        )
        assert (outcome.iou, outcome.empty) == (1.0, False)


def test_pointing_is_of_the_protocols_mask():
    left, right = np.zeros((2, SIDE, SIDE), dtype=bool)
    left[:, :30], right[:, 40:] = True, True
    scores = np.where(left, 0.45, np.where(right, 0.9, 0.0)).astype(np.float32)
    segmenter, data = Fixed({"0": scores}, Decision(threshold=0.5)), Cases([left], target_object=0)

    def pointing(name):
        (outcome,) = evaluate(segmenter, data, objects=lambda _: np.stack([left, right]), protocol=PROTOCOLS[name])
        return outcome.points_at_target

    assert pointing("refseg") is False  # only the other object is above 0.5
    assert pointing("cris") is True  # both are above 0.35, and the target is larger


def test_an_unknown_protocol_is_an_error():
    assert protocol("lavt") is PROTOCOLS["lavt"]
    with pytest.raises(UnknownNameError):
        protocol("coco")
