"""Generated expressions, written as a folder of one's own data."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refseg.data.catalogue import open_data
from refseg.data.check import check
from refseg.data.describe.folder import describe_folder
from refseg.errors import ConfigError, DataError, OutputError
from refseg.masks import encode_rle


@pytest.fixture
def source(draw, tmp_path):
    """A folder of two photos of two dogs and an ignored area."""
    root, size = tmp_path / "photos", draw.size
    (root / "images").mkdir(parents=True)
    rows = []
    for number in range(2):
        edges = [(0.05, 0.4, 0.3, 0.7), (0.7, 0.4, 0.95, 0.7)]
        pixels = np.full((*size, 3), (200, 160, 90 + number), np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{number}.png")
        instances = [{"category": "dog", "rle": encode_rle(draw.ellipse(*one))} for one in edges]
        void = encode_rle(draw.box(0.45, 0.4, 0.5, 0.7))
        rows.append({"image": f"images/{number}.png", "height": size[0], "width": size[1], "instances": instances})
        rows[-1] |= {"void": void, "split": ("train", "test")[number]}
    (root / "annotations.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root


@pytest.mark.parametrize("copy", [False, True])
def test_the_written_folder_has_the_samples_of_the_photos(source, tmp_path, copy):
    report = describe_folder(source, tmp_path / "out", copy=copy)
    assert (tmp_path / "out" / "images").is_symlink() != copy
    written, own = open_data(f"{tmp_path / 'out'}:all"), open_data(f"{source}:all")
    assert (
        written.totals()
        == own.totals()
        == {
            "images": report.images,
            "references": report.references,
            "expressions": report.expressions,
        }
    )
    for one, other in zip(written, own, strict=True):
        assert (one.id, one.split, one.attributes) == (other.id, other.split, other.attributes)
        assert [(text.text, text.attributes) for text in one.expressions] == [
            (text.text, text.attributes) for text in other.expressions
        ]
        assert (one.load_mask is None) == (other.load_mask is None)
        if one.load_mask is not None:
            assert np.array_equal(one.load_mask(), other.load_mask())
            assert np.array_equal(one.load_ignored(), other.load_ignored())
        assert np.array_equal(np.asarray(one.load_image()), np.asarray(other.load_image()))
    assert check(str(tmp_path / "out")) == []


def test_photos_that_cannot_be_used_are_reported(source, tmp_path):
    (source / "images" / "0.png").unlink()
    report = describe_folder(source, tmp_path / "out")
    assert report.images == 1
    assert [problem.row for problem in report.problems] == ["line 1"]


def test_nothing_is_written_after_an_error(source, tmp_path):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError):
        describe_folder(source, tmp_path / "out", seed=-1)
    with pytest.raises(OutputError):
        describe_folder(source, source)
    for name in ("0.png", "1.png"):
        (source / "images" / name).unlink()
    with pytest.raises(DataError):
        describe_folder(source, tmp_path / "out")
    with pytest.raises(DataError):
        describe_folder(tmp_path / "none", tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before
