"""Other wordings of generated expressions, as people write them, for training only.

An expression about a photo is strict: it says only what masks, names and colours prove. People also say what these do
not tell ("the woman", "smiling man", "player in a blue shirt"), and say the same in fewer words ("guy on far left").
A model that never reads such words takes them for unknown things. Here they replace or extend what is certain, so the
target stays right, while the added word may be wrong: the only person of a photo is called a man or a woman at random.
This teaches that these words name people, and nothing about who they are. Validation and test are strict.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from refseg.data.describe.expressions import Described
from refseg.data.describe.names import Noun, lookup
from refseg.data.describe.photo import Photo
from refseg.data.describe.queries import Query, Related

__all__ = ["reworded"]

T = TypeVar("T")

NARROWER = 0.6
"""How often a word for some things of a name is said where it can only mean one of them."""
OTHERWISE = 0.6
"""How often a phrase of `PHRASES` is said in another way."""
TERSE = 0.4
"""How often the articles within an expression are left out."""
ADDED = 0.2
"""How often something that cannot be checked is added about a person or an animal."""

PHRASES: MappingProxyType[str, tuple[str, ...]] = MappingProxyType(
    {
        r"\bon the (left|right)$": (
            r"to the \1",
            r"on the \1 side",
            r"at the \1",
            r"on the far \1",
            r"on the \1 of the photo",
        ),
        r"^(.+) on the (left|right)$": (r"\2 side \1", r"\1 \2"),
        r"^(left|right)most (.+)$": (r"far \1 \2", r"\2 on the far \1", r"\2 farthest \1", r"first \2 on the \1"),
        r"\bfurthest to the (left|right)$": (r"all the way to the \1", r"on the far \1", r"closest to the \1 edge"),
        r"^(top|bottom) (left|right) (.+)$": (
            r"\1 \2 corner \3",
            r"\3 in the \1 \2 corner",
            r"\3 at the \1 \2",
            r"\3 on the \1 \2",
        ),
        r"\b(?:in the|at the)? ?bottom (left|right)\b": (r" lower \1",),
        r"\b(?:in the|at the)? ?top (left|right)\b": (r" upper \1",),
        r"\bin the (?:middle|center)$": (r"in the middle of the photo", r"in the center", r"at the center"),
        r"^(.+) in the (?:middle|center)$": (r"middle \1", r"center \1", r"\1 middle"),
        r"^(.+) in (?:the )?front$": (
            r"front \1",
            r"\1 in the foreground",
            r"\1 closest to us",
            r"\1 nearest the camera",
        ),
        r"^(?:closest|nearest) (.+)$": (r"\1 closest to the camera", r"\1 up front", r"front \1"),
        r"^(.+) (?:in the back|farthest away)$": (r"back \1", r"\1 in the background", r"\1 far away"),
        r"^(second|third|fourth) (.+) from the (left|right)$": (r"\2 \1 from the \3", r"\1 from the \3 \2"),
        r"^(bigg|larg)(er|est) (.+)$": (r"big \3", r"large \3", r"the \1\2 of the \3"),
        r"^small(er|est) (.+)$": (r"small \2", r"little \2", r"tiny \2"),
        r"\bnext to\b": (r"by", r"near", r"close to"),
    }
)
"""Patterns of phrases, each with other ways to say it."""


def _listed(phrases: str) -> tuple[str, ...]:
    return tuple(phrases.split("|"))


OF_PEOPLE = (
    _listed("smiling|standing|sitting|walking|young|old|older|little|tall|happy|bald|blond"),
    _listed(
        "smiling|standing|sitting|walking|looking at the camera|facing us|with no hat|with glasses|with long hair|"
        "who is standing|who is sitting|sitting down|in the photo|posing for the camera|looking away|playing|"
        "with his back to us|with her arms crossed|eating|talking"
    ),
)
"""Words before and after one for a person that masks and names do not prove."""
WORN = _listed("shirt|jacket|hat|dress|hoodie|uniform|suit|sweater|coat|cap|jeans|shorts|helmet|skirt|tie|glasses")
"""What a person may wear, in photos where no clothes are annotated."""
OF_ANIMALS = (
    _listed("standing|sitting|cute|young|old|fluffy|little|sleeping"),
    _listed(
        "standing|sitting|lying down|looking at the camera|facing us|eating|that is standing|that is eating grass|"
        "in the photo|walking|sleeping|running|looking away|with its head down"
    ),
)
"""The same for an animal."""
CLOTHES = ("wearing {c}", "in {c} shirt", "in a {c} shirt", "with {c} shirt", "in a {c} top", "wearing a {c} jacket")
"""Other ways to say that a person is dressed in a colour, which is measured over all that is seen of the person."""
HOLDING, WEARING = ("holding", "carrying", "that has", "who has"), ("wearing", "in", "that has")


def reworded(one: Described, photo: Photo, rng: np.random.Generator) -> Described:
    """Return an expression as people might write it; its target, style and form stay.

    Args:
        one: a strict expression.
        photo: what it is about.
        rng: chooses among the wordings.
    """
    text = one.text.removeprefix("the ")
    for pattern, others in PHRASES.items():
        if rng.random() < OTHERWISE and re.search(pattern, text):
            text = re.sub(pattern, _pick(rng, others), text, count=1)
            break
    text = _related(one.query, text, rng)
    text = _about(one, photo, text, rng)
    if rng.random() < TERSE:
        text = re.sub(r" (?:the|an?) ", " ", text)
    text = " ".join(text.split())
    if one.text.startswith("the ") and not text.startswith(("the ", "all ", "both ")):
        text = f"the {text}"
    return replace(one, text=text)


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _related(query: Query, text: str, rng: np.random.Generator) -> str:
    """Return the text with another word for `with`, or for the colour of a person's clothes."""
    if isinstance(query.place, Related) and query.place.how == "with" and rng.random() < OTHERWISE:
        worn = any(lookup(name).number == "worn" for name in query.place.anchor.means)
        return text.replace(" with ", f" {_pick(rng, WEARING if worn else HOLDING)} ", 1)
    colour = query.colour
    if colour is not None and query.noun.means == {"person"} and rng.random() < OTHERWISE:
        return text.replace(f" in {colour}", f" {_pick(rng, CLOTHES).format(c=colour)}", 1)
    return text


def _about(one: Described, photo: Photo, text: str, rng: np.random.Generator) -> str:
    """Return the text with a narrower word for its noun, and with something that is added about it."""
    noun = one.query.noun
    found = re.search(rf"\b(?:{re.escape(noun.singular)})\b", text)
    plural = None if found or noun.plural is None else re.search(rf"\b(?:{re.escape(noun.plural)})\b", text)
    place = found or plural
    if place is None:
        return text
    word = place[0]
    if rng.random() < NARROWER and (narrower := _narrower(one, photo)):
        chosen = _pick(rng, narrower)
        word = (chosen[1] or word) if plural else chosen[0]
    if not plural and rng.random() < ADDED:
        word = _added(noun, photo, word, rng)
    return text[: place.start()] + word + text[place.end() :]


def _narrower(one: Described, photo: Photo) -> tuple[tuple[str, str | None], ...]:
    """Return the words for some things of the name, if all that they could mean is the target, or is absent."""
    noun = one.query.noun
    if len(noun.means) != 1:
        return ()
    (name,) = noun.means
    alike = {index for index, thing in enumerate(photo.things) if thing.name in noun.might_mean}
    return lookup(name).some if alike <= one.targets or len(alike) == 1 else ()


def _added(noun: Noun, photo: Photo, word: str, rng: np.random.Generator) -> str:
    kinds = {kind for name in noun.means for kind, _ in lookup(name).kinds}
    if noun.means == {"person"}:
        before, after = OF_PEOPLE
        if not any(lookup(name).number == "worn" for name in photo.names | photo.labelled) and rng.random() < 0.5:
            return f"{word} wearing a {_pick(rng, WORN)}"
    elif "animal" in kinds:
        before, after = OF_ANIMALS
    else:
        return f"{word} in the photo" if rng.random() < 0.3 else word
    return f"{_pick(rng, before)} {word}" if rng.random() < 0.5 else f"{word} {_pick(rng, after)}"
