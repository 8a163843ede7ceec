"""The meaning of an expression as a query, and the objects of a scene that it refers to.

Queries have margins: objects about which people might disagree are possible, but not certain. A query is unambiguous
only if all objects that are possible are certain too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from refseg.data.shapes.scene import Scene, Thing

__all__ = [
    "LONGEST_NEXT_TO",
    "Centre",
    "Corner",
    "Denotation",
    "Filter",
    "Nearest",
    "Ordinal",
    "Place",
    "Query",
    "Relation",
    "Side",
    "SizeExtreme",
    "denote",
    "gap",
    "off_direction",
    "position",
]

AXIS_MARGIN = 0.06
"""Fraction of the axis: of centres closer than this neither is clearly left of (or above) the other."""
SIZE_MARGIN = 1.2
"""Ratio of diameters: below it neither is clearly the larger."""
SIDE = (0.45, 0.55)
"""Fractions of the axis: up to the first an object is certainly on the left (at the top), up to the second possibly."""
CORNER = (0.38, 0.56)
"""The same for both axes of a corner."""
CENTRE = (0.13, 0.25)
"""The same for the distance from the centre of the image, on each axis."""
CONE = (math.radians(40), math.radians(62))
"""The same for the angle to the direction of a relation, radians."""
NEARER = 1.3
"""Ratio of distances: below it neither is clearly the nearer."""
NEARER_GAP = 0.06
"""The same for the gaps between the edges, in units of the short side."""
LONGEST_NEXT_TO = 0.3
"""The widest gap, in units of the short side, at which an object is still next to another."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Attributes that an object must have; None allows any value."""

    kind: str | None = None
    colour: str | None = None
    texture: str | None = None
    size: str | None = None
    """`small` or `large`. Where no other object is larger (smaller), a medium one may be called large (small)."""


@dataclass(frozen=True, kw_only=True)
class Ordinal:
    """The object at a rank, counted from a side; rank 1 is the leftmost, rightmost, topmost or bottommost."""

    rank: int
    side: str
    """`left`, `right`, `top` or `bottom`."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """Objects in a half of the image."""

    side: str
    """`left`, `right`, `top` or `bottom`."""


@dataclass(frozen=True, kw_only=True)
class Corner:
    """Objects in a quarter of the image."""

    vertical: str
    """`top` or `bottom`."""
    horizontal: str
    """`left` or `right`."""


@dataclass(frozen=True, kw_only=True)
class Centre:
    """The object in the middle: of the image and, where there are three in a row, of the row."""


@dataclass(frozen=True, kw_only=True)
class SizeExtreme:
    """The largest or the smallest object."""

    largest: bool


@dataclass(frozen=True, kw_only=True)
class Relation:
    """Objects that lie to one side of an anchor."""

    direction: str
    """`left`, `right`, `above` or `below`."""
    anchor: Query


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """The object that is nearest to an anchor."""

    anchor: Query


Place = Ordinal | Side | Corner | Centre | SizeExtreme | Relation | Nearest


@dataclass(frozen=True, kw_only=True)
class Query:
    """Objects with some attributes and, where a place is given, of these only those in that place."""

    filter: Filter
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Denotation:
    """The indices of the objects that a query refers to."""

    certain: frozenset[int]
    """Objects that fit for everybody."""
    possible: frozenset[int]
    """Objects that fit for somebody; includes all certain ones."""

    @property
    def clear(self) -> bool:
        """Whether all possible objects are certain."""
        return self.certain == self.possible

    def is_only(self, index: int) -> bool:
        """Return whether the query refers to this object and certainly to no other."""
        return self.certain == self.possible == {index}


NOTHING = Denotation(certain=frozenset(), possible=frozenset())


def denote(query: Query, scene: Scene) -> Denotation:
    """Return the objects of the scene that a query refers to, certainly and possibly."""
    among = _matching(query.filter, scene)
    place = query.place
    if place is None or not among.possible:
        return among
    if not among.clear:
        return Denotation(certain=frozenset(), possible=among.possible)
    members = sorted(among.certain)
    if isinstance(place, Relation | Nearest):
        anchors = denote(place.anchor, scene)
        if not anchors.possible:
            return NOTHING
        if not anchors.clear or len(anchors.certain) != 1:
            return Denotation(certain=frozenset(), possible=among.possible)
        (anchor,) = anchors.certain
        others = [i for i in members if i != anchor]
        if isinstance(place, Nearest):
            return _nearest(others, anchor, scene)
        direction = place.direction
        return _graded(others, CONE, lambda i: off_direction(direction, scene.things[i], scene.things[anchor]))
    if isinstance(place, Ordinal):
        return _ranked([(position(place.side, i, scene), i) for i in members], place.rank, AXIS_MARGIN)
    if isinstance(place, SizeExtreme):
        sign = -1 if place.largest else 1
        sizes = [(sign * math.log(scene.things[i].diameter), i) for i in members]
        return _ranked(sizes, 1, math.log(SIZE_MARGIN))
    if isinstance(place, Side):
        side = place.side
        return _graded(members, SIDE, lambda i: position(side, i, scene))
    if isinstance(place, Corner):
        vertical, horizontal = place.vertical, place.horizontal
        return _graded(members, CORNER, lambda i: max(position(vertical, i, scene), position(horizontal, i, scene)))
    return _central(members, scene)


def position(side: str, index: int, scene: Scene) -> float:
    """Return the distance of an object's centre from a side of the image, as a fraction of the axis."""
    thing = scene.things[index]
    width, height = scene.extent
    along = thing.x / width if side in ("left", "right") else thing.y / height
    return along if side in ("left", "top") else 1 - along


def off_direction(direction: str, thing: Thing, anchor: Thing) -> float:
    """Return the angle, 0..pi, between a direction and the line from the anchor to the object.

    It is pi/2 where the centres are too close for a direction.
    """
    dx, dy = thing.x - anchor.x, thing.y - anchor.y
    if math.hypot(dx, dy) < 0.35 * (thing.diameter + anchor.diameter):
        return CONE[1] - 1e-6
    ahead, aside = {"left": (-dx, dy), "right": (dx, dy), "above": (-dy, dx), "below": (dy, dx)}[direction]
    return math.atan2(abs(aside), ahead)


def gap(one: Thing, other: Thing) -> float:
    """Return the distance between the edges of two objects, taken as discs; negative where they overlap."""
    return math.hypot(one.x - other.x, one.y - other.y) - (one.diameter + other.diameter) / 2


def _matching(wanted: Filter, scene: Scene) -> Denotation:
    alike = [
        (i, thing)
        for i, thing in enumerate(scene.things)
        if (wanted.kind is None or thing.kind == wanted.kind)
        and (wanted.colour is None or thing.colour == wanted.colour)
        and (wanted.texture is None or thing.texture == wanted.texture)
    ]
    certain = frozenset(i for i, thing in alike if wanted.size is None or thing.size == wanted.size)
    if certain or wanted.size is None:
        return Denotation(certain=certain, possible=certain)
    return Denotation(certain=certain, possible=frozenset(i for i, thing in alike if thing.size == "medium"))


def _graded(members: list[int], limits: tuple[float, float], measure: Callable[[int], float]) -> Denotation:
    """Return objects whose measure is up to the first limit as certain, and up to the second as possible."""
    measured = [(measure(i), i) for i in members]
    return Denotation(
        certain=frozenset(i for value, i in measured if value <= limits[0]),
        possible=frozenset(i for value, i in measured if value < limits[1]),
    )


def _ranked(keys: list[tuple[float, int]], rank: int, margin: float) -> Denotation:
    """Return the object at a rank (from 1) by ascending key; keys closer than a margin may be in either order."""
    certain, possible = set(), set()
    for key, i in keys:
        surely_before = sum(other <= key - margin for other, j in keys if j != i)
        perhaps_before = sum(other < key + margin for other, j in keys if j != i)
        if surely_before < rank <= perhaps_before + 1:
            possible.add(i)
            if surely_before == perhaps_before:
                certain.add(i)
    return Denotation(certain=frozenset(certain), possible=frozenset(possible))


def _nearest(members: list[int], anchor: int, scene: Scene) -> Denotation:
    """Return the object nearest to the anchor, by its centre as well as by its edge."""
    to = scene.things[anchor]
    measured = [(i, math.hypot(t.x - to.x, t.y - to.y), gap(t, to)) for i in members for t in (scene.things[i],)]

    def beaten(distance: float, edge: float) -> bool:
        return any(other * NEARER <= distance and gap_ + NEARER_GAP <= edge for _, other, gap_ in measured)

    possible = frozenset(i for i, distance, edge in measured if not beaten(distance, edge))
    return Denotation(certain=possible if len(possible) == 1 else frozenset(), possible=possible)


def _central(members: list[int], scene: Scene) -> Denotation:
    def off_centre(i: int) -> float:
        return max(abs(position("left", i, scene) - 0.5), abs(position("top", i, scene) - 0.5))

    by_place = _graded(members, CENTRE, off_centre)
    if len(members) != 3:
        return by_place
    # Of three, people may mean the one between the other two: it has to be the same object.
    spreads = []
    for side in ("left", "top"):
        places = sorted((position(side, i, scene), i) for i in members)
        spreads.append((places[2][0] - places[0][0], places))
    (minor, _), (major, places) = sorted(spreads)
    between = places[1][1]
    apart = min(places[1][0] - places[0][0], places[2][0] - places[1][0])
    in_a_row = apart >= 2 * AXIS_MARGIN and minor <= major / 2
    if in_a_row and not by_place.possible - {between}:
        return Denotation(certain=frozenset({between}), possible=frozenset({between}))
    if by_place.is_only(between):
        return by_place
    return Denotation(certain=frozenset(), possible=by_place.possible | {between})
