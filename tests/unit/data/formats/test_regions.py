"""Regions to masks: polygons, run lengths and files, which part covers which, and what is an error before painting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from refseg.data.formats.regions import FURTHEST, check_part, coco_parts, flat_polygons, paint, polygons
from refseg.errors import DataError, ImageError

few = settings(max_examples=25, derandomize=True, deadline=None)


some_polygons = st.lists(st.floats(-10, 60), min_size=6, max_size=12).map(lambda values: values[: len(values) // 2 * 2])


def mask_of(parts, *, height=48, width=64, **changes):
    return paint(parts, height, width, **changes).target


# ── run lengths ──


def test_run_lengths_are_checked_before_they_are_kept(made):
    mask = made.square_mask(2, 2, 9)
    for rle in (made.runs(mask), made.compressed(mask)):
        assert check_part({"rle": rle}, (48, 64)) == {"rle": rle}
        assert np.array_equal(mask_of([{"rle": rle}]), mask)
        for broken in (rle | {"counts": [1]}, rle | {"counts": "0"}, rle | {"size": [0, 64]}, {}, 3, None):
            with pytest.raises(DataError, match="run lengths"):
                check_part({"rle": broken})


def test_run_lengths_of_another_size_than_the_image_are_errors(made):
    rle = made.runs(made.square_mask(2, 2, 9))
    for size in ((64, 48), (48, 65)):
        with pytest.raises(DataError, match="the mask is 64 x 48, its image"):
            check_part({"rle": rle}, size)
        with pytest.raises(DataError, match="the mask is 64 x 48, its image"):
            paint([{"rle": rle}], *size)


# ── polygons ──


def test_a_square_is_a_square(made):
    assert np.array_equal(mask_of([{"polygons": [made.square(4, 6, 10)]}]), made.square_mask(4, 6, 10))


@few
@given(st.lists(some_polygons, min_size=1, max_size=4))
def test_polygons_are_painted_as_their_union(found):
    expected = np.zeros((48, 64), dtype=bool)
    for one in found:
        expected |= mask_of([{"polygons": [one]}])
    assert np.array_equal(mask_of([{"polygons": found}]), expected)
    assert np.array_equal(mask_of([{"polygons": [one]} for one in found]), expected)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools with NumPy 2.4
@few
@given(st.lists(some_polygons, min_size=1, max_size=4))
def test_with_lavt_a_pixel_is_target_if_just_one_polygon_covers_it(found):
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


def test_the_overlap_of_two_parts_is_target_by_either_rule(made):
    parts = [{"polygons": [made.square(4, 4, 20)]}, {"polygons": [made.square(14, 4, 20)]}]
    union = made.square_mask(14, 4, 20) | made.square_mask(4, 4, 20)
    assert np.array_equal(mask_of(parts, overlap="lavt"), union)


def test_thousands_of_polygons_are_drawn_in_the_memory_of_one_image(made):
    many = [made.square(x, y, 3) for x in range(0, 60, 4) for y in range(0, 44, 4)] * 30
    assert len(many) * 3000 * 4000 > 50e9  # a layer each would not fit
    assert mask_of([{"polygons": many}], height=3000, width=4000).sum() == 15 * 11 * 9


def test_polygons_of_fewer_than_three_points_are_left_out_with_a_warning(made):
    warnings = []
    (part,) = coco_parts([[1, 2, 3, 4], made.square(1, 1, 4), [], [1, 2, 3], [1, 2, 3, 4, 5]], None, warnings)
    assert part == {"polygons": [made.square(1, 1, 4)]}
    assert len(warnings) == 1
    assert "4 of 5 polygons" in warnings[0]


def test_good_polygons_give_no_warning(made):
    warnings = []
    coco_parts([made.square(1, 1, 4), made.square(9, 9, 4)], (48, 64), warnings)
    assert warnings == []


@pytest.mark.parametrize(
    "without_area", [[], [[]], [[1, 2, 3, 4]], [1, 2, 3, 4], [[1, 2], [3, 4]], [[[1, 2], [3, 4]]], [[1, 2, 3, 4]] * 3]
)
def test_a_segmentation_of_boxes_lines_or_nothing_is_an_error(without_area):
    for size in (None, (48, 64)):
        with pytest.raises(DataError, match="no polygon of three points"):
            coco_parts(without_area, size)


SQUARE, OTHER = [4, 6, 14, 6, 14, 16, 4, 16], [30, 6, 40, 6, 40, 16, 30, 16]
POINTS, OTHERS = [[4, 6], [14, 6], [14, 16], [4, 16]], [[30, 6], [40, 6], [40, 16], [30, 16]]


@pytest.mark.parametrize(
    ("written", "flat"),
    [
        ([SQUARE], [SQUARE]),
        ([SQUARE, OTHER], [SQUARE, OTHER]),
        (SQUARE, [SQUARE]),
        (POINTS, [SQUARE]),
        ([POINTS], [SQUARE]),
        ([POINTS, OTHERS], [SQUARE, OTHER]),
        ([POINTS, OTHER], [SQUARE, OTHER]),
        ([[SQUARE], [OTHER]], [SQUARE, OTHER]),
        ([[SQUARE, OTHER]], [SQUARE, OTHER]),
        ([[POINTS], [OTHERS]], [SQUARE, OTHER]),
        ([[POINTS, OTHERS]], [SQUARE, OTHER]),
    ],
)
def test_polygons_are_read_flat_as_points_and_nested_one_level_deeper(made, written, flat):
    assert flat_polygons(written) == flat
    assert coco_parts(written) == ({"polygons": flat},)
    expected = made.square_mask(4, 6, 10) | (made.square_mask(30, 6, 10) if len(flat) == 2 else False)
    assert np.array_equal(mask_of(coco_parts(written)), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        [[[POINTS]]],
        [[[SQUARE]]],
        [[SQUARE, 3]],
        [[1, 2, "3", 4, 5, 6]],
        [[[1, 2], [3, 4], [5, None]]],
        [[[1, 2], [3, 4], {"x": 5, "y": 6}]],
        [POINTS, None],
        {"a": 1},
        "1 2 3 4 5 6",
        None,
        [[4, 6], [14, 6], [14, 16, 1], [4, True]],
    ],
)
def test_polygons_that_are_nested_otherwise_are_errors(wrong):
    with pytest.raises(DataError):
        coco_parts(wrong)


def test_points_of_three_numbers_are_errors():
    with pytest.raises(DataError, match="no polygon of three points"):
        coco_parts([[4, 6, 2], [14, 6, 2], [14, 16, 2]])


def test_a_part_of_polygons_may_be_ignored():
    assert polygons([POINTS], ignored=True) == {"polygons": [SQUARE], "ignored": True}


@pytest.mark.parametrize(
    ("polygon", "says"),
    [
        ([0, 0, 4, 0, 4, 4, 0], "two numbers each, got 7 numbers"),
        ([0, 0, 4, 0, math.nan, 4], "not finite"),
        ([0, 0, 4, 0, math.inf, 4], "not finite"),
        ([0, 0, 4, 0, -math.inf, 4], "not finite"),
        ([0, 0, 4, 0, 10**400, 4], "too large"),
        ([0, 0, 4, 0, 1e12, 4], "reaches more than"),
        ([0, 0, 4, 0, -1e12, 4], "reaches more than"),
        ([0, 0, 4, 0, True, 4], "flat list of numbers"),
        ([0, 0, 4, 0, "4", 4], "flat list of numbers"),
        ([0, 0, 4, 0, None, 4], "flat list of numbers"),
        ("abcdefgh", "flat list of numbers"),
        (3, "polygon"),
    ],
)
def test_broken_polygons_are_errors_before_they_are_drawn(polygon, says):
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
def test_other_segmentations_are_errors(wrong):
    with pytest.raises(DataError):
        coco_parts(wrong)


def test_run_lengths_and_lists_of_them_are_parts(made):
    one, other = made.square_mask(2, 2, 9), made.square_mask(8, 8, 9)
    for write in (made.runs, made.compressed):
        assert np.array_equal(mask_of(coco_parts(write(one))), one)
        assert np.array_equal(mask_of(coco_parts([write(one), write(other)])), one | other)
        assert np.array_equal(mask_of(coco_parts([write(one), write(other)]), overlap="lavt"), one | other)


# ── painting ──


def test_no_parts_are_empty_masks():
    painted = paint([], 3, 4)
    assert painted.target.shape == painted.ignored.shape == (3, 4)
    assert not painted.target.any()
    assert not painted.ignored.any()


def test_later_parts_cover_earlier_ones(made):
    large, small = made.square(0, 0, 30), made.square(10, 10, 10)
    large_mask, small_mask = made.square_mask(0, 0, 30), made.square_mask(10, 10, 10)
    parts = [{"polygons": [large]}, {"polygons": [small], "ignored": True}]
    painted = paint(parts, 48, 64)
    assert np.array_equal(painted.target, large_mask & ~small_mask)
    assert np.array_equal(painted.ignored, small_mask)
    painted = paint(parts[::-1], 48, 64)
    assert np.array_equal(painted.target, large_mask)
    assert not painted.ignored.any()


def test_files_are_read_relative_to_the_folder(made, tmp_path):
    one, other = made.square_mask(2, 2, 9), made.square_mask(20, 20, 9)
    made.save_mask(tmp_path / "masks" / "1.png", one)
    made.save_mask(tmp_path / "masks" / "2.png", other)
    parts = [{"file": "masks/1.png"}, {"file": "masks/2.png"}]
    assert np.array_equal(mask_of(parts, folder=tmp_path), one | other)
    painted = paint([parts[0], {**parts[1], "ignored": True}], 48, 64, folder=tmp_path)
    assert np.array_equal(painted.ignored, other)


def test_a_file_of_another_size_or_none_is_an_error(made, tmp_path):
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
def test_a_part_without_a_region_is_an_error(part):
    with pytest.raises(DataError):
        check_part(part)
    with pytest.raises(DataError):
        paint([part], 4, 4)


def test_a_part_keeps_only_the_fields_that_are_needed():
    rle = {"size": (1, 2), "counts": [2]}
    assert check_part({"rle": rle | {"more": math.nan}, "ignored": False}) == {"rle": {"size": [1, 2], "counts": [2]}}
    assert check_part({"file": "a", "ignored": 1, "more": 2}) == {"file": "a", "ignored": True}
