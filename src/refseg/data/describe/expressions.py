"""Referring expressions for the things of a photo, generated only where they are true and unambiguous.

The styles are those of generated scenes (`shapes.expressions`): `location`, `appearance` and `relation`; and `name`
(nothing but a word for the thing), and `several` (more than one object).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from refseg.data.describe.colours import PALETTES
from refseg.data.describe.names import Noun, kind_nouns, lookup, nouns, surely_absent
from refseg.data.describe.photo import Photo, Thing
from refseg.data.describe.queries import Depth, Place, Query, Related, denote
from refseg.data.shapes.queries import Centre, Corner, Ordinal, Side, SizeExtreme
from refseg.masks import parts

__all__ = ["STYLES", "Described", "describe"]

T = TypeVar("T")

STYLES = ("name", "appearance", "location", "relation", "several")
MOST_TARGETS = 8
"""Objects of a photo that are singled out, chosen at random."""
PER_TARGET, OF_A_FORM = 5, 2
"""Expressions for the same target, and those of the same form among them."""
MOST_WHOLES = 5
"""Names of a photo whose things are one target together."""
SMALLEST = (0.004, 0.03)
"""Fraction of the photo's pixels, and of its sides: what is smaller is not referred to."""
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
ORDINALS = {2: "second", 3: "third", 4: "fourth"}
WEIGHTS = {"ordinal": 4.0, "middle": 0.4, "colour": 1.5, "on": 3.0, "with": 3.0, "next": 2.0, "behind": 3.0}
"""How much rather than others a form is chosen, if it fits."""
ALIKE = 6.0
"""Objects are counted in a row only if none has more than this many times the area of another."""
IN_A_ROW = 0.3
"""Fractions of the photo's side by which objects in a row are spread out at least along it, and at most across it."""
KEEP = {"colour": 0.15, "behind": 0.05, "next": 0.2, "left": 0.5, "right": 0.5, "size": 0.35, "ordinal": 0.6}
"""Probability that an expression that fits nothing is kept, by form: else many forms would tell that nothing fits."""
UNSEEN = 0.06
"""Up to this fraction of pixels that might have a colour, it is certainly not that of the object."""
RARE = 0.25
"""Fraction of the photos that are asked for a thing that such photos hardly ever show."""
SYNONYM, KIND = 0.4, 0.15
"""How often another word, and a word for more than the name, are said, compared with the usual word."""
THE = 0.25
"""Probability of an article at the beginning."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """An expression with its meaning and its target."""

    text: str
    query: Query
    style: str
    form: str
    name: str
    """The name of the target in the annotations; of an absent one, the name of what would fit."""
    targets: frozenset[int]
    """Indices of the things of the photo that are the target; empty where nothing fits."""

    @property
    def absent(self) -> bool:
        """Whether nothing in the photo fits."""
        return not self.targets


def describe(photo: Photo, rng: np.random.Generator, rare: Sequence[str] = ()) -> list[tuple[Described, ...]]:
    """Return expressions for a photo: of each target together, then those that fit nothing, one by one.

    Args:
        photo: the photo.
        rng: chooses among what can be said.
        rare: words for things that such photos hardly ever show; some photos are asked for one of them.
    """
    visible = [
        index for index, thing in enumerate(photo.things) if thing.single and _visible(thing) and nouns(thing.name)
    ]
    chosen = sorted(rng.permutation(visible)[:MOST_TARGETS].tolist())
    found = [_about(photo, rng, index) for index in chosen]
    found += _together(photo, rng)
    found = [group for group in found if group]
    wanted = max(1, round(sum(map(len, found)) / (2 * PER_TARGET))) if photo.things else 1
    nothing = _nothing(photo, rng, wanted)
    if rare and rng.random() < RARE:
        nothing += _rare(photo, rng, _pick(rng, rare))
    return [*found, *((one,) for one in nothing)]


def _spoken(photo: Photo) -> list[str]:
    """Return the names of a photo's things for which there is a word, in alphabetical order."""
    return sorted(name for name in photo.names if nouns(name))


def _visible(thing: Thing) -> bool:
    return thing.area >= SMALLEST[0] and min(thing.width, thing.height) >= SMALLEST[1]


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _word(rng: np.random.Generator, name: str) -> Noun:
    """Return a word for things of a name."""
    own, kinds = nouns(name), kind_nouns(name)
    weights = np.array([1.0] + [SYNONYM] * (len(own) - 1) + [KIND] * len(kinds))
    return (*own, *kinds)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _said(query: Query, *, plural: bool = False) -> str:
    """Return noun and colour of a query."""
    noun = query.noun
    word = noun.plural if plural else noun.singular
    assert word is not None
    if query.colour is None:
        return word
    return f"{word} in {query.colour}" if noun.means == {"person"} else f"{query.colour} {word}"


def _worded(rng: np.random.Generator, query: Query, template: str, *, plural: bool = False) -> str:
    text = template.format(n=_said(query, plural=plural))
    return f"the {text}" if rng.random() < THE and not text.startswith(("all ", "both ", "the ")) else text


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


# ── one object ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _about(photo: Photo, rng: np.random.Generator, index: int) -> tuple[Described, ...]:
    """Return expressions that single out an object, of different forms."""
    found: dict[str, Described] = {}
    forms: Counter[str] = Counter()
    name = photo.things[index].name
    candidates = list(_candidates(photo, rng, index))
    # In random order, those of a higher weight rather earlier.
    order = np.argsort([-(rng.random() ** (1 / WEIGHTS.get(form, 1.0))) for _, _, form, _ in candidates]).tolist()
    for query, style, form, templates in map(candidates.__getitem__, order):
        text = _worded(rng, query, _pick(rng, templates))
        bare = text.removeprefix("the ")
        if len(found) == PER_TARGET:
            break
        if bare not in found and forms[form] < OF_A_FORM and denote(query, photo).is_only(index):
            forms[form] += 1
            found[bare] = Described(
                text=text, query=query, style=style, form=form, name=name, targets=frozenset({index})
            )
    return tuple(found.values())


Candidate = tuple[Query, str, str, tuple[str, ...]]
"""A query with its style, form and templates."""


def _candidates(photo: Photo, rng: np.random.Generator, index: int) -> Iterator[Candidate]:
    """Yield what might be said of an object, whether it is true and unambiguous or not."""
    thing = photo.things[index]
    usual = Query(noun=nouns(thing.name)[0])
    described = [Query(noun=_word(rng, thing.name))]
    for query in (usual, *described):
        yield query, "name", "name", ("{n}",)
    for colour in PALETTES.get(lookup(thing.name).colours, ()):
        query = replace(usual, colour=colour)
        if index in denote(query, photo).certain:
            yield query, "appearance", "colour", ("{n}",)
            described.append(query)
    for query in described:
        for place, form, templates in _places(photo, query, index):
            yield replace(query, place=place), "location", form, templates
    for place, templates in _relations(photo, rng, index):
        yield replace(described[0], place=place), "relation", place.how, templates


def _places(photo: Photo, query: Query, index: int) -> Iterator[tuple[Place, str, tuple[str, ...]]]:
    members = denote(query, photo)
    if not members.clear or index not in members.certain:
        return
    things = [photo.things[member] for member in sorted(members.certain)]
    thing, count = photo.things[index], len(things)
    for side, preposition in (("left", "on"), ("right", "on"), ("top", "at"), ("bottom", "at")):
        if side in ("left", "right") or count > 1:
            yield Side(side=side), "side", (f"{{n}} {preposition} the {side}",)
    for vertical in ("top", "bottom"):
        for horizontal in ("left", "right"):
            words = (f"{vertical} {horizontal} {{n}}", f"{{n}} in the {vertical} {horizontal}")
            if query.colour is None or query.noun.means != {"person"}:
                yield Corner(vertical=vertical, horizontal=horizontal), "corner", words
    if count == 1:
        yield Centre(), "middle", ("{n} in the middle", "{n} in the center")
        return
    yield Centre(), "middle", ("{n} in the middle", "middle {n}") if count == 3 else ("{n} in the middle",)
    large, small = ("bigger", "smaller") if count == 2 else ("biggest", "smallest")
    yield SizeExtreme(largest=True), "size", (f"{large} {{n}}", f"{large.replace('bigg', 'larg')} {{n}}")
    yield SizeExtreme(largest=False), "size", (f"{small} {{n}}",)
    if {"animal", "vehicle"} & {singular for singular, _ in lookup(thing.name).kinds} or thing.name == "person":
        yield Depth(front=True), "depth", ("{n} in front", "closest {n}", "{n} in the front", "nearest {n}")
        yield Depth(front=False), "depth", ("{n} in the back", "{n} farthest away")
    yield from _ranks(things, thing)


def _ranks(things: Sequence[Thing], thing: Thing) -> Iterator[tuple[Place, str, tuple[str, ...]]]:
    """Yield positions in the order along an axis, where people see an order: the things are spread out along it."""
    x, y = (max(places) - min(places) for places in zip(*((one.x, one.y) for one in things), strict=True))
    areas = [one.area for one in things]
    in_a_row = max(areas) <= ALIKE * min(areas) and len(things) > 2
    for sides, along, across in ((("left", "right"), x, y), (("top", "bottom"), y, x)):
        if along < across:
            continue
        for side in sides:
            middle = thing.x if sides[0] == "left" else thing.y
            on_it = middle <= 0.5 if side == sides[0] else middle >= 0.5
            plain = f"{side} {{n}}"
            most = (f"{side}most {{n}}", f"{{n}} furthest to the {side}") if sides[0] == "left" else (plain,)
            if sides[0] == "left" or on_it:
                yield (
                    Ordinal(rank=1, side=side),
                    "superlative",
                    (*most, *((plain,) if on_it and sides[0] == "left" else ())),
                )
            if in_a_row and along >= IN_A_ROW and across <= IN_A_ROW:
                for rank in range(2, min(len(things), 5)):
                    yield Ordinal(rank=rank, side=side), "ordinal", (f"{ORDINALS[rank]} {{n}} from the {side}",)


def _relations(photo: Photo, rng: np.random.Generator, index: int) -> Iterator[tuple[Related, tuple[str, ...]]]:
    """Yield relations to objects of other names."""
    name = photo.things[index].name
    for other in [one for one in _spoken(photo) if one != name]:
        anchor = nouns(other)[0] if rng.random() < 0.7 else _pick(rng, nouns(other))
        yield from _related_to(anchor, other, name)


def _related_to(anchor: Noun, name: str, of: str) -> Iterator[tuple[Related, tuple[str, ...]]]:
    word, about = anchor.singular, lookup(name)
    a = f"{_article(word)} {word}" if about.counted else word
    if about.carries is not None:
        yield Related(how="on", anchor=anchor), (f"{{n}} on the {word}", f"{{n}} on {a}")
    if of == "person" and about.held:
        yield Related(how="with", anchor=anchor), (f"{{n}} with the {word}", f"{{n}} with {a}")
        return
    yield Related(how="next", anchor=anchor), (f"{{n}} next to the {word}", f"{{n}} beside the {word}")
    yield Related(how="behind", anchor=anchor), (f"{{n}} behind the {word}",)
    for side in ("left", "right"):
        yield Related(how=side, anchor=anchor), (f"{{n}} to the {side} of the {word}", f"{{n}} {side} of the {word}")


# ── several objects, and regions ─────────────────────────────────────────────────────────────────────────────────────


def _together(photo: Photo, rng: np.random.Generator) -> list[tuple[Described, ...]]:
    """Return expressions for all that a word may mean, and for all objects of a name on a side."""
    found: list[tuple[Described, ...]] = []
    for name in rng.permutation(_spoken(photo)).tolist():
        if len(found) >= MOST_WHOLES:
            break
        found += [group for group in (_all(photo, rng, name), _all_at_side(photo, rng, name)) if group]
    return found


def _all(photo: Photo, rng: np.random.Generator, name: str) -> tuple[Described, ...]:
    """Return expressions for all things of a name together, unless they are one object."""
    bare = Query(noun=_pick(rng, nouns(name)), whole=True)
    members = denote(bare, photo)
    things = [photo.things[index] for index in members.certain]
    if not members.clear or not things or sum(thing.area for thing in things) < SMALLEST[0]:
        return ()
    number, counted = lookup(name).number, lookup(name).counted
    if counted and all(thing.single for thing in things):
        if len(things) < 2 or bare.noun.plural is None or not all(map(_visible, things)):
            return ()
        templates = ["all {n}", "the {n}", "{n}"] if len(things) > 2 else ["both {n}", "the two {n}", "the {n}"]
        if len(things) in NUMBERS and len(things) > 2:
            templates.append(f"the {NUMBERS[len(things)]} {{n}}")
        return _worded_each(rng, bare, "several", "all", name, members.certain, templates[:], plural=True, most=2)
    several = _several(things) if counted else number == "pair"
    if several is None or (several and bare.noun.plural is None):
        return ()
    plural = several
    style = "several" if plural and counted else "name"
    group = list(_worded_each(rng, bare, style, "name", name, members.certain, ["{n}"], plural=plural, most=1))
    # Of objects in one mask, each may have another colour.
    for colour in () if counted else PALETTES.get(lookup(name).colours, ()):
        query = replace(bare, colour=colour)
        if denote(query, photo).certain == members.certain:
            group += _worded_each(
                rng, query, "appearance", "colour", name, members.certain, ["{n}"], plural=plural, most=1
            )
    return tuple(group)


def _several(things: Sequence[Thing]) -> bool | None:
    """Return whether masks show several objects of what one can count; None where it is not known."""
    kinds = {thing.kind for thing in things}
    if kinds <= {"merged", "instance"}:
        return True if len(things) > 1 or "merged" in kinds else None
    if kinds != {"region"}:  # two components may be parts of one object
        return None
    sizes = [size for thing in things for size in parts(thing.crop)]
    if lookup(things[0].name).number == "many":
        # A connected region of trees may be one tree or many.
        return True if sum(size >= 0.2 * max(sizes) for size in sizes) > 1 else None
    return False if max(sizes) >= 0.95 * sum(sizes) else None


def _all_at_side(photo: Photo, rng: np.random.Generator, name: str) -> tuple[Described, ...]:
    """Return expressions for several, but not all, objects of a name that are on a side of the photo."""
    bare = Query(noun=nouns(name)[0])
    everywhere = denote(bare, photo)
    if bare.noun.plural is None or not everywhere.clear or not 3 <= len(everywhere.certain) <= 7:
        return ()
    for side in ("left", "right"):
        query = replace(bare, place=Side(side=side))
        there = denote(query, photo)
        some = there.clear and 2 <= len(there.certain) < len(everywhere.certain)
        if some and all(_visible(photo.things[index]) for index in there.certain):
            templates = [f"{{n}} on the {side}", f"the {NUMBERS[len(there.certain)]} {{n}} on the {side}"]
            return _worded_each(rng, query, "several", "side", name, there.certain, templates, plural=True, most=1)
    return ()


def _worded_each(
    rng: np.random.Generator,
    query: Query,
    style: str,
    form: str,
    name: str,
    targets: frozenset[int],
    templates: Sequence[str],
    *,
    plural: bool,
    most: int,
) -> tuple[Described, ...]:
    chosen = rng.permutation(len(templates))[:most].tolist()
    texts = dict.fromkeys(_worded(rng, query, templates[place], plural=plural) for place in chosen)
    return tuple(
        Described(text=text, query=query, style=style, form=form, name=name, targets=targets) for text in texts
    )


# ── nothing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _nothing(photo: Photo, rng: np.random.Generator, count: int) -> list[Described]:
    """Return expressions that fit nothing in the photo."""
    absent = [] if photo.hidden else surely_absent(photo.labelled, photo.names)
    single = sorted({thing.name for thing in photo.things if thing.single and _visible(thing)})
    writers: list[Callable[[], Described | None]] = []
    if absent:
        writers += [lambda: _absent_name(photo, rng, absent)] * 3
    if absent and single:
        writers += [lambda: _absent_anchor(photo, rng, _pick(rng, single), absent)]
    if single:
        writers += [
            lambda: _wrong_colour(photo, rng, _pick(rng, single)),
            lambda: _wrong_place(photo, rng, _pick(rng, single)),
            lambda: _wrong_relation(photo, rng, _pick(rng, single)),
        ]
    found: dict[str, Described] = {}
    for _ in range(8 * count):
        if len(found) == count or not writers:
            break
        one = _pick(rng, writers)()
        if one is None or rng.random() >= KEEP.get(one.form, 1.0):
            continue
        if not denote(one.query, photo).possible:
            found.setdefault(one.text, one)
    return list(found.values())


def _absent_name(photo: Photo, rng: np.random.Generator, absent: Sequence[str]) -> Described:
    """Return an expression for a name that is not in the photo: more often of the same kind as one that is."""
    here = {word for name in photo.names for word in lookup(name).kinds}
    alike = [name for name in absent if here & set(lookup(name).kinds)]
    name = _pick(rng, alike if alike and rng.random() < 0.5 else absent)
    number = lookup(name).number
    query = Query(noun=_pick(rng, nouns(name)))
    colours = [colour for colour in PALETTES.get(lookup(name).colours, ()) if name != "person"]
    if colours and rng.random() < 0.25:
        query = replace(query, colour=_pick(rng, colours))
        return _absent(_worded(rng, query, "{n}", plural=number == "pair"), query, "appearance", "colour", name)
    if lookup(name).counted and rng.random() < 0.35:
        place, form, template = _pick(rng, PLAIN_PLACES)
        query = replace(query, place=place)
        return _absent(_worded(rng, query, template), query, "location", form, name)
    return _absent(_worded(rng, query, "{n}", plural=number == "pair"), query, "name", "name", name)


PLAIN_PLACES: tuple[tuple[Place, str, str], ...] = (
    (Ordinal(rank=1, side="left"), "superlative", "left {n}"),
    (Ordinal(rank=1, side="right"), "superlative", "right {n}"),
    (Side(side="left"), "side", "{n} on the left"),
    (Side(side="right"), "side", "{n} on the right"),
    (Centre(), "middle", "{n} in the middle"),
    (SizeExtreme(largest=True), "size", "biggest {n}"),
    (SizeExtreme(largest=False), "size", "smallest {n}"),
)


def _absent(text: str, query: Query, style: str, form: str, name: str) -> Described:
    return Described(text=text, query=query, style=style, form=form, name=name, targets=frozenset())


def _absent_anchor(photo: Photo, rng: np.random.Generator, name: str, absent: Sequence[str]) -> Described | None:
    """Return an expression that relates an object to one that is not there."""
    anchor = _pick(rng, absent)
    if not lookup(anchor).counted:
        return None
    place, templates = _pick(rng, list(_related_to(nouns(anchor)[0], anchor, name)))
    query = Query(noun=nouns(name)[0], place=place)
    return _absent(_worded(rng, query, _pick(rng, templates)), query, "relation", place.how, name)


def _rare(photo: Photo, rng: np.random.Generator, word: str) -> list[Described]:
    """Return an expression for a thing that such photos hardly ever show, unless this photo has one."""
    query = Query(noun=nouns(word)[0])
    if denote(query, photo).possible:
        return []
    return [_absent(_worded(rng, query, "{n}"), query, "name", "rare", word)]


def _wrong_colour(photo: Photo, rng: np.random.Generator, name: str) -> Described | None:
    """Return an expression with a colour that no object of the name has."""
    palette = PALETTES.get(lookup(name).colours, ())
    shares = [photo.shares(index) for index, thing in enumerate(photo.things) if thing.name == name]
    unseen = [
        colour for colour in palette if all(share is not None and share.possible[colour] <= UNSEEN for share in shares)
    ]
    if not unseen or not all(_visible(thing) for thing in photo.things if thing.name == name):
        return None
    query = Query(noun=nouns(name)[0], colour=_pick(rng, unseen))
    return _absent(_worded(rng, query, "{n}"), query, "appearance", "colour", name)


def _wrong_place(photo: Photo, rng: np.random.Generator, name: str) -> Described | None:
    """Return an expression with a side on which no object of the name is, or a rank beyond their number."""
    bare = Query(noun=nouns(name)[0])
    members = denote(bare, photo)
    if not members.clear:
        return None
    side = _pick(rng, ("left", "right"))
    if len(members.certain) in (2, 3) and rng.random() < 0.5:
        rank = len(members.certain) + 1
        query = replace(bare, place=Ordinal(rank=rank, side=side))
        text = _worded(rng, query, f"{ORDINALS[rank]} {{n}} from the {side}")
        return _absent(text, query, "location", "ordinal", name)
    # One object in the other half might still be called the left one, if there are others to its right.
    opposite = "right" if side == "left" else "left"
    if len(members.certain) > 1 or denote(replace(bare, place=Side(side=opposite)), photo).certain != members.certain:
        return None
    query = replace(bare, place=Side(side=side))
    return _absent(_worded(rng, query, f"{{n}} on the {side}"), query, "location", "side", name)


def _wrong_relation(photo: Photo, rng: np.random.Generator, name: str) -> Described | None:
    """Return an expression with a relation that no object of the name has to another object of the photo."""
    anchors = [one for one in _spoken(photo) if one != name]
    if not anchors:
        return None
    anchor = _pick(rng, anchors)
    place, templates = _pick(rng, list(_related_to(nouns(anchor)[0], anchor, name)))
    query = Query(noun=nouns(name)[0], place=place)
    return _absent(_worded(rng, query, _pick(rng, templates)), query, "relation", place.how, name)
