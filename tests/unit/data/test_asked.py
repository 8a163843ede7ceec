"""What is asked about each photo, by a table."""

from __future__ import annotations

import pytest
from PIL import Image

from refseg.data.asked import asked_by_file
from refseg.errors import DataError


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "sub").mkdir(parents=True)
    for file in ("a.png", "sub/b.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / file)
    return tmp_path / "photos"


TABLES = {
    "asked.csv": 'Image,Expression\na.png,"the cup, left"\nsub/b.png,the dog\na.png,the mug\na.png,the mug\n,\n',
    "semicolons.csv": "sep=;\nexpression;image\nthe cup, left;a.png\nthe dog;sub/b.png\nthe mug;a.png\n",
    "asked.tsv": "image\texpression\nsub/b.png\tthe dog\na.png\tthe cup, left\na.png\tthe mug\n",
    "asked.jsonl": '{"image": "a.png", "expression": "the cup, left"}\n{"image": "a.png", "expression": "the mug"}\n'
    '{"image": "sub/b.png", "expression": "the dog"}\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_any_kind(photos, tmp_path, name):
    (tmp_path / name).write_text(TABLES[name])
    photos = asked_by_file(photos, tmp_path / name, problems := [])
    assert {one.file: one.expressions for one in photos} == {
        "a.png": ("the cup, left", "the mug"),
        "sub/b.png": ("the dog",),
    }
    assert problems == []


def test_rows_that_cannot_be_used_are_reported(photos, tmp_path):
    table = tmp_path / "asked.csv"
    rows = ("a.png,the cup, left", "gone.png,the cup", "../photos/a.png,the cup", "a.png,", "a.png", "a.png,the mug,,")
    table.write_text("\n".join(["image,expression", *rows]))
    (photo,) = asked_by_file(photos, table, problems := [])
    assert photo.expressions == ("the mug",)
    assert sorted(one.row for one in problems) == [f"line {number}" for number in range(2, 7)]


@pytest.mark.parametrize("text", ["", "image,words\na.png,the cup\n", "image,expression\n", 'image,expression\n"a.png'])
def test_a_table_that_cannot_be_used_is_an_error(photos, tmp_path, text):
    (tmp_path / "asked.csv").write_text(text)
    with pytest.raises(DataError, match=r"asked\.csv"):
        asked_by_file(photos, tmp_path / "asked.csv", [])
    with pytest.raises(DataError):
        asked_by_file(tmp_path / "none", tmp_path / "asked.csv", [])
