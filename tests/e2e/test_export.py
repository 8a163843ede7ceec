"""The bundled model, exported: what the command writes answers as the model does, without PyTorch."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import refseg
from refseg.cli.export import EXAMPLE as EXPORT
from refseg.data.shapes import EXAMPLE, Shapes
from refseg.masks import intersection_and_union

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from refseg.cli.main import main; sys.exit(main(sys.argv[1:]))"
)


def run(*words):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Made by the example of the command's help."""
    place = tmp_path_factory.mktemp("exported")
    program, *words, name = shlex.split(EXPORT)
    subprocess.run([sys.executable, "-m", program, *words, name], check=True, cwd=place)
    return place / name


def test_it_answers_as_the_bundled_model(folder):
    bundled, exported = refseg.load("shapes", "cpu", runtime="torch"), refseg.load(folder)
    assert (exported.decision, exported.domain) == (bundled.decision, bundled.domain)
    scores = []
    for sample in Shapes("val").samples_of(3):
        words, image = [expression.text for expression in sample.expressions], np.asarray(sample.load_image())
        answers = [each.segment(each.encode(image), words) for each in (bundled, exported)]
        for one, other in zip(*answers, strict=True):
            shared, either = intersection_and_union(one.mask, other.mask)
            assert shared >= 0.99 * either
            assert other.score == pytest.approx(one.score, abs=1e-3)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
            scores.append(one.score)
    assert np.mean(scores) > 0.5


def test_predicting_and_evaluating_need_no_pytorch(folder, tmp_path):
    printed = run("predict", EXAMPLE, "the top ring", "--model", folder, "--json", "--out", tmp_path / "out")
    assert json.loads(printed)["score"] > 0.8
    run("evaluate", folder, "shapes:val", "--limit", "3", "--out", tmp_path / "result.json")
    record = json.loads((tmp_path / "result.json").read_text())
    assert record["made_by"]["fingerprint"] == refseg.load(folder).fingerprint


def test_the_programs_of_the_page(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    first, second = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names = {}
    exec(first, names)  # the top ring, by the predictor and by the graphs alone
    exec(second, names)
    np.testing.assert_allclose(names["probability"], names["top"].probability, atol=1e-5)
