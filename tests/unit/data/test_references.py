"""Real data as samples: which belong to a split, what they load, and what is told when they cannot."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from refseg.data.batches import TrainOrder, TrainTransform, batches
from refseg.data.formats.cris import cris
from refseg.data.formats.folder import folder
from refseg.data.formats.reasonseg import reasonseg
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


def test_a_split_that_is_not_there_is_told_with_those_that_are(root):
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


def test_what_is_counted(root):
    assert opened(root, "all").totals() == {"images": 3, "references": 6, "expressions": 9}
    assert opened(root, "testB").totals() == {"images": 2, "references": 3, "expressions": 5}


def test_a_sample_is_what_the_record_says(made, root):
    sample = opened(root, "testA")[0]
    assert isinstance(sample, Sample)
    assert (sample.id, sample.image_id, sample.split, sample.source) == ("1", "1", "testA", "refcoco")
    assert (sample.expressions, sample.expression_ids) == (("left cup", "cup"), ("10", "11"))
    assert sample.attributes == {"targets": 1, "category": "cup", "distractors": 2}
    assert np.array_equal(sample.load_mask(), made.square_mask(2, 2, 10))
    assert sample.load_ignored is None


# ── images ──


@pytest.mark.parametrize(
    "place", ["images/mscoco/images/train2014", "train2014", "images", "images/val2014", ".", "images/mscoco/train2014"]
)
def test_both_layouts_and_what_people_make_of_them(made, root, place):
    (root / "images" / "train2014" / made.image_name(3)).unlink()
    pixels = made.save_image(root / place / made.image_name(3).replace(".jpg", ".png"), seed=9)
    (root / place / made.image_name(3).replace(".jpg", ".png")).rename(root / place / made.image_name(3))
    data = opened(root, "all")
    assert np.array_equal(np.asarray(data[5].load_image()), pixels)
    assert data[0].load_image().size == (64, 48)  # which still lies in the other place


@pytest.mark.parametrize("place", ["", "train2014"])
def test_images_may_lie_anywhere(made, root, tmp_path_factory, place):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pixels = made.save_image(elsewhere / place / "a.png", seed=9)
    (elsewhere / place / "a.png").rename(elsewhere / place / made.image_name(3))
    sample = opened(root, "all", images=elsewhere)[5]
    assert np.array_equal(np.asarray(sample.load_image()), pixels)
    assert "looked in" in told(opened(root, "all", images=elsewhere)[0].load_image)


def test_a_image_that_is_missing_is_named_with_where_it_was_looked_for(made, root):
    (root / "images" / "train2014" / made.image_name(3)).unlink()
    message = told(opened(root, "all")[5].load_image)
    assert message.startswith(f"image {made.image_name(3)} of refcoco is not there; looked in {root / 'images'}")


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"<html>", "is not an image"), (b"\xff\xd8\xff\xe0", "")]
)
def test_a_image_that_cannot_be_read_is_named(made, root, content, says):
    path = root / "images" / "train2014" / made.image_name(3)
    made.write(path, content)
    message = told(opened(root, "all")[5].load_image)
    assert str(path) in message
    assert says in message


def test_a_image_of_another_size_than_the_data_say_is_refused(made, root):
    path = root / "images" / "train2014" / made.image_name(3)
    made.save_image(path, 64, 48)
    assert told(opened(root, "all")[5].load_image) == f"{path}: is 48 x 64, but the data say 64 x 48"


# ── masks ──


def test_masks_by_both_rules(made, root):
    one, other = made.square_mask(22, 2, 20), made.square_mask(32, 2, 20)
    assert np.array_equal(opened(root, "all")[2].load_mask(), one | other)
    assert np.array_equal(opened(root, "all", overlap="lavt")[2].load_mask(), one ^ other)


def test_what_fits_nothing_has_no_mask(root):
    sample = opened(root, "all")[4]
    assert sample.expressions[0] == "unicorn"
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
        f"own: reference other: {place / 'other.png'}: the mask is 48 x 64, its image 64 x 48"
    )
    assert "own: reference broken: " in told(data[2].load_mask)
    assert "broken.png" in told(data[2].load_mask)
    assert f"own: reference missing: there is no file '{place / 'missing.png'}'" in told(data[3].load_mask)


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


def test_what_is_ignored_is_loaded_beside_the_mask(made, tmp_path):
    made.save_image(tmp_path / "val" / "a.jpg")
    points = [[0, 0], [30, 0], [30, 30], [0, 30]]
    inner = [[5, 5], [15, 5], [15, 15], [5, 15]]
    shapes = [{"label": "ignore", "points": inner}, {"label": "target", "points": points}]
    made.write_json(tmp_path / "val" / "a.json", {"text": ["q"], "is_sentence": False, "shapes": shapes})
    (sample,) = References(reasonseg(tmp_path), "reasonseg", "val")
    assert np.array_equal(sample.load_ignored(), made.square_mask(5, 5, 10))
    assert np.array_equal(sample.load_mask(), made.square_mask(0, 0, 30) & ~made.square_mask(5, 5, 10))


def test_a_mask_without_its_image_is_told(made, tmp_path):
    made.write(tmp_path / "data.csv", b"image,mask,text\na.jpg,1.png,cup\n")
    assert "image a.jpg of own is not there" in told(References(folder(tmp_path), "own", "all")[0].load_mask)


# ── the digest ──


def lines(made, path, *rows):
    made.write(path / "data.csv", ("image,mask,text,id,split\n" + "\n".join(rows) + "\n").encode())
    return References(folder(path), "own", "val").digest()


ROWS = ("a.jpg,1.png,cup,1,val", "b.jpg,2.png,dog,2,val", "c.jpg,,cat,3,val", "d.jpg,3.png,bird,4,train")


def test_the_digest_does_not_know_the_order_of_rows(made, tmp_path):
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
def test_the_digest_changes_with_all_that_is_said(made, tmp_path, row):
    assert lines(made, tmp_path, row, *ROWS[1:]) != lines(made, tmp_path, *ROWS)


# ── in other processes ──


@pytest.mark.parametrize("split", ["all", "testA"])
def test_samples_travel_to_other_processes(made, root, split):
    data = opened(root, split)
    for sample, again in zip(data, pickle.loads(pickle.dumps(list(data))), strict=True):
        assert (again.id, again.expressions, again.attributes) == (sample.id, sample.expressions, sample.attributes)
        assert np.array_equal(np.asarray(again.load_image()), np.asarray(sample.load_image()))
        if sample.load_mask is not None:
            assert np.array_equal(again.load_mask(), sample.load_mask())


def test_a_sample_takes_little_along(made, root):
    """Not the index of its set: a worker sends many."""
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


def test_batches_are_the_same_with_workers(root):
    drawer = TrainTransform(opened(root, "all"), 12)
    order = TrainOrder(items=3, batch_size=2, expressions=2, sizes=((0, 64),), seed=1)
    for one, other in zip(batches(drawer, order, range(3)), batches(drawer, order, range(3), workers=2), strict=True):
        assert torch.equal(one.target, other.target)
        assert torch.equal(one.pixels, other.pixels)
        assert one.target.any()


def test_threads_read_the_samples(root):
    data = opened(root, "all")
    found = []
    threads = [threading.Thread(target=lambda: found.append([sample.id for sample in data])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[sample.id for sample in data]] * 4
