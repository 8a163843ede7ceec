"""The help of every command ends with an example, and the examples run, one after the other, in one folder."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from refseg.cli.main import VERBS, main


def commands():
    for verb in VERBS:
        below = getattr(importlib.import_module(f"refseg.cli.{verb}"), "VERBS", ())
        yield from ([verb, *one] for one in ((), *((name,) for name in below)))


COMMANDS = list(commands())
ELSEWHERE = {
    ("data", "prepare"): "needs the network",
    ("serve",): "does not end; test_serve.py starts servers",
    ("review",): "does not end; test_review.py opens its page",
    ("export",): "test_export.py runs it",
    ("bulk",): "starts Ray; test_bulk.py runs it",
}


def example_of(words, capsys):
    assert main([*words, "--help"]) == 0
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[-2] == "example:"
    program, *example = shlex.split(lines[-1])
    assert program == "refseg"
    assert example[: len(words)] == words or words == []
    return example


@pytest.mark.parametrize("words", [[], *COMMANDS], ids=" ".join)
def test_every_help_ends_with_an_example(capsys, words):
    example_of(words, capsys)


@pytest.mark.slow
def test_the_examples_run(capsys, place):
    for words in COMMANDS:
        example = example_of(words, capsys)
        if tuple(words) in ELSEWHERE:
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
