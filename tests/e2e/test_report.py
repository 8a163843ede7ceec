"""`refseg report` and `refseg compare`: their output, and their errors for wrong files."""

from __future__ import annotations

import json
import shutil

import pytest

from refseg.cli.main import main


@pytest.fixture(scope="module")
def results(model_folder, tmp_path_factory):
    """Two results of three scenes each, a.json and b.json, with the masks of both."""
    folder = tmp_path_factory.mktemp("results")
    for name, protocol in (("a", "refseg"), ("b", "refseg"), ("gres", "gres")):
        words = ["evaluate", str(model_folder), "shapes:val", "--limit", "3", "--device", "cpu", "--protocol", protocol]
        assert main([*words, "--out", str(folder / f"{name}.json"), "--save", str(folder / f"{name}.masks.jsonl")]) == 0
    return folder


@pytest.fixture
def here(results, tmp_path, monkeypatch):
    """A copy of the results that a test may change."""
    monkeypatch.chdir(shutil.copytree(results, tmp_path / "here"))
    return tmp_path / "here"


@pytest.fixture
def command(here, capsys):
    def run(*words):
        capsys.readouterr()
        code = main([*map(str, words)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def fails(command, here):
    """Runs a command that must fail with one line and exit code 2, changing no file; returns the line."""

    def run(*words):
        before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
        code, out, err = command(*words)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1, err
        assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before
        return err

    return run


def test_a_report_is_printed_as_markdown(command, here):
    code, out, err = command("report", "a.json")
    assert (code, err) == (0, "")
    figures = json.loads((here / "a.json").read_text(encoding="utf-8"))
    assert f"| mean IoU | {100 * figures['mean_iou']:.2f} |" in out
    assert "No published numbers of shapes:val are known." in out


def test_a_report_is_written_as_both(command, here):
    _, printed, _ = command("report", "a.json")
    words = ("--predictions", "a.masks.jsonl", "--other-predictions", "b.masks.jsonl")
    assert command("report", "a.json", "--markdown", "a.md", "--html", "a.html", *words) == (0, "", "")
    assert (here / "a.md").read_text(encoding="utf-8") == printed
    page = (here / "a.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "data:image/jpeg;base64," in page
    assert "second model" in page
    assert "The stored mask has IoU" not in page


def test_a_report_without_masks_has_no_images(command, here):
    assert command("report", "a.json", "--html", "a.html") == (0, "", "")
    assert "data:image" not in (here / "a.html").read_text(encoding="utf-8").replace("img-src data:", "")


def test_the_same_twice_is_no_difference(command, here):
    code, out, err = command("compare", "a.json", "b.json", "--json", "c.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "There is no difference: every expression has the same IoU in both results."
    found = json.loads((here / "c.json").read_text(encoding="utf-8"))
    assert found["schema"] == "refseg-comparison/1"
    assert (found["p_value"], found["metrics"]["mean_iou"]["difference"]) == (1.0, 0.0)
    assert found["verdict"] == out.splitlines()[-1]


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_other_files_are_an_error(fails, here, verb):
    def words(file):
        return [verb, file, *(["a.json"] if verb == "compare" else [])]

    assert "none.json: cannot be read: No such file" in fails(*words("none.json"))
    assert "broken: Expecting value" in fails(*words("/dev/null"))
    (here / "x.json").write_text("[1, 2", encoding="utf-8")
    assert "x.json: broken" in fails(*words("x.json"))
    (here / "x.json").write_text('{"schema": "other"}', encoding="utf-8")
    assert "x.json: is no result" in fails(*words("x.json"))
    (here / "x.json").write_bytes(b"\xff\xfe")
    assert "x.json: broken" in fails(*words("x.json"))
    (here / "b.jsonl").unlink()
    assert "b.jsonl: cannot be read: No such file" in fails(*words("b.json"))


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_changed_outcomes_are_an_error(fails, here, verb):
    words = [verb, "b.json", *(["a.json"] if verb == "compare" else [])]
    lines = (here / "b.jsonl").read_text(encoding="utf-8")
    (here / "b.jsonl").write_text(lines.replace('"predicted_pixels": ', '"predicted_pixels": 1'), encoding="utf-8")
    assert "b.jsonl: does not belong to b.json, or was changed since" in fails(*words)


@pytest.mark.parametrize("verb", ["report", "compare"])
def test_incomplete_figures_are_an_error(fails, here, verb):
    figures = json.loads((here / "b.json").read_text(encoding="utf-8"))
    for name in ("data", "protocol", "made_by", "intervals", "precision"):
        rest = {key: value for key, value in figures.items() if key != name}
        (here / "b.json").write_text(json.dumps(rest), encoding="utf-8")
        assert f"broken result: has no field '{name}'" in fails(verb, "b.json", *["a.json"] * (verb == "compare"))


def test_results_of_different_protocols_are_an_error(fails):
    line = fails("compare", "a.json", "gres.json")
    assert "not comparable: the results were counted by different protocols, refseg and gres" in line


def test_a_report_does_not_replace_its_inputs(fails):
    assert "name two files" in fails("report", "a.json", "--html", "a.json")
    assert "name two files" in fails("report", "a.json", "--markdown", "../here/a.jsonl")
    assert "name two files" in fails("compare", "a.json", "b.json", "--json", "b.jsonl")
    assert "both --html and --markdown" in fails("report", "a.json", "--html", "x", "--markdown", "x")


def test_outputs_that_cannot_be_written_are_an_error(fails):
    assert "there is no folder none" in fails("report", "a.json", "--html", "none/a.html")
    assert "is a folder" in fails("report", "a.json", "--markdown", "..")
    assert "there is no folder none" in fails("compare", "a.json", "b.json", "--json", "none/c.json")


def test_arguments_without_an_effect_are_an_error(fails, here):
    assert "--predictions is for the images" in fails("report", "a.json", "--predictions", "a.masks.jsonl")
    line = fails("report", "a.json", "--html", "a.html", "--other-predictions", "a.masks.jsonl")
    assert "give both" in line
    assert "cannot be read" in fails("report", "a.json", "--html", "a.html", "--predictions", "none.jsonl")


def test_masks_of_other_data_are_an_error(fails, here):
    lines = (here / "a.masks.jsonl").read_text(encoding="utf-8").splitlines()
    (here / "few.jsonl").write_text(lines[0] + "\n", encoding="utf-8")
    assert "has no prediction for expression" in fails(
        "report", "a.json", "--html", "a.html", "--predictions", "few.jsonl"
    )


def test_missing_data_is_an_error(fails, here):
    figures = json.loads((here / "a.json").read_text(encoding="utf-8"))
    for name, expected in (("refcoco", "--data"), ("./gone", "gone"), ("shapes", "not the data")):
        figures["data"] |= {"name": name, "digest": "another"}
        (here / "a.json").write_text(json.dumps(figures), encoding="utf-8")
        assert expected in fails("report", "a.json", "--html", "a.html", "--predictions", "a.masks.jsonl")
