"""The meaning of an expression about a photo as a query, and the things that it refers to.

As in `shapes.queries`, what people might disagree about is possible but not certain, and an expression is unambiguous
only where all that is possible is certain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refseg.data.describe.colours import CERTAIN, POSSIBLE
from refseg.data.describe.names import Noun, lookup
from refseg.data.describe.photo import Photo, Thing
from refseg.data.shapes.queries import Centre, Corner, Denotation, Ordinal, Side, SizeExtreme

__all__ = ["Depth", "Place", "Query", "Related", "denote", "precedes"]

APART = 0.06
"""Fraction of the axis: of centres closer than this neither is clearly left of (or above) the other."""
SIDE = (0.4, 0.53)
"""Up to the first fraction of the axis a centre is certainly on the side, up to the second possibly."""
SIDE_EDGE = 0.56
"""What is certainly on a side does not reach beyond this fraction of the axis."""
CORNER = (0.36, 0.55)
"""As `SIDE`, for both axes."""
MIDDLE = (0.09, 0.22)
"""As `SIDE`, for the distance of the centre from the middle of the photo's width."""
MIDDLE_DOWN = 0.28
"""What is certainly in the middle is not farther than this from the middle of the photo's height."""
WIDEST = 0.8
"""What is wider than this fraction of the photo is not said to be in its middle."""
LARGER = (2.0, 1.3)
"""Ratios of areas and of longer sides: below either neither is clearly the larger."""
FRONT = (0.1, 3.0)
"""Difference of the lower edges, and ratio of areas: below either neither is clearly the nearer to the camera."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """The thing that is nearest to the camera, or farthest from it."""

    front: bool


@dataclass(frozen=True, kw_only=True)
class Related:
    """Things in a relation to an anchor."""

    how: str
    """`on`, `with`, `next`, `behind`, `left` or `right`."""
    anchor: Noun


Place = Ordinal | Side | Corner | Centre | SizeExtreme | Depth | Related


@dataclass(frozen=True, kw_only=True)
class Query:
    """Things that a word may mean, of a colour and at a place where these are given."""

    noun: Noun
    colour: str | None = None
    place: Place | None = None
    whole: bool = False
    """Whether all that the word may mean is one target, whatever its masks are of; crowds stay unclear."""


NOTHING = Denotation(certain=frozenset(), possible=frozenset())


def denote(query: Query, photo: Photo) -> Denotation:
    """Return the indices of the things that a query refers to, certainly and possibly."""
    among = _named(query, photo)
    if query.colour is not None:
        among = _coloured(among, query.colour, photo)
    place = query.place
    if place is None or not among.possible:
        return among
    if isinstance(place, Related):
        return _related(among, place, photo)
    if not among.clear:
        return Denotation(certain=frozenset(), possible=among.possible)
    members = sorted(among.certain)
    things = photo.things
    if isinstance(place, Ordinal):
        return _ranked(members, place.rank, lambda one, other: precedes(place.side, things[one], things[other]))
    if isinstance(place, SizeExtreme):
        return _ranked(members, 1, lambda one, other: _sized(place.largest, things[one], things[other]))
    if isinstance(place, Depth):
        return _ranked(members, 1, lambda one, other: _nearer(place.front, things[one], things[other]))
    if isinstance(place, Side):
        return _where(members, lambda one: _at_side(place.side, things[one]))
    if isinstance(place, Corner):
        sides = (place.vertical, place.horizontal)
        return _where(members, lambda one: _in_corner(sides, things[one]))
    return _middle(members, things)


def _named(query: Query, photo: Photo) -> Denotation:
    noun = query.noun
    alike = [index for index, thing in enumerate(photo.things) if thing.name in noun.might_mean]
    certain = frozenset(
        index
        for index in alike
        for thing in (photo.things[index],)
        if thing.name in noun.means and (thing.single or (query.whole and thing.kind != "crowd"))
    )
    return Denotation(certain=certain, possible=frozenset(alike))


def _coloured(among: Denotation, colour: str, photo: Photo) -> Denotation:
    certain, possible = set(), set()
    for index in among.possible:
        shares = photo.shares(index)
        palette = lookup(photo.things[index].name).colours
        limit = palette if palette in CERTAIN else ""
        share = None if shares is None else shares.certain[colour]
        if share is None or share >= POSSIBLE[limit]:
            possible.add(index)
            if share is not None and share >= CERTAIN[limit] and index in among.certain:
                certain.add(index)
    return Denotation(certain=frozenset(certain), possible=frozenset(possible))


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def precedes(side: str, one: Thing, other: Thing) -> bool:
    """Return whether a thing is clearly nearer to a side of the photo than another: its centre and both its edges."""
    axis = 0 if side in ("left", "right") else 1
    sign = 1 if side in ("left", "top") else -1
    middles = (one.x, other.x) if axis == 0 else (one.y, other.y)
    return (
        sign * (middles[1] - middles[0]) >= APART
        and sign * (other.centroid[axis] - one.centroid[axis]) >= APART
        and sign * (other.span[axis] - one.span[axis]) > 0
        and sign * (other.span[axis + 2] - one.span[axis + 2]) > 0
    )


def _larger(one: Thing, other: Thing) -> bool:
    measured = one.area >= LARGER[0] * other.area and one.length >= LARGER[1] * other.length
    # What is cut off by the edge of the photo, or hidden by the other, may be larger than it seems.
    return measured and not other.cut and not one.touches(other)


def _sized(largest: bool, one: Thing, other: Thing) -> bool:
    return _larger(one, other) if largest else _larger(other, one)


def _nearer(front: bool, one: Thing, other: Thing) -> bool:
    near, far = (one, other) if front else (other, one)
    return near.span[3] - far.span[3] >= FRONT[0] and near.area >= FRONT[1] * far.area


def _ranked(members: Sequence[int], rank: int, before: Callable[[int, int], bool]) -> Denotation:
    """Return the thing at a rank (from 1); where neither of two is clearly before the other, either may be."""
    certain, possible = set(), set()
    for index in members:
        others = [other for other in members if other != index]
        surely = sum(before(other, index) for other in others)
        perhaps = sum(not before(index, other) for other in others)
        if surely < rank <= perhaps + 1:
            possible.add(index)
            if surely == perhaps:
                certain.add(index)
    return Denotation(certain=frozenset(certain), possible=frozenset(possible))


# ── places in the photo ──────────────────────────────────────────────────────────────────────────────────────────────


def _where(members: Sequence[int], fits: Callable[[int], bool | None]) -> Denotation:
    """Return the things for which a test is true as certain; those for which it is None are possible."""
    verdicts = {index: fits(index) for index in members}
    return Denotation(
        certain=frozenset(index for index, verdict in verdicts.items() if verdict),
        possible=frozenset(index for index, verdict in verdicts.items() if verdict is not False),
    )


def _along(side: str, thing: Thing) -> tuple[float, float]:
    """Return the distances of a thing's centre, and of its far edge, from a side of the photo."""
    middle, near, far = (
        (thing.x, thing.span[0], thing.span[2])
        if side in ("left", "right")
        else (thing.y, thing.span[1], thing.span[3])
    )
    return (middle, far) if side in ("left", "top") else (1 - middle, 1 - near)


def _at_side(side: str, thing: Thing) -> bool | None:
    middle, far = _along(side, thing)
    if middle <= SIDE[0] and far <= SIDE_EDGE:
        return True
    return None if middle < SIDE[1] else False


def _in_corner(sides: tuple[str, str], thing: Thing) -> bool | None:
    places = [_along(side, thing) for side in sides]
    if all(middle <= CORNER[0] and far <= SIDE_EDGE for middle, far in places):
        return True
    return None if all(middle < CORNER[1] for middle, _ in places) else False


def _in_middle(thing: Thing) -> bool | None:
    off = abs(thing.x - 0.5)
    if off <= MIDDLE[0] and abs(thing.y - 0.5) <= MIDDLE_DOWN and thing.width <= WIDEST:
        return True
    return None if off < MIDDLE[1] else False


def _middle(members: Sequence[int], things: Sequence[Thing]) -> Denotation:
    by_place = _where(members, lambda index: _in_middle(things[index]))
    if len(members) != 3:
        return by_place
    # Of three, people may mean the one between the other two: it has to be the same thing.
    between = _ranked(members, 2, lambda one, other: precedes("left", things[one], things[other]))
    if len(between.certain) == 1 and by_place.possible <= between.certain:
        return between
    if by_place.clear and by_place.certain == between.possible:
        return by_place
    return Denotation(certain=frozenset(), possible=by_place.possible | between.possible)


# ── relations ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _related(among: Denotation, place: Related, photo: Photo) -> Denotation:
    anchors = denote(Query(noun=place.anchor), photo)
    if not anchors.possible:
        return NOTHING
    if not anchors.clear or len(anchors.certain) != 1:
        return Denotation(certain=frozenset(), possible=among.possible)
    (anchor,) = anchors.certain
    certain, possible = set(), set()
    for index in among.possible - {anchor}:
        verdict = RELATIONS[place.how](photo.things[index], photo.things[anchor])
        if verdict is not False:
            possible.add(index)
        if verdict and index in among.certain:
            certain.add(index)
    return Denotation(certain=frozenset(certain), possible=frozenset(possible))


def _overlap(one: Thing, other: Thing, axis: int) -> float:
    """Return the overlap of two boxes along an axis, as a fraction of the shorter extent."""
    start = max(one.span[axis], other.span[axis])
    end = min(one.span[axis + 2], other.span[axis + 2])
    shorter = min(thing.span[axis + 2] - thing.span[axis] for thing in (one, other))
    return (end - start) / shorter


def _on(one: Thing, carrier: Thing) -> bool | None:
    """Whether it sits, stands or lies on a carrier, seen from the side: it reaches down into the carrier's box."""
    depth = lookup(carrier.name).carries
    if depth is None or not one.touches(carrier):
        return False
    low = carrier.span[1] + depth * carrier.height
    inside = carrier.span[0] <= one.x <= carrier.span[2]
    if not inside and _overlap(one, carrier, 0) <= 0:
        return False
    above = one.span[1] < carrier.span[1] or one.area < 0.7 * carrier.area
    if inside and above and low <= one.span[3] <= carrier.span[3] - 0.04 * carrier.height:
        return True
    flat = depth < 0 and low <= one.span[3] <= carrier.span[3] + 0.02
    return True if flat and inside and above else None


def _with(one: Thing, held: Thing) -> bool | None:
    """Whether it holds or wears something: that touches it and is mostly within its box, or above it."""
    if not lookup(held.name).held or not one.touches(held):
        return False
    if held.area < 0.8 * one.area and _overlap(one, held, 0) >= 0.6 and _overlap(one, held, 1) >= 0.4:
        return True
    return None


def _next(one: Thing, other: Thing) -> bool | None:
    """Whether it is beside another thing, at about the same distance from the camera."""
    gap = max(one.span[0] - other.span[2], other.span[0] - one.span[2])
    narrow = min(one.width, other.width)
    low, high = sorted((one.height, other.height))
    level = abs(one.span[3] - other.span[3])
    if -0.15 * narrow <= gap <= min(0.06, 0.5 * narrow) and level <= 0.3 * low and high <= 2.5 * low:
        return True
    return None if gap <= max(0.25, 2 * narrow) else False


def _behind(one: Thing, front: Thing) -> bool | None:
    """Whether it is behind a thing that hides a part of it and stands lower in the photo."""
    if not one.touches(front):
        return False
    if _on(one, front) is not False:  # what sits on a chair may be seen from behind it
        return None
    hidden = _overlap(one, front, 0) >= 0.8 and _overlap(one, front, 1) >= 0.5 and one.span[1] < front.span[1]
    lower = front.span[3] - one.span[3]
    if hidden and lower >= 0.06 and one.span[3] < 0.98 and one.area >= 0.5 * front.area:
        return True
    return None if lower > -0.03 else False


def _beside(side: str) -> Callable[[Thing, Thing], bool | None]:
    def verdict(one: Thing, other: Thing) -> bool | None:
        if precedes(side, one, other) and _overlap(one, other, 1) >= 0.5 and _overlap(one, other, 0) <= 0.2:
            return True
        opposite = "right" if side == "left" else "left"
        return False if precedes(opposite, one, other) else None

    return verdict


RELATIONS: dict[str, Callable[[Thing, Thing], bool | None]] = {
    "on": _on,
    "with": _with,
    "next": _next,
    "behind": _behind,
    "left": _beside("left"),
    "right": _beside("right"),
}
"""For each relation, whether one thing is in it to another: True, False, or None where people might disagree."""
