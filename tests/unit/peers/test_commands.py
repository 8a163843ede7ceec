"""The commands take other people's models by name: predict, evaluate, calibrate, report."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.models.folder import save_model
from refseg.peers.table import PEERS

pytestmark = pytest.mark.slow  # PyTorch networks of another library


@pytest.fixture(autouse=True)
def somewhere(hub_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", list(PEERS))
def test_predict(name, photo, capfd):
    assert main(["predict", str(photo), "the red disc", "blue", "--model", name, "--json"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    lines = [json.loads(line) for line in shown.out.splitlines()]
    assert [line["expression"] for line in lines] == ["the red disc", "blue"]
    assert {line["model"] for line in lines} == {name}


def test_evaluate_and_report(capsys):
    assert main(["evaluate", "florence-2", "shapes:val", "--limit", "1", "--out", "result.json"]) == 0
    made_by = json.loads(Path("result.json").read_text())["made_by"]
    assert (made_by["model"], made_by["device"]) == ("florence-2", "cpu")
    capsys.readouterr()
    assert main(["report", "result.json"]) == 0
    assert "florence-2" in capsys.readouterr().out


@pytest.mark.slow
def test_calibrate_and_forget(capsys):
    assert main(["calibrate", "grounding-dino-sam2", "shapes:val", "--limit", "14", "--out", "calibrated"]) == 0
    knots = json.loads(capsys.readouterr().out)["calibration"]["knots"]
    stored = json.loads(Path("calibrated/config.json").read_text())
    assert (stored["peer"], stored["decision"]["calibration"]["knots"]) == ("grounding-dino-sam2", knots)
    assert stored["about"]["calibration"]["data"] == "shapes:val"
    assert main(["evaluate", "calibrated", "shapes:val", "--limit", "1", "--out", "result.json"]) == 0
    assert main(["calibrate", "calibrated", "--forget", "--out", "plain"]) == 0
    stored = json.loads(Path("plain/config.json").read_text())
    assert (stored["peer"], stored["decision"]["calibration"], stored["about"]) == ("grounding-dino-sam2", None, {})


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.usefixtures("no_tensorboard")
def test_photos_labelled_by_another_model_train_one_of_ones_own(photo_pixels, make_tiny, capsys):
    Path("photos").mkdir()
    for number in range(4):
        Image.fromarray(np.roll(photo_pixels, 9 * number, axis=1)).save(f"photos/{number}.png")
    Path("words.txt").write_text("the red disc\nthe blue square\n")
    words = ["--expressions", "words.txt", "--out", "labelled"]
    label = ["label", "photos", "--model", "grounding-dino-sam2", *words]
    assert main(label) == 0
    rows = [json.loads(line) for line in Path("labelled/data.jsonl").read_text().splitlines()]
    assert {row["licence"] for row in rows} == {"Apache-2.0"}
    assert all(row["revision"].count("@") == 2 and 0 < row["score"] <= 1 for row in rows)
    assert main(["data", "check", "labelled"]) == 0
    start = save_model(make_tiny(seed=9), "start")
    train = ["train", "finetune", "data=labelled", "--init", str(start), "--out", "run", "--device", "cpu"]
    assert main([*train, "epochs=1", "batch_size=1", "precision=float32", "workers=0"]) == 0
    capsys.readouterr()
    assert main(["predict", "photos/0.png", "the red disc", "--model", "run/last", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["expression"] == "the red disc"


def test_an_error_is_one_line(photo, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["predict", str(photo), "the red disc", "--model", "florence-2"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert "refseg[peers]" in shown.err
