"""What the words of an expression say of place and size, and what they mean in a mirrored image."""

from __future__ import annotations

import re
from types import MappingProxyType

__all__ = ["LOCATION_WORDS", "has_location_word", "mirrored", "says_looks_alone"]

LOCATION_WORDS = frozenset(
    (
        *("left", "right", "top", "bottom", "middle", "center", "centre", "front", "back", "behind", "upper", "lower"),
        *("above", "below", "under", "beneath", "over", "corner", "side", "edge", "end", "row", "far", "near", "next"),
        *("nearest", "closest", "furthest", "farthest", "beside", "between", "leftmost", "rightmost", "topmost"),
        *("bottommost", "first", "second", "third", "fourth", "fifth", "last", "1st", "2nd", "3rd", "4th", "5th"),
    )
)
"""Words that say where a thing is, or which of several in a row."""
COMPARING_WORDS = frozenset(
    (
        *("small", "smaller", "smallest", "large", "larger", "largest", "big", "bigger", "biggest", "tall", "taller"),
        *("tallest", "short", "shorter", "shortest", "little", "tiny", "huge", "high", "higher", "highest", "lowest"),
        *("uppermost", "only", "other", "most", "least", "more", "than", "to", "of", "with", "by", "on", "in", "at"),
        *("that", "which", "whose", "not", "no"),
    )
)
"""Words that compare a thing with others, or tell it by them: they may mean another thing in a part of the image."""
OPPOSITE = MappingProxyType({"left": "right", "right": "left", "lft": "rgt", "rgt": "lft", "rt": "left", "lt": "right"})
SIDED = re.compile(r"(?<![a-z])(left|right|lft|rgt|rt|lt)(?=(?:most|hand|side|er|ward|wards)?(?![a-z]))", re.IGNORECASE)
UNCLEAR = re.compile(
    # Words that say a side in another way, that only look like a side, or that are read in the image.
    r"clockwise|o'?clock|left[ -]?overs?\b|\b(?:is|are|was|what'?s|has|have|been|being|gets?|half) left\b|"
    r"\b(?:all|just|right) right\b|"
    r"\bright (?:now|away|next|behind|above|below|under|before|after|there|here|in|at|on)\b|"
    r"\b(?:say|says|saying|reads?|reading|words?|letters?|numbers?|logo|sign|text|written)\b|(?<![\w.])\d+(?![\w.])|"
    r"[#\"]",
    re.IGNORECASE,
)


def has_location_word(expression: str) -> bool:
    """Return whether an expression says where something is."""
    return not LOCATION_WORDS.isdisjoint(word.strip(".,;:!?'\"()") for word in expression.lower().split())


def says_looks_alone(expression: str) -> bool:
    """Return whether an expression tells a thing by its own looks: then it holds in any part that shows the thing."""
    said = {word.strip(".,;:!?'\"()") for word in expression.lower().split()}
    return said.isdisjoint(LOCATION_WORDS | COMPARING_WORDS)


def mirrored(expression: str) -> str | None:
    """Return an expression for the mirrored image: left and right swapped, all else as it is.

    None where that would not be safe: words that may be no side ("the one left over", "right behind her"), a side said
    otherwise ("at 3 o'clock"), or what is read in the image ("number 12"), which a mirror makes unreadable.
    """
    if UNCLEAR.search(expression):
        return None
    return SIDED.sub(_swapped, expression)


def _swapped(found: re.Match[str]) -> str:
    word = found.group()
    other = OPPOSITE[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other
