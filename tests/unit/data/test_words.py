"""Location words of an expression, and the expression for the mirrored image."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refseg.data.shapes import Shapes
from refseg.data.words import SWAPPED, mirrored, says_looks_alone

PLAIN = ("the", "man", "on", "of", "in", "to", "is", "cup", "only", "last", "2nd", "one", "that", "bright", "what's")
SIDES = tuple(SWAPPED)
ODD = (
    "l",
    "rt",
    "rigth",
    "12",
    "左",
    '"',
    "\u2019",
    "'s",
    "-",
    ",",
    "\u00ad",
    "LEFT",
    "Right",
    "lEfT",
    "side",
    "up",
    "hand",
)


@pytest.mark.parametrize(
    ("expression", "other"),
    [
        ("the man on the left", "the man on the right"),
        ("2nd red ring from left", "2nd red ring from right"),
        ("2nd frm lft", "2nd frm rgt"),
        ("leftmost cup", "rightmost cup"),
        ("leftest cup", "rightest cup"),
        ("right most", "left most"),
        ("topleft cup", "topright cup"),
        ("far-left cup, farright one", "far-right cup, farleft one"),
        ("lefthanded batter", "righthanded batter"),
        ("lhs", "rhs"),
        ("Left guy, not the right one", "Right guy, not the left one"),
        ("LEFT", "RIGHT"),
        ("left-hand side", "right-hand side"),
        ("the boy\u2019s left hand", "the boy\u2019s right hand"),
        ("players' bench (left)", "players' bench (right)"),
        ("café on left", "café on right"),
        ("guy right", "guy left"),
        ("man left of the tree", "man right of the tree"),
        ("the cube that is left of the ball", "the cube that is right of the ball"),
        ("person on left standing in front", "person on right standing in front"),
        ("far right behind the tree", "far left behind the tree"),
        ("woman to the right of the left car", "woman to the left of the right car"),
        ("the upright piano", "the upright piano"),
        ("bright shirt in the spotlight at night", "bright shirt in the spotlight at night"),
        ("light blue t-shirt", "light blue t-shirt"),
        ("second shelf from the top", "second shelf from the top"),
        ("the dog", "the dog"),
        ("", ""),
    ],
)
def test_sides_are_swapped_and_nothing_else(expression, other):
    assert mirrored(expression) == other
    assert mirrored(other) == expression


NOT_UNDERSTOOD = {
    "abbreviations": ["cup on l", "guy r", "R", "lt blue cup", "bottom rt", "rt guy", "bl", "lef cup", "man on lf"],
    "misspellings": ["rigth cup", "on the rihgt", "leftt", "letf one", "righ", "rightmots", "toprigth", "lleft"],
    "joined words": ["leftcup", "cupleft", "bottomleftmost", "downright", "upleft", "leftish", "rightlefty"],
    "mixed case": ["lEft cup", "TopLeft"],
    "other scripts": [
        "左の男",
        "the 右 cup",
        "слева",
        "\uff4c\uff45\uff46\uff54 cup",
        "r\u0131ght",
        "le\u00adft",
        "le_ft",
    ],
    "other languages": [
        *(
            "la taza de la izquierda",
            "derecha",
            "a gauche",
            "le plus à droite",
            "das linke Auto",
            "rechts",
            "à direita",
        ),
        *("a sinistra", "vänster", "solda", "kiri"),
    ],
    "sides in other terms": [
        *("the driver's side", "drivers side door", "passenger side", "starboard", "port side", "east of the house"),
        *(
            "the plane at 3 o'clock",
            "at three o\u2019clock",
            "turning counterclockwise",
            "the near-side lane: nearside",
        ),
    ],
    "no sides": [
        *(
            "cup right side up",
            "left side out",
            "bag left on the floor",
            "left behind by them",
            "the only cake that is left",
        ),
        *("the leftovers", "left over pizza", "last slice left", "all that is left of the cake", "the man who left"),
        *("person right behind the bench", "right next to him", "all right", "the right angle", "right of way"),
    ],
    "text in the image": [
        *("player number 12", "12", "#7", "the sign on the right", 'the "left" button', "the 'exit' door on left"),
        *("shirt that says love", "book labeled fish"),
    ],
    "positions from a side that is not named": ["second guy", "3rd from end", "the last one", "1st"],
}


@pytest.mark.parametrize("expression", [one for kind in NOT_UNDERSTOOD.values() for one in kind])
def test_an_expression_that_is_not_understood_is_not_mirrored(expression):
    assert mirrored(expression) is None


@given(st.lists(st.sampled_from((*PLAIN, *SIDES, *ODD)), max_size=6).map(" ".join))
@example("what is left of the cube on the right")
@example("only cup right")
def test_mirroring_twice_gives_the_expression_again(expression):
    once = mirrored(expression)
    if once is not None:
        assert mirrored(once) == expression


@given(st.text(max_size=12), st.sampled_from(("", "left ", "the cup on the right ")))
def test_any_text_is_mirrored_back_or_not_at_all(text, before):
    once = mirrored(before + text)
    if once is not None:
        assert mirrored(once) == before + text


@given(st.sampled_from(("left", "right")), st.integers(0, 5), st.sampled_from("abcdefghijklmnopqrstuvwxyz"))
def test_a_letter_too_many_makes_no_other_side(side, place, letter):
    """A typo of a side is a known English word, a known spelling of a side, or not understood."""
    word = side[:place] + letter + side[place:]
    known = SWAPPED.get(word), word if word in ("bright", "fright", "wright", "cleft") else None
    assert mirrored(word) in (None, *known)


def test_every_expression_of_shapes_is_understood():
    data = Shapes("train", drill=8)
    expressions = {one.text for i in range(20) for sample in data.samples_of(i) for one in sample.expressions}
    assert all(mirrored(one) is not None for one in expressions)
    assert any(mirrored(one) != one for one in expressions)


@pytest.mark.parametrize("expression", ["the striped star", "red ball", "purple one", "a woman wearing jeans"])
def test_appearance_alone(expression):
    assert says_looks_alone(expression)


@pytest.mark.parametrize(
    "expression",
    ["left ball", "the small star", "highest ring", "the ball next to the cube", "star that is red", "2nd cup"],
)
def test_more_than_appearance(expression):
    assert not says_looks_alone(expression)
