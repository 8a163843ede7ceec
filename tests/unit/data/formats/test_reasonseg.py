"""ReasonSeg: a JSON file beside each image, with questions, and with shapes that answer them, or do not count."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refseg.data.formats.reasonseg import reasonseg
from refseg.errors import DataError


def shape(label, left, top, side):
    corners = [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]
    return {"label": label, "labels": [label], "shape_type": "polygon", "points": corners}


def answer(*shapes, text=("what holds tea?",), **changes):
    return {"text": list(text), "is_sentence": True, "shapes": list(shapes) or [shape("target", 2, 2, 10)]} | changes


@pytest.fixture
def write(made, tmp_path):
    def written(value, name="val/1_a", image=".jpg"):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        made.write(tmp_path / f"{name}.json", content)
        if image:
            made.write(tmp_path / f"{name}{image}", b"")
        return reasonseg(tmp_path)

    return written


def test_a_record_is_what_the_file_says(made, write, tmp_path):
    source = write(answer(text=["what holds tea?", "the cup"]))
    (record,) = made.read(source)
    assert (source.format, source.folder) == ("reasonseg", tmp_path)
    assert vars(record) == {
        "id": "val/1_a",
        "image_id": "val/1_a",
        "file": "val/1_a.jpg",
        "size": None,
        "split": "val",
        "expressions": ("what holds tea?", "the cup"),
        "expression_ids": ("val/1_a/0", "val/1_a/1"),
        "parts": ({"polygons": [made.square(2, 2, 10)]},),
        "attributes": {"sentence": True},
        "row": "",
        "table": str(tmp_path / "val" / "1_a.json"),
    }
    assert source.files == (tmp_path / "val" / "1_a.json",)


def test_splits_are_folders_and_other_folders_are_not(made, write):
    for name in ("test/b", "train/c", "val/a", "explanatory/d"):
        source = write(answer(), name)
    assert [record.id for record in made.read(source)] == ["train/c", "val/a", "test/b"]


@pytest.mark.parametrize("image", [".jpg", ".jpeg", ".png"])
def test_the_image_lies_beside_it(made, write, image):
    (record,) = made.read(write(answer(), image=image))
    assert record.file == f"val/1_a{image}"


def test_a_image_that_is_missing_is_called_as_it_should_be(made, write):
    (record,) = made.read(write(answer(), image=None))
    assert record.file == "val/1_a.jpg"


def test_flags_are_left_out_and_what_is_ignored_does_not_count(made, write):
    source = write(
        answer(
            shape("target", 0, 0, 30),
            shape("FLAG", 0, 0, 40),
            shape("Ignored_1", 10, 10, 10),
            shape("target", 12, 12, 4),
        )
    )
    (record,) = made.read(source)
    painted = made.painted(record)
    ignored = made.square_mask(10, 10, 10) & ~made.square_mask(12, 12, 4)
    assert np.array_equal(painted.ignored, ignored)
    assert np.array_equal(painted.meant, made.square_mask(0, 0, 30) & ~ignored)


def test_the_largest_is_painted_first_whatever_the_order(made, write):
    shapes = [shape("target", 10, 10, 5), shape("ignore", 0, 0, 40), shape("target", 5, 5, 20)]
    masks = []
    for order in (shapes, shapes[::-1]):
        (record,) = made.read(write(answer(*order)))
        assert [max(part["polygons"][0]) - min(part["polygons"][0]) for part in record.parts] == [40, 20, 5]
        masks.append(made.painted(record))
    assert np.array_equal(masks[0].meant, masks[1].meant)
    assert np.array_equal(masks[0].meant, made.square_mask(5, 5, 20))
    assert np.array_equal(masks[0].ignored, made.square_mask(0, 0, 40) & ~made.square_mask(5, 5, 20))


def test_the_way_round_does_not_change_the_area(made, write):
    small = shape("target", 1, 1, 5) | {"points": shape("target", 1, 1, 5)["points"][::-1]}
    (record,) = made.read(write(answer(small, shape("target", 10, 10, 9))))
    assert record.parts[1] == {"polygons": [[1, 6, 6, 6, 6, 1, 1, 1]]}


def test_shapes_of_two_points_are_dropped(made, write):
    line = {"label": "target", "points": [[1, 2], [3, 4]]}
    (record,) = made.read(write(answer(line, shape("target", 2, 2, 10))))
    assert record.parts == ({"polygons": [made.square(2, 2, 10)]},)


def test_no_shapes_mean_nothing(made, write):
    (record,) = made.read(write(answer(shapes=[])))
    assert record.parts == ()


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-8", "la tasse à café ☕"), ("utf-8-sig", "la tasse à café"), ("cp1252", "“the cup” café…")],
)
def test_text_in_the_encodings_that_are_distributed(made, write, encoding, text):
    content = json.dumps(answer(text=[text]), ensure_ascii=False).encode(encoding)
    (record,) = made.read(write(content))
    assert record.expressions == (text,)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"text": []}, "field 'text' must be a text or a list of texts"),
        ({"text": [" "]}, "field 'text' holds an expression without words"),
        ({"text": None}, "field 'text' must be str or list"),
        ({"shapes": None}, "field 'shapes' must be list"),
        ({"shapes": [3]}, "expected an object with a field 'label'"),
        ({"shapes": [{"points": []}]}, "has no field 'label'"),
        ({"shapes": [{"label": "target"}]}, "shape 1: has no field 'points'"),
        ({"shapes": [{"label": "target", "points": [[1, 2, 3]]}]}, "shape 1: a polygon must be a list of points"),
        ({"shapes": [{"label": "a", "points": [[1, 2], [3, 4], [5, float("nan")]]}]}, "shape 1: a polygon has a coord"),
        ({"shapes": [{"label": "a", "points": [[1, 2], [3, 4], [5, 1e12]]}]}, "shape 1: a polygon reaches more than"),
        ({"shapes": [{"label": "a", "points": [[1, 2], [3, 4], [5, True]]}]}, "shape 1: a polygon must be a flat list"),
        ({"shapes": [{"label": "a", "points": [[1, 2], [3, 4], [5, 10**400]]}]}, "shape 1: a polygon has a coord"),
    ],
)
def test_a_wrong_file_is_told(made, write, tmp_path, change, says):
    write(answer(), "train/good")
    source = write(answer() | change)
    assert made.the_error(source).startswith(f"{tmp_path / 'val' / '1_a.json'}: {says}")
    found, records = made.problems(source)
    assert [record.id for record in records] == ["train/good"]
    assert [problem.row for problem in found] == [""]


@pytest.mark.parametrize(
    "content", [b"", b"[", b'{"text": ["a"', b"[" * 100_000, "x".encode("utf-16"), b"\x81\x8d", b"[]", b"null", b'"a"']
)
def test_a_file_that_is_not_whole_is_told(made, write, tmp_path, content):
    assert made.the_error(write(content)).startswith(f"{tmp_path / 'val' / '1_a.json'}: ")


def test_a_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no folders train, val or test with images and JSON files there"):
        reasonseg(tmp_path)


def test_anything_may_be_wrong(made, write):
    survived = [name for name, value in made.spoilt(answer()) if made.survives(write(value))]
    assert survived
