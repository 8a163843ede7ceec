"""The names of objects in photos: their words, what each word might also mean, and where absence is known.

`names.csv` has a row for each name that annotations use. Several values in a cell are separated by `|`.

- `number`: `count`; `many`, of which a region may show any number; `worn`, of which a person has one; `mass` (grass,
  hair), which is neither counted nor compared; or `pair` (scissors, shoes), whose word is always a plural;
- `words`: what people say for it, the usual word first, each `singular/plural`; none where people do not refer to it;
- `kinds`: words for more than this name, such as `animal/animals`;
- `colours`: which colours tell such objects apart (see `colours.PALETTES`);
- `confused`: labels; what has a label in common with another name might be called by its word too;
- `absent`: whether such objects are labelled so reliably that a missing label means a missing object;
- `carries`: how deep something on it reaches into its box at least, as a fraction of its height;
- `held`: whether people say "the person with the ..." of who holds or wears it;
- `some`: words for some such objects, which masks and names do not tell apart from the others, such as `woman/women`;
  they are said for training only (see `wording`).

`labelled.toml` has the lists of names that are labelled completely in known collections. `rare.txt` has words for
things that everyday photos hardly ever show, of which some are kept for validation and test.
"""

from __future__ import annotations

import csv
import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from refseg.errors import UnknownNameError

__all__ = ["Name", "Noun", "kind_nouns", "labelled_names", "lookup", "nouns", "rare_words", "surely_absent"]

KEPT = 0.35
"""Fraction of the rare words that are not learnt from."""


@dataclass(frozen=True, kw_only=True)
class Noun:
    """A word for objects."""

    singular: str
    plural: str | None
    """None where it has none, or where it is not known."""
    means: frozenset[str]
    """The names of objects that everybody would call so."""
    might_mean: frozenset[str]
    """The names of objects that somebody might call so; includes `means`."""


@dataclass(frozen=True, kw_only=True)
class Name:
    """What is known of a name that annotations use."""

    name: str
    words: tuple[tuple[str, str | None], ...]
    number: str = "count"
    kinds: tuple[tuple[str, str | None], ...] = ()
    colours: str = ""
    confused: frozenset[str] = frozenset()
    absent: bool = False
    carries: float | None = None
    held: bool = False
    some: tuple[tuple[str, str | None], ...] = ()

    @property
    def counted(self) -> bool:
        """Whether people count such things, and tell them apart by their places."""
        return self.number in ("count", "many")


def lookup(name: str) -> Name:
    """Return what is known of a name; of a name that the table lacks, that it is a word for things one can count."""
    return _table().get(name) or Name(name=name, words=((" ".join(name.replace("_", " ").lower().split()), None),))


@cache
def nouns(name: str) -> tuple[Noun, ...]:
    """Return the words that people say for objects of a name, the usual one first."""
    return tuple(_noun(word, frozenset({name})) for word in lookup(name).words)


@cache
def kind_nouns(name: str) -> tuple[Noun, ...]:
    """Return the words for more than a name, such as `animal` for a dog."""
    return tuple(
        _noun(word, frozenset(other.name for other in _table().values() if word in other.kinds))
        for word in lookup(name).kinds
    )


def _noun(word: tuple[str, str | None], means: frozenset[str]) -> Noun:
    confused = frozenset().union(*(lookup(name).confused for name in means))
    others = (other.name for other in _table().values() if other.confused & confused)
    return Noun(singular=word[0], plural=word[1], means=means, might_mean=means.union(others))


def surely_absent(labelled: Iterable[str], present: frozenset[str]) -> list[str]:
    """Return the names of which a photo certainly has no object, in alphabetical order.

    Args:
        labelled: names that are labelled wherever they occur.
        present: names of all its objects.
    """
    return sorted(
        name
        for name in set(labelled) - present
        if lookup(name).absent and all(present.isdisjoint(noun.might_mean) for noun in nouns(name))
    )


@cache
def labelled_names(label: str) -> frozenset[str]:
    """Return the names that a known collection labels wherever they occur.

    Raises:
        UnknownNameError: no such collection is known.
    """
    lists = tomllib.loads(_read("labelled.toml"))
    if label not in lists:
        raise UnknownNameError("list of labelled names", label, lists)
    return frozenset(lists[label])


@cache
def rare_words(*, learnt: bool) -> tuple[str, ...]:
    """Return words for things that everyday photos hardly ever show: those to learn from, or those kept to test with.

    They are divided by a hash of each.
    """
    words = _read("rare.txt").split("\n")
    kept = {word for word in words if hashlib.sha256(word.encode()).digest()[0] < 256 * KEPT}
    return tuple(word for word in words if word and (word in kept) != learnt)


@cache
def _table() -> dict[str, Name]:
    rows = csv.DictReader(_read("names.csv").splitlines())
    return {
        row["name"]: Name(
            name=row["name"],
            words=_words(row["words"]),
            number=row["number"],
            kinds=_words(row["kinds"]),
            colours=row["colours"],
            confused=frozenset(filter(None, row["confused"].split("|"))),
            absent=row["absent"] == "yes",
            carries=float(row["carries"]) if row["carries"] else None,
            held=row["held"] == "yes",
            some=_words(row["some"]),
        )
        for row in rows
    }


def _words(cell: str) -> tuple[tuple[str, str | None], ...]:
    pairs = (word.partition("/") for word in cell.split("|") if word)
    return tuple((singular, plural or None) for singular, _, plural in pairs)


def _read(file: str) -> str:
    return files("refseg.data.describe").joinpath(file).read_text(encoding="utf-8")
