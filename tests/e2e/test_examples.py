"""The help of every command ends with an example, and the examples run, one after the other, in one folder."""

from __future__ import annotations

import csv
import importlib
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import VERBS, main
from refseg.data.examples import EXAMPLES
from refseg.data.shapes import EXAMPLE
from refseg.masks import encode_rle

SCORED = 4
"""Images of the example's data set."""


def commands():
    for verb in VERBS:
        below = getattr(importlib.import_module(f"refseg.cli.{verb}"), "VERBS", ())
        yield from ([verb, *one] for one in ((), *((name,) for name in below)))


COMMANDS = list(commands())


def example_of(words, capsys):
    assert main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[-2] == "example:"
    program, *example = shlex.split(lines[-1])
    assert program == "refseg"
    assert example[: len(words)] == words or words == []
    return example


@pytest.fixture
def place(tmp_path, monkeypatch, model_folder):
    """A folder with the files that the examples name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    shutil.copy(EXAMPLE, "scene.png")
    shutil.copytree(model_folder, "my-model")
    Path("words.txt").write_text("the cat on the left\n", encoding="utf-8")
    Path("my-data/images").mkdir(parents=True)
    Path("my-data/masks").mkdir()
    with Path("my-data/data.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "mask", "text", "split"])
        for number in range(SCORED):
            shutil.copy(EXAMPLE, f"my-data/images/{number}.png")
            mask = np.zeros((480, 640), np.uint8)
            mask[100:200, 100 : 200 + number] = 255
            Image.fromarray(mask).save(f"my-data/masks/{number}.png")
            table.writerow([f"{number}.png", f"{number}.png", "the leftmost ring", "train"])
    Path("trained.txt").write_text("0.png\n", encoding="utf-8")
    Path("my-photos/images").mkdir(parents=True)
    masks = np.zeros((2, 200, 300), dtype=bool)
    masks[0, 40:160, 20:100] = masks[1, 40:160, 180:280] = True
    with Image.open(EXAMPLES / "cats.jpg") as photo:
        photo.resize((300, 200)).save("my-photos/images/a.png")
    objects = [{"category": "dog", "rle": encode_rle(mask)} for mask in masks]
    line = {"image": "images/a.png", "width": 300, "height": 200, "instances": objects}
    Path("my-photos/annotations.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")


@pytest.mark.parametrize("words", [[], *COMMANDS], ids=" ".join)
def test_every_help_ends_with_an_example(capsys, words):
    example_of(words, capsys)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")  # one of them exports a model, and the tracer's numbers are no integers
def test_the_examples_run(capsys, place):
    for words in COMMANDS:
        example = example_of(words, capsys)
        if words in (["data", "prepare"], ["serve"]):  # needs the network; serves until it is stopped
            continue
        example = ["my-model" if word == "florence-2" else word for word in example]  # whose files are downloaded
        if main(example):
            pytest.fail(f"refseg {' '.join(example)}: {capsys.readouterr().err}")
    assert {"masks.jsonl", "report.html", "scored.json", "checkpoint.pth", "samples.png"} <= {
        path.name for path in Path().iterdir()
    }


NAMES = re.compile(r"'-x\b|-x[.:/' ]")


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "--", "-x.png", "the cup"],
        ["evaluate", "shapes", "--", "-x:all"],
        ["evaluate", "--", "-x", "shapes:val"],
        ["score", "--", "-x.jsonl", "-x:all"],
        ["report", "--", "-x.json"],
        ["compare", "--", "-x.json", "-y.json"],
        ["calibrate", "--out", "out", "--", "-x", "shapes:val"],
        ["train", "--", "-x"],
        ["ablate", "--", "-x"],
        ["convert", "--", "-x.pth", "folder"],
        ["data", "check", "--", "-x"],
        ["data", "show", "--out", "x.png", "--", "-x"],
    ],
    ids=" ".join,
)
def test_names_that_begin_with_a_dash_come_after_two(capsys, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    line = capsys.readouterr().err
    assert NAMES.search(line), "the file is missing, and the line names it"
    assert "unrecognized" not in line
    assert "\0" not in line
