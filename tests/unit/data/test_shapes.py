"""Shapes: scenes are reproducible, expressions fit their targets only, and held-out pairs stay held out."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import zlib
from collections import Counter
from functools import cache
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from refseg.data.shapes import (
    EASY,
    HELD_OUT,
    SAMPLES_PER_SCENE,
    SHAPES,
    SIZES,
    Reference,
    Scene,
    Shapes,
    generate_scene,
    render,
)
from refseg.data.shapes.expressions import drill
from refseg.data.shapes.outline import OUTLINES, draw_silhouette
from refseg.data.shapes.queries import (
    Centre,
    Corner,
    Filter,
    Nearest,
    Ordinal,
    Query,
    Relation,
    Side,
    SizeExtreme,
    denote,
)
from refseg.data.shapes.scene import Background, Thing
from refseg.data.shapes.vocabulary import COLOURS, EASY_COLOURS, EASY_KINDS, KINDS, TEXTURES, TONES, VARIANTS
from refseg.errors import UnknownNameError

FORMS = {"attributes", "superlative", "ordinal", "side", "corner", "middle", "size", "relation", "nearest"}
GENERATED = "b64e8332af9c416170d34887c2266704244e51231e1a6fecaf66abe691a836b3"
EASY_TEXTS = "45840be35b6d505c"
MANY = 120
CANONICAL = {variant: word for word, variants in VARIANTS.items() for variant in variants} | {"big": "large"}
VOCABULARY = {*KINDS, *COLOURS, *TEXTURES, "small", "large"}


@cache
def generated(split: str) -> list[tuple[Scene, list[list[Reference]]]]:
    """The first scenes of a split with their references, made once for all tests."""
    dataset = Shapes(split)
    return [(dataset.scene(i), dataset.references(i)) for i in range(MANY)]


def meant(split: str) -> list[tuple[Scene, Reference]]:
    return [
        (scene, reference)
        for scene, found in generated(split)
        for references in found[: SAMPLES_PER_SCENE[SHAPES] - 1]
        for reference in references
    ]


def fitting_nothing(split: str) -> list[tuple[Scene, Reference]]:
    return [(scene, references[-1][0]) for scene, references in generated(split)]


# --- a second opinion: what words mean, without margins, written apart from the library --------------------------


def naive(query: Query, scene: Scene, cone: float = 50.0) -> list[int]:
    asked = query.filter
    members = [
        i
        for i, thing in enumerate(scene.things)
        if asked.kind in (None, thing.kind)
        and asked.colour in (None, thing.colour)
        and asked.texture in (None, thing.texture)
        and asked.size in (None, thing.size)
    ]
    width = scene.width / min(scene.width, scene.height)
    height = scene.height / min(scene.width, scene.height)
    x = {i: scene.things[i].x / width for i in members}
    y = {i: scene.things[i].y / height for i in members}
    place = query.place
    if place is None:
        return members
    if isinstance(place, Ordinal):
        order = sorted(members, key=(x if place.side in ("left", "right") else y).__getitem__)
        if place.side in ("right", "bottom"):
            order.reverse()
        return order[place.rank - 1 : place.rank]
    if isinstance(place, SizeExtreme):
        order = sorted(members, key=lambda i: scene.things[i].diameter, reverse=place.largest)
        return order[:1]
    halves = {
        "left": [i for i in members if x[i] < 0.5],
        "right": [i for i in members if x[i] > 0.5],
        "top": [i for i in members if y[i] < 0.5],
        "bottom": [i for i in members if y[i] > 0.5],
    }
    if isinstance(place, Side):
        return halves[place.side]
    if isinstance(place, Corner):
        return [i for i in halves[place.vertical] if i in halves[place.horizontal]]
    if isinstance(place, Centre):
        if len(members) == 3:
            along = x if max(x.values()) - min(x.values()) > max(y.values()) - min(y.values()) else y
            return [sorted(members, key=along.__getitem__)[1]]
        return [i for i in members if abs(x[i] - 0.5) < 0.2 and abs(y[i] - 0.5) < 0.2]
    anchors = naive(place.anchor, scene, cone)
    if not anchors:
        return []
    assert len(anchors) == 1
    anchor = scene.things[anchors[0]]
    others = [i for i in members if i != anchors[0]]
    away = {i: (scene.things[i].x - anchor.x, scene.things[i].y - anchor.y) for i in others}
    if isinstance(place, Nearest):
        return sorted(others, key=lambda i: math.hypot(*away[i]))[:1]
    assert isinstance(place, Relation)
    compass = {"right": 0.0, "below": 90.0, "left": 180.0, "above": -90.0}[place.direction]
    turned = {i: (math.degrees(math.atan2(dy, dx)) - compass + 180) % 360 - 180 for i, (dx, dy) in away.items()}
    return [i for i in others if abs(turned[i]) < cone]


def said(query: Query) -> set[str]:
    words = {query.filter.kind, query.filter.colour, query.filter.texture, query.filter.size} - {None}
    return words | (said(query.place.anchor) if isinstance(query.place, Relation | Nearest) else set())


# --- words ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_expression_refers_to_its_target_only(split):
    for scene, reference in meant(split):
        assert denote(reference.query, scene).is_only(reference.target), reference
        assert naive(reference.query, scene) == [reference.target], reference


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "test"])
def test_expressions_without_a_target_fit_no_object(split):
    for scene, reference in fitting_nothing(split):
        assert reference.target is None
        assert not denote(reference.query, scene).possible, reference
        assert naive(reference.query, scene, cone=60.0) == [], reference


@pytest.mark.slow
def test_the_wording_agrees_with_the_query():
    for _, reference in meant("val") + fitting_nothing("val"):
        words = [CANONICAL.get(word, word) for word in reference.expression.split()]
        assert VOCABULARY & set(words) == said(reference.query), reference
        place = reference.query.place
        if isinstance(place, Ordinal) and place.rank > 1:
            numbers = {2: {"2nd", "second"}, 3: {"3rd", "third"}, 4: {"4th", "fourth"}}
            assert numbers[place.rank] & set(words), reference
            assert words[-1] == place.side
        if isinstance(place, Side):
            assert place.side in words
        if isinstance(place, Corner):
            assert place.horizontal in words
            assert {place.vertical, {"top": "upper", "bottom": "lower"}[place.vertical]} & set(words)
        if isinstance(place, SizeExtreme):
            assert ({"largest", "biggest"} if place.largest else {"smallest"}) & set(words)


def test_expressions_are_short_and_plain():
    for _, reference in meant("val"):
        words = reference.expression.split()
        assert 1 <= len(words) <= 14
        assert reference.expression == " ".join(words) == reference.expression.lower()
        if reference.style == "location":
            assert len(words) <= 9


def test_appearance_has_no_location_words():
    places = {"left", "right", "top", "bottom", "middle", "center", "above", "below", "leftmost", "rightmost", "next"}
    for _, reference in meant("val"):
        if reference.style == "appearance":
            assert not places & set(reference.expression.split())


def test_styles_and_forms_are_balanced():
    found = meant("train")
    styles = Counter(reference.style for _, reference in found)
    assert all(0.27 < count / len(found) < 0.4 for count in styles.values()), styles
    located = [(scene, reference) for scene, reference in found if reference.style == "location"]
    forms = Counter(reference.form for _, reference in located)
    assert 0.18 < forms["ordinal"] / len(located) < 0.32, forms
    assert forms.keys() == {"ordinal", "superlative", "side", "corner", "middle", "size"}
    related = [(scene, reference) for scene, reference in found if reference.style == "relation"]
    needed = sum(len(naive(Query(filter=reference.query.filter), scene)) > 1 for scene, reference in related)
    assert needed / len(related) > 0.6
    assert {reference.form for _, reference in related} == {"relation", "nearest"}


def test_canonical_words_dominate():
    words = Counter(word for _, reference in meant("train") for word in reference.expression.split())
    for word in ("ball", "moon", "striped", "purple"):
        others = sum(words[variant] for variant in VARIANTS[word])
        assert 0.05 < others / (others + words[word]) < 0.3, word


# --- words and margins: cases that a person would call vague ----------------------------------------------------


def scene_of(*things: tuple[str, str, str, float, float]) -> Scene:
    """A square scene of objects given as colour, kind, size, x, y."""
    return Scene(
        width=256,
        height=256,
        background=Background(
            start=(120, 120, 120), end=(120, 120, 120), angle=0.0, blotches=0.0, grain=1, clutter=0, seed=0
        ),
        things=tuple(
            Thing(
                kind=kind,
                colour=colour,
                texture="plain",
                size=size,
                x=x,
                y=y,
                diameter=sum(SIZES[size]) / 2,
                rotation=0.0,
                shade=0.0,
            )
            for colour, kind, size, x, y in things
        ),
    )


BALL = Filter(kind="ball")
RED_CUBE = Query(filter=Filter(kind="cube", colour="red"))


@pytest.mark.parametrize(
    ("things", "query", "certain", "possible"),
    [
        # too close on the axis to say which is the leftmost
        ([("red", "ball", "small", 0.2, 0.2), ("blue", "ball", "small", 0.25, 0.8)],
         Query(filter=BALL, place=Ordinal(rank=1, side="left")), set(), {0, 1}),
        # the first two are tied, but the third from the left is beyond doubt
        ([("red", "ball", "small", 0.2, 0.2), ("blue", "ball", "small", 0.25, 0.8), ("red", "ball", "small", 0.6, 0.5)],
         Query(filter=BALL, place=Ordinal(rank=3, side="left")), {2}, {2}),
        # fewer than the rank
        ([("red", "ball", "small", 0.2, 0.2), ("blue", "ball", "small", 0.7, 0.8)],
         Query(filter=BALL, place=Ordinal(rank=3, side="left")), set(), set()),
        # nearly in the middle: neither on the left nor surely not
        ([("red", "ball", "small", 0.5, 0.5)], Query(filter=BALL, place=Side(side="left")), set(), {0}),
        # two medium balls differ too little in size
        ([("red", "ball", "medium", 0.2, 0.2), ("blue", "ball", "medium", 0.7, 0.8)],
         Query(filter=BALL, place=SizeExtreme(largest=True)), set(), {0, 1}),
        # a medium ball may be called large where there is no larger one
        ([("red", "ball", "medium", 0.2, 0.2)], Query(filter=Filter(kind="ball", size="large")), set(), {0}),
        ([("red", "ball", "medium", 0.2, 0.2), ("red", "ball", "large", 0.7, 0.7)],
         Query(filter=Filter(kind="ball", size="large")), {1}, {1}),
        # straight right; diagonal; above
        ([("red", "cube", "small", 0.3, 0.5), ("blue", "ball", "small", 0.8, 0.5)],
         Query(filter=BALL, place=Relation(direction="right", anchor=RED_CUBE)), {1}, {1}),
        ([("red", "cube", "small", 0.3, 0.3), ("blue", "ball", "small", 0.7, 0.75)],
         Query(filter=BALL, place=Relation(direction="right", anchor=RED_CUBE)), set(), {1}),
        ([("red", "cube", "small", 0.3, 0.7), ("blue", "ball", "small", 0.35, 0.2)],
         Query(filter=BALL, place=Relation(direction="right", anchor=RED_CUBE)), set(), set()),
        # the anchor is absent; the anchor is not unique
        ([("blue", "ball", "small", 0.7, 0.7)],
         Query(filter=BALL, place=Relation(direction="right", anchor=RED_CUBE)), set(), set()),
        ([("red", "cube", "small", 0.2, 0.2), ("red", "cube", "small", 0.2, 0.6), ("blue", "ball", "small", 0.7, 0.2)],
         Query(filter=BALL, place=Relation(direction="right", anchor=RED_CUBE)), set(), {2}),
        # about as near
        ([("red", "cube", "small", 0.5, 0.5), ("blue", "ball", "small", 0.8, 0.5), ("red", "ball", "small", 0.2, 0.5)],
         Query(filter=BALL, place=Nearest(anchor=RED_CUBE)), set(), {1, 2}),
        # the middle one of a row that is not in the middle of the image
        ([("red", "ball", "small", 0.1, 0.1), ("blue", "ball", "small", 0.3, 0.1), ("red", "ball", "small", 0.6, 0.1)],
         Query(filter=BALL, place=Centre()), {1}, {1}),
    ],
)  # fmt: skip
def test_margins(things, query, certain, possible):
    found = denote(query, scene_of(*things))
    assert (set(found.certain), set(found.possible)) == (certain, possible)


# --- scenes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("split", ["train", "val"])
def test_training_never_shows_or_names_what_is_held_out(split):
    dataset = Shapes(split)
    for i in range(MANY):
        assert not any(thing.held_out for thing in dataset.scene(i).things)
        for sample in dataset.samples_of(i):
            assert sample.attributes["held_out"] is False
            for expression in sample.expressions:
                words = [CANONICAL.get(word, word) for word in expression.text.split()]
                nouns = [(colour, kind) for colour, kind in HELD_OUT if colour in words and kind in words]
                for colour, kind in nouns:  # both words may occur, but not of one thing
                    between = words[words.index(colour) : words.index(kind)]
                    assert {"the", "from"} & set(between) or words.index(colour) > words.index(kind), expression


@pytest.mark.slow
def test_every_test_scene_shows_what_is_held_out():
    dataset = Shapes("test")
    held_out = 0
    for i in range(MANY):
        scene = dataset.scene(i)
        assert any(thing.held_out for thing in scene.things)
        for sample in dataset.samples_of(i):
            target = sample.target_object
            assert sample.attributes["held_out"] == (target is not None and scene.things[target].held_out)
            held_out += sample.attributes["held_out"]
    assert held_out / MANY > 0.9


def test_held_out_pairs_use_every_kind_and_colour_once():
    assert len(HELD_OUT) == 8
    assert {colour for colour, _ in HELD_OUT} == set(COLOURS)
    assert {kind for _, kind in HELD_OUT} == set(KINDS)


@pytest.mark.slow
def test_objects_are_visible_and_of_their_size():
    for seed in range(120):
        scene = generate_scene(np.random.default_rng(seed), held_out=bool(seed % 2))
        assert 3 <= len(scene.things) <= 8
        _, labels = render(scene)
        height, width = labels.shape
        unit = min(width, height)
        for label, thing in enumerate(scene.things, start=1):
            low, high = SIZES[thing.size]
            assert low <= thing.diameter <= high
            radius = thing.diameter * unit / 2
            around = 2 * unit  # room for what lies outside
            mask = draw_silhouette(
                thing.kind,
                thing.x * unit + around / 2,
                thing.y * unit + around / 2,
                radius,
                thing.rotation,
                (width + around, height + around),
            )
            whole = np.asarray(mask) > 0
            inside = whole[around // 2 : around // 2 + height, around // 2 : around // 2 + width]
            assert inside.sum() >= 0.88 * whole.sum(), (seed, thing)
            assert (labels == label).sum() >= 0.6 * inside.sum(), (seed, thing)


def test_sizes_are_clearly_apart():
    ranges = list(SIZES.values())
    assert all(after[0] / before[1] >= 1.2 for before, after in pairwise(ranges))


# --- images ------------------------------------------------------------------------------------------------------


def test_labels_lie_on_the_colours():
    """The pixels of an object are nearer to the tones of its colour than its surroundings are."""
    for i in range(40):
        dataset = Shapes("train")
        scene = dataset.scene(i)
        image = np.asarray(dataset.samples_of(i)[0].load_image()).astype(float)
        for thing, mask in zip(scene.things, dataset.objects(i), strict=True):
            if thing.texture != "plain":
                continue
            seen = np.median(image[mask], axis=0)
            assert np.abs(seen - np.array(TONES[thing.colour][0])).max() < 75, (i, thing)


@pytest.mark.parametrize("kind", KINDS)
def test_outlines_are_centred_and_of_unit_size(kind):
    corners = np.array(OUTLINES[kind])
    assert np.allclose(corners.max(0) + corners.min(0), 0, atol=1e-6)
    assert np.ptp(corners, axis=0).max() == pytest.approx(2, abs=0.01)


def test_the_hole_of_a_ring_is_not_the_ring():
    scene = scene_of(("red", "ring", "large", 0.5, 0.5))
    _, labels = render(scene)
    assert labels[128, 128] == 0
    assert labels.max() == 1


@pytest.mark.parametrize("scale", [0.3, 0.5, 2.0])
def test_labels_are_the_same_at_any_scale(scale):
    for seed in range(15):
        scene = generate_scene(np.random.default_rng(seed), held_out=False)
        _, labels = render(scene)
        image, scaled = render(scene, scale)
        assert image.shape == (*scaled.shape, 3)
        assert scaled.shape == (round(scene.height * scale), round(scene.width * scale))
        back = np.asarray(Image.fromarray(scaled).resize(labels.shape[::-1], Image.Resampling.NEAREST))
        assert (back == labels).mean() > (0.97 if scale < 1 else 0.99)
        assert set(np.unique(scaled)) == set(range(len(scene.things) + 1))


def test_a_mask_overlaps_the_target_and_no_other_object():
    dataset = Shapes("val", scale=0.5)
    for i in range(20):
        masks = dataset.objects(i)
        assert masks.sum(0).max() == 1
        for sample in dataset.samples_of(i)[:-1]:
            mask = sample.load_mask()
            assert mask.dtype == bool
            assert mask.shape == sample.load_image().size[::-1]
            overlaps = (masks & mask).sum((1, 2))
            assert overlaps.argmax() == sample.target_object
            assert (overlaps > 0).sum() == 1


# --- the data set --------------------------------------------------------------------------------------------------


def test_lengths_and_indexing():
    dataset = Shapes("val")
    assert (dataset.scenes, len(dataset)) == (500, 2000)
    assert dataset[-1].id == dataset[1999].id
    assert [sample.id for sample in dataset[6:10]] == [dataset[i].id for i in range(6, 10)]
    assert len({dataset[i].image_id for i in range(8)}) == 2
    assert len({dataset[i].id for i in range(8)}) == 8
    for wrong in (2000, -2001):
        with pytest.raises(IndexError):
            dataset[wrong]
    with pytest.raises(IndexError):
        dataset.samples_of(500)
    with pytest.raises(IndexError):
        dataset.scene(-1)
    assert len(Shapes("train")) == 240_000
    assert len(Shapes("test")) == 4_000


def test_unknown_split_and_scale_are_errors():
    with pytest.raises(UnknownNameError, match="did you mean 'train'"):
        Shapes("trian")
    for scale in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="scale"):
            Shapes("val", scale=scale)


def test_a_scene_has_three_targets_and_one_sample_without():
    dataset = Shapes("test")
    for i in range(60):
        *things, nothing = dataset.samples_of(i)
        targets = [sample.target_object for sample in things]
        assert len(set(targets)) == 3
        for sample in things:
            styles = [expression.attributes["style"] for expression in sample.expressions]
            assert len(set(styles)) == len(styles)
            assert {expression.attributes["form"] for expression in sample.expressions} <= FORMS
            assert [one.id for one in sample.expressions] == [f"{sample.id}/{n}" for n in range(len(styles))]
            kinds = [thing.kind for thing in dataset.scene(i).things]
            assert sample.attributes["distractors"] == kinds.count(kinds[sample.target_object]) - 1
            assert (sample.split, sample.source) == ("test", "shapes")
        assert nothing.load_mask is None
        assert len(nothing.expressions) == 1
        assert (nothing.target_object, nothing.attributes["distractors"]) == (None, 0)


def test_splits_share_no_scene():
    seen = [scene for split in ("train", "val", "test") for scene, _ in generated(split)]
    assert len({scene.background.seed for scene in seen}) > 0.99 * len(seen)  # 31 bits each: hardly any meet by chance
    assert len({scene.things for scene in seen}) == len(seen)


def test_the_generator_is_unchanged():
    """Results on Shapes are comparable only with the same expressions and masks."""
    digest = sha256()
    for split in ("train", "val", "test"):
        data = Shapes(split, drill=4)
        for sample in (sample for i in (0, 1, 77) for sample in data.samples_of(i)):
            digest.update(repr([sample.id, sample.target_object, [one.text for one in sample.expressions]]).encode())
            digest.update(b"" if sample.load_mask is None else np.packbits(sample.load_mask()).tobytes())
    assert digest.hexdigest() == GENERATED


FINGERPRINT = """
import zlib
from refseg.data.shapes import Shapes
for i in (7, 3):
    samples = Shapes("test", scale=0.5).samples_of(i)
    words = repr([(s.expressions, dict(s.attributes)) for s in samples]).encode()
    print(i, zlib.crc32(words), zlib.crc32(samples[0].load_image().tobytes()), zlib.crc32(samples[1].load_mask()))
"""


def test_another_process_and_order_give_the_same_bytes():
    out = subprocess.run([sys.executable, "-c", FINGERPRINT], capture_output=True, text=True, check=True).stdout
    for line in reversed(out.splitlines()):
        i, words, image, mask = map(int, line.split())
        samples = Shapes("test", scale=0.5).samples_of(i)
        assert zlib.crc32(repr([(s.expressions, dict(s.attributes)) for s in samples]).encode()) == words
        assert zlib.crc32(samples[0].load_image().tobytes()) == image
        assert zlib.crc32(samples[1].load_mask()) == mask


def test_samples_and_data_sets_can_be_pickled():
    dataset = Shapes("val", scale=0.5)
    sample = dataset[5]
    again = pickle.loads(pickle.dumps(sample))
    assert again.expressions == sample.expressions
    assert again.load_image().tobytes() == sample.load_image().tobytes()
    assert (again.load_mask() == sample.load_mask()).all()
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy.split, copy.scale, copy[9].expressions) == ("val", 0.5, dataset[9].expressions)


def test_what_is_handed_out_cannot_spoil_the_cache():
    sample = Shapes("val")[0]
    image, mask = sample.load_image(), sample.load_mask()
    before = image.tobytes()
    image.putpixel((0, 0), (1, 2, 3))
    mask[:] = False
    assert sample.load_image().tobytes() == before
    assert sample.load_mask().any()


# --- the drill: more of what is hard to learn, for training --------------------------------------------------------


def test_a_drill_adds_samples_and_leaves_the_others_alone():
    plain, drilled = Shapes("train"), Shapes("train", drill=8)
    assert len(drilled) == len(plain)
    for scene in range(40):
        few, many = plain.samples_of(scene), drilled.samples_of(scene)
        assert [sample.expressions for sample in many[: SAMPLES_PER_SCENE[SHAPES]]] == [
            sample.expressions for sample in few
        ]
        assert sum(len(sample.expressions) for sample in many[SAMPLES_PER_SCENE[SHAPES] :]) <= 8
        assert len({sample.id for sample in many}) == len(many)
    assert drilled[9].expressions == plain[9].expressions


@pytest.mark.slow
def test_a_drill_has_every_form_and_fits_its_targets():
    forms, absent, lonely = Counter(), Counter(), 0
    for scene in range(MANY):
        made = Shapes("train").scene(scene)
        for reference in drill(np.random.default_rng(scene), made, 12):
            if reference.target is None:
                absent[reference.style] += 1
                assert naive(reference.query, made) == [], reference.expression
            else:
                # Words that fit one thing alone could be understood without what they are related to.
                lonely += reference.style == "relation" and len(naive(Query(filter=reference.query.filter), made)) < 2
                forms[reference.form] += 1
                assert naive(reference.query, made) == [reference.target], reference.expression
    assert set(forms) == {"ordinal", "nearest", "attributes", "relation"}
    assert min(forms.values()) > MANY
    assert sum(absent.values()) == 3 * MANY
    assert absent["relation"] > 2 * MANY
    assert lonely == 0


def test_a_drill_is_the_same_every_time():
    one, other = (Shapes("train", drill=5).samples_of(7) for _ in range(2))
    assert [sample.expressions for sample in one] == [sample.expressions for sample in other]


# --- the easy set ------------------------------------------------------------------------------------------------


@cache
def easy(split: str) -> list[tuple[Scene, list[list[Reference]]]]:
    dataset = Shapes(split, name=EASY)
    return [(dataset.scene(i), dataset.references(i)) for i in range(MANY)]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_easy_scenes_have_few_large_plain_objects(split):
    for scene, _ in easy(split):
        assert len(scene.things) in (3, 4)
        assert {thing.kind for thing in scene.things} <= set(EASY_KINDS)
        assert {thing.colour for thing in scene.things} <= set(EASY_COLOURS)
        assert {(thing.texture, thing.held_out) for thing in scene.things} == {("plain", False)}
        assert all(0.3 <= thing.diameter <= 0.35 for thing in scene.things)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_easy_expressions_fit_their_targets_only(split):
    forms = Counter()
    for scene, found in easy(split):
        assert len(found) == SAMPLES_PER_SCENE[EASY]
        assert len({references[0].target for references in found}) == len(found)
        for reference in (one for references in found for one in references):
            assert naive(reference.query, scene) == [reference.target], reference
            forms[reference.style, reference.form] += 1
    assert set(forms) == {
        ("location", "superlative"),
        ("location", "side"),
        ("location", "corner"),
        ("appearance", "attributes"),
    }
    assert min(forms.values()) > 0.05 * forms.total()


def test_easy_scenes_are_a_data_set():
    """The digest of their first expressions and of an image is on record: every machine makes the same."""
    data = Shapes("val", name=EASY)
    assert (len(data), data.num_images, data[4].id) == (1500, 500, "shapes-easy/val/1/1")
    assert data.digest() != Shapes("val").digest()
    sample = data[0]
    image = np.asarray(sample.load_image())
    assert image.shape == (128, 128, 3)
    assert sample.load_mask().any()
    texts = "\n".join(one.text for index in range(20) for one in data[index].expressions)
    assert sha256(texts.encode()).hexdigest()[:16] == EASY_TEXTS
    with pytest.raises(ValueError, match="drill"):
        Shapes("train", name=EASY, drill=4)
    with pytest.raises(UnknownNameError):
        Shapes("train", name="shapes-hard")
