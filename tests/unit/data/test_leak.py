"""Images that are in two places under other names, and images that only seem so."""

from __future__ import annotations

import json
import pickle

import pytest

from refseg.data.catalogue import open_data
from refseg.data.leak import Images, coco_part, find_leaks, images_in, images_of, read_list
from refseg.errors import DataError

COCO = "COCO_train2014_000000000123.jpg"


@pytest.mark.parametrize(
    ("listed", "id", "file", "same"),
    [
        (COCO, "123", COCO, True),
        ("COCO_train2014_000000000123_4.jpg", "123", COCO, True),
        ("train2014/COCO_train2014_000000000123", "123", COCO, True),
        ("train2017\\000000000123.jpg", "123", COCO, True),
        ("000000000123", "123", COCO, True),
        ("123", "123", COCO, True),
        (123, "other", COCO, True),
        ("0123", "123", COCO, True),
        ("COCO_val2014_000000000123.jpg", "123", COCO, True),  # a number is in one part of COCO only
        ("COCO_train2014_000000001230.jpg", "123", COCO, False),
        ("1230", "123", COCO, False),
        ("123.jpg", "123", COCO, False),  # of Visual Genome, perhaps
        ("123.jpg", "123", "123.jpg", True),
        (123, "123", "123.jpg", True),
        ("a.jpg", "images/a.jpg", "images/a.jpg", True),
        ("/data/mine/images/a.png", "a.jpg", "a.jpg", True),
        ("./images/a", "x", "images/a.jpg", True),
        ("train/a.jpg", "x", "val/a.jpg", False),
        ("a.jpg", "x", "ba.jpg", False),
        ("", "x", "a.jpg", False),
    ],
)
def test_images_are_compared_by_name(listed, id, file, same):
    assert Images("list", [listed]).has(id, file) is same


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ids.txt", "12\n\n 34 \n"),
        ("names.txt", "\ufeffCOCO_train2014_000000000012.jpg\nx/COCO_val2014_000000000034.jpg\n"),
        ("ids.json", "[12, 34]"),
        ("ids.json", '["12", "000000000034"]'),
        ("coco.json", '{"images": [{"id": 12, "file_name": "000000000012.jpg"}, {"id": 34}], "annotations": []}'),
        ("image_data.json", '[{"image_id": 9, "coco_id": 12}, {"image_id": 5, "coco_id": null}, {"coco_id": 34}]'),
        ("ids.txt", "# trained on\n12\n  # and\n34\n"),
        ("list.csv", "image_id,split\n12,train\n34,val\n"),
        ("list.csv", 'sep=;\nText;Image\n"a; b";000000000012.jpg\nb;x/000000000034.jpg\n;\n'),
        ("list.tsv", "file_name\tn\n000000000012.jpg\t3\n000000000034.jpg\t4\n"),
        ("list.txt", "image\n000000000012.jpg\n000000000034.jpg\n"),
        ("lines.jsonl", '{"image": "000000000012.jpg", "text": "x"}\n"34"\n'),
    ],
)
def test_lists_are_read_in_the_forms_that_people_have(tmp_path, name, content):
    (tmp_path / name).write_text(content, encoding="utf-8")
    images = read_list(tmp_path / name)
    assert (images.name, len(images)) == (name, 2)
    assert all(images.has("?", f"COCO_train2014_{number:012d}.jpg") for number in (12, 34))
    assert not images.has("9", "9.jpg")
    assert not images.has("5", "5.jpg")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "names no images"),
        ("a.txt", b"\xff\xfe1\x00", "UTF-8"),
        ("a.json", b"[1, ", "not valid JSON"),
        ("a.json", b"7", "expected a list"),
        ("a.json", b'{"annotations": []}', "expected a list"),
        ("a.json", b"[1, null]", "entry 2 is neither"),
        ("a.json", b"[true]", "entry 1 is neither"),
        ("a.json", b'[{"url": "x"}]', "entry 1: has neither a file name nor an id"),
        ("a.jsonl", b'"x"\n{', "entry 2: not valid JSON"),
        ("a.csv", b"12,train\n34,val\n", "'12,train', line 1 without comments, is neither an id nor a file name"),
        ("a.txt", b"a.jpg\nb.jpg\tval\n", "line 2 without comments"),
        ("a.txt", b"a.jpg # the first\n", "neither an id nor a file name"),
        ("a.txt", b"image 12\n", "neither an id nor a file name"),
        ("a.csv", b"image,split\n,train\n", "entry 1: has neither"),
    ],
)
def test_lists_that_are_none_are_errors_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        read_list(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)
    with pytest.raises(DataError, match=r"read|no such file"):
        read_list(tmp_path / f"missing{(tmp_path / name).suffix}")


def test_a_folder_of_images_is_a_list(tmp_path):
    for name in ("b/my photo.JPG", "c.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = images_in(tmp_path)
    assert len(images) == 2
    assert images.has("?", "b/my photo.jpg")
    assert images.has("?", "images/c.jpg")
    assert not images.has("?", "x/my photo.jpg")
    with pytest.raises(DataError, match="holds no images"):
        images_in(tmp_path / "nothing")


@pytest.fixture
def sets(tmp_path):
    """RefCOCO val of images 1 to 4, of which RefCOCOg's training has 2 and 4; two expressions a reference."""
    write(tmp_path, "refcoco", "refs(unc).p", "val", [1, 2, 2, 3, 4])
    write(tmp_path, "refcocog", "refs(umd).p", "train", [4, 2, 7])
    return tmp_path


def write(root, name, references, split, numbers, part="train2014"):
    (root / name).mkdir()
    square = [[1, 1, 5, 1, 5, 5]]
    images = [
        {"id": i, "file_name": f"COCO_{part}_{i:012d}.jpg", "height": 9, "width": 9} for i in sorted(set(numbers))
    ]
    annotations = [
        {"id": n, "image_id": i, "category_id": 1, "segmentation": square} for n, i in enumerate(numbers, 100)
    ]
    rows = [
        {
            "ref_id": n,
            "ann_id": n,
            "image_id": i,
            "category_id": 1,
            "split": split,
            "sentences": [{"sent_id": 2 * n + k, "sent": f"thing {n} {k}", "raw": "x"} for k in (0, 1)],
        }
        for n, i in enumerate(numbers, 100)
    ]
    (root / name / references).write_bytes(pickle.dumps(rows, protocol=2))
    values = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "dog"}]}
    (root / name / "instances.json").write_text(json.dumps(values), encoding="utf-8")


def test_what_two_data_sets_share_is_counted(sets):
    data = open_data("refcoco:val", sets)
    training = images_of(open_data("refcocog-umd:train", sets))
    assert (training.name, len(training)) == ("refcocog-umd:train", 3)
    one, two, any_ = find_leaks(data, [training, Images("mine", [3])])
    assert (one.against, one.listed, one.images) == ("refcocog-umd:train", 3, {"2", "4"})
    assert (one.references, one.expressions) == (3, 6)
    assert (two.images, two.references, two.expressions) == ({"3"}, 1, 2)
    assert (any_.against, any_.listed) == ("any of them", None)
    assert (any_.images, any_.references, any_.expressions) == ({"2", "3", "4"}, 4, 8)


def test_images_inside_tables_are_known_by_their_numbers(sets, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [
        {"image": {"bytes": b""}, "answer": ["x"], "segmentation": [1, 1, 5, 1, 5, 5], "file_name": name}
        for name in ("COCO_train2014_000000000002_77.jpg", "COCO_train2014_000000000008_78.jpg", "other.jpg")
    ]
    (tmp_path / "hub").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "hub" / "val-00000-of-00001.parquet")
    data = open_data(f"{tmp_path / 'hub'}:val")
    (leak,) = find_leaks(data, [images_of(open_data("refcoco:val", sets))])
    assert leak.images == {"2"}
    (leak,) = find_leaks(open_data("refcoco:val", sets), [images_of(data)])
    assert leak.images == {"2"}


def test_unrelated_lists_share_no_image(sets):
    (leak,) = find_leaks(open_data("refcoco:val", sets), [Images("others", ["a.jpg", 99])])
    assert (leak.images, leak.references, leak.expressions) == (set(), 0, 0)


@pytest.mark.parametrize(("part", "all_of_it"), [("train2014", True), ("val2014", False), ("train2017", True)])
def test_names_tell_which_part_of_coco_images_are_of(sets, part, all_of_it):
    data = open_data("refcoco:val", sets)
    (leak,) = find_leaks(data, [coco_part(f"coco-{part}", data)])
    assert (leak.against, leak.listed, len(leak.images)) == (f"coco-{part}", None, 4 * all_of_it)


def test_what_names_do_not_tell_is_not_guessed(sets):
    write(sets, "refclef", "refs(unc).p", "val", [1], part="other")
    with pytest.raises(DataError, match="do not say whether they are of COCO's train2014; give a list"):
        coco_part("coco-train2014", open_data("refclef:val", sets))
    write(sets, "grefcoco", "grefs(unc).p", "val", [1], part="val2014")
    with pytest.raises(DataError, match="only a list can tell"):
        coco_part("coco-train2017", open_data("grefcoco:val", sets))
    with pytest.raises(DataError, match="do not say"):
        coco_part("coco-train2014", open_data("shapes:val"))


def test_generated_scenes_are_images_too(monkeypatch):
    monkeypatch.setattr("refseg.data.shapes.dataset.SPLITS", {"train": 9, "val": 3, "test": 4})
    data = open_data("shapes:val")
    same, other, _ = find_leaks(data, [images_of(data), images_of(open_data("shapes:test"))])
    assert (len(same.images), len(other.images)) == (3, 0)
