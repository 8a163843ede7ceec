"""ReasonSeg: a JSON file for each image, with questions and with shapes of target or ignored pixels."""

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


def test_a_record_has_the_values_of_the_file(made, write, tmp_path):
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
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "",
        "table": str(tmp_path / "val" / "1_a.json"),
    }
    assert source.files == (tmp_path / "val" / "1_a.json",)


def test_splits_are_folders_and_other_folders_are_not(made, write):
    for name in ("test/b", "train/c", "val/a", "explanatory/d"):
        source = write(answer(), name)
    assert [record.id for record in made.read(source)] == ["train/c", "val/a", "test/b"]


@pytest.mark.parametrize("image", [".jpg", ".jpeg", ".png", None])
def test_the_image_has_one_of_three_endings(made, write, image):
    """Which of them is looked up when the image is loaded."""
    source = write(answer(), image=image)
    (record,) = made.read(source)
    assert record.file == "val/1_a.jpg"
    assert source.image_endings == (".jpg", ".jpeg", ".png")


def test_flags_are_left_out_and_ignored_shapes_are_no_target(made, write):
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
    assert np.array_equal(painted.target, made.square_mask(0, 0, 30) & ~ignored)


def test_the_largest_is_painted_first_whatever_the_order(made, write):
    shapes = [shape("target", 10, 10, 5), shape("ignore", 0, 0, 40), shape("target", 5, 5, 20)]
    masks = []
    for order in (shapes, shapes[::-1]):
        (record,) = made.read(write(answer(*order)))
        assert [max(part["polygons"][0]) - min(part["polygons"][0]) for part in record.parts] == [40, 20, 5]
        masks.append(made.painted(record))
    assert np.array_equal(masks[0].target, masks[1].target)
    assert np.array_equal(masks[0].target, made.square_mask(5, 5, 20))
    assert np.array_equal(masks[0].ignored, made.square_mask(0, 0, 40) & ~made.square_mask(5, 5, 20))


def test_the_orientation_does_not_change_the_area(made, write):
    small = shape("target", 1, 1, 5) | {"points": shape("target", 1, 1, 5)["points"][::-1]}
    (record,) = made.read(write(answer(small, shape("target", 10, 10, 9))))
    assert record.parts[1] == {"polygons": [[1, 6, 6, 6, 6, 1, 1, 1]]}


LINE = {"label": "target", "points": [[1, 2], [3, 4]]}


def test_polygons_of_two_points_among_others_are_left_out_with_a_warning(made, write):
    (record,) = made.read(write(answer(LINE, shape("target", 2, 2, 10))))
    assert record.parts == ({"polygons": [made.square(2, 2, 10)]},)
    assert record.warnings == ("shape 1 has fewer than three points",)


@pytest.mark.parametrize("others", [(), (shape("ignore", 2, 2, 10),), (LINE,), (shape("flag", 2, 2, 10),)])
def test_a_file_whose_targets_have_no_area_is_left_out(made, write, others):
    found, records = made.problems(write(answer(*others, LINE)))
    assert records == []
    assert [one.split for one in found] == ["val"]


@pytest.mark.parametrize("corners", [[[2, 4], [12, 9]], [[12, 9], [2, 4]], [[12, 4], [2, 9]]])
def test_a_rectangle_is_read_from_two_corners(made, write, corners):
    (record,) = made.read(write(answer({"label": "target", "shape_type": "rectangle", "points": corners})))
    expected = np.zeros((48, 64), dtype=bool)
    expected[4:9, 2:12] = True
    assert np.array_equal(made.painted(record).target, expected)


def test_a_rectangle_is_read_from_four_corners(made, write):
    (record,) = made.read(write(answer(shape("target", 2, 2, 10) | {"shape_type": "rectangle"})))
    assert record.parts == ({"polygons": [made.square(2, 2, 10)]},)


def test_a_circle_is_read_from_its_centre_and_a_point_of_its_edge(made, write):
    circle = {"label": "target", "shape_type": "circle", "points": [[30, 24], [30, 39]]}
    (record,) = made.read(write(answer(circle)))
    y, x = np.mgrid[:48, :64] + 0.5
    distance = np.hypot(x - 30, y - 24)
    target = made.painted(record).target
    assert target[distance < 14].all()
    assert not target[distance > 16].any()
    assert target.sum() == pytest.approx(np.pi * 15**2, rel=0.02)


@pytest.mark.parametrize("kind", ["line", "linestrip", "point", "points", "mask", "ellipse"])
def test_shapes_of_other_types_are_errors(made, write, kind):
    other = {"label": "target", "shape_type": kind, "points": [[1, 2], [9, 2], [9, 9]]}
    message = made.the_error(write(answer(shape("target", 2, 2, 10), other)))
    assert f"shape 2: shape_type '{kind}'" in message


@pytest.mark.parametrize("kind", ["rectangle", "circle"])
@pytest.mark.parametrize("points", [[], [[1, 2]], [[1, 2], [3, 4], [5, 6]]])
def test_rectangles_and_circles_have_two_points(made, write, kind, points):
    message = made.the_error(write(answer({"label": "target", "shape_type": kind, "points": points})))
    assert f"shape 1: a {kind} must have two points" in message


@pytest.mark.parametrize("kind", ["polygon", "rectangle", "circle", None])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 10**400, True, "3", None, [1]])
def test_coordinates_of_every_shape_are_finite_numbers(made, write, kind, bad):
    points = [[1, 2], [3, bad]] if kind in ("rectangle", "circle") else [[1, 2], [3, bad], [5, 6]]
    message = made.the_error(write(answer({"label": "target", "shape_type": kind, "points": points})))
    assert "shape 1: field 'points'" in message


def test_no_shapes_are_no_target(made, write):
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
        ({"text": []}, "field 'text' is empty"),
        ({"text": [" "]}, "the expression is blank"),
        ({"text": None}, "field 'text' must be str or list"),
        ({"shapes": None}, "field 'shapes' must be list"),
        ({"shapes": [3]}, "expected an object with a field 'label'"),
        ({"shapes": [{"points": []}]}, "has no field 'label'"),
        ({"shapes": [{"label": "target"}]}, "shape 1: has no field 'points'"),
        ({"shapes": [{"label": "target", "points": [[1, 2, 3]]}]}, "shape 1: field 'points' must be a list of points"),
        ({"shapes": [{"label": "target", "points": [1, 2, 3, 4, 5, 6]}]}, "shape 1: field 'points' must be a list of"),
        ({"shapes": [{"label": "target", "points": []}]}, "shape 1: has fewer than three points"),
        ({"shapes": [{"label": "target", "shape_type": 3, "points": []}]}, "shape 1: field 'shape_type' must be str"),
        ({"shapes": [{"label": "a", "points": [[1, 2], [3, 4], [5, 1e12]]}]}, "shape 1: a polygon reaches more than"),
    ],
)
def test_a_wrong_file_is_reported_with_its_split(made, write, tmp_path, change, says):
    write(answer(), "train/good")
    source = write(answer() | change)
    assert made.the_error(source).startswith(f"{tmp_path / 'val' / '1_a.json'}: {says}")
    found, records = made.problems(source)
    assert [record.id for record in records] == ["train/good"]
    assert [(problem.row, problem.split) for problem in found] == [("", "val")]


@pytest.mark.parametrize(
    "content", [b"", b"[", b'{"text": ["a"', b"[" * 100_000, "x".encode("utf-16"), b"\x81\x8d", b"[]", b"null", b'"a"']
)
def test_an_incomplete_file_is_reported(made, write, tmp_path, content):
    assert made.the_error(write(content)).startswith(f"{tmp_path / 'val' / '1_a.json'}: ")


def test_a_missing_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no folders train, val or test with images and JSON files there"):
        reasonseg(tmp_path)


def test_anything_may_be_wrong(made, write):
    survived = [name for name, value in made.spoilt(answer()) if made.survives(write(value))]
    assert survived
