"""Regions to masks: polygons, run lengths and files, what covers what, and what is refused before it is drawn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from refseg.data.formats.regions import FURTHEST, check_part, coco_parts, decode, encode, flat_polygons, paint
from refseg.errors import DataError, ImageError

few = settings(max_examples=25, derandomize=True, deadline=None)


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits).reshape(height, width)


polygons = st.lists(st.floats(-10, 60), min_size=6, max_size=12).map(lambda values: values[: len(values) // 2 * 2])


def mask_of(parts, *, height=48, width=64, **changes):
    return paint(parts, height, width, **changes).meant


# ── run lengths ──


@few
@given(masks())
def test_a_mask_comes_back_from_its_run_lengths(made, mask):
    rle = encode(mask)
    assert np.array_equal(decode(rle, *mask.shape), mask)
    assert np.array_equal(decode(json.loads(json.dumps(rle)), *mask.shape), mask)
    assert np.array_equal(decode(made.runs(mask), *mask.shape), mask)
    assert rle == made.compressed(mask)


@few
@given(masks(), st.integers(1, 60))
def test_long_runs_come_back_too(mask, times):
    """Differences of many digits, positive and negative."""
    large = np.kron(mask, np.ones((times, 7), dtype=bool))
    assert np.array_equal(decode(encode(large), *large.shape), large)


@pytest.mark.parametrize("value", [False, True])
def test_masks_of_one_value(value):
    mask = np.full((3, 5), value)
    assert np.array_equal(decode(encode(mask), 3, 5), mask)


def good():
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:5, 3:6] = True
    mask[0, 7] = True
    return mask


@pytest.mark.parametrize("cut", range(1, 9))
def test_run_lengths_that_are_cut_off_are_refused(cut):
    rle = encode(good())
    assert len(rle["counts"]) > 9
    for counts in (rle["counts"][:-cut], rle["counts"][:-1] + "o" * cut):
        with pytest.raises(DataError, match=r"run lengths"):
            decode(rle | {"counts": counts}, 6, 8)


def test_a_run_that_is_begun_after_the_last_is_refused():
    rle = encode(good())
    with pytest.raises(DataError, match="the run lengths are cut off"):
        decode(rle | {"counts": rle["counts"] + "P"}, 6, 8)


@pytest.mark.parametrize(
    "counts",
    [
        [],
        [47],
        [49],
        [0, 48, 1],
        [-1, 49],
        [60, -12],
        [24, 24.0],
        [True, 47],
        [24, "24"],
        [24, None],
        [10**40],
        [[48]],
        [0] * 1000,
        "",
        "0",
        "é",
        "~~~~",
        "ooooooooooooooooo0",
        "\n",
    ],
)
def test_run_lengths_that_do_not_fill_the_image_are_refused(counts):
    rle = {"size": [6, 8], "counts": counts}
    with pytest.raises(DataError, match="run lengths"):
        decode(rle, 6, 8)
    with pytest.raises(DataError, match="run lengths"):
        check_part({"rle": rle})


@pytest.mark.parametrize("counts", [None, 3, {"a": 1}, b"0"])
def test_counts_are_a_text_or_a_list(counts):
    with pytest.raises(DataError, match="must be a text or a list"):
        coco_parts({"size": [6, 8], "counts": counts})


@pytest.mark.parametrize(
    "size", [None, 48, [48], [6, 8, 1], [6.0, 8], ["6", 8], [True, 48], [0, 8], [-6, -8], [10**6, 10**6], [10**30, 1]]
)
def test_sizes_of_run_lengths_are_those_of_images(size):
    with pytest.raises(DataError, match="run lengths"):
        check_part({"rle": {"size": size, "counts": [48]}})


def test_run_lengths_of_another_size_than_the_image_are_refused():
    rle = encode(good())
    for size in ((8, 6), (6, 9)):
        with pytest.raises(DataError, match="the mask is 8 x 6, its image"):
            check_part({"rle": rle}, size)
        with pytest.raises(DataError, match="the mask is 8 x 6, its image"):
            paint([{"rle": rle}], *size)
        with pytest.raises(DataError, match="the mask is 8 x 6, its image"):
            decode(rle, *size)
    assert check_part({"rle": rle}, (6, 8)) == {"rle": rle}


# ── polygons ──


def test_a_square_is_a_square(made):
    assert np.array_equal(mask_of([{"polygons": [made.square(4, 6, 10)]}]), made.square_mask(4, 6, 10))


@few
@given(st.lists(polygons, min_size=1, max_size=4))
def test_the_union_of_polygons_is_each_of_them_or_another(found):
    expected = np.zeros((48, 64), dtype=bool)
    for one in found:
        expected |= mask_of([{"polygons": [one]}])
    assert np.array_equal(mask_of([{"polygons": found}]), expected)
    assert np.array_equal(mask_of([{"polygons": [one]} for one in found]), expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2.4
@few
@given(st.lists(polygons, min_size=1, max_size=4))
def test_lavt_means_what_just_one_polygon_covers(found):
    layers = coco.decode(coco.frPyObjects(found, 48, 64))
    assert np.array_equal(mask_of([{"polygons": found}], overlap="lavt"), layers.sum(axis=2) == 1)


def test_where_polygons_overlap(made):
    part = {"polygons": [made.square(4, 4, 20), made.square(14, 4, 20)]}
    both = made.square_mask(14, 4, 20) & made.square_mask(4, 4, 20)
    union = made.square_mask(14, 4, 20) | made.square_mask(4, 4, 20)
    assert both.sum() == 200
    assert np.array_equal(mask_of([part]), union)
    assert np.array_equal(mask_of([part], overlap="lavt"), union & ~both)
    # Three times is not once.
    thrice = {"polygons": [*part["polygons"], made.square(14, 4, 10)]}
    assert np.array_equal(mask_of([thrice], overlap="lavt"), union & ~both)


def test_the_overlap_of_two_parts_is_meant_by_either_rule(made):
    parts = [{"polygons": [made.square(4, 4, 20)]}, {"polygons": [made.square(14, 4, 20)]}]
    union = made.square_mask(14, 4, 20) | made.square_mask(4, 4, 20)
    assert np.array_equal(mask_of(parts, overlap="lavt"), union)


def test_thousands_of_polygons_are_drawn_in_the_memory_of_one_image(made):
    many = [made.square(x, y, 3) for x in range(0, 60, 4) for y in range(0, 44, 4)] * 30
    assert len(many) * 3000 * 4000 > 50e9  # a layer each would not fit
    assert mask_of([{"polygons": many}], height=3000, width=4000).sum() == 15 * 11 * 9


def test_polygons_of_two_points_are_dropped(made):
    (part,) = coco_parts([[1, 2, 3, 4], made.square(1, 1, 4), [], [1, 2, 3], [1, 2, 3, 4, 5]])
    assert part == {"polygons": [made.square(1, 1, 4)]}
    assert coco_parts([]) == ({"polygons": []},)
    assert not mask_of(coco_parts([[1, 2, 3, 4]])).any()


@pytest.mark.parametrize(
    ("polygon", "says"),
    [
        ([0, 0, 4, 0, 4, 4, 0], "two numbers each, got 7 numbers"),
        ([0, 0, 4, 0, math.nan, 4], "not finite"),
        ([0, 0, 4, 0, math.inf, 4], "not finite"),
        ([0, 0, 4, 0, 10**400, 4], "beyond all bounds"),
        ([0, 0, 4, 0, 1e12, 4], "reaches more than"),
        ([0, 0, 4, 0, -1e12, 4], "reaches more than"),
        ([0, 0, 4, 0, True, 4], "flat list of numbers"),
        ([0, 0, 4, 0, "4", 4], "flat list of numbers"),
        ([0, 0, 4, 0, None, 4], "flat list of numbers"),
        ([[0, 0], [4, 0], [4, 4], [0, 4], [1, 1], [2, 2]], "flat list of numbers"),
        ("abcdefgh", "flat list of numbers"),
        (3, "flat list of numbers"),
    ],
)
def test_broken_polygons_are_refused_before_they_are_drawn(polygon, says):
    with pytest.raises(DataError, match=says):
        coco_parts([polygon])
    with pytest.raises(DataError, match=says):
        paint([{"polygons": [polygon]}], 8, 8)


def test_polygons_may_reach_a_little_beyond_the_image():
    assert mask_of([{"polygons": [[-30, -30, 100, -30, 100, 100, -30, 100]]}]).all()
    reach = FURTHEST * 64
    check_part({"polygons": [[0, 0, reach, 0, 4, 4]]}, (48, 64))
    with pytest.raises(DataError, match=f"more than {reach} pixels beyond"):
        check_part({"polygons": [[0, 0, reach + 1, 0, 4, 4]]}, (48, 64))


@pytest.mark.parametrize("wrong", [None, 3, "a", 2.5, [{"size": [1, 1]}], [{}], [[1] * 6, {}], [3], ["abcdef"]])
def test_other_segmentations_are_refused(wrong):
    with pytest.raises(DataError):
        coco_parts(wrong)


def test_run_lengths_and_lists_of_them_are_parts(made):
    one, other = made.square_mask(2, 2, 9), made.square_mask(8, 8, 9)
    for write in (made.runs, made.compressed):
        assert np.array_equal(mask_of(coco_parts(write(one))), one)
        assert np.array_equal(mask_of(coco_parts([write(one), write(other)])), one | other)
        assert np.array_equal(mask_of(coco_parts([write(one), write(other)]), overlap="lavt"), one | other)


def test_points_are_made_flat():
    assert flat_polygons([[[1, 2], [3, 4.5]], []]) == [[1, 2, 3, 4.5], []]
    for wrong in ([[1, 2]], [[[1, 2, 3]]], [3], [[[1]]], [{"a": 1}], ["ab"]):
        with pytest.raises(DataError, match="list of points"):
            flat_polygons(wrong)


# ── painting ──


def test_no_parts_are_empty_masks():
    painted = paint([], 3, 4)
    assert painted.meant.shape == painted.ignored.shape == (3, 4)
    assert not painted.meant.any()
    assert not painted.ignored.any()


def test_later_parts_cover_earlier_ones(made):
    large, small = made.square(0, 0, 30), made.square(10, 10, 10)
    large_mask, small_mask = made.square_mask(0, 0, 30), made.square_mask(10, 10, 10)
    parts = [{"polygons": [large]}, {"polygons": [small], "ignored": True}]
    painted = paint(parts, 48, 64)
    assert np.array_equal(painted.meant, large_mask & ~small_mask)
    assert np.array_equal(painted.ignored, small_mask)
    painted = paint(parts[::-1], 48, 64)
    assert np.array_equal(painted.meant, large_mask)
    assert not painted.ignored.any()


def test_files_are_read_relative_to_the_folder(made, tmp_path):
    one, other = made.square_mask(2, 2, 9), made.square_mask(20, 20, 9)
    made.save_mask(tmp_path / "masks" / "1.png", one)
    made.save_mask(tmp_path / "masks" / "2.png", other)
    parts = [{"file": "masks/1.png"}, {"file": "masks/2.png"}]
    assert np.array_equal(mask_of(parts, folder=tmp_path), one | other)
    painted = paint([parts[0], {**parts[1], "ignored": True}], 48, 64, folder=tmp_path)
    assert np.array_equal(painted.ignored, other)


def test_a_file_of_another_size_or_none_is_refused(made, tmp_path):
    made.save_mask(tmp_path / "1.png", made.square_mask(2, 2, 9))
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1\.png: the mask is 64 x 48, its image 48 x 64"):
        paint([{"file": "1.png"}], 64, 48, folder=tmp_path)
    for name in ("missing.png", "broken.png"):
        with pytest.raises(ImageError, match=name):
            paint([{"file": name}], 48, 64, folder=tmp_path)


@pytest.mark.parametrize(
    "part", [{}, {"ignored": True}, {"file": 3}, {"polygons": None}, {"polygons": {}}, {"rle": []}]
)
def test_a_part_has_a_region(part):
    with pytest.raises(DataError):
        check_part(part)
    with pytest.raises(DataError):
        paint([part], 4, 4)


def test_a_part_keeps_only_what_is_needed_to_draw_it():
    rle = {"size": (1, 2), "counts": [2]}
    assert check_part({"rle": rle | {"more": math.nan}, "ignored": False}) == {"rle": {"size": [1, 2], "counts": [2]}}
    assert check_part({"file": "a", "ignored": 1, "more": 2}) == {"file": "a", "ignored": True}
