"""The catalogue: data sets by name, by folder and by file."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from refseg.data.catalogue import DATA_SETS, find, image_files, open_data, split_name
from refseg.data.dataset import DataSet
from refseg.errors import DataError, UnknownNameError


def texts(data):
    """The expressions of the first sample."""
    return [expression.text for expression in data.samples_of(0)[0].expressions]


@pytest.fixture
def write(made, tmp_path):
    def written(folder="refcoco", file="refs(unc).p", root=tmp_path):
        rows = [made.reference(1, 11, split="val", texts=["left cup"]), made.reference(2, [11], split="testA")]
        return made.write_refer(root, rows, [made.annotation(11, [made.square(2, 2, 10)])], name=folder, file=file)

    return written


@pytest.mark.parametrize(
    ("name", "folder", "file"),
    [
        ("refcoco", "refcoco", "refs(unc).p"),
        ("refcoco-google", "refcoco", "refs(google).p"),
        ("refcoco+", "refcoco+", "refs(unc).p"),
        ("refcocog-umd", "refcocog", "refs(umd).p"),
        ("refcocog-google", "refcocog", "refs(google).p"),
        ("refclef", "refclef", "refs(unc).p"),
        ("refclef-berkeley", "refclef", "refs(berkeley).p"),
        ("grefcoco", "grefcoco", "grefs(unc).json"),
        ("grefcoco", "grefcoco", "grefs(unc).p"),
        ("ref-zom", "ref-zom", "refs(final).p"),
        ("ref-zom", "Ref-ZOM", "Ref-ZOM(final).p"),
    ],
)
def test_a_set_in_refers_layout_is_found_by_its_name(write, tmp_path, name, folder, file):
    write(folder, file)
    # The root is the folder of all sets, or that of the set itself.
    for root in (tmp_path, tmp_path / folder):
        if name == "ref-zom" and root != tmp_path:
            continue
        data = open_data(f"{name}:val", root)
        assert isinstance(data, DataSet)
        assert (data.name, data.split) == (name, "val")
        assert texts(data) == ["left cup"]


def test_the_published_numbers_add_up():
    for known in DATA_SETS.values():
        assert known.note
        assert known.references.keys() <= set(known.splits)
    totals = {name: sum(known.references.values()) for name, known in DATA_SETS.items()}
    # For RefCOCO and RefCOCO+ as counted by their authors.
    assert (totals["refcoco"], totals["refcoco-google"], totals["refcoco+"]) == (50_000, 50_000, 49_856)
    assert totals["refcocog-umd"] == totals["refcocog-google"] == 49_822


def test_other_projects_files_are_found(made, tmp_path):
    sentences = [{"sent_id": 3, "sent": "cup"}]
    row = {"segment_id": 7, "img_name": "a.jpg", "sentences": sentences}
    made.write_json(tmp_path / "anns" / "refcocog_u" / "val.json", [row])
    assert open_data("cris/refcocog_u:val", tmp_path).totals()["references"] == 1
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 5, "caption": "cup"}
    for place, split in ((".", "val"), ("OpenSource", "testA"), ("mdetr", "testB")):
        made.write_json(tmp_path / place / f"finetune_refcoco+_{split}.json", {"images": [image], "annotations": []})
    made.write_json(tmp_path / "finetune_refcoco_val.json", {"images": [image], "annotations": []})
    for split in ("val", "testA", "testB"):
        assert open_data(f"mdetr/refcoco+:{split}", tmp_path).totals()["references"] == 1
    assert open_data("mdetr/refcoco+:all", tmp_path).totals()["references"] == 3
    assert open_data(f"{tmp_path / 'finetune_refcoco_val.json'}:all").totals()["references"] == 1
    with pytest.raises(DataError, match=r"no files such as finetune_"):
        find("mdetr/refcocog", tmp_path)


@pytest.mark.parametrize("place", ["phrasecut", "VGPhraseCut_v0", "."])
def test_phrasecut_is_found(made, tmp_path, place):
    made.write_json(tmp_path / place / "image_data_split3000.json", [{"image_id": 1, "height": 4, "width": 5}])
    row = {"task_id": "1__1", "image_id": 1, "phrase": "cup", "Polygons": [[[[0, 0], [2, 0], [2, 2]]]]}
    made.write_json(tmp_path / place / "refer_miniv.json", [row])
    assert open_data("phrasecut:miniv", tmp_path).totals()["references"] == 1


@pytest.mark.parametrize("place", ["reasonseg", "ReasonSeg", "."])
def test_reasonseg_is_found(made, tmp_path, place):
    made.write_json(tmp_path / place / "val" / "a.json", {"text": ["q"], "shapes": []})
    assert open_data("reasonseg:val", tmp_path).totals()["references"] == 1


def test_a_folder_of_ones_own_is_found_by_its_path(made, tmp_path, monkeypatch):
    made.write(tmp_path / "cups" / "data.csv", b"image,mask,text\na.jpg,1.png,cup\n")
    assert open_data(f"{tmp_path / 'cups'}:all").totals()["references"] == 1
    monkeypatch.chdir(tmp_path)
    for name in ("cups", "./cups", "cups/"):
        assert open_data(f"{name}:all").totals()["references"] == 1


def test_a_folder_of_tables_is_found_by_its_path(made, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    square = [float(value) for value in made.square(2, 2, 10)]
    row = {"image": {"bytes": b"", "path": None}, "answer": ["cup"], "segmentation": square}
    (tmp_path / "data").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "data" / "val-00000-of-00001.parquet")
    for split in ("val", "validation", "all"):
        assert texts(open_data(f"{tmp_path}:{split}")) == ["cup"]
    made.write(tmp_path / "data.csv", b"image,mask,text\na.jpg,1.png,mine\n")
    assert texts(open_data(f"{tmp_path}:all")) == ["mine"]


GENERATED = ("shapes", "shapes-closeups", "shapes-easy", "shapes-easy-closeups")


def test_the_splits_that_are_named_exist():
    """In the documentation, in docstrings, and in what commands print."""
    home = Path(__file__).parents[3]
    splits = {name: {*one.splits, "all"} for name, one in DATA_SETS.items()}
    splits |= {name: {"train", "val", "test"} for name in GENERATED}
    sources = [home / "README.md", home / "CHANGELOG.md", *(home / "docs").glob("*.md"), *(home / "src").rglob("*.py")]
    named = {
        (path.name, *found)
        for path in sources
        for found in re.findall(
            r"(?<![\w/-])((?:shapes|g?ref|phrasecut|reasonseg)[a-z+-]*):([A-Za-z]\w*)", path.read_text("utf-8")
        )
    }
    assert len(named) > 20
    assert not [(where, name, split) for where, name, split in named if split not in splits.get(name, ())]


def test_every_data_set_has_the_same_members(write, tmp_path):
    write()
    shapes, references = open_data("shapes:val"), open_data("refcoco:val", tmp_path)
    for data in (shapes, references):
        assert isinstance(data, DataSet)
        assert (data.skipped_count, data.notes()) == (0, ())
        target = data.samples_of(0)[0].target_object
        objects = data.objects(0)
        assert (objects is None) == (target is None)
    assert shapes.objects(0)[target_of(shapes)].any()


def target_of(data):
    return data.samples_of(0)[0].target_object


def test_shapes_needs_no_folder():
    data = open_data("shapes:val")
    assert (data.name, data.split) == ("shapes", "val")
    with pytest.raises(UnknownNameError, match="unknown split"):
        open_data("shapes:testA")


def test_choices_reach_the_data(made, write, tmp_path):
    write()
    made.save_image(tmp_path / "elsewhere" / made.image_name(1))
    assert texts(open_data("refcoco:val", tmp_path, text_field="raw")) == ["Left cup!"]
    assert texts(open_data("refcoco:val", tmp_path)) == ["left cup"]
    sample = open_data("refcoco:val", str(tmp_path), images=str(tmp_path / "elsewhere")).samples_of(0)[0]
    assert sample.load_image().size == (64, 48)
    made.write_refer(
        tmp_path,
        [made.reference(1, 11, split="val")],
        [made.annotation(11, [made.square(2, 2, 10), made.square(2, 2, 5)])],
        name="refcoco+",
    )
    sample = open_data("refcoco+:val", tmp_path, overlap="lavt").samples_of(0)[0]
    assert np.array_equal(sample.load_mask(), made.square_mask(2, 2, 10) & ~made.square_mask(2, 2, 5))


@pytest.mark.parametrize(
    ("data", "name", "split"),
    [
        ("refcoco:val", "refcoco", "val"),
        ("cris/refcoco:testA", "cris/refcoco", "testA"),
        ("a:b:val", "a:b", "val"),
        ("C:\\data:val", "C:\\data", "val"),
    ],
)
def test_name_and_split(data, name, split):
    assert split_name(data) == (name, split)


@pytest.mark.parametrize("data", ["refcoco", "refcoco:", ":val", "", "C:\\data", "C:/data", "a:b/c"])
def test_a_name_without_a_split_is_an_error(data):
    with pytest.raises(DataError, match="which split of"):
        open_data(data)


def test_for_a_set_that_cannot_be_found_the_remedy_is_named(made, write, tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown data set 'refcco', did you mean 'refcoco'\?"):
        find("refcco", tmp_path)
    with pytest.raises(DataError, match="where is refcoco\\? give the folder that holds it, with --data ROOT"):
        find("refcoco")
    with pytest.raises(DataError, match="missing: no such folder"):
        find("refcoco", tmp_path / "missing")
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: no such file; `refseg data prepare` fetches"):
        find("refcoco", tmp_path)
    file = made.write(tmp_path / "file.txt", b"")
    for call in (partial(find, "refcoco", file), partial(find, str(file)), partial(find, "mdetr/refcoco", file)):
        with pytest.raises(DataError, match=r"file\.txt: is a file, and a folder is needed"):
            call()
    for name in ("./missing", str(tmp_path / "missing")):
        with pytest.raises(DataError, match="missing: no such folder"):
            find(name)
    with pytest.raises(DataError, match="expected one table"):
        find(str(tmp_path))
    with pytest.raises(DataError, match="text_field must be sent or raw, got 'tokens'"):
        find("refcoco", tmp_path, text_field="tokens")
    for folder, file in (("refcoco", "refs(unc).p"), ("grefcoco", "grefs(unc).json")):
        path = write(folder, file)
        with pytest.raises(DataError, match=r"is in REFER's layout; name the set \(refcoco, \.\.\.\) and give --data"):
            find(str(path))


def test_an_unknown_split_is_an_error(write, tmp_path):
    write()
    with pytest.raises(DataError, match="refcoco has no split 'train'; it has testA, val, or take all"):
        open_data("refcoco:train", tmp_path)
    assert open_data("refcoco:all", tmp_path).totals()["references"] == 2


def test_the_images_that_splits_need(write, made, tmp_path):
    rows = [
        made.reference(1, 11, split="val"),
        made.reference(2, 21, 2, split="testA"),
        made.reference(3, 21, 2, split="testA"),
        made.reference(4, 99, 2, split="val"),  # which cannot be used
    ]
    annotations = [made.annotation(11, [made.square(2, 2, 10)]), made.annotation(21, [made.square(2, 2, 10)], 2)]
    made.write_refer(tmp_path, rows, annotations)
    assert image_files("refcoco", tmp_path) == [made.image_name(1), made.image_name(2)]
    assert image_files("refcoco", tmp_path, ["val"]) == [made.image_name(1)]
    assert image_files("refcoco", tmp_path, ["val", "testA"]) == [made.image_name(1), made.image_name(2)]
