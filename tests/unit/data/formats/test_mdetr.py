"""MDETR's files: each entry of `images` is one expression, with its annotations."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.data.formats.mdetr import mdetr
from refseg.errors import DataError


def image(id, caption="the left cup", **changes):
    values = {
        "id": id,
        "file_name": f"COCO_train2014_{7:012}.jpg",
        "height": 48,
        "width": 64,
        "original_id": 7,
        "caption": caption,
        "dataset_name": "refcoco",
    }
    return values | changes


def annotation(id, image_id, segmentation, **changes):
    values = {"id": id, "image_id": image_id, "segmentation": segmentation, "bbox": [0, 0, 9, 9], "category_id": 1}
    return values | {"tokens_positive": [[0, 3]], "iscrowd": 0, "area": 81} | changes


@pytest.fixture
def write(made, tmp_path):
    def written(images, annotations, split="val"):
        values = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": []}
        return mdetr(tmp_path, {split: made.write_json(tmp_path / f"finetune_refcoco_{split}.json", values)})

    return written


def test_a_record_has_the_values_of_the_file(made, write, tmp_path):
    source = write(
        [image(3), image(4, "a dog")],
        [annotation(1, 4, [made.square(8, 8, 4)]), annotation(2, 3, [made.square(2, 2, 9)])],
    )
    one, two = made.read(source)
    assert (source.format, source.folder) == ("mdetr/val", tmp_path)
    assert vars(one) == {
        "id": "val/3",
        "image_id": "7",
        "file": "COCO_train2014_000000000007.jpg",
        "size": (48, 64),
        "split": "val",
        "expressions": ("the left cup",),
        "expression_ids": ("val/3",),
        "parts": ({"polygons": [made.square(2, 2, 9)]},),
        "attributes": {"targets": 1},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "image 1",
        "table": str(tmp_path / "finetune_refcoco_val.json"),
    }
    assert (two.id, two.expressions, two.row) == ("val/4", ("a dog",), "image 2")


def test_the_target_is_the_union_of_all_annotations(made, write):
    (record,) = made.read(
        write(
            [image("a")],
            [annotation(1, "a", [made.square(2, 2, 9)]), annotation(2, "a", made.runs(made.square_mask(30, 2, 9)))],
        )
    )
    assert np.array_equal(made.painted(record).target, made.square_mask(2, 2, 9) | made.square_mask(30, 2, 9))
    assert record.attributes == {"targets": 2}


def test_an_entry_without_annotations_has_no_target(made, write):
    (record,) = made.read(write([image(1)], []))
    assert record.parts == ()
    assert record.attributes == {"targets": 0}


def test_without_an_original_id_the_file_name_is_the_image_id(made, write):
    row = image(1)
    del row["original_id"]
    (record,) = made.read(write([row], []))
    assert record.image_id == "COCO_train2014_000000000007.jpg"


@pytest.mark.parametrize("box_only", [{"segmentation": []}, {"segmentation": None}, {"segmentation": {}}, {}])
def test_boxes_alone_are_errors(made, write, box_only):
    row = annotation(1, 2, None) | box_only
    if not box_only:
        del row["segmentation"]
    source = write([image(1), image(2)], [annotation(3, 1, [made.square(2, 2, 9)]), row])
    assert made.the_error(source) == (
        f"{source.files[0]}: image 2: has a box but no segmentation: boxes alone cannot be segmented or scored here"
    )


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_id": 9}, "is of image 9, which the file does not have"),
        ({"image_id": None}, "field 'image_id' must be int or str"),
        ({"image_id": True}, "field 'image_id' must be int or str, got True"),
    ],
)
def test_an_annotation_of_no_image_is_reported_and_nothing_else(made, write, changes, says):
    square = [made.square(2, 2, 9)]
    source = write([image(1)], [annotation(1, 1, square), annotation(2, 1, square) | changes])
    assert made.the_error(source).startswith(f"{source.files[0]}: annotation 2: {says}")
    found, records = made.problems(source)
    assert [(one.row, one.split) for one in found] == [("annotation 2", "val")]
    assert [(record.id, len(record.parts)) for record in records] == [("val/1", 1)]


def test_each_split_is_a_file_of_its_own(made, tmp_path):
    files = {
        split: made.write_json(tmp_path / f"{split}.json", {"images": [image(1)], "annotations": []})
        for split in ("val", "testA")
    }
    records = made.read(mdetr(tmp_path, files))
    assert [(record.id, record.split) for record in records] == [("val/1", "val"), ("testA/1", "testA")]
    assert [record.table for record in records] == [str(file) for file in files.values()]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"id": None}, "field 'id' must be int or str"),
        ({"id": True}, "field 'id' must be int or str, got True"),
        ({"file_name": None}, "field 'file_name' must be str"),
        ({"height": "48"}, "field 'height' must be int"),
        ({"width": True}, "field 'width' must be int"),
        ({"width": -1}, "no image can be of -1 x 48"),
        ({"caption": None}, "field 'caption' must be str"),
        ({"caption": " "}, "the expression is blank"),
        ({"caption": ["a"]}, "field 'caption' must be str"),
        ({"original_id": []}, "field 'original_id' must be int or str"),
    ],
)
def test_a_wrong_entry_is_reported_with_its_file_row_and_split(made, write, change, says):
    source = write([image(1), image(2) | change], [])
    assert made.the_error(source).startswith(f"{source.files[0]}: image 2: {says}")
    found, records = made.problems(source)
    assert [record.id for record in records] == ["val/1"]
    assert [(one.row, one.split) for one in found] == [("image 2", "val")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segmentation": [[1, 2, 3, 4]]}, "image 1: has no polygon of three points"),
        ({"segmentation": [[1, 2], [3, 4]]}, "image 1: has no polygon of three points"),
        ({"segmentation": "x"}, "image 1: its annotation 1: field 'segmentation' must be list or dict or nothing"),
        ({"segmentation": [[1, 2, 3, 4, 5, 1e12]]}, "image 1: a polygon reaches more than 640 pixels"),
        ({"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "image 1: a polygon has a coordinate that is not finite"),
        ({"segmentation": {"size": [48, 64], "counts": "0"}}, "image 1: the run lengths do not add up"),
        ({"segmentation": {"size": [64, 48], "counts": [3072]}}, "image 1: the mask is 48 x 64, its image 64 x 48"),
    ],
)
def test_an_entry_with_a_wrong_annotation_is_left_out(made, write, change, says):
    """Without it the mask would lack a target."""
    square = [made.square(2, 2, 9)]
    annotations = [annotation(1, 1, square) | change, annotation(2, 1, square), annotation(3, 2, square)]
    source = write([image(1), image(2)], annotations)
    assert made.the_error(source).startswith(f"{source.files[0]}: {says}")
    found, records = made.problems(source)
    assert [record.id for record in records] == ["val/2"]
    assert [(one.row, one.split) for one in found] == [("image 1", "val")]


def test_one_polygon_without_area_among_others_is_left_out_with_a_warning(made, write):
    (record,) = made.read(write([image(1)], [annotation(1, 1, [made.square(2, 2, 9), [1, 2, 3, 4]])]))
    assert record.parts == ({"polygons": [made.square(2, 2, 9)]},)
    assert len(record.warnings) == 1


def test_names_that_lead_out_are_errors(made, write):
    for name in (*made.LEADING_OUT, *made.NO_NAMES):
        assert ": image 1: " in made.the_error(write([image(1, file_name=name)], []))


def test_files_that_are_missing_or_cut_off_are_errors(made, write, tmp_path):
    with pytest.raises(DataError, match=r"x\.json: no such file"):
        mdetr(tmp_path, {"val": tmp_path / "x.json"})
    with pytest.raises(DataError, match=r"no files such as finetune_refcoco_val\.json there"):
        mdetr(tmp_path, {})
    source = write([image(1)], [])
    whole = source.files[0].read_text()
    made.write(source.files[0], whole[:-30].encode())
    assert "perhaps cut off" in made.the_error(source)
    made.write(source.files[0], b'{"images": []}')
    assert made.the_error(source).endswith("has no field 'annotations'")


def test_anything_may_be_wrong(made, write):
    whole = {"images": [image(1)], "annotations": [annotation(1, 1, [made.square(1, 1, 4)])]}
    survived = []
    source = write([], [])
    for name, values in made.spoilt(whole):
        made.write_json(source.files[0], values)
        survived += [name] if made.survives(source) else []
    assert survived
