"""A folder of photos with masks and names, as a data set of generated expressions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refseg.data.catalogue import open_data
from refseg.data.check import check
from refseg.data.describe.names import lookup, rare_words
from refseg.data.formats.photos import photos, series_of, series_splits
from refseg.errors import DataError

HEIGHT, WIDTH = 60, 80


def square(left, top, side):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.fixture
def folder(made, tmp_path):
    """Writes a folder of photos of a dog at the left and a dog at the right; each row may be changed."""

    def written(*changes):
        rows = []
        for number, change in enumerate(changes):
            name = f"images/{number}.png"
            made.save_image(tmp_path / name, HEIGHT, WIDTH, seed=number)
            instances = [
                {"category": "dog", "kind": "instance", "rle": made.compressed(square(left, 20, 20))}
                for left in (5, 55)
            ]
            rows.append({"image": name, "height": HEIGHT, "width": WIDTH, "instances": instances} | change)
        made.write(tmp_path / "annotations.jsonl", "\n".join(map(json.dumps, rows)).encode())
        return tmp_path

    return written


def test_a_photo_has_samples_whose_masks_are_those_of_the_objects(folder):
    data = open_data(f"{folder({'split': 'test'})}:test")
    (left,) = [
        one for one in data if any(expression.text.endswith("dog on the left") for expression in one.expressions)
    ]
    assert np.array_equal(left.load_mask(), square(5, 20, 20))
    assert left.load_image().size == (WIDTH, HEIGHT)
    assert (left.attributes["name"], left.attributes["targets"], left.attributes["distractors"]) == ("dog", 1, 1)
    (expression,) = [one for one in left.expressions if one.text.endswith("dog on the left")]
    assert expression.attributes["style"] == "location"
    assert expression.attributes["form"] in ("side", "superlative")
    assert expression.attributes["absent"] is False


def test_the_target_of_several_is_the_union_of_their_masks(folder):
    data = open_data(f"{folder({})}:all")
    both = next(one for one in data if one.attributes["targets"] == 2)
    assert np.array_equal(both.load_mask(), square(5, 20, 20) | square(55, 20, 20))
    assert {one.attributes["style"] for one in both.expressions} == {"several"}


def test_all_objects_are_known_so_that_pointing_can_be_measured(folder):
    data = open_data(f"{folder({})}:all")
    objects = data.objects(0)
    assert np.array_equal(objects, [square(5, 20, 20), square(55, 20, 20)])
    for sample in data:
        if sample.attributes["targets"] == 1:
            assert np.array_equal(sample.load_mask(), objects[sample.target_object])
        else:
            assert sample.target_object is None


def test_a_photo_without_objects_has_no_masks_of_them(folder):
    data = open_data(f"{folder({'instances': [], 'labelled': ['dog', 'cat']})}:all")
    assert data.objects(0) is None


def test_what_is_absent_has_no_mask(folder):
    data = open_data(f"{folder({'labelled': ['dog', 'cat']})}:all")
    absent = [one for one in data if one.load_mask is None]
    assert absent
    assert all(one.attributes["absent"] for sample in absent for one in sample.expressions)
    assert all(not one.attributes["absent"] for one in data[0].expressions)


def test_photos_of_known_collections_are_asked_for_rare_things(folder):
    known = folder(*[{"labelled": "coco80", "split": split} for split in ("train", "test") for _ in range(8)])
    found = {}
    for split in ("train", "test"):
        samples = open_data(f"{known}:{split}")
        rare = [one for one in samples if one.expressions[0].attributes["form"] == "rare"]
        found[split] = {one.attributes["name"] for one in rare}
        assert all(one.load_mask is None for one in rare)
        assert found[split] <= set(rare_words(learnt=split == "train"))
    assert found["train"] or found["test"]
    own = open_data(f"{folder({'labelled': ['dog', 'cat']}, *[{}] * 9)}:all")
    assert not any(one.expressions[0].attributes["form"] == "rare" for one in own)


def test_other_wordings_are_for_training_only(folder, made):
    person = [{"category": "person", "rle": made.compressed(square(25, 20, 20))}]
    root = folder(*[{"split": split, "instances": person} for split in ("train", "test") for _ in range(12)])
    words = {
        split: {word for one in open_data(f"{root}:{split}") for text in one.expressions for word in text.text.split()}
        for split in ("train", "test")
    }
    some = {singular for singular, _ in lookup("person").some}
    assert some & words["train"]
    assert words["test"] <= {"the", "person", "in", "middle", "center"}


def test_void_pixels_are_ignored(folder, made):
    void = square(20, 15, 10)
    data = open_data(f"{folder({'void': made.compressed(void)})}:all")
    targets = [one for one in data if one.load_mask is not None]
    for one in targets:
        assert np.array_equal(one.load_ignored(), void)
        assert not (one.load_mask() & void).any()


def test_large_ignored_areas_may_hide_what_is_absent_elsewhere(folder, made):
    thin, thick = square(40, 0, 60) & ~square(41, 0, 60), square(28, 0, 20)
    for void, known in ((thin, True), (thick, False)):
        root = folder({"void": made.compressed(void), "labelled": ["dog", "cat", "car", "bus"]})
        names = {record.attributes["name"] for seed in range(5) for record in made.read(photos(root, seed=seed))}
        assert (names != {"dog"}) == known


def test_the_same_seed_makes_the_same_expressions_whatever_else_is_in_the_folder(folder, made):
    texts = [record.expressions for record in made.read(photos(folder({}), seed=3))]
    more = [record for record in made.read(photos(folder({}, {}), seed=3)) if record.file == "images/0.png"]
    assert [record.expressions for record in more] == texts
    assert [record.expressions for record in made.read(photos(folder({}), seed=4))] != texts


# ── splits ──


def test_a_tenth_of_the_photos_validates_and_test_stays_test():
    rows = [{"image": f"{number}.jpg", "split": "test" if number % 5 == 0 else "train"} for number in range(2000)]
    splits = series_splits(rows)
    assert {row["image"] for row in rows if row["split"] == "test"} == {k for k, v in splits.items() if v == "test"}
    assert 0.07 < list(splits.values()).count("val") / 1600 < 0.13
    assert series_splits(reversed(rows)) == splits


def test_named_splits_stay_if_one_is_val():
    rows = [{"image": "a", "split": "val"}, *({"image": f"{number}", "split": "train"} for number in range(50))]
    assert list(series_splits(rows).values()).count("val") == 1


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"image": "a.jpg", "series": "x"}, {"image": "b.jpg", "series": "x"}, True),
        ({"image": "a.jpg"}, {"image": "b.jpg"}, False),
        ({"image": "images/davis_car-turn_00012.jpg"}, {"image": "images/davis_car-turn_00024.jpg"}, True),
        ({"image": "images/davis_car-turn_00012.jpg"}, {"image": "images/davis_car-shadow_00012.jpg"}, False),
        ({"image": "images/camvid_0001TP_006690.jpg"}, {"image": "images/camvid_0001TP_006810.jpg"}, True),
        ({"image": "images/coco_000000000009.jpg"}, {"image": "images/coco_000000000030.jpg"}, False),
    ],
)
def test_frames_of_a_video_are_a_series(one, other, same):
    assert (series_of(one) == series_of(other)) == same


def test_a_series_in_two_splits_is_tested_on():
    rows = [{"image": "a", "series": "x", "split": "train"}, {"image": "b", "series": "x", "split": "test"}]
    assert series_splits(rows) == {"x": "test"}


# ── rows that cannot be used ──


@pytest.mark.parametrize(
    "change",
    [
        {"image": "../x.png"},
        {"image": "images/none.png"},
        {"height": 10},
        {"width": None},
        {"instances": None},
        {"instances": [{"category": "dog"}]},
        {"instances": [{"category": "dog", "rle": {"size": [1, 1], "counts": [1]}}]},
        {"instances": [{"category": "dog", "kind": "thing", "rle": {"size": [HEIGHT, WIDTH], "counts": [4800]}}]},
        {"labelled": "nonsense"},
        {"labelled": [1]},
        {"void": {"size": [1, 1], "counts": [1]}},
        {"split": "training"},
        {"split": 3},
    ],
)
def test_a_faulty_row_is_left_out_with_its_reason(folder, made, change):
    found, records = made.problems(photos(folder({}, change)))
    (problem,) = found
    assert problem.row == "line 2"
    assert "\n" not in problem.message
    assert {record.file for record in records} == {"images/0.png"}


def test_a_folder_without_annotations_is_an_error(tmp_path):
    with pytest.raises(DataError):
        photos(tmp_path)


def test_photos_without_a_mask_are_no_error(folder, made):
    empty = {"category": "dog", "rle": {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}}
    assert made.problems(photos(folder({"instances": [empty]}))) == ([], [])


def test_a_colour_is_measured_in_the_photo(folder, made):
    root = folder({})
    pixels = np.full((HEIGHT, WIDTH, 3), (200, 160, 90), np.uint8)
    pixels[square(5, 20, 20)] = 10
    pixels[square(55, 20, 20)] = 245
    Image.fromarray(pixels).save(root / "images" / "0.png")
    records = [record for seed in range(6) for record in made.read(photos(root, seed=seed)) if record.parts]
    said = {text.removeprefix("the ") for record in records for text in record.expressions}
    assert {"black dog", "white dog"} <= said
    assert not said & {"brown dog", "gray dog"}


def test_the_folder_is_checked_like_any_other(folder):
    root = folder({}, {})
    assert check(str(root)) == []
