"""The loss by hand, and what a run tells."""

from __future__ import annotations

import json
import math

import pytest
import torch

from refseg.training.losses import contrastive_loss
from refseg.training.tracker import Tracker


def test_the_loss_by_hand():
    logits = torch.tensor([0.0, 2.0, -1.0, 3.0]).view(1, 1, 2, 2)
    target = torch.tensor([1.0, 1.0, 0.0, 0.5]).view(1, 1, 2, 2)
    each = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))]
    each.append(0.5 * math.log(1 + math.exp(-3)) + 0.5 * math.log(1 + math.exp(3)))
    assert contrastive_loss(logits, target).item() == pytest.approx(sum(each) / 4)


def test_weights_say_how_much_each_sentence_counts():
    logits, target = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    each = [contrastive_loss(one[None], goal[None]).item() for one, goal in zip(logits, target, strict=True)]
    weighted = contrastive_loss(logits, target, torch.tensor([1.0, 3.0, 0.5])).item()
    assert weighted == pytest.approx((each[0] + 3 * each[1] + 0.5 * each[2]) / 4.5)
    assert contrastive_loss(logits, target, torch.ones(3)).item() == pytest.approx(sum(each) / 3)


def test_half_precision_is_widened_first():
    logits = torch.full((1, 1, 2, 2), -9.0, dtype=torch.bfloat16)
    loss = contrastive_loss(logits, torch.zeros(1, 1, 2, 2))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-9)), rel=5e-3)


@pytest.fixture
def no_tensorboard(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)


@pytest.mark.usefixtures("no_tensorboard")
def test_each_event_is_a_line_and_a_resumed_run_adds_to_them(tmp_path):
    for step in (1, 2):
        with Tracker(tmp_path, 10, step, show=False) as tracker:
            tracker.log(step, loss=0.5, learning_rate=1e-3)
            tracker.advance(0.5)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"], line["learning_rate"]) for line in lines] == [(1, 0.5, 1e-3), (2, 0.5, 1e-3)]
    assert all(line["seconds"] >= 0 for line in lines)


@pytest.mark.usefixtures("no_tensorboard")
def test_a_line_is_there_as_soon_as_it_is_logged(tmp_path):
    with Tracker(tmp_path, 10, 0, show=False) as tracker:
        tracker.log(1, loss=1.0)
        assert (tmp_path / "log.jsonl").read_text().count("\n") == 1


@pytest.mark.usefixtures("no_tensorboard")
def test_notes_are_shown_with_the_bar_only(tmp_path, capsys):
    for show in (False, True):
        with Tracker(tmp_path, 10, 0, show=show) as tracker:
            tracker.note("half way")
        out, err = capsys.readouterr()
        assert out == ""
        assert ("half way" in err) == show


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_same_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    with Tracker(tmp_path, 10, 0, show=False) as tracker:
        tracker.log(1, loss=1.0)
    assert list((tmp_path / "tensorboard").iterdir())
