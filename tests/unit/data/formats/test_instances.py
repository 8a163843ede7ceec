"""COCO's and LabelMe's annotations as rows of a folder of photos."""

from __future__ import annotations

import json

import numpy as np
import pytest

from refseg.data.formats.instances import instance_rows
from refseg.errors import DataError
from refseg.masks import decode_rle

SIZE = (48, 64)


@pytest.fixture
def coco(made, tmp_path):
    """Writes a photo with a cup and a dog, as COCO does, with changes."""

    def written(place="instances.json", **changes):
        made.save_image(tmp_path / "images" / made.image_name(1))
        annotations = [
            made.annotation(1, [made.square(2, 3, 10)]),
            made.annotation(2, made.runs(made.square_mask(30, 10, 20)), category_id=2, iscrowd=1),
        ]
        values = made.instances(annotations, images=(1,)) | changes
        made.write_json(tmp_path / place, values)
        return tmp_path

    return written


@pytest.fixture
def labelme(made, tmp_path):
    """Writes a photo with shapes, as LabelMe does."""

    def written(*shapes, **changes):
        made.save_image(tmp_path / "a.png")
        values = {"imagePath": "..\\elsewhere\\a.png", "imageHeight": 48, "imageWidth": 64, "shapes": list(shapes)}
        made.write_json(tmp_path / "a.json", values | changes)
        return tmp_path

    return written


def shape(label, left, top, side, **changes):
    points = [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]
    return {"label": label, "points": points, "shape_type": "polygon"} | changes


def rows(folder, **options):
    found, problems = list(instance_rows(folder, (reported := []).append, **options)), reported
    return found, problems


@pytest.mark.parametrize("place", ["instances.json", "_annotations.coco.json", "annotations/instances_train.json"])
def test_coco(coco, made, place):
    ((_, row),), problems = rows(coco(place))
    assert not problems
    assert row["image"] == f"images/{made.image_name(1)}"
    assert (row["height"], row["width"], row["labelled"]) == (*SIZE, [])
    cup, dog = row["instances"]
    assert (cup["category"], cup["kind"], dog["category"], dog["kind"]) == ("cup", "instance", "dog", "crowd")
    assert np.array_equal(decode_rle(cup["rle"]), made.square_mask(2, 3, 10))
    assert np.array_equal(decode_rle(dog["rle"]), made.square_mask(30, 10, 20))


def test_complete_annotations_label_all_their_names(coco):
    ((_, row),), _ = rows(coco(), complete=True)
    assert row["labelled"] == ["cup", "dog"]


def test_a_photo_with_an_object_without_a_mask_is_left_out(coco, made):
    annotations = [made.annotation(1, [made.square(2, 3, 10)]), made.annotation(2, [])]
    made.save_image(coco() / "images" / made.image_name(2))
    values = made.instances([*annotations, made.annotation(3, [made.square(1, 1, 9)], image_id=2)])
    made.write_json(coco() / "instances.json", values)
    ((_, row),), problems = rows(coco(**values))
    assert row["image"].endswith(made.image_name(2))
    assert [problem.row for problem in problems] == ["annotations 2"]


def test_labelme(labelme, made):
    folder = labelme(
        shape("cup", 2, 3, 10, group_id=1),
        shape("cup", 30, 3, 10, group_id=1),
        shape("cup", 50, 30, 10),
        shape("dog", 2, 30, 10, group_id=None),
    )
    ((place, row),), problems = rows(folder)
    assert (place, row["image"], problems) == ("a.json", "a.png", [])
    both, cup, dog = row["instances"]
    assert [one["category"] for one in row["instances"]] == ["cup", "cup", "dog"]
    assert np.array_equal(decode_rle(both["rle"]), made.square_mask(2, 3, 10) | made.square_mask(30, 3, 10))
    assert np.array_equal(decode_rle(cup["rle"]), made.square_mask(50, 30, 10))
    assert np.array_equal(decode_rle(dog["rle"]), made.square_mask(2, 30, 10))


@pytest.mark.parametrize(
    "faulty",
    [
        {"label": "cup", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"},
        {"label": "cup", "points": [[1, 1], [9, 9]], "shape_type": "line"},
        {"label": "cup", "points": [[1, 1]]},
        {"points": [[1, 1], [9, 9], [1, 9]]},
        "nonsense",
    ],
)
def test_a_photo_with_a_shape_that_is_no_mask_is_left_out(labelme, faulty, made):
    folder = labelme(shape("cup", 2, 3, 10), faulty)
    made.save_image(folder / "b.png")
    good = json.loads((folder / "a.json").read_text()) | {"imagePath": "b.png", "shapes": [shape("cup", 2, 3, 10)]}
    made.write_json(folder / "b.json", good)
    ((place, _),), (problem,) = rows(folder)
    assert place == "b.json"
    assert problem.file.endswith("a.json")


def test_a_folder_without_annotations_is_an_error(tmp_path, made):
    with pytest.raises(DataError):
        rows(tmp_path)
    made.write_json(tmp_path / "other.json", {"version": 1})
    with pytest.raises(DataError):
        rows(tmp_path)


def test_two_files_of_annotations_are_an_error(coco):
    coco("train.json")
    with pytest.raises(DataError):
        rows(coco("val.json"))


def test_a_missing_photo_is_left_out(coco, made):
    folder = coco()
    (folder / "images" / made.image_name(1)).unlink()
    with pytest.raises(DataError):
        rows(folder)
