"""What words say of place and size, and in a mirrored image."""

from __future__ import annotations

import pytest

from refseg.data.words import mirrored, says_looks_alone


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("the man on the left", "the man on the right"),
        ("2nd red ring from left", "2nd red ring from right"),
        ("leftmost cup", "rightmost cup"),
        ("Left guy, not the right one", "Right guy, not the left one"),
        ("LEFT", "RIGHT"),
        ("left-hand side", "right-hand side"),
        ("bottom rt", "bottom left"),
        ("the upright piano", "the upright piano"),
        ("bright shirt", "bright shirt"),
        ("the dog", "the dog"),
        ("woman to the right of the left car", "woman to the left of the right car"),
        ("", ""),
    ],
)
def test_sides_are_swapped_and_nothing_else(words, other):
    assert mirrored(words) == other


@pytest.mark.parametrize(
    "words",
    [
        "the only cake that is left",
        "the leftovers",
        "person right behind the bench",
        "the plane at 3 o'clock",
        "turning clockwise",
        "player number 12",
        "12",
        "#7",
        "the sign on the right",
        'the "left" button',
        "shirt that says love",
    ],
)
def test_what_a_mirror_may_break_is_refused(words):
    assert mirrored(words) is None


@pytest.mark.parametrize("words", ["the man on the left", "leftmost cup", "the dog", "Left guy"])
def test_twice_mirrored_is_as_it_was(words):
    once = mirrored(words)
    assert once is not None
    assert mirrored(once) == words


@pytest.mark.parametrize("words", ["the striped star", "red ball", "purple one", "a woman wearing jeans"])
def test_looks_alone(words):
    assert says_looks_alone(words)


@pytest.mark.parametrize(
    "words", ["left ball", "the small star", "highest ring", "the ball next to the cube", "star that is red", "2nd cup"]
)
def test_more_than_looks(words):
    assert not says_looks_alone(words)
