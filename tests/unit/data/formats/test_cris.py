"""The intermediate files of the reference CRIS: annotations of each split, and a mask of each reference."""

from __future__ import annotations

import numpy as np
import pytest

from refseg.data.formats.cris import cris
from refseg.errors import DataError


def row(id, name="COCO_train2014_000000000001.jpg", texts=("left cup",), **changes):
    sentences = [{"idx": n, "sent_id": 10 * id + n, "sent": text} for n, text in enumerate(texts)]
    values = {"bbox": [0, 0, 9, 9], "cat": 41, "segment_id": id, "img_name": name, "sentences": sentences}
    return values | {"sentences_num": len(sentences)} | changes


@pytest.fixture
def write(made, tmp_path):
    def written(**splits):
        for split, rows in splits.items():
            made.write_json(tmp_path / "anns" / "refcoco" / f"{split}.json", rows)
        return cris(tmp_path, "refcoco")

    return written


def test_a_record_has_the_values_of_the_files(made, write, tmp_path):
    source = write(val=[row(7, texts=("left cup ", "cup"))], testA=[row(8), row(9, "b.jpg")])
    records = {record.id: record for record in made.read(source)}
    assert (source.format, source.folder) == ("cris", tmp_path)
    assert vars(records["7"]) == {
        "id": "7",
        "image_id": "COCO_train2014_000000000001.jpg",
        "file": "COCO_train2014_000000000001.jpg",
        "size": None,
        "split": "val",
        "expressions": ("left cup", "cup"),
        "expression_ids": ("70", "71"),
        "parts": ({"file": "7.png"},),
        "attributes": {"targets": 1},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "reference 1",
        "table": str(tmp_path / "anns" / "refcoco" / "val.json"),
    }
    assert (records["9"].split, records["9"].image_id, records["9"].row) == ("testA", "b.jpg", "reference 2")


def test_masks_lie_in_either_of_two_folders(made, write, tmp_path):
    source = write(val=[row(7)])
    assert source.mask_folders == ("masks/refcoco", "refcoco/masks")
    mask = made.square_mask(3, 3, 9)
    made.save_mask(tmp_path / "masks" / "refcoco" / "7.png", mask)
    (record,) = made.read(source)
    assert np.array_equal(made.painted(record, folder=tmp_path / source.mask_folders[0]).target, mask)


def test_lmdb_is_an_error_with_the_remedy(made, tmp_path):
    (tmp_path / "lmdb" / "refcoco" / "val.lmdb").mkdir(parents=True)
    with pytest.raises(DataError, match=r"lmdb.refcoco: LMDB files .*; point to the folder with anns/refcoco/\*\.json"):
        cris(tmp_path, "refcoco")
    made.write_json(tmp_path / "anns" / "refcoco" / "val.json", [row(7)])
    assert len(made.read(cris(tmp_path, "refcoco"))) == 1


def test_a_missing_set_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"anns.refcocog_u: no annotations \(\*\.json\) there"):
        cris(tmp_path, "refcocog_u")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segment_id": None}, "field 'segment_id' must be int or str"),
        ({"segment_id": True}, "field 'segment_id' must be int or str, got True"),
        ({"segment_id": "../../x"}, "leads out of the data's folder"),
        ({"img_name": 3}, "field 'img_name' must be str"),
        ({"sentences": []}, "field 'sentences' is empty"),
        ({"sentences": [{"sent": " "}]}, "the expression is blank"),
        ({"sentences": [{"raw": "a"}]}, "has no field 'sent'"),
    ],
)
def test_a_wrong_row_is_reported_with_its_file_and_split(made, write, tmp_path, change, says):
    source = write(val=[row(7)], testA=[row(8), row(9) | change])
    message = made.the_error(source)
    assert message.startswith(f"{tmp_path / 'anns' / 'refcoco' / 'testA.json'}: reference 2: ")
    assert says in message
    found, records = made.problems(source)
    assert [record.id for record in records] == ["8", "7"]
    assert [(one.row, one.split) for one in found] == [("reference 2", "testA")]


def test_names_that_lead_out_are_errors(made, write):
    for name in (*made.LEADING_OUT, *made.NO_NAMES):
        assert "reference 1: " in made.the_error(write(val=[row(7, name)]))


def test_files_that_are_no_lists_or_cut_off_are_errors(made, write):
    source = write(val=[row(7)])
    (file,) = source.files
    whole = file.read_text()
    for content, says in (("{}", "expected a list of references"), (whole[:-9], "perhaps cut off"), ("", "empty file")):
        file.write_text(content)
        assert made.the_error(source).startswith(f"{file}: ")
        assert says in made.the_error(source)


def test_anything_may_be_wrong(made, write):
    survived = [name for name, rows in made.spoilt([row(7)]) if made.survives(write(val=rows))]
    assert survived
