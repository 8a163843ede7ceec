"""Operations on masks: against pycocotools, against definitions written out pixel by pixel, and on malformed input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from refseg.errors import DataError
from refseg.masks import (
    agreement,
    bounding_box,
    check_rle,
    decode_rle,
    dilate,
    encode_rle,
    intersection_and_union,
    iou,
    joined,
    near_border,
    outline,
    parts,
    polygon_mask,
    polygons,
    rings,
)

few = settings(max_examples=40, derandomize=True, deadline=None)


@st.composite
def masks(draw):
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    bits = draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    return np.array(bits).reshape(height, width)


def uncompressed(mask):
    flat = mask.T.reshape(-1)
    edges = (np.flatnonzero(np.diff(flat.astype(int))) + 1).tolist()
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


def square(top, left, side, size=12):
    mask = np.zeros((size, size), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


EMPTY = np.zeros((12, 12), dtype=bool)


# ── run lengths ──


@few
@given(masks())
def test_run_lengths_round_trip_and_equal_those_of_pycocotools(mask):
    rle = encode_rle(mask)
    assert rle["counts"].encode() == coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    for written in (rle, json.loads(json.dumps(rle)), uncompressed(mask)):
        decoded = decode_rle(written)
        assert decoded.dtype == bool
        assert np.array_equal(decoded, mask)
        assert np.array_equal(decode_rle(written, size=mask.shape), mask)
        assert check_rle(written, size=mask.shape) == written


@few
@given(masks(), st.integers(1, 60))
def test_long_runs_round_trip(mask, times):
    """Their differences have several digits, positive and negative."""
    large = np.kron(mask, np.ones((times, 7), dtype=bool))
    assert np.array_equal(decode_rle(encode_rle(large)), large)


@pytest.mark.parametrize("value", [False, True])
def test_masks_of_one_value(value):
    mask = np.full((3, 5), value)
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def good():
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:5, 3:6] = True
    mask[0, 7] = True
    return mask


@pytest.mark.parametrize("cut", range(1, 9))
def test_run_lengths_that_are_cut_off_are_errors(cut):
    rle = encode_rle(good())
    assert len(rle["counts"]) > 9
    for counts in (rle["counts"][:-cut], rle["counts"][:-1] + "o" * cut, rle["counts"] + "P"):
        with pytest.raises(DataError, match="run lengths"):
            decode_rle(rle | {"counts": counts})


@pytest.mark.parametrize(
    "counts",
    [
        *([], [47], [49], [0, 48, 1], [-1, 49], [60, -12], [24, 24.0], [True, 47], [24, "24"], [24, None]),
        *([10**40], [[48]], [0] * 1000, [math.nan], [math.inf]),
        *("", "0", "é", "~~~~", "ooooooooooooooooo0", "\n", "\ud800", "/", "p", "0" * 5, "ooooooo?" * 99),
        *(None, 3, {"a": 1}, b"0", (48,)),
    ],
)
def test_run_lengths_that_do_not_fill_the_mask_are_errors(counts):
    rle = {"size": [6, 8], "counts": counts}
    for read in (decode_rle, check_rle):
        with pytest.raises(DataError, match="run lengths"):
            read(rle)


@pytest.mark.parametrize(
    "size", [None, 48, [48], [6, 8, 1], [6.0, 8], ["6", 8], [True, 48], [0, 8], [-6, -8], [10**6, 10**6], [10**30, 1]]
)
def test_sizes_that_no_mask_has_are_errors(size):
    with pytest.raises(DataError, match="run lengths"):
        decode_rle({"size": size, "counts": [48]})


def test_a_size_that_is_expected_may_be_large(monkeypatch):
    monkeypatch.setattr("refseg.masks.MAX_PIXELS", 47)
    rle = {"size": [6, 8], "counts": [47, 1]}
    with pytest.raises(DataError, match="impossible size"):
        decode_rle(rle)
    assert decode_rle(rle, size=(6, 8)).sum() == 1


@pytest.mark.parametrize("rle", [None, 3, "abc", [], [48], {}, {"counts": [48]}])
def test_other_values_are_no_run_lengths(rle):
    with pytest.raises(DataError, match="run lengths"):
        decode_rle(rle)


@given(text=st.text(st.characters(min_codepoint=44, max_codepoint=115), max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_decoded_or_an_error(text):
    try:
        mask = decode_rle({"size": [7, 9], "counts": text})
    except DataError:
        return
    assert mask.shape == (7, 9)
    assert np.array_equal(decode_rle(encode_rle(mask)), mask)


def test_run_lengths_of_another_size_than_expected_are_errors():
    for size in ((8, 6), (6, 9)):
        for read in (decode_rle, check_rle):
            with pytest.raises(DataError, match="the mask is 8 x 6"):
                read(encode_rle(good()), size=size)


def test_check_rle_drops_other_fields():
    assert check_rle({"size": (1, 2), "counts": [2], "more": math.nan}) == {"size": [1, 2], "counts": [2]}


# ── two masks ──


def test_intersection_and_union():
    one, other = square(0, 0, 4), square(2, 2, 4)
    assert intersection_and_union(one, other) == (4, 28)
    assert iou(one, other) == pytest.approx(4 / 28)
    assert iou(one, one) == 1.0
    assert iou(one, EMPTY) == 0.0
    assert iou(EMPTY, EMPTY) == 0.0


@few
@given(masks())
def test_overlap_with_the_complement(mask):
    assert intersection_and_union(mask, ~mask) == (0, mask.size)
    assert intersection_and_union(mask, mask) == (mask.sum(), mask.sum())


# ── shape ──


def test_boxes():
    assert bounding_box(square(2, 5, 3)) == (5, 2, 8, 5)
    assert bounding_box(square(0, 0, 12)) == (0, 0, 12, 12)
    assert bounding_box(EMPTY) is None


@few
@given(masks(), st.integers(0, 12))
def test_dilation_equals_a_window_of_its_radius(mask, radius):
    dilated, near, around = dilate(mask, radius), near_border(mask, radius), outline(mask, radius)
    for y, x in np.ndindex(mask.shape):
        window = mask[max(y - radius, 0) : y + radius + 1, max(x - radius, 0) : x + radius + 1]
        assert dilated[y, x] == window.any()
        assert near[y, x] == (window.any() and not window.all())
        assert around[y, x] == (window.any() and not mask[y, x])


def test_the_edge_of_the_image_is_no_border():
    assert not near_border(~EMPTY, 2).any()
    assert not outline(~EMPTY, 2).any()


def flooded(mask):
    """The components of a mask by filling one after the other."""
    left, sizes = {tuple(place) for place in np.argwhere(mask).tolist()}, []
    while left:
        reached, size = [left.pop()], 0
        while reached:
            y, x = reached.pop()
            size += 1
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            reached += around
        sizes.append(size)
    return sorted(sizes, reverse=True)


def test_parts_equal_those_of_a_flood_fill():
    rng = np.random.default_rng(0)
    for _ in range(60):
        mask = rng.random(rng.integers(1, 14, 2)) < rng.random()
        assert parts(mask) == flooded(mask)
    assert parts(EMPTY) == []


def test_the_borders_of_holes_follow_the_outer_border_of_their_component():
    mask = square(0, 0, 12)
    mask[2:10, 2:10] = False
    mask[4:8, 4:8] = True
    mask[5, 5] = mask[6, 6] = False  # one hole of pixels that touch at a corner
    outside, inside = rings(mask)
    assert outside == [[12, 0, 12, 12, 0, 12, 0, 0], [10, 10, 10, 2, 2, 2, 2, 10]]
    assert inside[0] == [8, 4, 8, 8, 4, 8, 4, 4]
    assert [len(border) // 2 for border in inside[1:]] == [8]
    assert rings(EMPTY) == []


@few
@given(masks())
def test_joined_borders_give_back_every_mask(mask):
    components = rings(mask)
    assert np.array_equal(polygon_mask([joined(one) for one in components], size=mask.shape), mask)
    if components:
        together = joined([border for one in components for border in one])
        assert np.array_equal(polygon_mask([together], size=mask.shape), mask)
    each = [polygon_mask([joined(one)], size=mask.shape) for one in components]
    assert sum(int(one.sum()) for one in each) == mask.sum()


def test_the_pixels_of_polygons():
    half, quarter = [0, 0, 10, 0, 10, 10, 0, 10], [15, 0, 20, 0, 20, 10, 15, 10]
    mask = polygon_mask([half], size=(10, 20))
    assert mask[:, :10].all()
    assert not mask[:, 10:].any()
    assert polygon_mask([half, quarter], size=(10, 20)).sum() == 150
    assert not polygon_mask([], size=(10, 20)).any()


def test_polygons_run_along_the_edges_of_pixels():
    mask = np.zeros((6, 7), bool)
    mask[1:3, 2:5] = True
    assert polygons(mask) == [[5, 1, 5, 3, 2, 3, 2, 1]]
    assert polygons(np.zeros((6, 7), bool)) == []


def test_polygons_fill_holes_and_nothing_else():
    ring = np.ones((5, 6), bool)
    ring[1:3, 1:4] = False
    assert polygons(ring) == [[6, 0, 6, 5, 0, 5, 0, 0]]
    corner = np.eye(3, dtype=bool)  # pixels that touch at a corner are apart
    assert len(polygons(corner)) == 3
    assert np.array_equal(polygon_mask(polygons(corner), size=(3, 3)), corner)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_polygons_give_back_a_mask_without_holes(seed, density):
    mask = np.random.default_rng(seed).random((7, 9)) < density
    around = np.pad(~mask, 1, constant_values=True)
    outside = np.zeros_like(around)
    outside[0] = True
    for _ in range(around.size):  # the background that is connected to the edge, diagonally too
        outside = around & dilate(outside, 1)
    filled = ~outside[1:-1, 1:-1]
    assert np.array_equal(polygon_mask(polygons(mask), size=mask.shape), filled)


def test_agreement_of_two_empty_masks_is_full():
    empty, half, full = np.zeros((2, 2), bool), np.array([[True, True], [False, False]]), np.ones((2, 2), bool)
    assert agreement([empty, half, empty], [empty, full, full]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="shorter"):
        agreement([empty, half], [empty])
