"""`refseg evaluate`, `score` and `calibrate`: the same numbers from images, stored masks and several processes."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import refseg
from refseg.cli.main import main
from refseg.data.shapes import Shapes
from refseg.masks import encode_rle
from refseg.models.folder import read_folder
from refseg.models.hub import resolve
from refseg.values import Decision


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Nine scenes as a folder of data."""
    home = tmp_path_factory.mktemp("scenes") / "my data"
    (home / "images").mkdir(parents=True)
    (home / "masks").mkdir()
    data = Shapes("val")
    with (home / "data.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "mask", "text", "split"])
        for scene in range(9):
            for number, sample in enumerate(data.samples_of(scene)):
                sample.load_image().save(home / "images" / f"{scene}.png")
                mask = ""
                if sample.load_mask is not None:
                    mask = f"{scene}-{number}.png"
                    Image.fromarray(sample.load_mask().astype(np.uint8) * 255).save(home / "masks" / mask)
                table.writerows([f"{scene}.png", mask, one.text, "val"] for one in sample.expressions)
    return home


@pytest.fixture
def folder(scenes, tmp_path, monkeypatch):
    """The scenes' folder, copied to an empty place."""
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(scenes, tmp_path / "my data")


def run(capsys, *words):
    code = main([*map(str, words), *(["--json"] if words[0] in ("evaluate", "score") else [])])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return json.loads(out)


METRICS = ("n", "n_absent", "mean_iou", "overall_iou", "precision", "giou", "ciou", "n_acc", "t_acc")


@pytest.mark.slow
def test_a_folder_scores_as_the_data_that_it_was_made_from(folder, model_folder, capsys):
    mine = run(capsys, "evaluate", model_folder, f"{folder}:val", "--device", "cpu")
    theirs = run(capsys, "evaluate", model_folder, "shapes:val", "--limit", "9", "--device", "cpu")
    assert [mine[name] for name in METRICS] == [theirs[name] for name in METRICS]
    assert mine["data"]["name"] == str(folder)
    assert mine["whole"]
    assert not theirs["whole"]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["refseg", "gres"])
def test_stored_masks_score_as_the_evaluation_that_stored_them(folder, model_folder, capsys, protocol):
    words = (f"{folder}:all", "--protocol", protocol)
    run(capsys, "evaluate", model_folder, f"{folder}:all", "--out", "a.json", "--save", "masks.jsonl")
    first = run(capsys, "score", "masks.jsonl", *words, "--out", "b.json")
    again = run(capsys, "score", "masks.jsonl", *words, "--out", "c.json")
    assert first == again
    for end in ("json", "jsonl"):
        assert (folder.parent / f"b.{end}").read_bytes() == (folder.parent / f"c.{end}").read_bytes()
    if protocol == "refseg":
        measured = json.loads((folder.parent / "a.json").read_text(encoding="utf-8"))
        assert [first[name] for name in METRICS] == [measured[name] for name in METRICS]
    assert first["made_by"]["predictions"] == "masks.jsonl"


@pytest.mark.slow
def test_several_processes_count_every_expression_once(folder, model_folder, capsys):
    alone = run(capsys, "evaluate", model_folder, f"{folder}:all", "--device", "cpu")
    together = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *("-m", "refseg", "evaluate", str(model_folder), f"{folder}:all", "--device", "cpu", "--out", "t.json"),
        ],
        capture_output=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert together.returncode == 0, together.stderr.decode()
    result = json.loads((folder.parent / "t.json").read_text(encoding="utf-8"))
    assert [result[name] for name in METRICS] == [alone[name] for name in METRICS]
    assert result["data"] == alone["data"]


@pytest.mark.slow
def test_a_calibration_is_stored_with_the_model(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path))
    out = tmp_path / "calibrated"
    said = run(capsys, "calibrate", model_folder, "shapes:val", "--out", out, "--limit", "30", "--device", "cpu")
    stored = read_folder(out)
    assert stored.spec.decision.calibration is not None
    assert stored.about["calibration"]["expressions"] == said["expressions"]
    error = said["on_the_other_half"]["expected_calibration_error"]
    assert error["after"] < error["before"]
    after = run(capsys, "evaluate", out, "shapes:val", "--limit", "10", "--device", "cpu")
    before = run(capsys, "evaluate", model_folder, "shapes:val", "--limit", "10", "--device", "cpu")
    assert after["n_acc"] >= before["n_acc"]
    assert refseg.load(out, "cpu").decision == stored.spec.decision
    # A calibration that the model has is not used.
    again = run(capsys, "calibrate", out, "shapes:val", "--out", tmp_path / "again", "--limit", "30", "--device", "cpu")
    assert again["calibration"] == said["calibration"]


def test_a_calibration_can_be_forgotten(tmp_path, capsys):
    assert main(["calibrate", "shapes", "--forget", "--out", str(tmp_path / "plain")]) == 0
    before, after = read_folder(resolve("shapes")), read_folder(tmp_path / "plain")
    assert before.spec.decision.calibration is not None
    assert after.spec == replace(before.spec, decision=Decision(threshold=before.spec.decision.threshold))
    assert after.about == {key: value for key, value in before.about.items() if key != "calibration"}


@pytest.mark.slow
def test_thresholds_are_chosen_and_stored_on_request(model_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path))
    out = tmp_path / "calibrated"
    words = ["calibrate", model_folder, "shapes:val", "--thresholds", "--rejections", "0", "--out", out]
    chosen = run(capsys, *words, "--limit", "30", "--device", "cpu")["thresholds"]
    decision = read_folder(out).spec.decision
    assert (decision.threshold, decision.relative_threshold) == (chosen["threshold"], chosen["relative_threshold"])
    assert chosen["mean_iou"][str(decision.threshold)] == max(chosen["mean_iou"].values())
    before = run(capsys, "evaluate", model_folder, "shapes:val", "--limit", "30", "--device", "cpu")
    assert chosen["mean_iou"]["0.35"] == pytest.approx(before["mean_iou"], abs=1e-4)  # its own threshold
    after = run(capsys, "evaluate", out, "shapes:val", "--limit", "30", "--device", "cpu")
    assert after["made_by"]["threshold"] == decision.threshold
    assert after["made_by"]["relative_threshold"] == decision.relative_threshold
    assert after["mean_iou"] >= before["mean_iou"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["evaluate", "MODEL", "shapes"], "which split"),
        (["evaluate", "MODEL", "shape:test"], "unknown data set"),
        (["evaluate", "MODEL", "shapes:tets"], "unknown split"),
        (["evaluate", "MODEL", "refcoco:val"], "--data"),
        (["evaluate", "MODEL", "refcoco:val", "--data", "none"], "none"),
        (["evaluate", "MODEL", "refcoco:val", "--data", "."], "refs(unc).p"),
        (["evaluate", "MODEL", "./none:val"], "none"),
        (["evaluate", "MODEL", "FOLDER:test"], "no split 'test'"),
        (["evaluate", "MODEL", "FOLDER:val", "--protocol", "cris"], "no rule"),
        (["evaluate", "MODEL", "FOLDER:val", "--limit", "0"], "--limit"),
        (["evaluate", "MODEL", "FOLDER:val", "--out", "none/a.json"], "none"),
        (["evaluate", "MODEL", "FOLDER:val", "--save", "."], "is a folder"),
        (["evaluate", "MODEL", "FOLDER:val", "--protocol", "coco"], "invalid choice"),
        (
            ["evaluate", "MODEL", "FOLDER:val", "--out", "a.json", "--save", "a.json"],
            "a.json: is both --out and --save",
        ),
        (
            ["evaluate", "MODEL", "FOLDER:val", "--out", "a.json", "--save", "a.jsonl"],
            "the outcomes beside --out and --save",
        ),
        (["evaluate", "MODEL", "FOLDER:val", "--out", "a.jsonl"], "a.jsonl: is both --out and the outcomes"),
        (["score", "masks.jsonl", "FOLDER:val", "--out", "masks.json"], "beside --out and the predictions"),
        (["score", "none.jsonl", "FOLDER:val"], "none.jsonl: cannot be read"),
        (["calibrate", "MODEL", "FOLDER:val", "--out", "MODEL/config.json"], "is a file"),
        (["calibrate", "MODEL", "FOLDER:val", "--out", "x", "--rejections", "2"], "rejections"),
        (["calibrate", "MODEL", "FOLDER:val", "--out", "x", "--limit", "1"], "100 expressions"),
        (["calibrate", "MODEL", "FOLDER:val", "--out", "x", "--forget"], "--forget and no split"),
        (["calibrate", "MODEL", "--out", "x"], "DATASET:SPLIT"),
    ],
)
def test_errors_are_one_line(folder, model_folder, capsys, words, says):
    named = [word.replace("MODEL", str(model_folder)).replace("FOLDER", str(folder)) for word in words]
    assert main(named) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert len(err.splitlines()) == 1
    assert not (folder.parent / "x").exists()


# ── any segmenter ──


@pytest.fixture
def another(model_folder, tmp_path, monkeypatch):
    """A folder of data, and a segmenter of another project in the place of every model; returns the folder."""
    by_colour = runpy.run_path(str(Path(__file__).parents[1] / "unit" / "evaluation" / "by_colour.py"))
    home, data = tmp_path / "squares", by_colour["Squares"](60)
    (home / "images").mkdir(parents=True)
    rows = []
    for index in range(data.num_images):
        for sample in data.samples_of(index):
            sample.load_image().save(home / "images" / sample.image_id)
            rle = None if sample.load_mask is None else encode_rle(sample.load_mask())
            rows += [{"image": sample.image_id, "text": one.text, "rle": rle} for one in sample.expressions]
    (home / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("refseg.predictor.load", lambda *_, **__: by_colour["ByColour"]())
    return home


@pytest.mark.slow
def test_any_segmenter_works_with_the_commands(another, model_folder, capsys):
    image = another / "images" / "000.png"
    predicted = run(capsys, "predict", image, "the red square", "--model", model_folder, "--out", "out", "--json")
    assert predicted["score"] > 0.5
    with Image.open(f"out/{predicted['mask']}") as mask:
        assert np.asarray(mask).any()

    words = ("evaluate", model_folder, f"{another}:all")
    result = run(capsys, *words, "--out", "result.json", "--save", "masks.jsonl")
    assert result["made_by"] == {
        "model": str(model_folder),
        "fingerprint": "by colour",
        "threshold": 0.35,
        "relative_threshold": None,
        "device": "cpu",
    }
    assert (result["n"], result["n_absent"], result["whole"]) == (180, 60, True)
    scored = run(capsys, "score", "masks.jsonl", f"{another}:all")
    assert [scored[name] for name in METRICS] == [result[name] for name in METRICS]

    fitted = run(capsys, "calibrate", model_folder, f"{another}:all", "--out", "calibrated", "--thresholds")
    assert read_folder("calibrated").spec.decision.threshold == fitted["thresholds"]["threshold"] == 0.45

    assert main(["report", "result.json"]) == 0
    assert f"| mean IoU | {100 * result['mean_iou']:.2f} |" in capsys.readouterr().out
    assert main(["report", "result.json", "--html", "report.html", "--predictions", "masks.jsonl"]) == 0
    assert "data:image/jpeg;base64," in Path("report.html").read_text(encoding="utf-8")


def test_a_protocol_stores_the_masks_that_it_scores(another, model_folder, capsys):
    words = (f"{another}:all", "--protocol", "gres")
    result = run(capsys, "evaluate", model_folder, *words, "--save", "masks.jsonl")
    scored = run(capsys, "score", "masks.jsonl", *words)
    assert result["n_acc"] == scored["n_acc"] == 1.0
    assert scored["mean_iou"] == pytest.approx(result["mean_iou"], abs=0.01)  # masks are resized in another way


def test_the_metrics_are_printed_as_a_table(another, model_folder, capsys):
    words = ["evaluate", str(model_folder), f"{another}:all", "--limit", "2"]
    assert main([*words, "--out", "result.json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    title, _, *rows, _, where = out.splitlines()
    assert "2 images, 8 expressions, a part of the split; protocol refseg" in title
    figures = json.loads(Path("result.json").read_text(encoding="utf-8"))
    values = {row[0].strip(): row[1].strip() for row in (re.split(r"  +", line) for line in rows)}
    assert values["mean IoU"] == f"{100 * figures['mean_iou']:.2f}"
    assert where.endswith("result.json")


def test_skipped_rows_are_noted_and_stored(another, model_folder, capsys):
    with (another / "data.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"image": "000.png"}\n')
    assert main(["evaluate", str(model_folder), f"{another}:all", "--limit", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 1
    assert err.startswith("refseg: note: ")
    assert json.loads(out)["data"]["skipped"] == 1
