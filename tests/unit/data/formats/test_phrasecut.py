"""PhraseCut: phrases whose target is the union of several instances; image sizes are in a file of their own."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.data.formats.phrasecut import IMAGE_DATA, phrasecut
from refseg.errors import DataError


def points(left, top, side):
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]


def phrase(id="2417997__1", image_id=2417997, polygons=None, text="white plate", **changes):
    values = {
        "task_id": id,
        "image_id": image_id,
        "ann_ids": [1],
        "instance_boxes": [[0, 0, 9, 9]],
        "Polygons": [[points(2, 2, 10)]] if polygons is None else polygons,
        "phrase": text,
        "phrase_structure": {"name": "plate", "attributes": ["white"], "relation_ids": [], "type": "attribute"},
    }
    return values | changes


IMAGES = [{"image_id": 2417997, "coco_id": None, "height": 48, "width": 64, "split": "val", "url": "http://x"}]


@pytest.fixture
def write(made, tmp_path):
    def written(images=IMAGES, **splits):
        made.write_json(tmp_path / IMAGE_DATA, images)
        for split, rows in splits.items():
            made.write_json(tmp_path / f"refer_{split}.json", rows)
        return phrasecut(tmp_path)

    return written


def test_a_record_has_the_values_of_the_files(made, write, tmp_path):
    source = write(val=[phrase(), phrase("2417997__2", text="cup on the left")], miniv=[phrase("3__1")])
    records = {record.id: record for record in made.read(source)}
    assert (source.format, source.folder) == ("phrasecut", tmp_path)
    assert source.files[0] == tmp_path / IMAGE_DATA
    assert vars(records["2417997__1"]) == {
        "id": "2417997__1",
        "image_id": "2417997",
        "file": "2417997.jpg",
        "size": (48, 64),
        "split": "val",
        "expressions": ("white plate",),
        "expression_ids": ("2417997__1",),
        "parts": ({"polygons": [made.square(2, 2, 10)]},),
        "attributes": {"targets": 1},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "phrase 1",
        "table": str(tmp_path / "refer_val.json"),
    }
    assert [(record.split, record.row) for record in records.values()] == [
        ("miniv", "phrase 1"),
        ("val", "phrase 1"),
        ("val", "phrase 2"),
    ]


def test_the_target_of_a_phrase_is_the_union_of_its_instances(made, write):
    rows = [phrase(polygons=[[points(2, 2, 10), points(20, 2, 5)], [points(7, 2, 10)]])]
    (record,) = made.read(write(val=rows))
    expected = made.square_mask(2, 2, 10) | made.square_mask(20, 2, 5) | made.square_mask(7, 2, 10)
    assert np.array_equal(made.painted(record).target, expected)
    assert np.array_equal(made.painted(record, overlap="lavt").target, expected)
    assert record.attributes == {"targets": 2}


def test_polygons_of_two_points_among_others_are_left_out_with_a_warning(made, write):
    (record,) = made.read(write(val=[phrase(polygons=[[[[1, 2], [3, 4]], points(2, 2, 10)], [points(20, 2, 5)]])]))
    assert record.parts == ({"polygons": [made.square(2, 2, 10)]}, {"polygons": [made.square(20, 2, 5)]})
    assert len(record.warnings) == 1


def test_flat_polygons_are_read_too(made, write):
    (record,) = made.read(write(val=[phrase(polygons=[[made.square(2, 2, 10)]])]))
    assert record.parts == ({"polygons": [made.square(2, 2, 10)]},)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_id": 5}, f"is of image 5, which {IMAGE_DATA} does not have"),
        ({"image_id": True}, "field 'image_id' must be int, got True"),
        ({"Polygons": None}, "field 'Polygons' must be list"),
        ({"Polygons": []}, "field 'Polygons' is empty"),
        ({"Polygons": [3]}, "a polygon must be"),
        ({"Polygons": [[[[1, 2], [3, 4]]]]}, "no polygon of three points"),
        ({"Polygons": [[points(2, 2, 10)], [[]]]}, "no polygon of three points"),
        ({"Polygons": [[[[1, 2], [3, 4], [5, float("nan")]]]]}, "not finite"),
        ({"Polygons": [[[[1, 2], [3, 4], [5, 1e12]]]]}, "more than 640 pixels beyond its image"),
        ({"Polygons": [[[[1, 2], [3, 4], [5, True]]]]}, "flat list of numbers"),
        ({"Polygons": [[[[1, 2], [3, 4], [5, "6"]]]]}, "flat list of numbers"),
        ({"task_id": None}, "field 'task_id' must be int or str"),
        ({"phrase": ""}, "the expression is blank"),
        ({"phrase": 3}, "field 'phrase' must be str, got 3"),
    ],
)
def test_a_wrong_phrase_is_reported_with_its_file_row_and_split(made, write, tmp_path, change, says):
    source = write(val=[phrase(), phrase("other") | change])
    message = made.the_error(source)
    assert message.startswith(f"{tmp_path / 'refer_val.json'}: phrase 2: ")
    assert says in message
    found, records = made.problems(source)
    assert [record.id for record in records] == ["2417997__1"]
    assert [(one.row, one.split) for one in found] == [("phrase 2", "val")]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"height": 0}, "no image can be of 64 x 0"),
        ({"width": None}, "field 'width' must be int"),
        ({"width": 10**12}, "no image can be of"),
    ],
)
def test_phrases_of_an_image_with_a_wrong_size_are_left_out(made, write, tmp_path, change, says):
    other = IMAGES[0] | {"image_id": 5}
    source = write([IMAGES[0] | change, other], val=[phrase(), phrase("5__1", image_id=5)])
    message = made.the_error(source)
    assert message.startswith(f"{tmp_path / 'refer_val.json'}: phrase 1: its image 2417997 in {IMAGE_DATA}: {says}")
    found, records = made.problems(source)
    assert [record.id for record in records] == ["5__1"]
    assert [(one.row, one.split) for one in found] == [("phrase 1", "val")]


def test_a_size_without_an_image_id_is_reported_and_nothing_else(made, write, tmp_path):
    source = write([*IMAGES, {"image_id": "x"}], val=[phrase()])
    found, records = made.problems(source)
    assert [record.id for record in records] == ["2417997__1"]
    assert [(one.file, one.row, one.split) for one in found] == [(str(tmp_path / IMAGE_DATA), "image 2", "")]


def test_wrong_sizes_of_images_without_phrases_do_no_harm(made, write):
    assert len(made.read(write([*IMAGES, {"image_id": 5, "height": 0, "width": 4}], val=[phrase()]))) == 1


def test_a_set_with_missing_files_is_an_error(made, tmp_path):
    with pytest.raises(DataError, match=r"no refer_train\.json, refer_val\.json or the like there"):
        phrasecut(tmp_path)
    made.write_json(tmp_path / "refer_val.json", [phrase()])
    with pytest.raises(DataError, match=rf"{IMAGE_DATA}: no such file; it comes with PhraseCut's annotations"):
        phrasecut(tmp_path)


def test_files_that_are_no_lists_or_cut_off_are_errors(made, write):
    source = write(val=[phrase()])
    for file, of in zip(source.files, ("images", "phrases"), strict=True):
        whole = file.read_bytes()
        made.write(file, b"{}")
        assert made.the_error(source) == f"{file}: expected a list of {of}, got an object"
        made.write(file, whole[:-5])
        assert made.the_error(source).startswith(f"{file}: not valid JSON, perhaps cut off")
        made.write(file, whole)


def test_anything_may_be_wrong(made, write):
    survived = [name for name, rows in made.spoilt([phrase()]) if made.survives(write(val=rows))]
    assert survived
    assert not all(made.survives(write(rows, val=[phrase()])) for _, rows in made.spoilt(IMAGES))
