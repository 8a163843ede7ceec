"""The outputs of a running training: log, progress bar, TensorBoard, Weights & Biases."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest

from refseg.errors import ConfigError
from refseg.training.tracker import Tracker


@pytest.mark.usefixtures("no_tensorboard")
def test_a_resumed_run_appends_to_its_log(tmp_path):
    for step in (1, 2):
        with Tracker(tmp_path, 10, step, show=False) as tracker:
            tracker.log(step, loss=0.5, learning_rate=1e-3)
            tracker.advance(step, 0.5)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"], line["learning_rate"]) for line in lines] == [(1, 0.5, 1e-3), (2, 0.5, 1e-3)]


@pytest.mark.usefixtures("no_tensorboard")
def test_a_line_is_written_when_it_is_logged(tmp_path):
    with Tracker(tmp_path, 10, 0, show=False) as tracker:
        tracker.log(1, loss=1.0)
        assert (tmp_path / "log.jsonl").read_text().count("\n") == 1


@pytest.mark.usefixtures("no_tensorboard")
def test_the_log_never_holds_nan(tmp_path):
    with Tracker(tmp_path, 10, 0, show=False) as tracker:
        tracker.log(1, loss=float("nan"), n_acc=float("inf"), mean_iou=0.5)
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    values = json.loads(line, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert (values["loss"], values["n_acc"], values["mean_iou"]) == (None, None, 0.5)


@pytest.mark.usefixtures("no_tensorboard")
@pytest.mark.parametrize("left", [b'{"step": 1}\n{"step": 2, "los', b'{"step": 1}\n'])
def test_the_half_line_of_a_killed_run_is_dropped(tmp_path, left):
    (tmp_path / "log.jsonl").write_bytes(left)
    with Tracker(tmp_path, 10, 1, show=False) as tracker:
        tracker.log(2, loss=0.5)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]


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
def test_tensorboard_gets_an_event_file(tmp_path):
    pytest.importorskip("tensorboard")
    with Tracker(tmp_path, 10, 0, show=False) as tracker:
        tracker.log(1, loss=1.0)
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.usefixtures("no_tensorboard")
def test_weights_and_biases_gets_the_numbers_only_on_request(tmp_path, monkeypatch):
    sent = []
    run = SimpleNamespace(
        log=lambda values, step: sent.append((step, values)), finish=lambda exit_code: sent.append(exit_code)
    )
    fake = SimpleNamespace(init=lambda **how: sent.append(how["project"]) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    with Tracker(tmp_path, 10, 0, show=False) as tracker:
        tracker.log(1, loss=1.0)
    assert sent == []
    with Tracker(tmp_path, 10, 0, show=False, wandb="cups") as tracker:
        tracker.log(1, loss=1.0)
    assert sent == ["cups", (1, {"loss": 1.0}), 0]


@pytest.mark.usefixtures("no_tensorboard")
def test_missing_weights_and_biases_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        Tracker(tmp_path, 10, 0, show=False, wandb="cups")


@pytest.mark.usefixtures("no_tensorboard")
def test_the_bar_shows_loss_score_speed_and_steps(tmp_path, capsys):
    with Tracker(tmp_path, 10, 0, show=True, images_per_step=12) as tracker:
        tracker.log(1, mean_iou=0.512)
        tracker.advance(5, 0.25)
        tracker._bar.refresh()
    shown = capsys.readouterr().err
    for part in ("loss=0.2500", "IoU=0.512", "images/s=", "5/10", "<"):
        assert part in shown
