"""Expressions for training are said in other words, and still refer to the same things."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from refseg.data.describe.expressions import Described, describe
from refseg.data.describe.names import lookup, nouns
from refseg.data.describe.queries import Query, Related
from refseg.data.describe.wording import PHRASES, reworded
from refseg.data.shapes.queries import Side
from refseg.data.words import mirrored

LEFT, RIGHT = (0.05, 0.4, 0.3, 0.9), (0.7, 0.4, 0.95, 0.9)
PERSON = nouns("person")[0]
SOME = {word for pair in lookup("person").some for word in pair if word}


def said(text, query, photo, targets, seeds=200):
    """All that is said instead of a text."""
    one = Described(text=text, query=query, style="name", form="name", name="person", targets=frozenset(targets))
    return {reworded(one, photo, np.random.default_rng(seed)).text for seed in range(seeds)}


def sides(text):
    return Counter(side for word in text.split() for side in ("left", "right") if word in (side, f"{side}most"))


def test_only_the_text_changes_and_never_the_side(draw):
    photo = draw.photo(
        ("person", LEFT), ("dog", RIGHT), ("dog", (0.4, 0.5, 0.6, 0.8)), labelled=("dog", "person", "cat")
    )
    changed = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        for group in describe(photo, rng):
            for one in group:
                other = reworded(one, photo, rng)
                same = ("query", "style", "form", "name", "targets")
                assert [getattr(one, key) for key in same] == [getattr(other, key) for key in same]
                assert re.fullmatch(r"[a-z]+(?: [a-z]+)*", other.text), other.text
                assert sides(other.text) == sides(one.text), (one.text, other.text)
                assert mirrored(other.text) is not None
                changed += other.text != one.text
    assert changed > 100


def test_a_narrower_word_is_said_only_where_it_can_mean_nothing_else(draw):
    alone = said("person", Query(noun=PERSON), draw.photo(("person", LEFT)), {0})
    assert len(SOME & {word for text in alone for word in text.split()}) > 8
    two = draw.photo(("person", LEFT), ("person", RIGHT))
    left = said("left person", Query(noun=PERSON, place=Side(side="left")), two, {0})
    assert all("person" in text and SOME.isdisjoint(text.split()) for text in left)
    both = said("both people", Query(noun=PERSON, whole=True), two, {0, 1})
    assert {"both women", "both kids"} <= both
    absent = said("person", Query(noun=PERSON), draw.photo(("dog", LEFT)), ())
    assert SOME & {word for text in absent for word in text.split()}


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("person on the left", {"person on the far left", "left side person", "person on left"}),
        ("leftmost person", {"far left person", "person on the far left"}),
        ("bottom left person", {"bottom left corner person", "lower left person"}),
        ("second person from the left", {"person second from the left", "second person from left"}),
        ("person in front", {"front person", "person closest to us"}),
        ("person in the middle", {"center person", "person in middle"}),
    ],
)
def test_places_are_said_in_several_ways(draw, text, fits):
    two = draw.photo(("person", LEFT), ("person", RIGHT))
    assert fits <= said(text, Query(noun=PERSON), two, {0}, 600)


def test_people_hold_and_wear_things(draw):
    photo = draw.photo(("person", LEFT), ("umbrella", (0.1, 0.3, 0.25, 0.5)), ("person", RIGHT))
    place = Related(how="with", anchor=nouns("umbrella")[0])
    assert "person holding an umbrella" in said("person with an umbrella", Query(noun=PERSON, place=place), photo, {0})
    red = said("person in red", Query(noun=PERSON, colour="red"), photo, {0})
    assert {"person wearing red", "person in a red shirt"} <= red


def test_each_pattern_fits_a_strict_text():
    texts = [
        *("cat on the left", "leftmost cat", "cat furthest to the left", "top left cat", "bottom left cat"),
        *("cat in the middle", "cat in the front", "nearest cat", "cat in the back", "second cat from the left"),
        *("bigger cat", "smallest cat", "cat next to the dog"),
    ]
    for pattern in PHRASES:
        assert any(re.search(pattern, text) for text in texts), pattern
