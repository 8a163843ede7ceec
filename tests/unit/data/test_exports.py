"""Folders of formats: written anew, but never over a correction, and after a run that was killed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from refseg.data import exports
from refseg.data.exports import export
from refseg.errors import OutputError
from refseg.masks import encode_rle
from refseg.writers.labelled import LabelledImage, Region


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "photos" / "a.png")
    (tmp_path / "out").mkdir()
    return tmp_path / "photos"


def images(text):
    rle = encode_rle(np.eye(6, 8, dtype=bool))
    return [LabelledImage(file="a.png", regions=(Region(id="a/0", expression=text, score=0.5, rle=rle),))]


def test_a_folder_is_written_anew_until_it_is_corrected(photos, tmp_path):
    out = tmp_path / "out"
    for text in ("the cup", "the cup", "the mug"):
        export(images(text), ["yolo", "labelme"], photos, out, copy=True)
        assert text in (out / "yolo/data.yaml").read_text()
        assert text in (out / "labelme/a.json").read_text()
    assert (out / "yolo/images/a.png").read_bytes() == (photos / "a.png").read_bytes()
    (out / "labelme/a.json").write_text("mine")
    with pytest.raises(OutputError, match="labelme: was changed"):
        export(images("the pot"), ["yolo", "labelme"], photos, out, copy=True)
    assert (out / "labelme/a.json").read_text() == "mine"
    assert "the mug" in (out / "yolo/data.yaml").read_text()  # all are checked before any is written


@pytest.mark.parametrize("step", range(1, 6))
def test_a_run_that_was_killed_at_any_step_goes_on(photos, tmp_path, monkeypatch, step):
    out = tmp_path / "out"
    export(images("the cup"), ["coco"], photos, out, copy=False)
    steps = 0

    def killed(function):
        def run(*given, **options):
            nonlocal steps
            steps += 1
            if steps == step:
                raise KeyboardInterrupt
            return function(*given, **options)

        return run

    with monkeypatch.context() as patched:
        for name in ("_checksum", "write_text", "place_photos"):
            patched.setattr(exports, name, killed(getattr(exports, name)))
        patched.setattr(exports.shutil, "rmtree", killed(shutil.rmtree))
        with pytest.raises(KeyboardInterrupt):
            export(images("the mug"), ["coco"], photos, out, copy=False)
    export(images("the pot"), ["coco"], photos, out, copy=False)
    (category,) = json.loads((out / "coco/annotations.json").read_text())["categories"]
    assert category["name"] == "the pot"
    assert sorted(path.name for path in out.iterdir()) == ["coco", "formats.json"]
