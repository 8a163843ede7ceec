"""Referring expressions for the objects of a scene, generated only where their target is unambiguous.

Three styles: `location` (short, like RefCOCO), `appearance` (no location words, like RefCOCO+) and `relation` (longer,
like RefCOCOg).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeVar

import numpy as np

from refseg.data.shapes.queries import (
    LONGEST_NEXT_TO,
    Centre,
    Corner,
    Filter,
    Nearest,
    Ordinal,
    Place,
    Query,
    Relation,
    Side,
    SizeExtreme,
    denote,
    gap,
    off_direction,
    position,
)
from refseg.data.shapes.scene import Scene, Thing, pick
from refseg.data.shapes.vocabulary import COLOURS, HELD_OUT, KINDS, TEXTURES, VARIANTS

__all__ = ["STYLES", "Reference", "drill", "noun", "refer", "refer_simply", "refer_to_nothing"]

T = TypeVar("T")
Several = Sequence[tuple[Filter, frozenset[int]]]

STYLES = ("location", "appearance", "relation")
MOST_WORDS = 14
OTHER_WORD = 0.15
"""Probability that a word that has variants is replaced by one of them."""
KEEP = {"location": 0.76, "appearance": 0.87, "relation": 0.82}
"""Probability that an expression is kept, by style, so that the styles become equally frequent."""
SIDES = ("left", "right", "top", "bottom")
SIDE_WEIGHTS = (0.35, 0.35, 0.15, 0.15)
LOCATION_FORMS = ("ordinal", "superlative", "side", "corner", "middle", "size")
LOCATION_WEIGHTS = (2.6, 2.0, 0.9, 0.9, 6.0, 1.0)
SIMPLE_FORMS, SIMPLE_WEIGHTS = ("superlative", "side", "corner"), (2.0, 0.9, 0.9)
"""The locations of easy scenes."""
USUAL_FORMS = (0.15, 0.3, 0.25, 0.15, 0.08, 0.07)
"""Observed frequencies of the forms of expressions with a target; those that fit nothing get the same."""
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
ORDINALS = {1: ("1st", "first"), 2: ("2nd", "second"), 3: ("3rd", "third"), 4: ("4th", "fourth")}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An expression with its query, form and target."""

    expression: str
    query: Query
    """The meaning of the expression."""
    style: str
    """`location`, `appearance` or `relation`."""
    form: str
    """`attributes`, `superlative`, `ordinal`, `side`, `corner`, `middle`, `size`, `relation` or `nearest`."""
    target: int | None
    """Index of the target in the scene; None where nothing fits."""


def refer(rng: np.random.Generator, scene: Scene, target: int) -> tuple[Reference, ...]:
    """Return up to three references to an object, at most one of each style, each unambiguous.

    Empty only where no unambiguous expression was found.
    """
    found = [
        reference
        for reference in (
            _by_location(rng, scene, target),
            _by_appearance(rng, scene, target),
            _by_relation(rng, scene, target),
        )
        if reference is not None
    ]
    kept = [reference for reference in found if rng.random() < KEEP[reference.style]]
    return tuple(kept) if kept or not found else (pick(rng, found),)


def refer_simply(rng: np.random.Generator, scene: Scene, target: int) -> tuple[Reference, ...]:
    """Return up to two references to an object, each unambiguous: by its location, and by its kind and colour alone."""
    looks = next((f for f in _short_filters(rng, scene.things[target]) if _says_only(f, scene, target)), None)
    located = _by_location(rng, scene, target, SIMPLE_FORMS, SIMPLE_WEIGHTS)
    found = [] if located is None else [located]
    if looks is not None:
        words, query = noun(rng, looks), Query(filter=looks)
        found.append(Reference(expression=words, query=query, style="appearance", form="attributes", target=target))
    return tuple(found)


def _says_only(wanted: Filter, scene: Scene, target: int) -> bool:
    return denote(Query(filter=wanted), scene).is_only(target)


def refer_to_nothing(rng: np.random.Generator, scene: Scene, *, say_held_out: bool, related: bool = False) -> Reference:
    """Return an expression that nearly fits an object of the scene, but fits nothing.

    Args:
        rng: the only source of randomness.
        scene: the scene.
        say_held_out: whether the expression may name a held-out pair. Not in training: a model would learn that such an
            expression never fits.
        related: whether the expression relates an object to another one; otherwise it may be wrong in an attribute, in
            the location or in a relation.
    """
    writers = (_wrong_relation,) if related else (_wrong_attributes, _wrong_place, _wrong_relation)
    while True:
        writer = pick(rng, writers)
        reference = writer(rng, scene)
        if reference is None or (not say_held_out and _says_held_out(reference.query)):
            continue
        if not denote(reference.query, scene).possible and len(reference.expression.split()) <= MOST_WORDS:
            return reference


def drill(rng: np.random.Generator, scene: Scene, count: int) -> tuple[Reference, ...]:
    """Return up to `count` references of the forms that are hardest to learn, each unambiguous.

    They differ in few words from expressions for other objects of the scene. Four forms alternate: comparing distances,
    counting, textures and relations. A quarter of all fits nothing, every second one of these for its relation.
    """
    nothing = count // 4
    each = math.ceil((count - nothing) / 3)  # where a scene does not have a form, others replace it
    several = tuple(_several(scene))
    forms = (
        _distances(rng, scene, several),
        _ranks(scene, several),
        _textures(scene),
        _relations(rng, scene, several),
    )
    turns = zip_longest(*(_clear(rng, scene, queries, each) for queries in forms))
    found = [reference for turn in turns for reference in turn if reference is not None][: count - nothing]
    for number in range(nothing):
        found.append(refer_to_nothing(rng, scene, say_held_out=False, related=number % 2 == 0))
    return tuple(found)


def _ranks(scene: Scene, several: Several) -> Iterator[Query]:
    """Yield queries that count objects which fit the same filter, along axes on which they are spread out."""
    for wanted, members in several:
        for side in SIDES:
            places = [position(side, i, scene) for i in members]
            if max(places) - min(places) > 0.3:
                for rank in range(2, min(len(places), max(ORDINALS)) + 1):
                    yield Query(filter=wanted, place=Ordinal(rank=rank, side=side))


def _distances(rng: np.random.Generator, scene: Scene, several: Several) -> Iterator[Query]:
    """Yield queries for the one of several objects that is nearest to another one."""
    for wanted, anchor in _with_another(rng, scene, several):
        yield Query(filter=wanted, place=Nearest(anchor=anchor))


def _relations(rng: np.random.Generator, scene: Scene, several: Several) -> Iterator[Query]:
    """Yield queries for those of several objects that lie to one side of another one."""
    for wanted, anchor in _with_another(rng, scene, several):
        for direction in OPPOSITE:
            yield Query(filter=wanted, place=Relation(direction=direction, anchor=anchor))


def _with_another(rng: np.random.Generator, scene: Scene, several: Several) -> Iterator[tuple[Filter, Query]]:
    """Yield filters that several objects fit, each with a query for another object; two or more others remain."""
    anchors = [(index, _anchor(rng, scene, index)) for index in range(len(scene.things))]
    for wanted, members in several:
        for index, anchor in anchors:
            if anchor is not None and len(members - {index}) > 1:
                yield wanted, anchor


def _textures(scene: Scene) -> Iterator[Query]:
    """Yield queries that name a texture, and that several objects would fit without it."""
    filters = dict.fromkeys(wanted for thing in scene.things for wanted in _all_filters(thing))
    for wanted in filters:
        if wanted.texture is not None and _length(wanted) <= 2:
            rest = replace(wanted, texture=None)
            if _length(rest) == 0 or len(denote(Query(filter=rest), scene).possible) > 1:
                yield Query(filter=wanted)


def _several(scene: Scene) -> Iterator[tuple[Filter, frozenset[int]]]:
    """Yield the short filters that two objects or more fit, with the indices of these."""
    for wanted in dict.fromkeys(wanted for thing in scene.things for wanted in _filters_of_several(thing)):
        members = denote(Query(filter=wanted), scene)
        if members.clear and len(members.certain) > 1:
            yield wanted, frozenset(members.certain)


def _filters_of_several(thing: Thing) -> tuple[Filter, ...]:
    return Filter(kind=thing.kind), Filter(kind=thing.kind, colour=thing.colour), Filter(colour=thing.colour)


def _clear(rng: np.random.Generator, scene: Scene, queries: Iterable[Query], most: int) -> list[Reference]:
    """Return references for some of the queries that have one unambiguous target."""
    found: list[Reference] = []
    listed = list(queries)
    for query in _shuffled(rng, listed, [1.0] * len(listed)):
        if len(found) == most:
            break
        targets = denote(query, scene)
        if targets.clear and len(targets.certain) == 1:
            found.append(_drilled(rng, query, scene, *targets.certain))
    return found


def _drilled(rng: np.random.Generator, query: Query, scene: Scene, target: int) -> Reference:
    place = query.place
    if isinstance(place, Nearest | Relation):
        (anchor,) = denote(place.anchor, scene).certain
        near = gap(scene.things[target], scene.things[anchor]) < LONGEST_NEXT_TO
        form = "nearest" if isinstance(place, Nearest) else "relation"
        words, style = _relate(rng, query.filter, place, next_to=near), "relation"
    elif place is None:
        words, style, form = noun(rng, query.filter), "appearance", "attributes"
    else:
        words, style, form = _locate(rng, "ordinal", place, query.filter, on_its_side=False), "location", "ordinal"
    return Reference(expression=words, query=query, style=style, form=form, target=target)


# --- an object by its location ---------------------------------------------------------------------------------------


def _by_location(
    rng: np.random.Generator,
    scene: Scene,
    target: int,
    forms: Sequence[str] = LOCATION_FORMS,
    weights: Sequence[float] = LOCATION_WEIGHTS,
) -> Reference | None:
    filters = _short_filters(rng, scene.things[target])
    counts = [len(denote(Query(filter=f), scene).certain) for f in filters]
    for form in _shuffled(rng, forms, weights):
        for wanted, count in zip(filters, counts, strict=True):
            if count == 1 and (form in ("ordinal", "superlative", "size") or rng.random() < 0.6):
                continue  # an object that is the only one needs no location, and has no rank
            for place in _places(rng, form, wanted, scene, target, count):
                query = Query(filter=wanted, place=place)
                if denote(query, scene).is_only(target):
                    words = _locate(rng, form, place, wanted, on_its_side=_on_its_side(place, scene, target))
                    return Reference(expression=words, query=query, style="location", form=form, target=target)
    return None


def _short_filters(rng: np.random.Generator, thing: Thing) -> list[Filter]:
    """Return filters that describe an object with one or two words, in random order."""
    options = (
        Filter(kind=thing.kind),
        Filter(kind=thing.kind, colour=thing.colour),
        Filter(colour=thing.colour),
        Filter(kind=thing.kind, texture=thing.texture) if thing.texture != "plain" else Filter(kind=thing.kind),
    )
    return list(_shuffled(rng, options, (1.0, 0.6, 0.12, 0.25)))


def _places(
    rng: np.random.Generator, form: str, wanted: Filter, scene: Scene, target: int, count: int
) -> Iterator[Place]:
    """Yield places of a form at which the target may be; they may be ambiguous."""
    if form == "ordinal":
        # People count along the axis on which the counted objects are spread out more.
        members = sorted(denote(Query(filter=wanted), scene).certain)
        for side in _shuffled(rng, SIDES, SIDE_WEIGHTS):
            places = [position(side, i, scene) for i in members]
            rank = 1 + sum(p < position(side, target, scene) for p in places)
            if 2 <= rank <= 4 and (count > 2 or rng.random() < 0.4) and max(places) - min(places) > 0.3:
                yield Ordinal(rank=rank, side=side)
    elif form == "superlative":
        for side in _shuffled(rng, SIDES, SIDE_WEIGHTS):
            yield Ordinal(rank=1, side=side)
    elif form == "side":
        for side in _shuffled(rng, SIDES, SIDE_WEIGHTS):
            yield Side(side=side)
    elif form == "corner":
        vertical = "top" if position("top", target, scene) < 0.5 else "bottom"
        yield Corner(vertical=vertical, horizontal="left" if position("left", target, scene) < 0.5 else "right")
    elif form == "middle":
        yield Centre()
    elif wanted.kind is not None:  # sizes of different kinds are hard to compare
        yield from _shuffled(rng, (SizeExtreme(largest=True), SizeExtreme(largest=False)), (0.6, 0.4))


def _on_its_side(place: Place, scene: Scene, target: int) -> bool:
    return isinstance(place, Ordinal) and position(place.side, target, scene) <= 0.5


def _locate(rng: np.random.Generator, form: str, place: Place, wanted: Filter, *, on_its_side: bool) -> str:
    said = noun(rng, wanted)
    template = "{n}"
    if isinstance(place, Ordinal) and place.rank > 1:
        ordinal = pick(rng, ORDINALS[place.rank])
        template = pick(
            rng,
            (f"{ordinal} {{n}} from {place.side}", f"{ordinal} {{n}} from the {place.side}"),
        )
    elif isinstance(place, Ordinal):
        most = {
            "left": ("leftmost {n}", "{n} farthest left", "{n} furthest to the left"),
            "right": ("rightmost {n}", "{n} farthest right", "{n} furthest to the right"),
            "top": ("topmost {n}", "highest {n}", "uppermost {n}"),
            "bottom": ("bottommost {n}", "lowest {n}", "{n} closest to the bottom"),
        }[place.side]
        # "left ball" would be odd for a ball in the right half.
        plainly = on_its_side and rng.random() < 0.6
        template = f"{place.side} {{n}}" if plainly else pick(rng, most, (0.6, 0.25, 0.15))
    elif isinstance(place, Side):
        preposition = "on" if place.side in ("left", "right") else "at"
        half = {"left": "left side", "right": "right side", "top": "top half", "bottom": "bottom half"}[place.side]
        options = (
            f"{{n}} {preposition} the {place.side}",
            f"{{n}} {preposition} {place.side}",
            f"{{n}} {'on' if 'side' in half else 'in'} the {half}",
        )
        template = pick(rng, options, (0.5, 0.25, 0.25))
    elif isinstance(place, Corner):
        v, h = place.vertical, place.horizontal
        corners = (f"{v} {h} {{n}}", f"{{n}} {v} {h}", f"{{n}} in the {v} {h}", f"{_upper(v)} {h} {{n}}")
        template = pick(rng, corners, (0.35, 0.3, 0.2, 0.15))
    elif isinstance(place, Centre):
        template = pick(rng, ("middle {n}", "{n} in the middle", "center {n}", "{n} in the center"), (4, 3, 2, 2))
    elif isinstance(place, SizeExtreme):
        template = pick(rng, ("largest {n}", "biggest {n}") if place.largest else ("smallest {n}",))
    article = "the " if rng.random() < 0.12 else ""
    return article + template.format(n=said)


def _upper(vertical: str) -> str:
    return "upper" if vertical == "top" else "lower"


# --- an object by its appearance -------------------------------------------------------------------------------------


def _by_appearance(rng: np.random.Generator, scene: Scene, target: int) -> Reference | None:
    thing = scene.things[target]
    clear = [f for f in _all_filters(thing) if _says_only(f, scene, target)]
    article = "the " if rng.random() < 0.3 else ""
    if thing.size != "medium" and rng.random() < (0.15 if clear else 0.9):
        for wanted in (Filter(kind=thing.kind), Filter(kind=thing.kind, colour=thing.colour)):
            place = SizeExtreme(largest=thing.size == "large")
            query = Query(filter=wanted, place=place)
            if len(denote(Query(filter=wanted), scene).certain) > 1 and denote(query, scene).is_only(target):
                words = _locate(rng, "size", place, wanted, on_its_side=False)
                return Reference(expression=words, query=query, style="appearance", form="size", target=target)
    if not clear:
        return None
    fewest = min(_length(f) for f in clear)
    wanted = pick(rng, clear, [_filter_weight(f) * (1.0 if _length(f) <= fewest else 0.3) for f in clear])
    return Reference(
        expression=article + noun(rng, wanted),
        query=Query(filter=wanted),
        style="appearance",
        form="attributes",
        target=target,
    )


def _all_filters(thing: Thing) -> list[Filter]:
    sizes = (None,) if thing.size == "medium" else (None, thing.size)
    return [
        Filter(kind=kind, colour=colour, texture=texture, size=size)
        for kind in (None, thing.kind)
        for colour in (None, thing.colour)
        for texture in (None, thing.texture)
        for size in sizes
        if kind or colour or texture
    ]


def _length(wanted: Filter) -> int:
    return sum(v is not None for v in (wanted.kind, wanted.colour, wanted.texture, wanted.size))


def _filter_weight(wanted: Filter) -> float:
    """Return the weight of a choice of attributes: nearly always the kind, seldom plainness and size."""
    weight = 1.0 if wanted.kind is not None else 0.3
    if wanted.texture == "plain":
        weight *= 0.35
    if wanted.size is not None:
        weight *= 0.7
    return weight * (0.3 if _length(wanted) == 4 else 1.0)


# --- an object by another object -------------------------------------------------------------------------------------


def _by_relation(rng: np.random.Generator, scene: Scene, target: int) -> Reference | None:
    thing = scene.things[target]
    options = [
        (Filter(kind=thing.kind), 1.0),
        (Filter(kind=thing.kind, colour=thing.colour), 1.0),
        (Filter(colour=thing.colour), 0.25),
    ]
    if thing.texture != "plain":
        options.append((Filter(kind=thing.kind, texture=thing.texture), 0.5))
        options.append((Filter(kind=thing.kind, colour=thing.colour, texture=thing.texture), 0.35))
    if thing.size != "medium":
        options.append((Filter(kind=thing.kind, size=thing.size), 0.5))
        options.append((Filter(kind=thing.kind, colour=thing.colour, size=thing.size), 0.35))
    members = [denote(Query(filter=f), scene) for f, _ in options]
    # Most often the relation has to be needed: then filters that several objects fit come first.
    several = rng.random() < 0.95
    filters = _shuffled(
        rng,
        [f for f, _ in options],
        [
            weight * (50.0 if several and len(m.certain) > 1 else 1.0)
            for (_, weight), m in zip(options, members, strict=True)
        ],
    )
    anchors = [(a, q) for a in range(len(scene.things)) if a != target and (q := _anchor(rng, scene, a)) is not None]
    anchors = list(_shuffled(rng, anchors, [1.0] * len(anchors)))
    for wanted in filters:
        distractors = denote(Query(filter=wanted), scene)
        if not distractors.clear or (len(distractors.certain) == 1 and rng.random() < 0.65):
            continue
        for index, anchor in anchors:
            other = scene.things[index]
            places: list[Place] = [Relation(direction=d, anchor=anchor) for d in _directions(thing, other)]
            if len(distractors.certain - {index}) > 1 and rng.random() < 0.6:
                places.insert(pick(rng, (0, len(places))), Nearest(anchor=anchor))
            for place in places:
                query = Query(filter=wanted, place=place)
                if not denote(query, scene).is_only(target):
                    continue
                words = _relate(rng, wanted, place, next_to=gap(thing, other) < LONGEST_NEXT_TO)
                if len(words.split()) <= MOST_WORDS:
                    form = "nearest" if isinstance(place, Nearest) else "relation"
                    return Reference(expression=words, query=query, style="relation", form=form, target=target)
    return None


def _directions(thing: Thing, anchor: Thing) -> list[str]:
    return [d for d in OPPOSITE if off_direction(d, thing, anchor) < 0.75]


def _anchor(rng: np.random.Generator, scene: Scene, index: int) -> Query | None:
    """Return a simple query with one unambiguous target, or None."""
    thing = scene.things[index]
    plain = (
        Query(filter=Filter(kind=thing.kind)),
        Query(filter=Filter(kind=thing.kind, colour=thing.colour)),
        Query(filter=Filter(kind=thing.kind, texture=thing.texture)),
    )
    for query in _shuffled(rng, plain, (1.0, 1.0, 0.1)):
        if query.filter.texture != "plain" and denote(query, scene).is_only(index):
            return query
    if thing.size != "medium":
        query = Query(filter=Filter(kind=thing.kind), place=SizeExtreme(largest=thing.size == "large"))
        if denote(query, scene).is_only(index):
            return query
    for side in _shuffled(rng, SIDES, SIDE_WEIGHTS):
        query = Query(filter=Filter(kind=thing.kind), place=Ordinal(rank=1, side=side))
        if denote(query, scene).is_only(index):
            return query
    return None


def _relate(rng: np.random.Generator, wanted: Filter, place: Place, *, next_to: bool) -> str:
    assert isinstance(place, Relation | Nearest)
    anchor = _anchor_words(rng, place.anchor)
    if isinstance(place, Nearest):
        options: tuple[str, ...] = ("closest to", "nearest to", "next to") if next_to else ("closest to", "nearest to")
    else:
        options = {
            "left": ("to the left of", "left of", "on the left of"),
            "right": ("to the right of", "right of", "on the right of"),
            "above": ("above", "above", "higher up than"),
            "below": ("below", "below", "under"),
        }[place.direction]
    link = pick(rng, options, (0.6, 0.25, 0.15)[: len(options)])
    that_is = "that is " if rng.random() < 0.3 else ""
    return f"the {noun(rng, wanted)} {that_is}{link} {anchor}"


def _anchor_words(rng: np.random.Generator, anchor: Query) -> str:
    said, place = noun(rng, anchor.filter), anchor.place
    if isinstance(place, SizeExtreme):
        return f"the {pick(rng, ('largest', 'biggest')) if place.largest else 'smallest'} {said}"
    if isinstance(place, Ordinal):
        most = {"left": "leftmost", "right": "rightmost", "top": "topmost", "bottom": "lowest"}
        return f"the {most[place.side]} {said}"
    return f"the {said}"


# --- nothing ---------------------------------------------------------------------------------------------------------


def _wrong_attributes(rng: np.random.Generator, scene: Scene) -> Reference | None:
    """Return an expression for an object's appearance with one attribute changed."""
    thing = pick(rng, scene.things)
    wanted = _changed(rng, pick(rng, [f for f in _all_filters(thing) if f.kind or _length(f) > 1]))
    if wanted is None:
        return None
    article = "the " if rng.random() < 0.3 else ""
    return _to_nothing(article + noun(rng, wanted), Query(filter=wanted), "appearance", "attributes")


def _wrong_place(rng: np.random.Generator, scene: Scene) -> Reference | None:
    """Return an expression that counts further than there are objects, or places an object where it is not."""
    thing = pick(rng, scene.things)
    if rng.random() < 0.25:
        wanted = pick(rng, (Filter(kind=thing.kind), Filter(kind=thing.kind, colour=thing.colour)), (0.7, 0.3))
        count = len(denote(Query(filter=wanted), scene).possible)
        if count >= 4:
            return None
        # One further than there are is the hardest; people do not count a single object.
        rank = max(2, count + pick(rng, (1, 2), (0.75, 0.25)))
        if rank > 4:
            return None
        form, place = "ordinal", Ordinal(rank=rank, side=pick(rng, SIDES, SIDE_WEIGHTS))
        words = _locate(rng, form, place, wanted, on_its_side=False)
        return _to_nothing(words, Query(filter=wanted, place=place), "location", form)
    changed = _changed(rng, pick(rng, _short_filters(rng, thing)))
    if changed is None:
        return None
    form = pick(rng, LOCATION_FORMS, USUAL_FORMS)
    somewhere: Place
    if form == "ordinal":
        somewhere = Ordinal(rank=pick(rng, (2, 3)), side=pick(rng, SIDES, SIDE_WEIGHTS))
    elif form == "superlative":
        somewhere = Ordinal(rank=1, side=pick(rng, SIDES, SIDE_WEIGHTS))
    elif form == "side":
        somewhere = Side(side=pick(rng, SIDES, SIDE_WEIGHTS))
    elif form == "corner":
        somewhere = Corner(vertical=pick(rng, SIDES[2:]), horizontal=pick(rng, SIDES[:2]))
    elif form == "middle":
        somewhere = Centre()
    else:
        somewhere = SizeExtreme(largest=rng.random() < 0.6)
    words = _locate(rng, form, somewhere, changed, on_its_side=rng.random() < 0.7)
    return _to_nothing(words, Query(filter=changed, place=somewhere), "location", form)


def _wrong_relation(rng: np.random.Generator, scene: Scene) -> Reference | None:
    """Return an expression with a relation of which an object is missing or the direction is wrong."""
    first, second = (scene.things[i] for i in rng.permutation(len(scene.things))[:2])
    wanted = pick(rng, (Filter(kind=first.kind), Filter(kind=first.kind, colour=first.colour)))
    index = scene.things.index(second)
    anchor = _anchor(rng, scene, index)
    fault = pick(rng, ("anchor", "thing", "direction"), (0.4, 0.35, 0.25))
    direction = pick(rng, tuple(OPPOSITE))
    if fault == "anchor":
        absent = _changed(rng, Filter(kind=second.kind, colour=second.colour if rng.random() < 0.7 else None))
        anchor = None if absent is None else Query(filter=absent)
    elif fault == "thing":
        changed = _changed(rng, wanted)
        if changed is None:
            return None
        wanted = changed
    else:
        right = _directions(first, second)
        if not right:
            return None
        direction = OPPOSITE[right[0]]
    if anchor is None:
        return None
    place: Place = Relation(direction=direction, anchor=anchor)
    if fault != "direction" and rng.random() < 0.25:
        place = Nearest(anchor=anchor)
    words = _relate(rng, wanted, place, next_to=True)
    form = "nearest" if isinstance(place, Nearest) else "relation"
    return _to_nothing(words, Query(filter=wanted, place=place), "relation", form)


def _to_nothing(words: str, query: Query, style: str, form: str) -> Reference:
    return Reference(expression=words, query=query, style=style, form=form, target=None)


def _changed(rng: np.random.Generator, wanted: Filter) -> Filter | None:
    """Return a filter with one of its attributes replaced by another."""
    said = [name for name in ("kind", "colour", "texture") if getattr(wanted, name) is not None]
    name = pick(rng, said)
    value = pick(rng, {"kind": KINDS, "colour": COLOURS, "texture": TEXTURES}[name])
    return None if value == getattr(wanted, name) else replace(wanted, **{name: value})


def _says_held_out(query: Query) -> bool:
    if (query.filter.colour, query.filter.kind) in HELD_OUT:
        return True
    return isinstance(query.place, Relation | Nearest) and _says_held_out(query.place.anchor)


# --- the wording -----------------------------------------------------------------------------------------------------


def noun(rng: np.random.Generator, wanted: Filter) -> str:
    """Return the noun phrase for attributes, without an article."""
    words = []
    if wanted.size is not None:
        words.append("small" if wanted.size == "small" else pick(rng, ("large", "big")))
    colour = [_word(rng, wanted.colour)] if wanted.colour is not None else []
    texture = [_word(rng, wanted.texture)] if wanted.texture is not None else []
    words += texture + colour if rng.random() < 0.6 else colour + texture
    if wanted.kind is not None:
        words.append(_word(rng, wanted.kind))
    else:
        words.append(pick(rng, ("one", "thing", "shape"), (5, 2, 2)))
    return " ".join(words)


def _word(rng: np.random.Generator, word: str) -> str:
    if word in VARIANTS and rng.random() < OTHER_WORD:
        return pick(rng, VARIANTS[word])
    return word


def _shuffled(rng: np.random.Generator, options: Iterable[T], weights: Sequence[float]) -> list[T]:
    """Return the options in random order; those of larger weight tend to come first."""
    keys = rng.random(len(weights)).tolist()
    order = sorted(range(len(weights)), key=lambda i: -(keys[i] ** (1 / weights[i])))
    listed = list(options)
    return [listed[i] for i in order]
