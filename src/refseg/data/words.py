"""The words of an expression that tell a location or compare sizes, and the expression for the mirrored image."""

from __future__ import annotations

import re
import unicodedata
from itertools import product, takewhile
from types import MappingProxyType

__all__ = ["LOCATION_WORDS", "has_location_word", "mirrored", "says_looks_alone"]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LOCATION_WORDS = _words(
    "left right top bottom middle center centre front back behind upper lower above below under beneath over corner "
    "side edge end row far near next nearest closest furthest farthest beside between leftmost rightmost topmost "
    "bottommost first second third fourth fifth last 1st 2nd 3rd 4th 5th"
)
"""Words that tell where an object is, or its position in a row."""
COMPARING_WORDS = _words(
    "small smaller smallest large larger largest big bigger biggest tall taller tallest short shorter shortest little "
    "tiny huge high higher highest lowest uppermost only other most least more than to of with by on in at that which "
    "whose not no"
)
"""Words that compare or relate an object to others, so that the expression may refer to another object in a crop."""


def has_location_word(expression: str) -> bool:
    """Return whether an expression has a location word."""
    return not LOCATION_WORDS.isdisjoint(_bare_words(expression))


def says_looks_alone(expression: str) -> bool:
    """Return whether an expression describes appearance alone, so that it holds in any crop that shows its target."""
    return (LOCATION_WORDS | COMPARING_WORDS).isdisjoint(_bare_words(expression))


def _bare_words(expression: str) -> list[str]:
    return [word.strip(".,;:!?'\"()") for word in expression.lower().split()]


# ── mirroring ────────────────────────────────────────────────────────────────────────────────────────────────────────

PREFIXES = ("", *sorted(_words("far top bottom upper lower mid middle front back rear center centre")))
SUFFIXES = ("", *sorted(_words("most hand handed hander side ward wards er est")))
SWAPPED: MappingProxyType[str, str] = MappingProxyType(
    {
        f"{prefix}{one}{suffix}": f"{prefix}{other}{suffix}"
        for (one, other), prefix, suffix in product((("left", "right"), ("right", "left")), PREFIXES, SUFFIXES)
        if not (prefix and suffix)
    }
    | {"lefty": "righty", "righty": "lefty", "lft": "rgt", "rgt": "lft", "lhs": "rhs", "rhs": "lhs"}
)
"""Words that name a side for certain, each with its opposite."""
SIDE = re.compile(
    "left|right|lft|rgt|rght|rigt|rigth|righ|rihgt|leff|lfet|izq|derech|gauch|droit|links|recht|clockwise"
)
"""Parts of words that may name a side."""
NOT_SIDE = re.compile("bright|upright|fright|wright|cleft")
"""Parts of words that do not, although they contain one of those."""
SIMILAR_WORDS = _words("light night fight sight might tight eight lift loft heft deft")
"""English words that differ from `left` or `right` by one letter. Others are taken for misspelt sides."""
SHORT_WORDS = _words(
    "a i an am as at be by do dr go he hi id if in is it jr me mr ms my no of oh ok on or ox pj pm so st t to tv uk up "
    "us w we"
)
"""Words of one or two letters that are understood. Others may be abbreviations of sides: `l`, `rt`, `bl`."""
ENDINGS = _words("s t re ll ve d m")
"""What may follow an apostrophe."""
UNCLEAR_WORDS = _words(
    # Sides in other spellings, and in relation to a ship, a car, a clock or a map.
    "lef rit rht lht rgh dexter sinister port portside starboard nearside offside shotgun oclock "
    "east west eastern western eastward westward eastmost westmost northeast northwest southeast southwest "
    # Left and right in other languages.
    "izda dcha der linke linker linken linkes sinistra sinistro destra destro esquerda esquerdo direita direito "
    "esquerra dreta dret lewo lewa lewy lewej prawo prawa prawy prawej vanster hoger venstre vasen vasemmalla oikea "
    "oikealla sol sag solda sagda kiri kanan trai phai levo leva levy pravo prava pravy bal jobb stanga dreapta "
    "lijevo lijeva desno desna levi desni kaliwa kushoto kulia "
    # What a mirror makes unreadable.
    "say says said saying read reads reading spell spells spelling word words letter letters number numbers numbered "
    "digit digits logo logos sign signs text label labels labeled labelled named written writing print printed "
    "initial initials caption"
)
"""Words with which an expression is not mirrored."""
UNCLEAR_PHRASES = re.compile(
    r"\b(?:(?:left|right) (?:sides? (?:up|out|down)|ways? (?:up|round|around)|angles?|angled|overs?|off)|right of way|"
    r"(?:drivers?|driver's|drivers'|passengers?|passenger's|passengers') (?:hand )?side)\b"
)
CERTAIN_BEFORE = _words(
    "on the to from at toward towards far top bottom upper lower front back rear mid middle center centre very most "
    "extreme facing looking pointing his her their its our your my further furthest farthest closest nearest"
)
"""Words after which `left` and `right` name a side, whatever follows."""
CERTAIN_AFTER = _words("of side hand")
"""Words before which they do, unless they speak of a rest ("what is left of the cake")."""
UNCLEAR_BEFORE = _words(
    "is are was were be been being has have had having get gets got who that which he she they we i you it there "
    "half all just about quite not so yeah what's that's it's who's there's he's she's nothing anything something none "
    "any some still"
)
"""Words after which they may be a verb, or an adverb."""
UNCLEAR_AFTER = _words(
    "on in at by out up off over under underneath beneath below above behind before after beside near through between "
    "inside outside against around along next now then away here there where alone open for with without unattended "
    "standing sitting lying laying hanging uneaten unfinished empty to into onto down"
)
"""Words before which they may be a verb ("left on the floor"), or an adverb ("right behind her")."""
REMAINDER_WORDS = _words("only last any none nothing anything some something still remaining one few more much")
"""Words with which a `left` at the end may say what remains."""
REMAINDER_OF_WORDS = _words("all any little lot most much none nothing rest what what's whats")
"""Words with which `left of` may do so."""
ORDINALS = _words(
    "first second third fourth fifth sixth seventh eighth ninth tenth last 1st 2nd 3rd 4th 5th 6th 7th 8th 9th 10th"
)
"""Positions in a row, which is counted from the left where no side is named."""
VERTICAL_ORDER = re.compile(r"\b(?:from|at) (?:the )?(?:very )?(?:top|bottom|front|back|rear)\b")
TOKEN = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
SEPARATORS = re.compile(r"(?:[ \t\n,.;:!?()/&-]|(?<=s)')*")


def mirrored(expression: str) -> str | None:
    """Return an expression for the mirrored image, with left and right swapped, or None where that is not certain.

    Every word has to be understood: it either names a side for certain (`SWAPPED`) or is known not to name one.
    Abbreviations, misspellings, other scripts, digits and quotes are not understood, nor are sides in other terms
    ("at 3 o'clock", "port side"), text that a mirror makes unreadable, uses of `left` and `right` that may be no side
    ("left on the floor", "right behind her"), and positions in a row that are counted from a side that is not named.

    Mirroring the result gives the expression again.
    """
    tokens = list(TOKEN.finditer(expression))
    words = [token.group().lower().replace("\u2019", "'") for token in tokens]
    ends = [0, *(token.end() for token in tokens)]
    starts = [*(token.start() for token in tokens), len(expression)]
    if not all(SEPARATORS.fullmatch(expression, *gap) for gap in zip(ends, starts, strict=True)):
        return None
    if UNCLEAR_PHRASES.search(" ".join(words)) or not all(map(_is_understood, words)):
        return None
    sides = [place for place, word in enumerate(words) if _base(word) in SWAPPED]
    if not sides and not ORDINALS.isdisjoint(words) and not VERTICAL_ORDER.search(" ".join(words)):
        return None
    pieces, end = [], 0
    for place in sides:
        token = tokens[place]
        swapped = _swapped(token.group())
        if swapped is None or not _is_side(words, place):
            return None
        pieces += [expression[end : token.start()], swapped]
        end = token.end()
    return "".join((*pieces, expression[end:]))


def _base(word: str) -> str:
    return word.partition("'")[0]


def _is_understood(word: str) -> bool:
    """Return whether a word, in lower case, names a side for certain or certainly does not."""
    base, *endings = word.split("'")
    if not ENDINGS.issuperset(endings):
        return False
    if base in SWAPPED or base in ORDINALS:
        return True
    plain = "".join(one for one in unicodedata.normalize("NFKD", base) if not unicodedata.combining(one))
    if not (plain.isascii() and plain.isalpha()) or plain in SWAPPED or plain in UNCLEAR_WORDS:
        return False
    if len(plain) < 3:
        return plain in SHORT_WORDS
    rest = NOT_SIDE.sub("", plain)
    if SIDE.search(rest):
        return False
    is_short = len(rest) < 4
    return is_short or plain in SIMILAR_WORDS or not any(_is_near(rest, side) for side in ("left", "right"))


def _is_near(word: str, other: str) -> bool:
    """Return whether two words differ by one letter that is added, missing, replaced, or swapped with the next."""
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(word, other, strict=False)))
    word, other = word[start:], other[start:]
    end = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(word[::-1], other[::-1], strict=False)))
    word, other = word[: len(word) - end], other[: len(other) - end]
    return max(len(word), len(other)) <= 1 or (len(word) == 2 and word == other[::-1])


def _is_side(words: list[str], place: int) -> bool:
    """Return whether a word that may name a side certainly does, by the words around it."""
    if words[place] not in ("left", "right"):
        return True
    before, after = words[:place], words[place + 1 :]
    if before and before[-1] in CERTAIN_BEFORE:
        return True
    if after and after[0] in CERTAIN_AFTER:
        return REMAINDER_OF_WORDS.isdisjoint(before)
    if before and before[-1] in UNCLEAR_BEFORE:
        return False
    if not after:
        return REMAINDER_WORDS.isdisjoint(before)
    return after[0] not in UNCLEAR_AFTER


def _swapped(written: str) -> str | None:
    """Return the opposite of a side, in the case in which it is written; None if that is mixed."""
    base = _base(written.replace("\u2019", "'"))
    ending, other = written[len(base) :], SWAPPED[base.lower()]
    for case in (str.lower, str.upper, str.capitalize):
        if case(base) == base:
            return case(other) + ending
    return None
