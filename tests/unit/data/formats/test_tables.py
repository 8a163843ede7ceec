"""The hub's tables: three kinds with different columns, two of which contain the images."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from refseg.data.formats import tables as module
from refseg.data.formats.tables import holds_tables, in_split, tables
from refseg.data.references import References
from refseg.errors import DataError


def png(seed=0, height=48, width=64):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def sentences(*texts, first=0):
    return [
        {"raw": f"{text.capitalize()}!", "sent": text, "sent_id": first + n, "tokens": text.split()}
        for n, text in enumerate(texts)
    ]


def refer_row(id, segmentation, split="val", **changes):
    info = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 48, "width": 64}
    annotation = {"segmentation": segmentation, "iscrowd": 0, "image_id": 7, "category_id": 1, "id": 11}
    values = {
        "sent_ids": [id],
        "file_name": f"COCO_train2014_000000000007_{id}.jpg",
        "ann_id": 11,
        "ref_id": id,
        "image_id": 7,
        "split": split,
        "sentences": sentences("left cup", "cup", first=10 * id),
        "category_id": 1,
        "raw_anns": json.dumps(annotation),
        "raw_image_info": json.dumps(info),
        "raw_sentences": "[]",
        "image_path": "coco/train2014/COCO_train2014_000000000007.jpg",
        "bbox": [0.0, 0.0, 9.0, 9.0],
        "captions": ["left cup", "cup"],
    }
    return values | changes


def image_row(image_id, *regions, seed=0, **changes):
    references = [
        {
            "ref_info": {
                "ref_id": n,
                "ann_id": n,
                "image_id": image_id,
                "split": "val",
                "sentences": sentences(f"cup {n}", first=n),
            },
            "ann_info": {
                "id": n,
                "image_id": image_id,
                "segmentation": region,
                "bbox": [0.0, 0.0, 9.0, 9.0],
                "iscrowd": 0,
            },
        }
        for n, region in enumerate(regions, 1)
    ]
    info = {"id": image_id, "file_name": f"COCO_train2014_{image_id:012}.jpg", "height": 48, "width": 64}
    return {"image": {"bytes": png(seed)[1], "path": None}, "image_info": info, "ref_list": references} | changes


def answer_row(number, segmentation, **changes):
    values = {
        "question_id": str(1000 + number),
        "image": {"bytes": png(number)[1], "path": "x.jpg"},
        "question": "Describe the region.",
        "answer": ["left cup", "cup"],
        "segmentation": segmentation,
        "bbox": [0.0, 0.0, 9.0, 9.0],
        "iscrowd": 0,
        "file_name": f"COCO_train2014_000000000007_{number}.jpg",
    }
    return values | changes


def write(folder, rows, name="data/val-00000-of-00001.parquet", **options):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
    return path


@pytest.fixture
def square(made):
    return [[float(value) for value in made.square(2, 2, 10)]]


# ── reading ──


def test_refers_columns_with_images_elsewhere(made, tmp_path, square):
    path = write(tmp_path, [refer_row(5, square), refer_row(6, made.runs(made.square_mask(9, 9, 9)), "train")])
    source = tables(tmp_path)
    one, two = made.read(source)
    assert (source.format, source.folder, source.files, source.image) == ("tables/refer", tmp_path, (path,), None)
    assert vars(one) == {
        "id": "5",
        "image_id": "7",
        "file": "COCO_train2014_000000000007.jpg",
        "size": (48, 64),
        "split": "val",
        "expressions": ("left cup", "cup"),
        "expression_ids": ("50", "51"),
        "parts": ({"polygons": square},),
        "attributes": {"targets": 1},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "row 1",
        "table": str(path),
    }
    assert (two.split, two.row) == ("train", "row 2")
    assert np.array_equal(made.painted(two).target, made.square_mask(9, 9, 9))
    raw = made.read(tables(tmp_path, text_field="raw"))
    assert raw[0].expressions == ("Left cup!", "Cup!")


@pytest.mark.parametrize("place", ["coco/train2014", "images/train2014", "images/mscoco/images/train2014"])
def test_the_images_of_refers_columns_are_found(made, tmp_path, square, place):
    pixels = made.save_image(tmp_path / place / "COCO_train2014_000000000007.jpg")
    write(tmp_path, [refer_row(5, square)])
    (sample,) = References(tables(tmp_path), "refcoco", "val")
    assert sample.load_image().size == (64, 48)
    assert np.array_equal(sample.load_mask(), made.square_mask(2, 2, 10))
    assert pixels.shape == (48, 64, 3)


def test_one_image_per_row_with_all_its_references(made, tmp_path, square):
    other = [[float(value) for value in made.square(30, 2, 10)]]
    name = "data/refcocog_umd_test-00000-of-00001-23c691a8c4bd006d.parquet"
    path = write(tmp_path, [image_row(3, square), image_row(4, square, [*square, *other], seed=1)], name)
    source = tables(tmp_path)
    records = made.read(source)
    assert source.format == "tables/images"
    assert vars(records[2]) == {
        "id": "refcocog_umd_test/2",
        "image_id": "4",
        "file": f"{name}#1",
        "size": (48, 64),
        "split": "refcocog_umd_test",
        "expressions": ("cup 2",),
        "expression_ids": ("refcocog_umd_test/2",),
        "parts": ({"polygons": [*square, *other]},),
        "attributes": {"targets": 1},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "row 2, reference 2",
        "table": str(path),
    }
    assert [record.file for record in records] == [f"{name}#0", f"{name}#1", f"{name}#1"]


def test_one_reference_per_row_with_its_image(made, tmp_path, square):
    path = write(tmp_path, [answer_row(0, square[0]), answer_row(1, square[0], answer=["a dog"], file_name=None)])
    source = tables(tmp_path)
    one, two = made.read(source)
    assert source.format == "tables/answers"
    assert vars(one) == {
        "id": "val/0",
        "image_id": "7",
        "file": "data/val-00000-of-00001.parquet#0",
        "size": None,
        "split": "val",
        "expressions": ("left cup", "cup"),
        "expression_ids": ("val/0/0", "val/0/1"),
        "parts": ({"polygons": square},),
        "attributes": {"targets": 1, "question_id": "1000"},
        "expression_attributes": (),
        "target_object": None,
        "objects": (),
        "warnings": (),
        "row": "row 1",
        "table": str(path),
    }
    assert (two.id, two.image_id) == ("val/1", "data/val-00000-of-00001.parquet#1")


def test_the_content_digest_is_of_the_images_in_the_tables(tmp_path, square):
    found = []
    for seed in (0, 1):
        write(tmp_path / str(seed), [answer_row(0, square, image={"bytes": png(seed)[1], "path": "x.jpg"})])
        data = References(tables(tmp_path / str(seed)), "own", "val")
        found.append((data.digest(), data.content_digest()))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_joined_polygons_are_lossy_as_the_documentation_says(made, tmp_path):
    """The reason not to publish numbers measured on them."""
    one, other = made.square(2, 2, 10), made.square(30, 20, 10)
    write(tmp_path, [answer_row(0, [float(value) for value in one + other])])
    (record,) = made.read(tables(tmp_path))
    true = made.square_mask(2, 2, 10) | made.square_mask(30, 20, 10)
    assert not np.array_equal(made.painted(record).target, true)
    assert "lossy" in module.__doc__


# ── splits and files ──


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (("train", "validation", "test", "testB"), ("testA", "testB", "train", "val")),
        (("train", "validation", "test"), ("test", "train", "val")),
        (("val", "test", "testA", "testB"), ("test", "testA", "testB", "val")),
    ],
)
def test_the_hubs_names_of_splits_become_refers(made, tmp_path, square, files, splits):
    for number, name in enumerate(files):
        write(tmp_path, [refer_row(number, square, None)], f"data/{name}-00000-of-00001.parquet")
    assert sorted(record.split for record in made.read(tables(tmp_path))) == list(splits)


def test_the_split_column_counts_where_there_is_one(made, tmp_path, square):
    write(tmp_path, [refer_row(1, square, "testA")], "test-00000-of-00001-0123456789abcdef.parquet")
    assert [record.split for record in made.read(tables(tmp_path))] == ["testA"]


def test_validation_is_val():
    assert in_split("val", "validation")
    assert in_split("val", "val")
    assert not in_split("testA", "test")


def test_rows_are_counted_over_the_files_of_a_split(made, tmp_path, square):
    for number in range(2):
        write(tmp_path, [answer_row(0, square[0])] * 2, f"val-{number:05}-of-00002.parquet")
    assert [record.id for record in made.read(tables(tmp_path))] == ["val/0", "val/1", "val/2", "val/3"]


def test_a_missing_file_is_named(made, tmp_path, square):
    write(tmp_path, [answer_row(0, square[0])], "data/val-00001-of-00003.parquet")
    message = made.the_error(tables(tmp_path))
    assert message.startswith(f"{tmp_path / 'data' / 'val-00000-of-00003.parquet'}: is missing")


def test_a_table_that_is_cut_off_blocks_only_its_split(made, tmp_path, square):
    for split in ("train", "val"):
        write(tmp_path, [answer_row(0, square[0])], f"data/{split}-00000-of-00001.parquet")
    cut = tmp_path / "data" / "train-00000-of-00001.parquet"
    cut.write_bytes(cut.read_bytes()[:-9])
    found, records = made.problems(tables(tmp_path))
    assert [record.split for record in records] == ["val"]
    assert [(one.kind, one.file, one.split) for one in found] == [("file", str(cut), "train")]


def test_where_tables_lie(tmp_path, square):
    assert not holds_tables(tmp_path)
    assert not holds_tables(tmp_path / "missing")
    with pytest.raises(DataError, match=r"no tables \(\*\.parquet\) there"):
        tables(tmp_path)
    write(tmp_path, [answer_row(0, square[0])], "mine.parquet")
    assert holds_tables(tmp_path)
    assert tables(tmp_path).files == (tmp_path / "mine.parquet",)


def test_other_columns_are_errors_with_those_that_are_known(tmp_path):
    write(tmp_path, [{"image": b"x", "caption": "a"}])
    with pytest.raises(DataError) as caught:
        tables(tmp_path)
    assert "an unknown kind of table" in str(caught.value)
    assert "answer, image, segmentation" in str(caught.value)
    assert "it has 'caption', 'image'" in str(caught.value)


def test_without_pyarrow_the_error_names_the_remedy(tmp_path, monkeypatch, square):
    write(tmp_path, [answer_row(0, square[0])])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"tables are read with pyarrow; pip install 'refseg\[tables\]'"):
        tables(tmp_path)


# ── images ──


@pytest.mark.parametrize("kept", [0, 128 * 2**20])
@pytest.mark.parametrize("plain", [False, True])
def test_images_are_those_of_their_rows(tmp_path, monkeypatch, square, kept, plain):
    """Over several groups of rows, in any order, whether a group is kept or not."""
    monkeypatch.setattr(module, "KEPT", kept)
    monkeypatch.setattr(module, "ROWS", 2)
    images = [png(seed) for seed in range(8)]
    rows = [answer_row(n, square[0]) for n in range(8)]
    if plain:
        rows = [row | {"image": content} for row, (_, content) in zip(rows, images, strict=True)]
    write(tmp_path, rows, row_group_size=3)
    data = References(tables(tmp_path), "lmms", "val")
    for index in (7, 0, 3, 2, 5, 4, 6, 1):
        assert np.array_equal(np.asarray(data[index].load_image()), images[index][0])
        assert data[index].load_mask().shape == (48, 64)  # which asks the image for its size


def test_only_the_group_of_a_row_is_read_and_only_one_is_kept(tmp_path, monkeypatch, square):
    write(tmp_path, [answer_row(n, square[0]) for n in range(6)], row_group_size=2)
    data = References(tables(tmp_path), "lmms", "val")
    read = []
    batches = module.table_batches
    monkeypatch.setattr(
        module, "table_batches", lambda *args, **chosen: read.append(chosen["row_groups"]) or batches(*args, **chosen)
    )
    for index in (2, 3, 2, 5, 3):
        data[index].load_image()
    assert read == [[1], [2], [1]]
    assert module._group.cache_info().maxsize == 1


def test_samples_of_tables_travel_to_other_processes(tmp_path, square):
    write(tmp_path, [answer_row(n, square[0]) for n in range(2)])
    data = References(tables(tmp_path), "lmms", "val")
    again = pickle.loads(pickle.dumps(data[1]))
    assert np.array_equal(np.asarray(again.load_image()), png(1)[0])


@pytest.mark.parametrize(
    ("image", "says"),
    [
        ({"bytes": None, "path": "x.jpg"}, "row 1: has no image in it, got nothing"),
        ({"bytes": b"no image", "path": None}, "is not an image"),
        ({"bytes": b"", "path": None}, "is empty"),
        ({"bytes": png()[1][:200], "path": None}, "is broken"),
    ],
)
def test_a_broken_image_is_an_error_with_its_file_and_row(tmp_path, square, image, says):
    write(tmp_path, [answer_row(0, square[0], image=image)])
    data = References(tables(tmp_path), "lmms", "val")
    with pytest.raises(DataError) as caught:
        data[0].load_image()
    assert f"{tmp_path / 'data' / 'val-00000-of-00001.parquet'}" in str(caught.value)
    assert says in str(caught.value)


def test_a_table_that_is_removed_or_shrinks_is_an_error(tmp_path, square):
    path = write(tmp_path, [answer_row(n, square[0]) for n in range(3)])
    data = References(tables(tmp_path), "lmms", "val")
    write(tmp_path, [answer_row(0, square[0])])
    with pytest.raises(DataError, match=r"parquet: has no row 3"):
        data[2].load_image()
    path.unlink()
    with pytest.raises(DataError, match=r"parquet: cannot be read"):
        data[0].load_image()


def test_a_table_that_is_replaced_with_the_same_size_and_time_is_read_again(tmp_path, square):
    path = write(tmp_path, [answer_row(0, square[0])], compression="none")
    source = tables(tmp_path)
    name = f"{path.relative_to(tmp_path).as_posix()}#0"
    before, stat = np.asarray(Image.open(source.image(name))), path.stat()
    replacement = write(tmp_path / "other", [answer_row(0, square[0], image={"bytes": png(1)[1], "path": "x.jpg"})])
    replacement.replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert not np.array_equal(np.asarray(Image.open(source.image(name))), before)


# ── errors ──


def test_broken_files_are_errors(made, tmp_path, square):
    path = write(tmp_path, [answer_row(n, square[0]) for n in range(3)], compression="none")
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-20], b"<html>"):
        made.write(path, content)
        with pytest.raises(DataError, match=r"parquet: not a complete table .*; fetch it again"):
            tables(tmp_path)


def test_text_that_is_not_utf_8_is_an_error(made, tmp_path, square):
    row = answer_row(0, square[0])
    table = pyarrow.Table.from_pylist([row | {"file_name": b"caf\xe9"}])
    text = pyarrow.StringArray.from_buffers(1, *table["file_name"].chunk(0).buffers()[1:])
    path = tmp_path / "val.parquet"
    parquet.write_table(table.set_column(table.schema.get_field_index("file_name"), "file_name", text), path)
    assert made.the_error(tables(tmp_path)).startswith(f"{path}: not a complete table")


def test_a_polygon_without_area_is_left_out_with_a_warning(made, tmp_path, square):
    write(tmp_path, [refer_row(1, [*square, [1, 2, 3, 4]])])
    (record,) = made.read(tables(tmp_path))
    assert record.parts == ({"polygons": square},)
    assert len(record.warnings) == 1


def test_damage_in_the_middle_of_a_file_raises_no_other_error(made, tmp_path, square):
    path = write(tmp_path, [answer_row(n, square[0]) for n in range(3)], compression="none")
    whole = path.read_bytes()
    outcomes = set()
    for at in range(4, len(whole), len(whole) // 25):
        made.write(path, whole[:at] + b"\xff" * 40 + whole[at + 40 :])
        try:
            made.problems(tables(tmp_path))
            outcomes.add("read")
        except DataError as error:
            outcomes.add(str(error).split(": ")[1].split(" (")[0])
    assert "not a complete table" in outcomes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ref_id": None}, "field 'ref_id' must be int or str"),
        ({"image_id": 8}, "is of image 8, its annotation of image 7"),
        ({"raw_anns": "{"}, "field 'raw_anns' is not valid JSON"),
        ({"raw_anns": "[" * 100_000}, "field 'raw_anns' is not valid JSON"),
        ({"raw_anns": None}, "field 'raw_anns' must be str, got nothing"),
        ({"raw_anns": "3"}, "expected an object with a field 'image_id', got 3"),
        ({"raw_anns": '{"segmentation": [[1, 2, 3, 4]]}'}, "no polygon of three points"),
        ({"raw_anns": '{"segmentation": [[1, 2, 3, 4, 5, NaN]]}'}, "not finite"),
        ({"raw_anns": '{"segmentation": {"size": [64, 48], "counts": [3072]}}'}, "the mask is 48 x 64"),
        ({"raw_image_info": "{}"}, "has no field 'height'"),
        ({"raw_image_info": '{"height": 1e9, "width": 1}'}, "field 'height' must be int"),
        ({"sentences": []}, "field 'sentences' is empty"),
        ({"raw_anns": "[]"}, "has no annotation"),
        ({"sentences": None}, "field 'sentences' must be list"),
        ({"image_path": None}, "field 'image_path' must be str"),
    ],
)
def test_a_wrong_row_is_reported_with_its_file_and_split(made, tmp_path, square, change, says):
    path = write(tmp_path, [refer_row(1, square), refer_row(2, square) | change])
    message = made.the_error(tables(tmp_path))
    assert message.startswith(f"{path}: row 2: ")
    assert says in message
    found, records = made.problems(tables(tmp_path))
    assert [record.id for record in records] == ["1"]
    assert [(one.row, one.split) for one in found] == [("row 2", "val")]


def test_names_that_lead_out_are_errors(made, tmp_path, square):
    for name in (*made.LEADING_OUT, *made.NO_NAMES):
        write(tmp_path, [refer_row(1, square, image_path=name)])
        assert ": row 1: " in made.the_error(tables(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ref_list": []}, "row 2, reference 1: expected an object with a field 'ref_info', got nothing"),
        ({"ref_list": None}, "row 2, reference 1: expected an object"),
        ({"image_info": None}, "row 2, reference 1: field 'image_info' must be dict"),
    ],
)
def test_a_wrong_image_is_reported_with_its_row(made, tmp_path, square, change, says):
    path = write(tmp_path, [image_row(1, square), image_row(2, square) | change])
    assert made.the_error(tables(tmp_path)).startswith(f"{path}: {says}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": []}, "field 'answer' is empty"),
        ({"answer": None}, "field 'answer' must be str or list"),
        ({"answer": [" "]}, "the expression is blank"),
        ({"segmentation": None}, "field 'segmentation' must be list"),
        ({"segmentation": [1.0, 2.0]}, "no polygon of three points"),
        ({"segmentation": [1.0] * 7}, "got 7 numbers"),
        ({"segmentation": [float("inf")] * 6}, "not finite"),
        ({"segmentation": [1.0, 2.0, None, 3.0, 4.0, 5.0]}, "flat list of numbers"),
    ],
)
def test_a_wrong_answer_is_reported_with_its_row(made, tmp_path, square, change, says):
    path = write(tmp_path, [answer_row(0, square[0]), answer_row(1, square[0]) | change])
    message = made.the_error(tables(tmp_path))
    assert message.startswith(f"{path}: row 2: ")
    assert says in message
