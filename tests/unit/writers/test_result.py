"""The files of predictions: a folder for each run, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.errors import OutputError
from refseg.writers.result import LINES, ResultFolder, file_name, write_mask

MASK = np.eye(3, 4, dtype=bool)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the cup", "the-cup"),
        ("../../etc/passwd", "etc-passwd"),
        ("左边 杯子", "左边-杯子"),
        ("🟥", "_"),
        ("\udcff half", "half"),
        ("a" * 30, "a" * 20),
        ("左" * 30, "左" * 6),
        ("nineteen characters and", "nineteen-characters"),
    ],
)
def test_names_of_files(text, name):
    assert file_name(text, 20) == name
    assert len(name.encode()) <= 20


def test_a_mask_is_a_png_of_0_and_255(tmp_path):
    write_mask(tmp_path / "cup.PNG", MASK)
    with Image.open(tmp_path / "cup.PNG") as image:
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), MASK * 255)
    for path in (tmp_path / "cup.jpg", tmp_path / "cup", tmp_path / "missing" / "cup.png"):
        with pytest.raises(OutputError):
            write_mask(path, MASK)
    assert names(tmp_path) == ["cup.PNG"]


def test_the_folder_is_created_with_the_first_result(tmp_path):
    results = ResultFolder(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    about = results.add("cup", MASK, Image.new("RGB", (4, 3)), {"score": 0.5})
    assert about == {"score": 0.5, "mask": "cup.png", "overlay": "cup_overlay.jpg"}
    results.add("ring", MASK, None, {})
    assert names(results.folder) == ["cup.png", "cup_overlay.jpg", LINES, "ring.png"]
    first, second = (json.loads(line) for line in (results.folder / LINES).read_text().splitlines())
    assert first == about
    assert second == {"mask": "ring.png", "overlay": None}


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(OutputError):
            ResultFolder(taken)


def test_without_a_name_the_first_free_one_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(ResultFolder(None).folder) for _ in range(3)] == ["predictions", "predictions-2", "predictions-3"]


def test_a_line_that_cannot_be_written_takes_its_files_with_it(tmp_path, monkeypatch):
    def full(path, line):
        raise OSError(28, "No space left on device")

    results = ResultFolder(tmp_path / "run")
    monkeypatch.setattr("refseg.writers.result.append_line", full)
    with pytest.raises(OutputError, match="No space"):
        results.add("cup", MASK, Image.new("RGB", (4, 3)), {})
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(tmp_path):
    results = ResultFolder(tmp_path / "run")
    (results.folder / LINES).symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space"):
        results.add("cup", MASK, None, {})
    assert names(results.folder) == [LINES]
