"""The loss by hand, and what a run tells."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch

from refseg.errors import ConfigError
from refseg.training.losses import contrastive_loss
from refseg.training.tracker import Tracker


def test_the_loss_by_hand():
    logits = torch.tensor([0.0, 2.0, -1.0, 3.0]).view(1, 1, 2, 2)
    target = torch.tensor([1.0, 1.0, 0.0, 0.5]).view(1, 1, 2, 2)
    each = [math.log(2), math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1))]
    each.append(0.5 * math.log(1 + math.exp(-3)) + 0.5 * math.log(1 + math.exp(3)))
    assert contrastive_loss(logits, target).tolist() == pytest.approx([sum(each) / 4])


def test_each_expression_has_its_own_loss():
    logits, target = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    alone = [contrastive_loss(one[None], goal[None]).item() for one, goal in zip(logits, target, strict=True)]
    assert contrastive_loss(logits, target).tolist() == pytest.approx(alone)


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
            tracker.advance(step, 0.5)
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


@pytest.mark.usefixtures("no_tensorboard")
def test_weights_and_biases_is_told_only_when_asked(tmp_path, monkeypatch):
    told = []
    run = SimpleNamespace(
        log=lambda values, step: told.append((step, values)), finish=lambda exit_code: told.append(exit_code)
    )
    fake = SimpleNamespace(init=lambda **how: told.append(how["project"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with Tracker(tmp_path, 10, 0, show=False) as tracker:
        tracker.log(1, loss=1.0)
    assert told == []
    with Tracker(tmp_path, 10, 0, show=False, wandb="cups") as tracker:
        tracker.log(1, loss=1.0)
    assert told == ["cups", (1, {"loss": 1.0}), 0]


@pytest.mark.usefixtures("no_tensorboard")
def test_weights_and_biases_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        Tracker(tmp_path, 10, 0, show=False, wandb="cups")


@pytest.mark.usefixtures("no_tensorboard")
def test_the_bar_tells_loss_score_speed_and_the_time_left(tmp_path, capsys):
    with Tracker(tmp_path, 10, 0, show=True, images=12) as tracker:
        tracker.log(1, mean_iou=0.512)
        tracker.advance(5, 0.25)
        tracker._bar.refresh()
    shown = capsys.readouterr().err
    for part in ("loss=0.2500", "IoU=0.512", "images/s=", "5/10", "<"):
        assert part in shown
