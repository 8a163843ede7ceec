"""Close-ups: one object in the centre, and expressions that fit it."""

import pickle

import numpy as np
import pytest

from refseg.data.shapes import HELD_OUT, TEXTURES, CloseUps
from refseg.data.shapes.vocabulary import EASY_KINDS, VARIANTS
from refseg.errors import UnknownNameError

COUNT = 60


@pytest.fixture(scope="module")
def closeups():
    return CloseUps("train")


def names(word):
    return {word, *VARIANTS.get(word, ())}


def test_expressions_name_kind_colour_and_texture(closeups):
    said = {"kind": 0, "colour": 0, "texture": 0}
    for index in range(COUNT):
        thing, (sample, _) = closeups.thing(index), closeups.samples_of(index)
        kind, colour, texture, words = (expression.text for expression in sample.expressions)
        assert (kind, colour, texture) == (thing.kind, f"{thing.colour} one", f"{thing.texture} one")
        left = set(words.split()) - {"one", "thing", "shape"}
        for name in said:
            found = left & names(getattr(thing, name))
            said[name] += bool(found)
            left -= found
        assert not left, words
    assert said["texture"] == COUNT
    assert COUNT / 2 < said["kind"] < COUNT
    assert COUNT / 2 < said["colour"] < COUNT


def test_expressions_that_do_not_fit_differ_in_the_texture_alone(closeups):
    every = set().union(*(names(texture) for texture in TEXTURES))
    for index in range(COUNT):
        fit, not_fit = closeups.samples_of(index)
        assert not_fit.load_mask is None
        assert not_fit.image_id == fit.image_id
        said = [fit.expressions[-1], *not_fit.expressions]
        textures = [set(expression.text.split()) & every for expression in said]
        assert all(len(found) == 1 for found in textures)
        named = [texture for found in textures for texture in TEXTURES if found & names(texture)]
        assert sorted(named) == sorted(TEXTURES)
        assert named[0] == closeups.thing(index).texture


def test_the_object_is_inside_the_image(closeups):
    for index in range(COUNT):
        sample, _ = closeups.samples_of(index)
        image, mask = sample.load_image(), sample.load_mask()
        assert image.size == mask.shape == (64, 64)
        assert 100 < mask.sum() < 0.9 * mask.size
        assert abs(np.argwhere(mask).mean(axis=0) - 32).max() < 24


def test_no_pair_is_shown_that_is_held_out(closeups):
    for split in ("train", "val"):
        data = CloseUps(split)
        assert not any((data.thing(i).colour, data.thing(i).kind) in HELD_OUT for i in range(COUNT))


def test_every_texture_is_frequent(closeups):
    found = [closeups.thing(i).texture for i in range(4 * COUNT)]
    assert all(found.count(texture) > COUNT / 4 for texture in TEXTURES)


def test_the_same_every_time_and_another_in_each_split(closeups):
    again = pickle.loads(pickle.dumps(closeups))
    (one, _), (other, _) = closeups.samples_of(7), again.samples_of(7)
    assert one.expressions == other.expressions
    assert (np.asarray(one.load_image()) == np.asarray(other.load_image())).all()
    another, _ = CloseUps("val").samples_of(7)
    assert (np.asarray(one.load_image()) != np.asarray(another.load_image())).any()


def test_close_ups_of_easy_scenes_show_one_object_and_name_kind_and_colour():
    data = CloseUps("train", "shapes-easy")
    assert data.name == "shapes-easy-closeups"
    sizes = []
    for index in range(COUNT):
        thing, (fit, not_fit) = data.thing(index), data.samples_of(index)
        kind, colour, both = (expression.text for expression in fit.expressions)
        assert (kind, colour) == (thing.kind, f"{thing.colour} one")
        assert names(thing.kind) & set(both.split())
        assert names(thing.colour) & set(both.split())
        wrong = [set(expression.text.split()) for expression in not_fit.expressions]
        assert all(names(thing.colour) & words and not names(thing.kind) & words for words in wrong)
        assert not_fit.load_mask is None
        sizes.append(np.sqrt(fit.load_mask().sum()))
    assert {thing.kind for thing in map(data.thing, range(COUNT))} == set(EASY_KINDS)
    assert min(sizes) < 15 < 40 < max(sizes)  # of 64 pixels: from the size in a scene to nearly the whole image
    assert data.digest() != CloseUps("train").digest()
    assert (np.asarray(fit.load_image()) != np.asarray(CloseUps("train").samples_of(index)[0].load_image())).any()


def test_an_unknown_split_or_image_is_an_error(closeups):
    with pytest.raises(UnknownNameError, match="split"):
        CloseUps("test")
    with pytest.raises(UnknownNameError, match="scenes"):
        CloseUps("train", "shapes-hard")
    with pytest.raises(IndexError):
        closeups.samples_of(closeups.num_images)
