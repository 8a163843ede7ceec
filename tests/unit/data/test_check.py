"""The linter: each fault is found at its place, beside other faults; sound data have none."""

from __future__ import annotations

import json
import pickle
import unicodedata
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from refseg.cli.data import WORD_LENGTH as SHOWN_LENGTH
from refseg.data.check import KINDS, Finding, check, table
from refseg.data.formats.folder import folder
from refseg.data.formats.mdetr import mdetr
from refseg.data.references import References
from refseg.errors import ConfigError, DataError, UnknownNameError
from refseg.inputs.clip_bpe import WORD_LENGTH


def png(path, width=32, height=24, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def mask(path, width=32, height=24, box=(4, 4, 12, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width), dtype=np.uint8)
    left, top, right, bottom = box
    pixels[top:bottom, left:right] = 255
    Image.fromarray(pixels).save(path)


@pytest.fixture
def own(tmp_path):
    """A sound folder of one's own data: two splits, three images, four references."""
    root = tmp_path / "own"
    for seed, name in enumerate(("a", "b", "c")):
        png(root / "images" / f"{name}.png", seed=seed)
    mask(root / "masks" / "1.png")
    mask(root / "masks" / "2.png", box=(14, 4, 20, 20))
    lines = ["a,1.png,the left cup,train", "a,2.png,the right cup,train", "b,1.png,a dog,train", "c,,a cat,val"]
    rows = [line.replace(",", ".png,", 1) for line in lines]
    (root / "data.csv").write_text("image,mask,text,split\n" + "\n".join(rows) + "\n", encoding="utf-8")
    return root


def add(root, *rows):
    with (root / "data.csv").open("a", encoding="utf-8") as file:
        file.writelines(f"{row}\n" for row in rows)


def found(root, **options):
    return check(folder(root), **options)


def only(findings) -> Finding:
    assert len(findings) == 1, [str(finding) for finding in findings]
    return findings[0]


def test_sound_data_have_no_faults(own):
    seen = Counter()
    assert found(own, seen=seen) == []
    assert seen == {"images": 3, "references": 4, "expressions": 4}
    assert check(str(own)) == []
    assert found(own, quick=True) == []


def scramble(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


FAULTS = {
    "too few cells": (["a.png,1.png,x"], "row", "line 6", "cells"),
    "no words": (["a.png,1.png, ,train"], "blank", "line 6", "the expression is blank"),
    "missing image": (["d.png,1.png,a thing,train"], "missing", "line 6", "d.png is missing"),
    "missing mask": (["b.png,9.png,a bird,train"], "mask", "line 6", "9.png"),
    "odd character": (["b.png,2.png,a bi\x07rd,train"], "odd", "line 6", "U+0007"),
    "lost character": (["b.png,2.png,caf\ufffd,train"], "odd", "line 6", "U+FFFD"),
    "no letters": (["b.png,2.png,23,train"], "odd", "line 6", "'23' holds no letters"),
    "no visible words": (["b.png,2.png,&nbsp;,train"], "blank", "line 6", "is blank: '&nbsp;'"),
    "too long": ([f"b.png,2.png,{'very ' * 16}big dog,train"], "limit", "line 6", "20 tokens; all after 17"),
    "same words for two regions": (["b.png,2.png,A  Dog,train"], "ambiguous", "line 6", "b.png in line 4"),
    "same words for a region and for nothing": (["b.png,,a dog,train"], "ambiguous", "line 6", "b.png in line 4"),
    "image in two splits": (["a.png,1.png,the cup there,val"], "split", "line 6", "in val and in train (line 2)"),
}


@pytest.mark.parametrize(("rows", "kind", "row", "says"), FAULTS.values(), ids=FAULTS)
def test_a_bad_row_is_found(own, rows, kind, row, says):
    add(own, *rows)
    finding = only(found(own))
    assert (finding.kind, finding.row, finding.file) == (kind, row, str(own / "data.csv"))
    assert finding.severity == KINDS[kind]
    assert says in finding.message


def test_an_id_that_is_there_twice_is_found_once(own):
    (own / "data.csv").write_text(
        "image,mask,text,id\na.png,1.png,one,x\nb.png,1.png,two,x\nc.png,1.png,three,y\n", encoding="utf-8"
    )
    finding = only(found(own))
    assert (finding.kind, finding.row) == ("duplicate", "line 3")
    assert "'x' is that of all (line 2) too" in finding.message


def test_masks_of_another_size_empty_full_and_grey_are_found(own):
    mask(own / "masks" / "small.png", width=16)
    mask(own / "masks" / "empty.png", box=(0, 0, 0, 0))
    mask(own / "masks" / "full.png", box=(0, 0, 32, 24))
    png(own / "masks" / "lossy.jpg")
    names = ("small.png", "empty.png", "full.png", "lossy.jpg")
    add(own, *(f"b.png,{name},thing {name[0]},train" for name in names), "b.png,lossy.jpg,it again,train")
    findings = {finding.kind: finding for finding in found(own)}
    assert {kind: finding.row for kind, finding in findings.items()} == {
        "mask": "line 6",
        "empty": "line 7",
        "full": "line 8",
        "grey": "line 9",
        "note": "",
    }
    assert "is 16 x 24, its image 32 x 24" in findings["mask"].message
    assert "100.0%" in findings["full"].message
    assert [f.severity for f in findings.values()].count("error") == 2


def test_names_that_are_stored_in_another_spelling_are_found(own):
    (own / "images" / "b.png").rename(own / "images" / "b.PNG")
    png(own / "images" / unicodedata.normalize("NFD", "é.png"), seed=9)
    mask(own / "masks" / "3.PNG")
    add(own, f"{unicodedata.normalize('NFC', 'é')}.png,3.png,a bird,train")
    findings = found(own)
    assert [(one.kind, one.row) for one in findings] == [("name", f"line {line}") for line in (4, 6, 6)]
    assert ["Unicode" in one.message for one in findings] == [False, True, False]
    data = References(folder(own), "own", "all")
    assert all(sample.load_image().size == (32, 24) for sample in data)


def test_a_photo_and_a_mask_that_lacks_its_rotation_are_explained(own):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (24, 32)).save(own / "images" / "d.jpg", exif=exif)
    mask(own / "masks" / "d.png", width=24, height=32)
    add(own, "d.jpg,d.png,a bird,train", "d.jpg,1.png,a fish,train")
    for quick in (False, True):
        finding = only(found(own, quick=quick))
        assert (finding.kind, finding.row) == ("mask", "line 6")
        assert "EXIF" in finding.message


def test_all_that_was_assumed_or_skipped_is_listed(own):
    add(own, "c.png,,a cow,Train", "c.png,,a fish,", "c.png,,a cat,val")
    findings = found(own)
    assert [(one.kind, one.row) for one in findings if one.kind != "split"] == [
        *(("repeated", "line 8"), ("note", ""), ("note", "")),
    ]
    assert {one.severity for one in findings} == {"warning"}


def test_a_file_that_is_cut_off_is_found_in_its_split(refer_set, tmp_path):
    image = {"id": 1, "file_name": "a.png", "height": 24, "width": 32, "caption": "cup"}
    annotation = {"id": 1, "image_id": 1, "segmentation": square(3, 3, 8)}
    files = {split: tmp_path / f"finetune_x_{split}.json" for split in ("train", "val")}
    for path in files.values():
        path.write_text(json.dumps({"images": [image], "annotations": [annotation]}), encoding="utf-8")
    scramble(files["train"])
    png(tmp_path / "a.png")
    source = mdetr(tmp_path, files)
    assert check(source, split="val") == []
    assert References(source, "x", "val").totals()["references"] == 1
    (finding,) = check(source, split="train")
    assert (finding.kind, finding.severity, finding.file) == ("file", "error", str(files["train"]))


def test_a_quick_check_reads_sizes_without_decoding(own):
    mask(own / "masks" / "small.png", width=16)
    mask(own / "masks" / "empty.png", box=(0, 0, 0, 0))
    add(own, "b.png,small.png,a bird,train", "b.png,empty.png,a cow,train")
    png(own / "images" / "b.png", width=200, height=150)
    scramble(own / "images" / "b.png")
    quick = found(own, quick=True)
    assert [(one.kind, one.row) for one in quick] == [("mask", f"line {line}") for line in (4, 6, 7)]
    assert [(one.kind, one.row) for one in found(own)] == [("image", "line 4")]


def test_a_broken_image_is_reported_once(own):
    scramble(own / "images" / "a.png")
    finding = only(found(own))
    assert (finding.kind, finding.row) == ("image", "line 2")
    assert "a.png" in finding.message


def test_an_image_of_another_size_than_its_mask_is_found(own):
    png(own / "images" / "b.png", width=5, height=4)
    finding = only(found(own))
    assert (finding.kind, finding.row) == ("mask", "line 4")
    assert "is 32 x 24, its image 5 x 4" in finding.message


def test_a_copy_of_an_image_in_another_split_is_found_by_its_bytes(own):
    copy = own / "images" / "copy.png"
    copy.write_bytes((own / "images" / "a.png").read_bytes())
    add(own, "copy.png,1.png,the left cup,val")
    finding = only(found(own))
    assert (finding.kind, finding.row) == ("split", "line 6")
    assert "copy.png of val is, byte for byte, a.png of train (line 2)" in finding.message
    add(own, "copy.png,1.png,the cup,train")
    assert [one.kind for one in found(own)] == ["split", "split"]


def test_a_copy_in_the_same_split_is_no_fault(own):
    (own / "images" / "copy.png").write_bytes((own / "images" / "a.png").read_bytes())
    add(own, "copy.png,1.png,the left cup,train")
    assert found(own) == []


def test_one_split_is_checked_without_the_faults_of_others(own):
    add(own, "b.png,9.png,a bird,train", "a.png,1.png,the cup there,val", "x.png,1.png,the cup there,val")
    assert [(one.kind, one.row) for one in found(own, split="val")] == [("missing", "line 8"), ("split", "line 7")]
    with pytest.raises(DataError, match=r"data\.csv: has no split 'test'; it has train, val, or take all"):
        found(own, split="test")


def test_all_bad_rows_are_found(own):
    add(own, "a.png", "../x.png,1.png,y,train", "b.png,2.png,7,train")
    assert [(one.kind, one.row) for one in found(own)] == [("row", "line 6"), ("row", "line 7"), ("odd", "line 8")]


def test_the_folder_of_images_can_be_named(own, tmp_path):
    (own / "images").rename(tmp_path / "elsewhere")
    assert {one.kind for one in found(own)} == {"missing"}
    assert found(own, images=tmp_path / "elsewhere") == []


def test_half_a_character_is_an_error_and_no_end(own):
    (own / "data.csv").unlink()
    row = {"image": "b.png", "mask": "1.png", "text": ["a dog", "\t\u200b dog"]}
    rows = [row, row | {"text": "a \ud83d dog"}, row | {"image": "\ud83d.png"}]
    (own / "data.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in rows), encoding="utf-8")
    findings = found(own)
    assert {one.row for one in findings if one.kind == "odd"} == {"line 1"}
    assert {one.row for one in findings if one.kind == "row"} == {"line 2", "line 3"}


def test_the_limit_can_be_chosen(own):
    assert {one.kind for one in found(own, word_length=4)} == {"limit"}
    with pytest.raises(ConfigError, match="word_length"):
        found(own, word_length=1)
    assert SHOWN_LENGTH == WORD_LENGTH


def test_data_that_cannot_be_read_at_all_are_errors(own, tmp_path):
    with pytest.raises(UnknownNameError, match="'nothing'"):
        check("nothing")
    with pytest.raises(DataError, match="generated"):
        check("shapes")
    (own / "data.csv").write_text("image,mask,text\n", encoding="utf-8")
    with pytest.raises(DataError, match="holds no references"):
        found(own)
    (own / "data.csv").write_bytes(b"image,text\n\xff\xfe,x\n")
    with pytest.raises(DataError, match="UTF-8"):
        found(own)


# ── REFER's layout ──


def square(left, top, side):
    return [[left, top, left + side, top, left + side, top + side, left, top + side]]


@pytest.fixture
def refer_set(tmp_path):
    """Writes RefCOCO of two images: `refer_set(references, more, more_images)` adds references, annotations, images."""
    root = tmp_path / "sets"
    images = [{"id": i, "file_name": f"COCO_train2014_{i:012d}.jpg", "height": 24, "width": 32} for i in (1, 2)]
    for image in images:
        png(root / "images" / "train2014" / image["file_name"], seed=image["id"])
    annotations = [
        {"id": 10 * i + n, "image_id": i, "category_id": 1, "iscrowd": 0, "segmentation": square(3 + 9 * n, 3, 8)}
        for i in (1, 2)
        for n in (0, 1)
    ]
    splits = ("train", "train", "val", "testA")

    def write(references=(), more=(), more_images=()):
        rows = [
            reference(ref_id=n, ann_id=one["id"], image_id=one["image_id"], split=split, words=f"thing {n}")
            for n, (one, split) in enumerate(zip(annotations, splits, strict=True))
        ]
        (root / "refcoco").mkdir(parents=True, exist_ok=True)
        (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([*rows, *references], protocol=2))
        values = {"images": [*images, *more_images], "annotations": [*annotations, *more], "categories": []}
        (root / "refcoco" / "instances.json").write_text(json.dumps(values), encoding="utf-8")
        return root

    return write


def reference(*, ref_id, ann_id, image_id, split, words, sent_id=None):
    sentence = {"sent_id": ref_id if sent_id is None else sent_id, "sent": words, "raw": words, "tokens": []}
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "split": split,
        "sentences": [sentence],
    }


def kinds(findings):
    return [(one.kind, one.row) for one in findings if one.kind != "count"]


def test_a_public_set_is_compared_with_what_was_published(refer_set):
    root = refer_set()
    findings = check("refcoco", root)
    assert [(one.kind, one.row, one.severity) for one in findings if one.kind == "count"] == [
        ("count", split, "warning") for split in ("train", "val", "testA", "testB")
    ]
    assert "has 2 references, 42,404 were published" in next(one for one in findings if one.row == "train").message
    # Image 2 is in val and in testA.
    assert kinds(findings) == [("split", "reference 4")]
    assert kinds(check("refcoco", root, split="train")) == []


def test_bad_references_are_found(refer_set):
    lengths = {"size": [12, 16], "counts": [192]}
    image = {"id": 7, "file_name": "COCO_train2014_000000000007.jpg", "height": 30, "width": 40}
    root = refer_set(
        references=[
            reference(ref_id=4, ann_id=99, image_id=1, split="train", words="no such annotation"),
            reference(ref_id=5, ann_id=10, image_id=2, split="val", words="of another image"),
            reference(ref_id=0, ann_id=10, image_id=1, split="train", words="the id of the first"),
            reference(ref_id=6, ann_id=11, image_id=1, split="train", words="the id of a sentence", sent_id=0),
            reference(ref_id=7, ann_id=30, image_id=1, split="train", words="run lengths of another size"),
            reference(ref_id=8, ann_id=31, image_id=7, split="train", words="an image of another size"),
            reference(ref_id=9, ann_id=32, image_id=1, split="train", words="a polygon without an inside"),
        ],
        more=[
            {"id": 30, "image_id": 1, "category_id": 1, "segmentation": lengths},
            {"id": 31, "image_id": 7, "category_id": 1, "segmentation": square(2, 2, 9)},
            {"id": 32, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 5, 5, 5, 5]]},
        ],
        more_images=[image],
    )
    png(root / "images" / "train2014" / image["file_name"])
    findings = check("refcoco", root, split="train")
    assert kinds(findings) == [
        ("row", "reference 5"),
        ("duplicate", "reference 7"),
        ("duplicate", "reference 8"),
        ("row", "reference 9"),
        ("empty", "reference 11"),
        ("image", "reference 10"),
    ]
    assert kinds(check("refcoco", root, split="val"))[0] == ("row", "reference 6")
    messages = {one.row: one.message for one in findings}
    assert "the mask is 16 x 12, its image 32 x 24" in messages["reference 9"]
    assert "is 32 x 24, but the data say 40 x 30" in messages["reference 10"]


def test_an_image_of_an_impossible_size_is_reported_and_not_painted(refer_set):
    image = {"id": 7, "file_name": "x.jpg", "height": 10**9, "width": 10**9}
    more = [{"id": 30, "image_id": 7, "category_id": 1, "segmentation": square(1, 1, 5)}]
    root = refer_set([reference(ref_id=9, ann_id=30, image_id=7, split="train", words="huge")], more, [image])
    findings = check("refcoco", root, split="train")
    assert kinds(findings) == [("row", "reference 5")]


def test_overlapping_polygons_may_be_background(refer_set):
    more = [{"id": 30, "image_id": 1, "category_id": 1, "segmentation": square(3, 3, 8) * 2}]
    root = refer_set([reference(ref_id=9, ann_id=30, image_id=1, split="train", words="twice")], more)
    assert kinds(check("refcoco", root, split="train")) == []
    assert kinds(check("refcoco", root, split="train", overlap="lavt")) == [("empty", "reference 5")]


def test_the_file_that_a_row_is_in_is_named(tmp_path):
    files = {}
    for split in ("train", "val"):
        files[split] = tmp_path / f"finetune_refcoco_{split}.json"
        images = [{"id": 1, "file_name": "gone.jpg", "height": 9, "width": 9, "caption": f"of {split}"}]
        annotations = [{"id": 1, "image_id": 1, "segmentation": square(1, 1, 5)}]
        files[split].write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    findings = check(mdetr(tmp_path, files), split="val")
    assert [(one.kind, one.file) for one in findings] == [("missing", str(files["val"])), ("split", str(files["val"]))]


def test_images_inside_tables_are_looked_at(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    png(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    rows = [
        {"image": {"bytes": content}, "answer": ["thing"], "segmentation": square(2, 2, 9)[0]}
        for content in (whole, whole[: len(whole) // 2])
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "val-00000-of-00001.parquet")
    finding = only(check(str(tmp_path)))
    assert (finding.kind, finding.row) == ("image", "row 2")
    assert finding.file.endswith("val-00000-of-00001.parquet")


def test_two_sizes_of_a_missing_image_are_found(tmp_path):
    images = [
        {"id": n, "file_name": "gone.jpg", "height": height, "width": 9, "caption": f"cup {n}"}
        for n, height in enumerate((9, 9, 8))
    ]
    annotations = [{"id": n, "image_id": n, "segmentation": square(1, 1, 5)} for n in range(3)]
    file = tmp_path / "finetune_refcoco_val.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")
    findings = check(mdetr(tmp_path, {"val": file}))
    assert [(one.kind, one.row) for one in findings] == [("missing", "image 1"), ("image", "image 1")]
    assert "9 x 9 (image 1) and 9 x 8 (image 3)" in findings[1].message


def test_a_quick_check_reads_the_size_of_run_lengths(own):
    (own / "data.csv").unlink()
    rows = [
        {"image": "a.png", "text": "a cup", "rle": {"size": [height, 32], "counts": [32 * height]}}
        for height in (24, 12)
    ]
    (own / "data.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert only(found(own, quick=True)).row == "line 2"


# ── agreement with the reader ──


def test_the_reader_skips_what_is_found(own):
    """An error of a row is the reason for which the reader skips it, in one split and in all."""
    (own / "data.csv").write_text(
        "image,mask,text,split,id\na.png,1.png,the left cup,train,x\nb.png,1.png,a dog,train,y\n"
        "../x.png,1.png,z,train,u\nc.png,,a cat,val,x\nc.png,,,val,w\nc.png,,a cow,val,v\nc.png\n",
        encoding="utf-8",
    )
    for split in ("train", "val", "all"):
        data = References(folder(own), "own", split)
        errors = [one for one in found(own, split=split) if one.severity == "error"]
        assert {(one.kind, one.row) for one in errors} == {(one.kind, one.row) for one in data.skipped}
    assert [one.row for one in data.skipped] == ["line 4", "line 6", "line 8", "line 5"]


def test_a_mask_that_is_its_own_image_is_found(own):
    (own / "data.csv").write_text("image,mask,text\nimages/a.png,images/a.png,cup\n", encoding="utf-8")
    assert only(found(own)).kind == only(found(own, quick=True)).kind == "mask"
    with pytest.raises(DataError, match="of its image"):
        References(folder(own), "own", "all")[0].load_mask()


def test_masks_and_images_are_found_where_the_reader_finds_them(own):
    (own / "masks" / "1.png").rename(own / "1.png")
    (own / "images" / "b.png").rename(own / "b.png")
    assert found(own) == []
    data = References(folder(own), "own", "all")
    assert all(sample.load_mask is None or sample.load_mask().any() for sample in data)
    assert {sample.load_image().size for sample in data} == {(32, 24)}


def test_values_that_were_left_out_of_a_row_are_a_warning(refer_set):
    more = [{"id": 30, "image_id": 1, "category_id": 1, "segmentation": [*square(3, 3, 8), [1, 1, 2, 2]]}]
    root = refer_set([reference(ref_id=9, ann_id=30, image_id=1, split="train", words="a line too")], more)
    (finding,) = (one for one in check("refcoco", root, split="train") if one.kind != "count")
    assert (finding.kind, finding.row, finding.severity) == ("partial", "reference 5", "warning")


# ── the table ──


def finding(kind, row, message="wrong"):
    return Finding(file="data/data.csv", row=f"line {row}", kind=kind, message=message, severity=KINDS[kind])


def test_the_table_lists_the_worst_first_and_counts_omitted_lines(tmp_path):
    findings = [finding("odd", 1), *(finding("mask", row) for row in range(40)), finding("row", 9, "two\nlines")]
    lines = table(findings, most=3).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["error", "row"],
        *([["error", "mask"]] * 4),
        ["warning", "odd"],
    ]
    assert lines[4].endswith("and 37 more")
    assert lines[0].endswith("two lines")
    assert len({line.index("data/data.csv") for line in lines if "data.csv" in line}) == 1
    assert table([]) == ""
    inside = Finding(file=str(tmp_path / "data.csv"), row="line 2", kind="row", message="x", severity="error")
    assert table([inside], folder=tmp_path).split("  ") == ["error", "row", "data.csv: line 2", "x\n"]


@pytest.mark.real
def test_real_references_are_sound_but_few(real_data):
    findings = check("refcoco", real_data)
    assert {one.kind for one in findings} == {"count"}
