"""REFER's layout: the records that are read, the rules of splits and targets, and the rows that are left out."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from refseg.data.formats.refer import expressions_of, in_split, refer
from refseg.errors import DataError


@pytest.fixture
def references(made):
    return [
        made.reference(1, 11, texts=["left cup", "cup on the left"]),
        made.reference(2, 12, image_id=2, split="val", category_id=2),
        made.reference(3, 13, split="testA"),
    ]


@pytest.fixture
def annotations(made):
    return [
        made.annotation(11, [made.square(2, 2, 10)]),
        made.annotation(12, [made.square(2, 2, 10)], image_id=2, category_id=2),
        made.annotation(13, [made.square(20, 2, 10), made.square(30, 20, 10)]),
        made.annotation(14, [made.square(40, 2, 10)]),
        made.annotation(15, [made.square(40, 2, 10)], category_id=2),
    ]


@pytest.fixture
def write(made, tmp_path):
    def written(references, annotations=(), **changes):
        folder = made.write_refer(tmp_path, references, list(annotations), **changes)
        return refer(folder, changes.get("file", "refs(unc).p"))

    return written


# ── reading ──


@pytest.mark.parametrize("protocol", [0, 2, 4, "python 2, protocol 0", "python 2, protocol 2"])
def test_a_record_has_the_values_of_the_files(made, write, references, annotations, tmp_path, protocol):
    source = write(references, annotations, protocol=protocol)
    one, two, three = made.read(source)
    assert (source.format, source.folder) == ("refer", tmp_path)
    assert source.files == (tmp_path / "refcoco" / "refs(unc).p", tmp_path / "refcoco" / "instances.json")
    assert vars(one) == {
        "id": "1",
        "image_id": "1",
        "file": "COCO_train2014_000000000001.jpg",
        "size": (48, 64),
        "split": "train",
        "expressions": ("left cup", "cup on the left"),
        "expression_ids": ("10", "11"),
        "parts": ({"polygons": [made.square(2, 2, 10)]},),
        "attributes": {"targets": 1, "category": "cup", "distractors": 2},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "reference 1",
        "table": str(tmp_path / "refcoco" / "refs(unc).p"),
    }
    assert (two.id, two.image_id, two.split, two.row) == ("2", "2", "val", "reference 2")
    assert two.attributes == {"targets": 1, "category": "dog", "distractors": 0}
    assert np.array_equal(made.painted(three).target, made.square_mask(20, 2, 10) | made.square_mask(30, 20, 10))


def test_references_may_be_json(made, write, references, annotations):
    pickled = made.read(write(references, annotations))
    written = made.read(write(references, annotations, file="grefs(unc).json"))
    assert [vars(one) | {"table": ""} for one in pickled] == [vars(one) | {"table": ""} for one in written]


def test_the_name_of_the_image_is_that_of_instances(made, write, annotations):
    (record,) = made.read(write([made.reference(1, 11, file_name="../../etc/passwd")], annotations))
    assert record.file == "COCO_train2014_000000000001.jpg"


@pytest.mark.parametrize("protocol", [0, 2])
def test_byte_strings_of_python_2_are_utf_8(made, write, annotations, protocol):
    row = made.reference(1, 11, texts=["the café sign", "左のカップ"])
    (record,) = made.read(write([row], annotations, protocol=f"python 2, protocol {protocol}"))
    assert record.expressions == ("the café sign", "左のカップ")


@pytest.mark.parametrize(("field", "expected"), [("sent", "left cup"), ("raw", "Left cup!")])
def test_the_cleaned_sentence_or_the_raw_one(made, tmp_path, annotations, field, expected):
    row = made.reference(1, 11, texts=[" left cup  "])
    row["sentences"][0]["raw"] = "\tLeft cup! "
    folder = made.write_refer(tmp_path, [row], annotations)
    (record,) = made.read(refer(folder, "refs(unc).p", text_field=field))
    assert record.expressions == (expected,)


def test_the_other_sentence_is_taken_where_one_is_blank_or_missing(made):
    row = {"ref_id": 4, "sentences": [{"sent": " ", "raw": "??"}, {"raw": "Cup"}, {"sent": "cup", "raw": None}]}
    assert expressions_of(row, "sent") == (("??", "Cup", "cup"), ("4/0", "4/1", "4/2"))
    assert expressions_of(row, "raw") == (("??", "Cup", "cup"), ("4/0", "4/1", "4/2"))


def test_a_text_field_is_sent_or_raw(made, tmp_path, references, annotations):
    with pytest.raises(DataError, match="text_field must be sent or raw, got 'tokens'"):
        refer(made.write_refer(tmp_path, references, annotations), "refs(unc).p", text_field="tokens")


@pytest.mark.parametrize("kind", ["polygons", "runs", "compressed", "list of runs", "list of compressed"])
def test_every_kind_of_segmentation(made, write, kind):
    one, other = made.square_mask(2, 2, 10), made.square_mask(20, 20, 10)
    segmentation = {
        "polygons": [made.square(2, 2, 10), made.square(20, 20, 10)],
        "runs": made.runs(one | other),
        "compressed": made.compressed(one | other),
        "list of runs": [made.runs(one), made.runs(other)],
        "list of compressed": [made.compressed(one), made.compressed(other)],
    }[kind]
    (record,) = made.read(write([made.reference(1, 11)], [made.annotation(11, segmentation)]))
    for rule in ("union", "lavt"):
        assert np.array_equal(made.painted(record, overlap=rule).target, one | other)


def test_overlapping_polygons_by_both_rules(made, write):
    segmentation = [made.square(2, 2, 20), made.square(12, 2, 20)]
    (record,) = made.read(write([made.reference(1, 11)], [made.annotation(11, segmentation)]))
    one, other = made.square_mask(2, 2, 20), made.square_mask(12, 2, 20)
    assert np.array_equal(made.painted(record).target, one | other)
    assert np.array_equal(made.painted(record, overlap="lavt").target, one ^ other)


def test_run_lengths_without_foreground_are_an_empty_mask(made, write):
    empty = {"size": [48, 64], "counts": [48 * 64]}
    (record,) = made.read(write([made.reference(1, 11)], [made.annotation(11, empty)]))
    assert record.parts
    assert not made.painted(record).target.any()


def test_points_and_nested_polygons_are_read(made, write):
    points = [[2, 2], [12, 2], [12, 12], [2, 12]]
    for segmentation in (points, [points], [[made.square(2, 2, 10)]]):
        (record,) = made.read(write([made.reference(1, 11)], [made.annotation(11, segmentation)]))
        assert np.array_equal(made.painted(record).target, made.square_mask(2, 2, 10))


def test_one_polygon_without_area_among_others_is_left_out_with_a_warning(made, write):
    segmentation = [made.square(2, 2, 10), [1, 2, 3, 4]]
    (record,) = made.read(write([made.reference(1, 11)], [made.annotation(11, segmentation)]))
    assert np.array_equal(made.painted(record).target, made.square_mask(2, 2, 10))
    assert len(record.warnings) == 1


# ── several targets, or none ──


def test_a_reference_may_have_several_targets(made, write, annotations):
    (record,) = made.read(write([made.reference(1, [11, 14], category_id=[1, 1])], annotations))
    assert np.array_equal(made.painted(record).target, made.square_mask(2, 2, 10) | made.square_mask(40, 2, 10))
    assert record.attributes == {"targets": 2, "category": "cup"}


def test_two_annotations_that_overlap_are_a_union_by_either_rule(made, write):
    both = [made.annotation(1, [made.square(2, 2, 20)]), made.annotation(2, [made.square(12, 2, 20)])]
    (record,) = made.read(write([made.reference(1, [1, 2])], both))
    union = made.square_mask(2, 2, 20) | made.square_mask(12, 2, 20)
    assert np.array_equal(made.painted(record, overlap="lavt").target, union)


def test_a_crowd_among_several_is_left_out(made, write, annotations):
    crowd = made.annotation(20, made.runs(made.square_mask(0, 30, 15)), iscrowd=1)
    record, alone, only = made.read(
        write([made.reference(1, [11, 20]), made.reference(2, 20), made.reference(3, [20])], [*annotations, crowd])
    )
    assert np.array_equal(made.painted(record).target, made.square_mask(2, 2, 10))
    assert np.array_equal(made.painted(alone).target, made.square_mask(0, 30, 15))  # REFER's own sets know no rule
    assert not made.painted(only).target.any()
    assert only.parts


@pytest.mark.parametrize("no_target", [[-1], -1, []])
def test_a_reference_may_have_no_target(made, write, annotations, no_target):
    (record,) = made.read(write([made.reference(1, no_target, category_id=[-1])], annotations))
    assert record.parts == ()
    assert record.attributes == {"targets": 0}


# ── splits ──


@pytest.mark.parametrize(
    ("split", "asked"),
    [
        ("train", {"train"}),
        ("val", {"val"}),
        ("test", {"test"}),
        ("testA", {"testA", "test"}),
        ("testB", {"testB", "test"}),
        ("testAB", {"testA", "testB", "test", "testAB"}),
        ("testC", {"testC", "test"}),
        ("testBC", {"testB", "testC", "test", "testBC"}),
        ("trainval", {"trainval"}),
    ],
)
def test_splits_are_refers(split, asked):
    names = {"train", "val", "test", "testA", "testB", "testC", "testAB", "testBC", "trainval"}
    assert {name for name in names if in_split(split, name)} == asked


# ── errors ──


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ref_id": None}, "field 'ref_id' must be int or str, got nothing"),
        ({"ref_id": True}, "field 'ref_id' must be int or str, got True"),
        ({"image_id": "1"}, "field 'image_id' must be int, got '1'"),
        ({"image_id": True}, "field 'image_id' must be int, got True"),
        ({"image_id": 99}, "is of image 99, which instances.json does not have"),
        ({"ann_id": 99}, "refers to annotation 99, which instances.json does not have"),
        ({"ann_id": [11, 99]}, "refers to annotation 99"),
        ({"ann_id": True}, "field 'ann_id' must be int or list, got True"),
        ({"ann_id": [True]}, "refers to annotation True"),
        ({"ann_id": ["11"]}, "refers to annotation '11'"),
        ({"ann_id": [[11]]}, "refers to annotation a list"),
        ({"ann_id": 12}, "is of image 1, its annotation 12 of image 2"),
        ({"ann_id": [11, 12]}, "is of image 1, its annotation 12 of image 2"),
        ({"split": 3}, "field 'split' must be str, got 3"),
        ({"sentences": []}, "field 'sentences' is empty"),
        ({"sentences": None}, "field 'sentences' must be list, got nothing"),
        ({"sentences": ["a cup"]}, "expected an object with a field 'sent', got 'a cup'"),
        ({"sentences": [{"sent_id": 1}]}, "a sentence has no field 'sent'"),
        ({"sentences": [{"sent": 3}]}, "field 'sent' must be str or nothing, got 3"),
        ({"sentences": [{"sent": "a", "sent_id": True}]}, "field 'sent_id' must be int or str, got True"),
    ],
)
def test_a_wrong_reference_is_reported_with_its_place_and_split(made, write, annotations, tmp_path, change, says):
    rows = [made.reference(7, 11), made.reference(8, 11, split="val") | change, made.reference(9, 11)]
    source = write(rows, annotations)
    file = tmp_path / "refcoco" / "refs(unc).p"
    assert made.the_error(source).startswith(f"{file}: reference 2: {says}")
    found, records = made.problems(source)
    split = "" if "split" in change else "val"
    assert [(one.file, one.row, one.kind, one.split) for one in found] == [(str(file), "reference 2", "row", split)]
    assert [record.id for record in records] == ["7", "9"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": 1, "height": 0}, "its image 1: no image can be of 64 x 0 pixels"),
        ({"images": 1, "height": True}, "its image 1: field 'height' must be int, got True"),
        ({"images": 1, "width": 10**9}, "its image 1: no image can be of"),
        ({"images": 1, "file_name": None}, "its image 1: field 'file_name' must be str"),
        ({"images": 2, "id": 1}, "its image 1: two different ones have the id 1"),
        ({"annotations": 1, "image_id": True}, "its annotation 11: field 'image_id' must be int"),
        ({"annotations": 1, "segmentation": None}, "its annotation 11: field 'segmentation' must be list or dict"),
        ({"annotations": 2, "id": 11}, "its annotation 11: two different ones have the id 11"),
        ({"annotations": 2, "id": 11, "segmentation": None}, "its annotation 11: field 'segmentation' must be"),
    ],
)
def test_a_reference_to_a_wrong_image_or_annotation_is_left_out(made, write, references, annotations, changed, says):
    (kind, number), *changes = changed.items()
    values = made.instances(annotations)
    values[kind][number - 1] |= dict(changes)
    source = write(references, annotations)
    made.write_json(source.files[1], values)
    assert made.the_error(source).startswith(f"{source.files[0]}: reference 1: {says}")
    found, records = made.problems(source)
    assert {record.id for record in records} | {one.row.removeprefix("reference ") for one in found} == {"1", "2", "3"}
    assert len(records) + len(found) == 3  # each reference is read or reported, once
    assert {(one.row, one.split) for one in found} >= {("reference 1", "train")}


@pytest.mark.parametrize("kind", ["images", "annotations", "categories"])
def test_an_entry_without_an_id_is_reported_and_nothing_else(made, write, references, annotations, kind):
    source = write(references, annotations)
    values = made.instances(annotations)
    values[kind].append({"id": None})
    made.write_json(source.files[1], values)
    found, records = made.problems(source)
    assert [record.id for record in records] == ["1", "2", "3"]
    assert [(one.file, one.row, one.split) for one in found] == [
        (str(source.files[1]), f"{kind} {len(values[kind])}", "")
    ]


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ([[1, 2, 3, 4, 5, 6, 7]], "got 7 numbers"),
        ([[1, 2, 3, 4, 5, float("nan")]], "not finite"),
        ([[1, 2, 3, 4, 5, 1e12]], "more than 640 pixels beyond its image"),
        ([[1, 2, 3, 4, 5, "6"]], "flat list of numbers"),
        ([[1, 2, 3, 4, 5, True]], "flat list of numbers"),
        ([[[1, 2], [3, 4], [5, 6], 1, 2, 3]], "flat list of numbers"),
        ([[1, 2, 3, 4]], "no polygon of three points"),
        ([[1, 2], [3, 4]], "no polygon of three points"),
        ([], "no polygon of three points"),
        ({"size": [48, 64], "counts": [3071]}, "do not add up to the 3072 pixels"),
        ({"size": [48, 64], "counts": [-1, 3073]}, "run lengths"),
        ({"size": [48, 64], "counts": "0"}, "do not add up"),
        ({"size": [48, 64], "counts": "P"}, "cut off"),
        ({"size": [64, 48], "counts": [3072]}, "the mask is 48 x 64, its image 64 x 48"),
        ({"size": [10**9, 10**9], "counts": [1]}, "its image 64 x 48"),
        ({"size": [48], "counts": [1]}, "run lengths must be"),
        ([{"size": [48, 64], "counts": [3072]}, {}], "run lengths must be"),
    ],
)
def test_a_broken_region_is_reported_with_its_row_and_annotation(made, write, segmentation, says):
    source = write([made.reference(1, 11)], [made.annotation(11, segmentation)])
    message = made.the_error(source)
    assert message.startswith(f"{source.files[0]}: reference 1: its annotation 11: ")
    assert says in message


def test_names_that_lead_out_are_errors(made, write, annotations):
    for name in (*made.LEADING_OUT, *made.NO_NAMES):
        source = write([made.reference(1, 11)], annotations)
        values = made.instances(annotations)
        values["images"][0]["file_name"] = name
        made.write_json(source.files[1], values)
        assert made.the_error(source).startswith(f"{source.files[0]}: reference 1: its image 1: ")


def test_references_without_sentences_are_left_out_and_reported(made, write, annotations):
    """As in the published gRefCOCO file."""
    rows = [
        made.reference(1, [11], split="val"),
        made.reference(2, [12], image_id=2, split="val") | {"sentences": [], "sent_ids": []},
        made.reference(3, [-1], split="val"),
    ]
    found, records = made.problems(write(rows, annotations, file="grefs(unc).json"))
    assert [record.id for record in records] == ["1", "3"]
    assert [(one.row, one.split) for one in found] == [("reference 2", "val")]


def test_entries_that_no_reference_names_are_not_checked(made, write, references, annotations):
    """Sets are cut out of larger ones."""
    values = made.instances([*annotations, made.annotation(77, None), made.annotation(78, [["x"]], image_id="?")])
    values["images"].append({"id": 9, "file_name": "../x"})
    source = write(references, annotations)
    made.write_json(source.files[1], values)
    assert len(made.read(source)) == 3


def test_the_same_image_may_be_there_twice(made, write, references, annotations):
    source = write(references, annotations)
    values = made.instances([*annotations, annotations[0]], images=(1, 2, 1))
    made.write_json(source.files[1], values)
    assert len(made.read(source)) == 3


@pytest.mark.parametrize("field", ["images", "annotations"])
def test_instances_without_a_list_are_errors(made, write, references, annotations, field):
    source = write(references, annotations)
    values = made.instances(annotations)
    made.write_json(source.files[1], {key: value for key, value in values.items() if key != field})
    assert made.the_error(source) == f"{source.files[1]}: has no field {field!r}"
    made.write_json(source.files[1], values | {field: {}})
    assert made.the_error(source) == f"{source.files[1]}: field {field!r} must be a list, got an object"


def test_instances_may_do_without_categories(made, write, references, annotations):
    source = write(references, annotations)
    values = made.instances(annotations)
    del values["categories"]
    made.write_json(source.files[1], values)
    assert made.read(source)[0].attributes == {"targets": 1, "distractors": 2}


def test_a_file_that_is_cut_off_is_an_error(made, write, references, annotations):
    source = write(references, annotations)
    for file, says in zip(source.files, ("not a complete pickle", "perhaps cut off"), strict=True):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        assert made.the_error(source).startswith(f"{file}: not ")
        assert says in made.the_error(source)
        file.write_bytes(whole)


def test_pickles_of_other_values_and_cycles_are_errors(made, write, references, annotations):
    source = write(references, annotations)
    source.files[0].write_bytes(pickle.dumps({"a": 1}))
    assert made.the_error(source).endswith("expected a list of references, got an object")
    cyclic: list = []
    cyclic.append(cyclic)
    source.files[0].write_bytes(pickle.dumps(cyclic))
    assert made.the_error(source).endswith("reference 1: expected an object with a field 'ref_id', got a list")
    row = made.reference(1, 11)
    row["ann_id"] = row["sentences"] = [row]
    source.files[0].write_bytes(pickle.dumps([row]))
    assert ": reference 1: " in made.the_error(source)


def test_a_missing_file_is_named_with_the_remedy(made, tmp_path, references, annotations):
    folder = made.write_refer(tmp_path, references, annotations)
    with pytest.raises(DataError, match=r"refs\(google\)\.p: no such file; `refseg data prepare`"):
        refer(folder, "refs(google).p")
    (folder / "instances.json").unlink()
    with pytest.raises(DataError, match=r"instances\.json: no such file"):
        refer(folder, "refs(unc).p")


def test_anything_may_be_wrong_in_references(made, write, annotations):
    survived = [
        name
        for name, rows in made.spoilt([made.reference(1, [11], texts=["a cup"])])
        if made.survives(write(rows, annotations))
    ]
    assert survived


def test_anything_may_be_wrong_in_instances(made, write):
    source = write([made.reference(1, [11])])
    survived = []
    whole = made.instances([made.annotation(11, [made.square(1, 1, 4)])], images=(1,))
    del whole["info"], whole["licenses"]
    for name, values in made.spoilt(whole):
        made.write_json(source.files[1], values)
        survived += [name] if made.survives(source) else []
    assert survived
