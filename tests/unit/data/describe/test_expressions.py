"""Generated expressions for photos are true, unambiguous and reproducible, and absent names are known to be absent."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from refseg.data.describe.colours import PALETTES
from refseg.data.describe.expressions import STYLES, describe
from refseg.data.describe.names import kind_nouns, lookup, nouns, rare_words
from refseg.data.describe.photo import things_of
from refseg.data.describe.queries import Depth, Query, Related, denote
from refseg.data.shapes.queries import Centre, Ordinal, Side, SizeExtreme
from refseg.data.words import mirrored
from refseg.masks import encode_rle

NAMES = ("dog", "cat", "person", "car", "horse", "bottle", "sheep")
LABELLED = (*NAMES, "couch", "bus", "bird", "elephant", "umbrella")
MANY = 25
COLOURS = {colour for palette in PALETTES.values() for colour in palette}


# --- a second opinion: what a text means, without margins, written apart from the library ------------------------


def called(word):
    """The names that a word means, singular or plural."""
    return {
        name for name in LABELLED for noun in (*nouns(name), *kind_nouns(name)) if word in (noun.singular, noun.plural)
    }


def edges(thing):
    rows, columns = np.nonzero(thing.mask)
    height, width = thing.mask.shape
    return columns.min() / width, rows.min() / height, (columns.max() + 1) / width, (rows.max() + 1) / height


def middle(thing):
    left, top, right, bottom = edges(thing)
    return (left + right) / 2, (top + bottom) / 2


def painted(photo, index, colour, paints):
    """Whether most pixels of a thing were painted in a colour."""
    pixels = photo.read()[photo.things[index].mask]
    return colour in paints and (pixels == paints[colour]).all(axis=1).mean() > 0.5


def nearest(photo, members, side):
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
    return sorted(members, key=lambda i: sign * middle(photo.things[i])[axis])


def in_half(photo, index, side):
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}[side]
    return sign * (middle(photo.things[index])[axis] - 0.5) < 0


RELATION = re.compile(
    r"(?P<n>.+?) (?P<how>on|with|next to|beside|behind|to the left of|left of|to the right of|right of) "
    r"(?:the |an? )(?P<anchor>.+)"
)


CORNER = re.compile(
    r"(?P<v>top|bottom) (?P<h>left|right) (?P<n>.+)|(?P<m>.+) in the (?P<w>top|bottom) (?P<i>left|right)"
)


def naive(text, photo, paints):
    """The indices of the things that a text refers to."""
    text = text.removeprefix("the ")

    def members(phrase):
        words = phrase.split(" in ")
        if len(words) == 2 and words[1] in COLOURS:
            return [i for i in members(words[0]) if painted(photo, i, words[1], paints)]
        colour, _, noun = phrase.partition(" ")
        if noun and colour in COLOURS:
            return [i for i in members(noun) if painted(photo, i, colour, paints)]
        names = called(phrase)
        assert names, f"no such word: {phrase!r} in {text!r}"
        return [i for i, thing in enumerate(photo.things) if thing.name in names]

    side = r"(?P<side>left|right|top|bottom)"
    if found := re.fullmatch(rf"(?P<rank>second|third|fourth) (?P<n>.+) from the {side}", text):
        rank = ("second", "third", "fourth").index(found["rank"]) + 1
        return nearest(photo, members(found["n"]), found["side"])[rank : rank + 1]
    if found := CORNER.fullmatch(text):
        noun, *corner = [part for part in found.group("n", "v", "h") if part] or found.group("m", "w", "i")
        return [i for i in members(noun) if all(in_half(photo, i, side) for side in corner)]
    if found := re.fullmatch(rf"(?P<number>two|three|four|five)? ?(?P<n>.+) (?:on|at) the {side}", text):
        group = members(found["n"])
        there = [i for i in group if in_half(photo, i, found["side"])]
        return there if found["number"] or len(there) > 1 or not there else nearest(photo, group, found["side"])[:1]
    if found := re.fullmatch(rf"{side}(?:most)? (?P<n>.+)|(?P<m>.+) furthest to the (?P<s>\w+)", text):
        return nearest(photo, members(found["n"] or found["m"]), found["side"] or found["s"])[:1]
    if found := re.fullmatch(r"(?P<n>.+) in the (?:middle|center)|middle (?P<m>.+)", text):
        group = members(found["n"] or found["m"])
        return sorted(group, key=lambda i: abs(middle(photo.things[i])[0] - 0.5))[:1]
    if found := re.fullmatch(r"(?P<how>big|larg|small)(?:ger|gest|er|est) (?P<n>.+)", text):
        sign = 1 if found["how"] == "small" else -1
        return sorted(members(found["n"]), key=lambda i: sign * photo.things[i].mask.sum())[:1]
    if found := re.fullmatch(r"(?:closest|nearest) (?P<n>.+)|(?P<m>.+) in (?:the )?front", text):
        return sorted(members(found["n"] or found["m"]), key=lambda i: -edges(photo.things[i])[3])[:1]
    if found := re.fullmatch(r"(?P<n>.+) (?:in the back|in the background|farthest away)", text):
        return sorted(members(found["n"]), key=lambda i: edges(photo.things[i])[3])[:1]
    if found := RELATION.fullmatch(text):
        anchors = members(found["anchor"])
        assert len(anchors) <= 1, text
        return [i for i in members(found["n"]) for a in anchors if i != a and related(photo, i, found["how"], a)]
    return members(re.sub(r"^(?:all|both|two|three|four|five|six) (?:the )?", "", text))


def related(photo, index, how, anchor):
    x0, y0, x1, y1 = edges(photo.things[index])
    a0, b0, a1, b1 = edges(photo.things[anchor])
    beside = max(a0 - x1, x0 - a1)
    return {
        "on": a0 < (x0 + x1) / 2 < a1 and b0 < y1 < b1,
        "with": beside < 0.03 and y0 < b1 and b0 < y1,
        "next to": -0.05 < beside < 0.1 and abs(y1 - b1) < 0.15,
        "beside": -0.05 < beside < 0.1 and abs(y1 - b1) < 0.15,
        "behind": beside < 0 and y1 < b1 and y0 < b0,
        "left of": x0 + x1 < a0 + a1,
        "right of": x0 + x1 > a0 + a1,
    }[how.removeprefix("to the ")]


@cache
def generated(photo_of, many=MANY):
    """Photos of things at random places, with their expressions; made once for all tests."""
    made = []
    for seed in range(many):
        rng = np.random.default_rng(seed)
        names = rng.choice(NAMES, size=int(rng.integers(1, 4)), replace=False)
        things = []
        if rng.random() < 0.4:
            things.append(("couch", (0.1, 0.4, 0.7, 0.85)))
        for _ in range(int(rng.integers(1, 6))):
            width, height = rng.uniform(0.08, 0.35, 2)
            left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            colours = [colour for colour in ("red", "black", "white", "brown", "blue") if rng.random() < 0.5]
            colour = str(rng.choice(colours)) if colours else ""
            things.append((str(rng.choice(names)), (left, top, left + width, top + height), colour))
        photo = photo_of(*things, labelled=LABELLED)
        made.append((photo, [one for group in describe(photo, np.random.default_rng(seed)) for one in group]))
    return made


@pytest.mark.parametrize("many", [MANY, pytest.param(300, marks=pytest.mark.slow)])
def test_every_expression_refers_to_its_target_only(draw, many):
    for photo, found in generated(draw.photo, many):
        for one in found:
            assert set(naive(one.text, photo, draw.paints)) == one.targets, (one.text, one.form)
            assert denote(one.query, photo).possible == one.targets


@pytest.mark.slow
def test_all_styles_and_forms_occur(draw):
    found = [one for _, group in generated(draw.photo, 300) for one in group]
    assert {one.style for one in found} == set(STYLES)
    forms = {"name", "colour", "side", "corner", "middle", "superlative", "size", "depth", "left", "right", "all"}
    assert forms <= {one.form for one in found if one.targets}
    assert {"name", "colour", "side", "on", "left"} <= {one.form for one in found if one.absent}
    assert 0.08 < sum(one.absent for one in found) / len(found) < 0.35


def test_texts_are_plain_and_each_said_once(draw):
    for _, found in generated(draw.photo):
        texts = [one.text for one in found]
        assert len(set(texts)) == len(texts)
        for text in texts:
            assert re.fullmatch(r"[a-z]+(?: [a-z]+)*", text), text
            assert len(text.split()) <= 10


def test_the_words_can_be_mirrored(draw):
    for _, found in generated(draw.photo):
        for one in found:
            other = mirrored(one.text)
            assert other is not None, one.text
            assert mirrored(other) == one.text
            assert (other == one.text) == (not {"left", "right", "leftmost", "rightmost"} & set(one.text.split()))


def test_expressions_depend_on_the_photo_and_the_random_numbers_alone(draw):
    photo, found = generated(draw.photo)[7]
    again = [one for group in describe(photo, np.random.default_rng(7)) for one in group]
    other = [one for group in describe(photo, np.random.default_rng(8)) for one in group]
    assert [one.text for one in again] == [one.text for one in found]
    assert [one.text for one in other] != [one.text for one in found]


def all_described(photo, seeds=12):
    return [one for seed in range(seeds) for group in describe(photo, np.random.default_rng(seed)) for one in group]


LEFT_DOG, RIGHT_DOG = (0.05, 0.4, 0.3, 0.7), (0.7, 0.4, 0.95, 0.7)


# --- absence -----------------------------------------------------------------------------------------------------


def test_a_name_is_absent_only_where_it_is_labelled(draw):
    found = all_described(draw.photo(("dog", LEFT_DOG), labelled=["dog", "cat", "couch"]), 40)
    assert {one.name for one in found if one.absent and one.form == "name"} == {"cat", "couch"}
    unknown = all_described(draw.photo(("dog", LEFT_DOG)))
    assert {one.name for one in unknown if one.absent} <= {"dog"}


@pytest.mark.parametrize(
    ("present", "unclear", "absent"),
    [
        ("cup", ("bowl", "wine glass", "bottle"), "dog"),  # all may be called a glass
        ("truck", ("car", "bus"), "dog"),
        ("teddy bear", ("bear",), "dog"),
        ("purse", ("bag", "handbag", "backpack"), "hat"),
        ("boots", ("shoes", "sandals", "sneakers"), "hat"),
    ],
)
def test_what_might_be_called_so_is_not_absent(draw, present, unclear, absent):
    photo = draw.photo((present, LEFT_DOG), labelled=[present, *unclear, absent])
    found = {one.name for one in all_described(photo, 20) if one.absent and one.form == "name"}
    assert found == {absent}


def test_of_a_photo_with_hidden_objects_no_name_is_absent(draw):
    found = all_described(draw.photo(("dog", LEFT_DOG), labelled=LABELLED, hidden=True))
    assert {one.name for one in found} == {"dog"}


# --- what the masks are of ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["crowd", "merged", "region"])
def test_a_crowd_or_several_objects_in_one_mask_make_a_name_unclear(draw, kind):
    found = all_described(draw.photo(("dog", LEFT_DOG), ("dog", RIGHT_DOG, "", kind)))
    assert not [one for one in found if len(one.targets) == 1]
    together = [one for one in found if one.targets]
    assert bool(together) == (kind == "merged")
    assert {one.text.removeprefix("the ") for one in together} <= {"dogs"}


@pytest.mark.parametrize(("components", "singled_out"), [("none", set()), ("lone", {1}), ("all", {0, 1, 2})])
def test_components_are_objects_as_far_as_they_are_trusted(draw, components, singled_out):
    photo = draw.photo(
        ("dog", LEFT_DOG, "", "component"),
        ("cat", (0.4, 0.4, 0.6, 0.7), "", "component"),
        ("dog", RIGHT_DOG, "", "component"),
        components=components,
    )
    found = all_described(photo)
    assert {index for one in found if len(one.targets) == 1 for index in one.targets} == singled_out
    assert any(len(one.targets) == 2 for one in found) == (components == "all")


def test_a_mask_in_two_parts_far_apart_may_show_two_objects(draw):
    parts = draw.ellipse(*LEFT_DOG) | draw.ellipse(*RIGHT_DOG)
    near = draw.ellipse(*LEFT_DOG) | draw.ellipse(0.33, 0.4, 0.5, 0.7)
    for mask, single in ((parts, False), (near, True)):
        (thing,) = things_of([("dog", "instance", encode_rle(mask))], draw.size)
        assert thing.single == single
        photo = replace(draw.photo(("dog", LEFT_DOG)), things=(thing,))
        assert any(one.targets for one in all_described(photo)) == single


def test_regions_are_named_as_what_they_are(draw):
    photo = draw.photo(("grass", (0, 0.6, 1, 1), "green", "region"), ("shoes", (0.4, 0.3, 0.6, 0.5), "black", "region"))
    texts = {one.text.removeprefix("the ") for one in all_described(photo) if one.targets}
    assert texts == {"grass", "shoes", "black shoes"}


def test_nothing_is_said_of_what_is_too_small(draw):
    photo = draw.photo(("dog", LEFT_DOG), ("cat", (0.8, 0.8, 0.83, 0.83)))
    assert {one.name for one in all_described(photo) if one.targets} == {"dog"}


# --- margins: cases that a person would call vague ---------------------------------------------------------------

DOG = nouns("dog")[0]
LARGE, SMALL = (0.55, 0.3, 0.95, 0.8), (0.1, 0.4, 0.3, 0.6)


@pytest.mark.parametrize(
    ("dogs", "place", "certain", "possible"),
    [
        ([LEFT_DOG, RIGHT_DOG], Ordinal(rank=1, side="left"), {0}, {0}),
        ([(0.4, 0.1, 0.6, 0.3), (0.43, 0.6, 0.63, 0.8)], Ordinal(rank=1, side="left"), set(), {0, 1}),
        # the first two are tied, but the third from the left is beyond doubt
        ([(0.1, 0.1, 0.3, 0.3), (0.12, 0.6, 0.32, 0.8), RIGHT_DOG], Ordinal(rank=3, side="left"), {2}, {2}),
        ([LEFT_DOG, RIGHT_DOG], Ordinal(rank=3, side="left"), set(), set()),
        # a wide one begins before the other and ends after it
        ([(0.1, 0.1, 0.9, 0.4), (0.2, 0.6, 0.4, 0.8)], Ordinal(rank=1, side="left"), set(), {0, 1}),
        ([LEFT_DOG], Side(side="left"), {0}, {0}),
        ([(0.4, 0.4, 0.58, 0.6)], Side(side="left"), set(), {0}),
        ([RIGHT_DOG], Side(side="left"), set(), set()),
        ([LARGE, SMALL], SizeExtreme(largest=True), {0}, {0}),
        ([(0.6, 0.4, 0.85, 0.65), SMALL], SizeExtreme(largest=True), set(), {0, 1}),
        # cut off by the edge of the photo, the small one may be large
        ([LARGE, (0, 0.4, 0.2, 0.6)], SizeExtreme(largest=False), set(), {0, 1}),
        ([LARGE, SMALL], Depth(front=True), {0}, {0}),
        ([LARGE, (0.1, 0.6, 0.3, 0.85)], Depth(front=True), set(), {0, 1}),
        # the middle one of three is not in the middle of the photo
        ([(0.05, 0.4, 0.15, 0.6), (0.2, 0.4, 0.3, 0.6), (0.45, 0.4, 0.55, 0.6)], Centre(), set(), {1, 2}),
        ([LEFT_DOG, (0.4, 0.4, 0.6, 0.7), RIGHT_DOG], Centre(), {1}, {1}),
    ],
)
def test_margins(draw, dogs, place, certain, possible):
    found = denote(Query(noun=DOG, place=place), draw.photo(*(("dog", edges) for edges in dogs)))
    assert (set(found.certain), set(found.possible)) == (certain, possible)


@pytest.mark.parametrize(
    ("dog", "how", "certain", "possible"),
    [
        ((0.3, 0.3, 0.6, 0.6), "on", {1}, {1}),  # lies on the seat
        ((0.3, 0.1, 0.6, 0.42), "on", set(), {1}),  # its lowest point is at the back's upper edge
        ((0.3, 0.6, 0.6, 0.95), "on", set(), {1}),  # stands before it
        ((0.8, 0.3, 0.95, 0.6), "on", set(), set()),
        ((0.72, 0.5, 0.9, 0.8), "next", {1}, {1}),
        ((0.9, 0.5, 0.99, 0.8), "next", set(), {1}),
        ((0.72, 0.05, 0.9, 0.3), "next", set(), {1}),  # not at the same height
        ((0.75, 0.5, 0.95, 0.8), "right", {1}, {1}),
        ((0.75, 0.5, 0.95, 0.8), "left", set(), set()),
        ((0.5, 0.5, 0.9, 0.8), "right", set(), {1}),
    ],
)
def test_margins_of_relations(draw, dog, how, certain, possible):
    photo = draw.photo(("couch", (0.1, 0.4, 0.7, 0.8)), ("dog", dog))
    found = denote(Query(noun=DOG, place=Related(how=how, anchor=nouns("couch")[0])), photo)
    assert (set(found.certain), set(found.possible)) == (certain, possible)


def test_what_is_behind_is_hidden_and_farther_away(draw):
    photo = draw.photo(("couch", (0.1, 0.3, 0.9, 0.7)), ("dog", (0.3, 0.42, 0.5, 0.85)))
    query = Query(noun=nouns("couch")[0], place=Related(how="behind", anchor=DOG))
    assert denote(query, photo).is_only(0)
    beside = draw.photo(("couch", (0.1, 0.3, 0.6, 0.7)), ("dog", (0.7, 0.5, 0.9, 0.9)))
    assert not denote(query, beside).possible


def test_a_colour_is_said_only_where_it_is_clear(draw):
    black = Query(noun=DOG, colour="black")
    photo = draw.photo(("dog", LEFT_DOG, "black"), ("dog", RIGHT_DOG, "white"))
    assert denote(black, photo).is_only(0)
    assert not denote(Query(noun=DOG, colour="brown"), photo).possible
    # a third of the first dog is white
    spotted = draw.photo(("dog", LEFT_DOG, "black"), ("cat", (0.05, 0.4, 0.3, 0.5), "white"))
    pixels = spotted.read()
    pixels[66:84, :50] = 240
    found = denote(black, spotted)
    assert (set(found.certain), set(found.possible)) == (set(), {0})


def test_a_black_and_white_photo_has_no_colours(draw):
    photo = draw.photo(("dog", LEFT_DOG, "black"))
    photo.read()[:] = photo.read().mean(axis=2, keepdims=True).astype(np.uint8)
    assert all(one.query.colour is None for one in all_described(photo))


def test_words_for_more_than_a_name_count_all_that_they_may_mean(draw):
    photo = draw.photo(("dog", LEFT_DOG), ("cat", RIGHT_DOG), ("teddy bear", (0.4, 0.4, 0.6, 0.6)))
    (animal,) = kind_nouns("dog")
    assert denote(Query(noun=DOG), photo).is_only(0)
    assert set(denote(Query(noun=animal), photo).certain) == {0, 1}
    assert set(denote(Query(noun=animal), photo).possible) == {0, 1, 2}


def test_an_unknown_name_is_said_as_it_is_written():
    assert [noun.singular for noun in nouns("Traffic_Cone")] == ["traffic cone"]
    assert not lookup("Traffic_Cone").absent


def test_rare_words_are_no_words_of_annotated_names_and_are_divided():
    learnt, kept = set(rare_words(learnt=True)), set(rare_words(learnt=False))
    assert not learnt & kept
    assert len(learnt) > len(kept) > 30
    for word in learnt | kept:
        assert lookup(word).name == word
        assert nouns(word)[0].might_mean == {word}
