"""Data sets on disk as samples: the samples of a split, their images and masks, skipped rows and errors."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from torch.utils.data import DataLoader

from refseg.data.formats.cris import cris
from refseg.data.formats.folder import folder
from refseg.data.formats.mdetr import mdetr
from refseg.data.formats.reasonseg import reasonseg
from refseg.data.formats.record import Problem, Record, Source
from refseg.data.formats.refer import refer
from refseg.data.references import References
from refseg.errors import DataError
from refseg.values import Sample


@pytest.fixture
def root(made, tmp_path):
    """A set in REFER's layout on three images, the rows of which are not in the order of their images."""
    rows = [
        made.reference(1, 11, 1, "testA", ["left cup", "cup"]),
        made.reference(2, 21, 2, "testAB", ["dog"]),
        made.reference(3, 12, 1, "train", ["right cup"]),
        made.reference(4, 31, 3, "testB", ["cat"]),
        made.reference(5, 13, 1, "testA", ["middle cup"]),
        made.reference(6, -1, 2, "testB", ["unicorn", "a unicorn", "two unicorns"]),
    ]
    annotations = [
        made.annotation(11, [made.square(2, 2, 10)]),
        made.annotation(12, [made.square(12, 2, 10)]),
        made.annotation(13, [made.square(22, 2, 20), made.square(32, 2, 20)]),
        made.annotation(21, made.runs(made.square_mask(30, 2, 10)), 2),
        made.annotation(31, made.compressed(made.square_mask(40, 2, 10)), 3),
    ]
    made.write_refer(tmp_path, rows, annotations, images=(1, 2, 3))
    for id in (1, 2, 3):
        made.save_image(tmp_path / "images" / "train2014" / made.image_name(id), seed=id)
    return tmp_path


def opened(root, split, **changes):
    return References(refer(root / "refcoco", "refs(unc).p"), "refcoco", split, **changes)


def told(action, *args):
    with pytest.raises(DataError) as caught:
        action(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ── which samples ──


@pytest.mark.parametrize(
    ("split", "ids"),
    [
        ("train", ["3"]),
        ("testA", ["1", "5", "2"]),
        ("testB", ["2", "6", "4"]),
        ("test", ["1", "5", "2", "6", "4"]),
        ("all", ["1", "3", "5", "2", "6", "4"]),
    ],
)
def test_the_samples_of_a_split_in_the_order_of_their_images(root, split, ids):
    data = opened(root, split)
    assert [sample.id for sample in data] == ids
    assert len(data) == len(ids)
    assert [sample.id for i in range(data.num_images) for sample in data.samples_of(i)] == ids


def test_an_unknown_split_is_an_error_and_the_known_ones_are_named(root):
    assert told(opened, root, "val") == "refcoco has no split 'val'; it has testA, testAB, testB, train, or take all"


def test_samples_are_found_by_any_index(root):
    data = opened(root, "all")
    ids = [sample.id for sample in data]
    assert [data[index].id for index in range(-6, 6)] == ids + ids
    assert [sample.id for sample in data[1:5:2]] == ids[1:5:2]
    assert [sample.id for sample in data[::-1]] == ids[::-1]
    assert data[9:] == []
    for index in (6, -7):
        with pytest.raises(IndexError, match=f"sample {index} of 6"):
            _ = data[index]
    for index in (3, -1):
        with pytest.raises(IndexError, match=f"image {index} of 3"):
            data.samples_of(index)


def test_totals(root):
    assert opened(root, "all").totals() == {"images": 3, "references": 6, "expressions": 9}
    assert opened(root, "testB").totals() == {"images": 2, "references": 3, "expressions": 5}


def test_a_sample_is_what_the_record_says(made, root):
    sample = opened(root, "testA")[0]
    assert isinstance(sample, Sample)
    assert (sample.id, sample.image_id, sample.split, sample.source) == ("1", "1", "testA", "refcoco")
    assert [(one.text, one.id) for one in sample.expressions] == [("left cup", "10"), ("cup", "11")]
    assert sample.attributes == {"targets": 1, "category": "cup", "distractors": 2}
    assert np.array_equal(sample.load_mask(), made.square_mask(2, 2, 10))
    assert sample.load_ignored is None


# ── images ──


@pytest.mark.parametrize(
    "place", ["images/mscoco/images/train2014", "train2014", "images", "images/val2014", ".", "images/mscoco/train2014"]
)
def test_images_are_found_in_every_usual_folder(made, root, place):
    (root / "images" / "train2014" / made.image_name(3)).unlink()
    pixels = made.save_image(root / place / made.image_name(3).replace(".jpg", ".png"), seed=9)
    (root / place / made.image_name(3).replace(".jpg", ".png")).rename(root / place / made.image_name(3))
    data = opened(root, "all")
    assert np.array_equal(np.asarray(data[5].load_image()), pixels)
    assert data[0].load_image().size == (64, 48)  # which still lies in the other place


@pytest.mark.parametrize("place", ["", "train2014"])
def test_the_folder_of_images_can_be_named(made, root, tmp_path_factory, place):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pixels = made.save_image(elsewhere / place / "a.png", seed=9)
    (elsewhere / place / "a.png").rename(elsewhere / place / made.image_name(3))
    sample = opened(root, "all", images=elsewhere)[5]
    assert np.array_equal(np.asarray(sample.load_image()), pixels)
    assert "looked in" in told(opened(root, "all", images=elsewhere)[0].load_image)


def test_a_missing_image_is_named_with_the_folders(made, root):
    (root / "images" / "train2014" / made.image_name(3)).unlink()
    message = told(opened(root, "all")[5].load_image)
    assert made.image_name(3) in message
    assert str(root / "images") in message


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"<html>", "is not an image"), (b"\xff\xd8\xff\xe0", "")]
)
def test_a_broken_image_is_named(made, root, content, says):
    path = root / "images" / "train2014" / made.image_name(3)
    made.write(path, content)
    message = told(opened(root, "all")[5].load_image)
    assert str(path) in message
    assert says in message


def test_an_image_of_another_size_than_the_data_say_is_an_error(made, root):
    path = root / "images" / "train2014" / made.image_name(3)
    made.save_image(path, 64, 48)
    assert told(opened(root, "all")[5].load_image) == f"{path}: is 48 x 64, but the data say 64 x 48"


# ── masks ──


def test_masks_by_both_rules(made, root):
    one, other = made.square_mask(22, 2, 20), made.square_mask(32, 2, 20)
    assert np.array_equal(opened(root, "all")[2].load_mask(), one | other)
    assert np.array_equal(opened(root, "all", overlap="lavt")[2].load_mask(), one ^ other)


def test_a_reference_without_a_target_has_no_mask(root):
    sample = opened(root, "all")[4]
    assert sample.expressions[0].text == "unicorn"
    assert sample.load_mask is None


def test_masks_in_files_have_the_size_of_their_image(made, tmp_path):
    mask = made.square_mask(2, 2, 9)
    made.save_image(tmp_path / "images" / "a.jpg")
    made.save_mask(tmp_path / "masks" / "good.png", mask)
    made.save_mask(tmp_path / "masks" / "other.png", made.square_mask(2, 2, 9, 64, 48))
    made.write(tmp_path / "masks" / "broken.png", b"x")
    rows = "".join(f"a.jpg,{name}.png,cup,{name}\n" for name in ("good", "other", "broken", "missing"))
    made.write(tmp_path / "data.csv", f"image,mask,text,id\n{rows}".encode())
    data = References(folder(tmp_path), "own", "all")
    assert np.array_equal(data[0].load_mask(), mask)
    place = tmp_path / "masks"
    assert told(data[1].load_mask) == (
        f"own: reference other: {place / 'other.png'}: the mask is 48 x 64, its image 64 x 48; "
        "if the photo has an EXIF orientation, turn the mask as viewers turn the photo"
    )
    assert "own: reference broken: " in told(data[2].load_mask)
    assert "broken.png" in told(data[2].load_mask)
    assert "own: reference missing: mask missing.png is missing" in told(data[3].load_mask)


def test_the_masks_of_the_reference_cris(made, tmp_path):
    mask = made.square_mask(2, 2, 9)
    made.save_image(tmp_path / "images" / "train2014" / "a.jpg")
    made.save_mask(tmp_path / "masks" / "refcoco" / "7.png", mask)
    sentences = [{"idx": 0, "sent_id": 3, "sent": "cup"}]
    rows = [{"segment_id": 7, "img_name": "a.jpg", "sentences": sentences, "bbox": [0, 0, 1, 1], "cat": 1}]
    made.write_json(tmp_path / "anns" / "refcoco" / "testA.json", rows)
    (sample,) = References(cris(tmp_path, "refcoco"), "cris/refcoco", "testA")
    assert sample.load_image().size == (64, 48)
    assert np.array_equal(sample.load_mask(), mask)


def test_ignored_pixels_are_loaded_beside_the_mask(made, tmp_path):
    made.save_image(tmp_path / "val" / "a.jpg")
    points = [[0, 0], [30, 0], [30, 30], [0, 30]]
    inner = [[5, 5], [15, 5], [15, 15], [5, 15]]
    shapes = [{"label": "ignore", "points": inner}, {"label": "target", "points": points}]
    made.write_json(tmp_path / "val" / "a.json", {"text": ["q"], "is_sentence": False, "shapes": shapes})
    (sample,) = References(reasonseg(tmp_path), "reasonseg", "val")
    assert np.array_equal(sample.load_ignored(), made.square_mask(5, 5, 10))
    assert np.array_equal(sample.load_mask(), made.square_mask(0, 0, 30) & ~made.square_mask(5, 5, 10))


def test_a_mask_file_without_its_image_is_an_error(made, tmp_path):
    made.write(tmp_path / "data.csv", b"image,mask,text\na.jpg,1.png,cup\n")
    assert "image a.jpg is missing" in told(References(folder(tmp_path), "own", "all")[0].load_mask)


# ── files that are moved or added after the set was opened ──


def own_set(made, root, mask="a.png", image="a.png"):
    """A folder with one reference, whose image and mask are missing."""
    made.write(root / "data.csv", f"image,mask,text,id\n{image},{mask},cup,1\n".encode())
    return lambda: References(folder(root), "own", "all")


def test_a_mask_that_is_moved_is_found(made, tmp_path):
    opened = own_set(made, tmp_path, mask="a-mask.png")
    made.save_image(tmp_path / "images" / "a.png")
    made.save_mask(tmp_path / "a-mask.png", made.square_mask(2, 2, 9))
    data = opened()
    assert data[0].load_mask().sum() == 81
    (tmp_path / "masks").mkdir()
    (tmp_path / "a-mask.png").rename(tmp_path / "masks" / "a-mask.png")
    assert data[0].load_mask().sum() == 81
    assert opened()[0].load_mask().sum() == 81


def test_an_image_is_never_taken_for_its_own_mask(made, tmp_path):
    opened = own_set(made, tmp_path)
    made.save_image(tmp_path / "a.png")
    assert "a.png, is that of its image" in told(opened()[0].load_mask)
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "a.png").symlink_to(tmp_path / "a.png")
    assert "a.png, is that of its image" in told(opened()[0].load_mask)
    (tmp_path / "masks" / "a.png").unlink()
    made.save_mask(tmp_path / "masks" / "a.png", made.square_mask(2, 2, 9))
    assert opened()[0].load_mask().sum() == 81


def test_a_mask_in_masks_comes_before_one_beside_the_table(made, tmp_path):
    opened = own_set(made, tmp_path, image="b.png")
    made.save_image(tmp_path / "b.png")
    made.save_mask(tmp_path / "a.png", made.square_mask(2, 2, 9))
    assert opened()[0].load_mask().sum() == 81
    made.save_mask(tmp_path / "masks" / "a.png", made.square_mask(2, 2, 3))
    assert opened()[0].load_mask().sum() == 9


@pytest.mark.parametrize("ending", [".jpg", ".jpeg", ".png"])
def test_an_image_of_reasonseg_may_come_after_its_json(made, tmp_path, ending):
    shape = {"label": "target", "points": [[0, 0], [30, 0], [30, 30], [0, 30]]}
    made.write_json(tmp_path / "val" / "a.json", {"text": ["q"], "is_sentence": False, "shapes": [shape]})
    told(References(reasonseg(tmp_path), "reasonseg", "val")[0].load_image)
    made.save_image(tmp_path / "val" / f"a{ending}")
    assert References(reasonseg(tmp_path), "reasonseg", "val")[0].load_image().size == (64, 48)


def test_the_digest_has_the_ending_of_an_image_of_reasonseg(made, tmp_path):
    made.write_json(tmp_path / "val" / "a.json", {"text": ["q"], "is_sentence": False, "shapes": []})
    digests = [References(reasonseg(tmp_path), "reasonseg", "val").digest()]
    for ending in (".png", ".jpg"):
        made.save_image(tmp_path / "val" / f"a{ending}")
        digests.append(References(reasonseg(tmp_path), "reasonseg", "val").digest())
    assert digests[0] == digests[2] != digests[1]


def test_a_mask_of_a_broken_image_names_the_image(made, tmp_path):
    data = own_set(made, tmp_path)()
    made.write(tmp_path / "images" / "a.png", b"x")
    assert str(tmp_path / "images" / "a.png") in told(data[0].load_mask)


def test_masks_of_the_reference_cris_may_come_later_in_either_folder(made, tmp_path):
    made.save_image(tmp_path / "images" / "train2014" / "a.jpg")
    row = {"segment_id": 7, "img_name": "a.jpg", "sentences": [{"sent_id": 3, "sent": "cup"}]}
    made.write_json(tmp_path / "anns" / "refcoco" / "testA.json", [row])
    told(References(cris(tmp_path, "refcoco"), "cris/refcoco", "testA")[0].load_mask)
    made.save_mask(tmp_path / "refcoco" / "masks" / "7.png", made.square_mask(2, 2, 9))
    assert References(cris(tmp_path, "refcoco"), "cris/refcoco", "testA")[0].load_mask().sum() == 81
    made.save_mask(tmp_path / "masks" / "refcoco" / "7.png", made.square_mask(2, 2, 3))
    assert References(cris(tmp_path, "refcoco"), "cris/refcoco", "testA")[0].load_mask().sum() == 9


def test_an_image_in_two_folders_is_always_taken_from_the_first(made, root):
    """Whatever was loaded before."""
    elsewhere = root / "images" / made.image_name(1)
    (root / "images" / "train2014" / made.image_name(2)).rename(root / "images" / made.image_name(2))
    pixels = np.asarray(opened(root, "all")[0].load_image())
    made.save_image(elsewhere, seed=9)
    data = opened(root, "all")
    data[3].load_image()
    assert np.array_equal(np.asarray(data[0].load_image()), pixels)


# ── images of the same name ──


def test_images_of_one_name_in_two_folders_are_two(made, tmp_path):
    rows = [
        {"segment_id": n, "img_name": name, "sentences": [{"sent_id": n, "sent": "cup"}]}
        for n, name in enumerate(("s/1.png", "t/1.png", "scene.1", "scene.2"))
    ]
    made.write_json(tmp_path / "anns" / "refcoco" / "val.json", rows)
    data = References(cris(tmp_path, "refcoco"), "cris/refcoco", "val")
    assert len({sample.image_id for sample in data}) == data.num_images == 4


def test_the_image_id_of_mdetr_is_that_of_its_file_or_its_path(made, tmp_path):
    size = {"height": 48, "width": 64, "caption": "cup"}
    images = [{"id": n, "file_name": name} | size for n, name in enumerate(("s/1.png", "t/1.png", "u/1.png"))]
    images[2]["original_id"] = 77
    file = made.write_json(tmp_path / "finetune_refcoco_val.json", {"images": images, "annotations": []})
    data = References(mdetr(tmp_path, {"val": file}), "mdetr/refcoco", "val")
    assert [sample.image_id for sample in data] == ["s/1.png", "t/1.png", "77"]


def test_one_file_of_mdetr_may_be_opened_as_different_splits(made, tmp_path):
    image = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 5, "caption": "cup"}
    file = made.write_json(tmp_path / "finetune_refcoco_val.json", {"images": [image], "annotations": []})
    for split in ("all", "val", "all"):
        assert References(mdetr(tmp_path, {split: file}), "mdetr", split).samples_of(0)[0].split == split


# ── rows that cannot be used ──


def skipping(tmp_path, *rows, split="val"):
    """Opens a split of a source whose rows are records, as changes of one, and problems."""
    common = {"image_id": "1", "file": "a", "split": "val", "expressions": ("a",), "parts": ()}

    def read(report):
        for number, row in enumerate(rows, 1):
            if isinstance(row, Problem):
                report(row)
            else:
                values = common | {"id": str(number), "expression_ids": (f"{number}/0",), "row": f"row {number}"} | row
                yield Record(**values)

    file = tmp_path / "table"
    file.touch()
    source = Source(format="test", folder=tmp_path, files=(file,), read=read)
    return References(source, "own", split, options=repr((rows, split)))


def problem(split="", message="is wrong"):
    return Problem(file="table", row="row 9", kind="row", message=message, split=split)


def test_a_row_that_cannot_be_used_is_skipped_and_counted(tmp_path):
    data = skipping(tmp_path, {}, problem("val", "has no expression"), {})
    assert [sample.id for sample in data] == ["1", "3"]
    assert data.totals() == {"images": 1, "references": 2, "expressions": 2}
    assert data.skipped == (problem("val", "has no expression"),)
    assert data.skipped_count == 1
    (note,) = data.notes()
    assert note.startswith("own:val: 1 row was skipped, ")
    assert "has no expression" in note
    assert "\n" not in note


def test_without_skipped_rows_there_is_no_note(tmp_path):
    data = skipping(tmp_path, {})
    assert (data.skipped, data.skipped_count, data.notes()) == ((), 0, ())


def test_what_was_assumed_is_noted_and_nothing_is_skipped(tmp_path):
    assumed = Problem(file="table", row="", kind="note", message="is read as Latin-1")
    data = skipping(tmp_path, {}, assumed)
    assert (data.skipped, data.notes()) == ((), ("table: is read as Latin-1",))


def test_a_file_that_cannot_be_read_blocks_only_its_split(tmp_path):
    rows = ({}, {"split": "train"}, Problem(file="train.json", row="", kind="file", message="cut off", split="train"))
    data = skipping(tmp_path, *rows)
    assert (len(data), data.skipped) == (1, ())
    for split in ("train", "all"):
        with pytest.raises(DataError, match=r"^train\.json: cut off$"):
            skipping(tmp_path, *rows, split=split)


def test_only_rows_of_the_split_or_of_an_unknown_one_count_as_skipped(tmp_path):
    rows = ({}, {"split": "train"}, problem("train"), problem(""), problem("val"), problem("test"))
    assert [one.split for one in skipping(tmp_path, *rows).skipped] == ["", "val"]
    assert [one.split for one in skipping(tmp_path, *rows, split="train").skipped] == ["train", ""]
    assert len(skipping(tmp_path, *rows, split="all").skipped) == 4


def test_an_id_of_another_split_blocks_nothing(tmp_path):
    rows = ({"id": "x", "split": "train"}, {"id": "x"}, {"id": "y"})
    data = skipping(tmp_path, *rows)
    assert [sample.id for sample in data] == ["x", "y"]
    assert data.skipped == ()


def test_an_id_that_two_opened_splits_have_is_used_once(tmp_path):
    rows = ({"id": "x", "split": "train"}, {"id": "x"}, {"id": "y", "file": "b", "expression_ids": ("e",)}, {"id": "x"})
    data = skipping(tmp_path, *rows, split="all")
    assert [(sample.id, sample.split) for sample in data] == [("x", "train"), ("y", "val")]
    assert [sample.id for i in range(data.num_images) for sample in data.samples_of(i)] == ["x", "y"]
    assert [(one.kind, one.row, one.split) for one in data.skipped] == [
        ("duplicate", "row 4", "val"),
        ("duplicate", "row 2", "val"),
    ]
    assert data.totals() == {"images": 2, "references": 2, "expressions": 2}
    assert data.digest() == skipping(tmp_path, rows[0], rows[2], split="all").digest()


def test_a_split_of_which_no_row_can_be_used_is_an_error_with_the_reason(tmp_path):
    with pytest.raises(DataError, match="has no expression"):
        skipping(tmp_path, {"split": "train"}, problem("val", "has no expression"))
    with pytest.raises(DataError, match="no split 'test'"):
        skipping(tmp_path, {"split": "train"}, problem("val"), split="test")


@pytest.mark.slow
def test_the_split_all_is_not_listed_twice(tmp_path):
    for row, known in (({}, "val, "), ({"split": "all"}, "none, ")):
        with pytest.raises(DataError, match=f"it has {known}or take all$"):
            skipping(tmp_path, row, {"split": "all"}, split="test")


def test_images_lie_in_a_folder(made, tmp_path):
    made.write(tmp_path / "data.csv", b"image,mask,text\na.jpg,,cup\n")
    for name, says in (("data.csv", "is a file"), ("none", "no such folder")):
        with pytest.raises(DataError, match=f"{name}: {says}"):
            References(folder(tmp_path), "own", "all", images=tmp_path / name)


@pytest.mark.slow
def test_many_splits_can_be_opened_together(tmp_path):
    """More than the number of values that a query takes."""
    data = skipping(tmp_path, *({"split": f"{n}"} for n in range(40_000)), split="all")
    assert len(data) == 40_000


def test_a_real_set_with_a_reference_without_expressions(made, root):
    rows = [made.reference(1, 11, 1, "val"), made.reference(2, 12, 1, "val", sentences=[])]
    rows += [made.reference(3, 12, 1, "train", sentences=[]), made.reference(4, 999, 1, "train")]
    annotations = [made.annotation(11, [made.square(2, 2, 10)]), made.annotation(12, "no region")]
    made.write_refer(root, rows, annotations, images=(1, 2, 3))
    data = opened(root, "val")
    assert [sample.id for sample in data] == ["1"]
    assert data.skipped_count == 1
    assert "reference 2" in data.notes()[0]


# ── the digest ──


def lines(made, path, *rows):
    made.write(path / "data.csv", ("image,mask,text,id,split\n" + "\n".join(rows) + "\n").encode())
    return References(folder(path), "own", "val").digest()


ROWS = ("a.jpg,1.png,cup,1,val", "b.jpg,2.png,dog,2,val", "c.jpg,,cat,3,val", "d.jpg,3.png,bird,4,train")


def test_the_digest_of_unchanged_data_is_unchanged(made, tmp_path):
    """Results of earlier versions refer to it."""
    before = "3631a90ad7a9aa50bfef5e696bfc6fe16d2a08c8cda6844289f4a74e1385682e"
    assert lines(made, tmp_path, *ROWS) == before
    for number in (1, 2):
        made.save_mask(tmp_path / "masks" / f"{number}.png", made.square_mask(2, 2, 9))
    assert lines(made, tmp_path, *ROWS) == before


def test_the_content_digest_is_of_the_pixels_too(made, tmp_path):
    made.write(tmp_path / "data.csv", ("image,mask,text,id,split\n" + "\n".join(ROWS) + "\n").encode())
    for number, name in enumerate("abcd"):
        made.save_image(tmp_path / "images" / f"{name}.jpg", seed=number)
    for number in (1, 2, 3):
        made.save_mask(tmp_path / "masks" / f"{number}.png", made.square_mask(2, 2, 9))

    def digests():
        data = References(folder(tmp_path), "own", "val")
        return data.digest(), data.content_digest()

    found = [digests()]
    made.save_mask(tmp_path / "masks" / "2.png", made.square_mask(2, 2, 10))
    found.append(digests())
    made.save_image(tmp_path / "images" / "c.jpg", seed=9)
    found.append(digests())
    made.save_mask(tmp_path / "masks" / "3.png", made.square_mask(2, 2, 10))  # of another split
    found.append(digests())
    assert len({names for names, _ in found}) == 1
    assert len({content for _, content in found[:3]}) == 3
    assert found[3] == found[2]


def test_the_digest_does_not_depend_on_the_order_of_rows(made, tmp_path):
    digest = lines(made, tmp_path / "one", *ROWS)
    assert lines(made, tmp_path / "two", *ROWS[::-1]) == digest
    assert lines(made, tmp_path / "one", *ROWS[:3]) == digest  # the train split is no part of it
    assert len(digest) == 64


@pytest.mark.parametrize(
    "row",
    [
        "a.jpg,1.png,cups,1,val",
        "x.jpg,1.png,cup,1,val",
        "a.jpg,9.png,cup,1,val",
        "a.jpg,1.png,cup,9,val",
        "a.jpg,,cup,1,val",
        "",
    ],
)
def test_the_digest_depends_on_every_field(made, tmp_path, row):
    assert lines(made, tmp_path, row, *ROWS[1:]) != lines(made, tmp_path, *ROWS)


# ── in other processes ──


@pytest.mark.parametrize("split", ["all", "testA"])
def test_samples_can_be_sent_to_other_processes(made, root, split):
    data = opened(root, split)
    for sample, again in zip(data, pickle.loads(pickle.dumps(list(data))), strict=True):
        assert (again.id, again.expressions, again.attributes) == (sample.id, sample.expressions, sample.attributes)
        assert np.array_equal(np.asarray(again.load_image()), np.asarray(sample.load_image()))
        if sample.load_mask is not None:
            assert np.array_equal(again.load_mask(), sample.load_mask())


def test_a_pickled_sample_does_not_hold_its_index(made, root):
    """Workers send many samples."""
    few = len(pickle.dumps(opened(root, "all")[0]))
    rows = [made.reference(n, 11) for n in range(1000)]
    made.write_refer(root, rows, [made.annotation(11, [made.square(2, 2, 10)])])
    data = opened(root, "train")
    assert len(data) == 1000
    assert len(pickle.dumps(data[0])) < few + 100


@pytest.mark.parametrize("start", [pytest.param("spawn", marks=pytest.mark.slow), "fork"])
def test_workers_read_the_samples(root, start):
    data = opened(root, "all")
    workers = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context=start)
    for sample, there in zip(data, workers, strict=True):
        assert there.id == sample.id
        assert (there.load_mask is None) == (sample.load_mask is None)
        if sample.load_mask is not None:
            assert np.array_equal(there.load_mask(), sample.load_mask())


def test_threads_read_the_samples(root):
    data = opened(root, "all")
    found = []
    threads = [threading.Thread(target=lambda: found.append([sample.id for sample in data])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[sample.id for sample in data]] * 4
