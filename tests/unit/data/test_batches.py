"""Batches: equal for any number of workers and from any step; unshifted targets; no weight for ignored pixels."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.data.batches import ByReference, TrainOrder, TrainTransform, batches, collate, shrink, to_device
from refseg.data.shapes import Shapes
from refseg.errors import DataError
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.frame import Frame
from refseg.inputs.preprocessing import Inputs
from refseg.values import Expression, Sample

LENGTH = 12
INPUTS = Inputs(image_size=64, word_length=LENGTH)


def order(**changes):
    values = {"num_images": 5, "batch_size": 2, "expressions": 3, "sizes": ((0, 64),), "seed": 3}
    return TrainOrder(**values | changes)


@pytest.fixture(scope="module")
def transform():
    return TrainTransform(Shapes("train"), INPUTS)


def assert_same(one, other):
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


def forms_of(samples):
    return [expression.attributes["form"] for sample in samples for expression in sample.expressions]


def test_a_batch_has_the_tokens_of_its_longest_expression():
    order_ = order(num_images=3, batch_size=3, expressions=20)
    (batch,) = batches(TrainTransform(Shapes("train"), Inputs(image_size=64, word_length=30)), order_, range(1))
    lengths = (~batch.padding).sum(dim=1)
    assert batch.tokens.shape[1] == lengths.max() < 30
    samples = chain.from_iterable(Shapes("train").samples_of(index.image) for index in order_.at(0))
    whole = Tokenizer(30)([expression.text for sample in samples for expression in sample.expressions])
    longest = int((~whole.padding).sum(axis=1).max())
    assert sorted(map(tuple, batch.tokens.tolist())) == sorted(map(tuple, whole.tokens[:, :longest].tolist()))


def test_emphasis_weighs_expressions_by_their_form():
    data = Shapes("train")
    image = next(i for i in range(50) if "ordinal" in forms_of(data.samples_of(i)))
    index = order(num_images=image + 1, expressions=20).at(0)[0]._replace(image=image)
    item = TrainTransform(data, INPUTS, emphasis={"ordinal": 2.5})[index]
    expected = [2.5 if form == "ordinal" else 1.0 for form in forms_of(data.samples_of(image))]
    assert sorted(item.weight.tolist()) == sorted(expected)
    assert set(TrainTransform(data, INPUTS)[order().at(0)[0]].weight.tolist()) == {1.0}


# ── the order ──


def test_all_images_are_drawn_once_before_any_is_repeated():
    drawn = [index.image for step in range(25) for index in order().at(step)]
    turns = [drawn[start : start + 5] for start in range(0, 50, 5)]
    assert all(sorted(turn) == list(range(5)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 5


def test_a_step_depends_on_nothing_before_it():
    forwards = [order().at(step) for step in range(9)]
    assert [order().at(step) for step in reversed(range(9))] == forwards[::-1]


def test_the_seed_changes_the_order():
    assert [order(seed=4).at(step) for step in range(5)] != [order().at(step) for step in range(5)]


def test_every_draw_has_a_seed_of_its_own():
    seeds = Counter(index.seed for step in range(10) for index in order().at(step))
    assert max(seeds.values()) == 1


def test_a_batch_may_be_larger_than_the_data():
    drawn = [index.image for index in order(num_images=2, batch_size=7).at(0)]
    assert Counter(drawn) in ({0: 4, 1: 3}, {0: 3, 1: 4})


def test_sizes_follow_their_schedule():
    sizes = order(sizes=((0, 64), (3, 96), (5, 128)))
    assert [sizes.size(step) for step in range(7)] == [64, 64, 64, 96, 96, 128, 128]
    assert {index.size for index in sizes.at(4)} == {96}


# ── the batches ──


def test_a_batch_has_n_images_and_their_expressions(transform):
    (batch,) = batches(transform, order(), range(1))
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.image_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.tokens.shape == batch.padding.shape == (6, LENGTH)
    assert batch.target.shape == (6, 1, 16, 16)
    assert 0 <= batch.target.min() < batch.target.max() <= 1
    assert torch.equal(batch.valid, torch.ones(6, 1, 16, 16))


def test_references_can_be_drawn_instead_of_images():
    data = Shapes("train")
    by_reference = ByReference(data)
    assert by_reference.num_images == len(data)
    assert [sample.id for sample in by_reference.samples_of(5)] == [data[5].id]
    (batch,) = batches(TrainTransform(by_reference, INPUTS), order(expressions=1, batch_size=4), range(1))
    assert batch.image_index.tolist() == [0, 1, 2, 3]
    assert len(batch.pixels) == len(batch.tokens) == len(batch.target) == 4


def test_workers_change_nothing(transform):
    alone = list(batches(transform, order(sizes=((0, 64), (2, 96))), range(4)))
    helped = list(batches(transform, order(sizes=((0, 64), (2, 96))), range(4), workers=2))
    assert [batch.pixels.shape[-1] for batch in alone] == [64, 64, 96, 96]
    for one, other in zip(alone, helped, strict=True):
        assert_same(one, other)


def test_starting_at_a_step_gives_the_batches_from_there_on(transform):
    whole = list(batches(transform, order(), range(4)))
    rest = list(batches(transform, order(), range(2, 4)))
    for one, other in zip(whole[2:], rest, strict=True):
        assert_same(one, other)
    assert list(batches(transform, order(), range(4, 4))) == []


def test_a_loader_does_not_use_the_global_random_numbers(transform):
    before = torch.get_rng_state()
    list(batches(transform, order(), range(1)))
    assert torch.equal(torch.get_rng_state(), before)


# ── one image ──


class Fixed:
    """One image with a known mask, and an expression that nothing fits."""

    num_images = 1

    def __init__(self, mask, ignored=None):
        self.mask, self.ignored = mask, ignored
        self.loaded = 0

    def load_mask(self):
        self.loaded += 1
        return self.mask

    def samples_of(self, index):
        image = Image.fromarray(np.full((*self.mask.shape, 3), 77, dtype=np.uint8))
        common = {"image_id": "0", "split": "x", "source": "x", "load_image": lambda: image}
        common["load_ignored"] = None if self.ignored is None else lambda: self.ignored
        first = tuple(Expression(text=text, id=text) for text in ("one", "uno"))
        return (
            Sample(id="0/0", expressions=first, load_mask=self.load_mask, **common),
            Sample(id="0/1", expressions=(Expression(text="nothing", id="nothing"),), load_mask=None, **common),
        )


class Broken(Fixed):
    """Data whose mask cannot be read."""

    def load_mask(self):
        raise DataError("a mask is missing")


def square():
    mask = np.zeros((64, 64), dtype=bool)
    mask[8:24, 32:] = True
    return mask


@pytest.fixture
def fixed():
    return Fixed(square())


def by_text(item):
    """Return the rows of an item by their expression."""
    texts = {tuple(Tokenizer(LENGTH)([text]).tokens[0].tolist()): text for text in ("one", "uno", "nothing")}
    return {texts[tuple(row.tolist())]: number for number, row in enumerate(item.tokens)}


def test_strided_targets_are_every_fourth_pixel_of_the_letterboxed_mask(fixed):
    item = TrainTransform(fixed, INPUTS, "strided")[order(num_images=1).at(0)[0]]
    rows = by_text(item)
    expected = torch.from_numpy(fixed.mask[::4, ::4]).float()
    assert torch.equal(item.target[rows["one"]][0], expected)
    assert torch.equal(item.target[rows["uno"]][0], expected)
    assert not item.target[rows["nothing"]].any()
    assert fixed.loaded == 1


@pytest.mark.parametrize("target", ["coverage", "strided"])
def test_ignored_pixels_have_no_weight_and_are_no_background(target):
    ignored = np.zeros((64, 64), dtype=bool)
    ignored[4:30, 28:44] = True  # a part of the target, and around it
    item = TrainTransform(Fixed(square(), ignored), INPUTS, target)[order(num_images=1).at(0)[0]]
    rows = by_text(item)
    valid, found = item.valid[rows["one"]][0], item.target[rows["one"]][0]
    assert not valid[2:7, 8:10].any()  # cells that are ignored entirely
    assert (valid[10:] == 1).all()
    assert valid.min() >= 0
    assert valid.max() == 1
    # What is left of the target is as sure as it was: a cell that is partly ignored keeps the value of the rest.
    assert found[3:5, 11:15] == pytest.approx(1)
    assert (item.target * item.valid).sum() <= TrainTransform(Fixed(square()), INPUTS, target)[
        order(num_images=1).at(0)[0]
    ].target.sum()
    assert torch.equal(item.valid[rows["nothing"]][0], valid)


def test_a_cell_that_is_partly_ignored_has_the_target_of_its_valid_part():
    target, ignored = np.zeros((64, 64), dtype=bool), np.zeros((64, 64), dtype=bool)
    target[:, :32], ignored[:, 32:] = True, True
    item = TrainTransform(Fixed(target, ignored), INPUTS)[order(num_images=1).at(0)[0]]
    row = by_text(item)["one"]
    partly = (item.valid[row] > 0) & (item.valid[row] < 1)
    assert partly.any()
    assert item.target[row][partly].numpy() == pytest.approx(1, abs=1e-4)


def test_ignored_pixels_follow_a_mirrored_image():
    ignored = np.zeros((64, 64), dtype=bool)
    ignored[:, :16] = True
    index = order(num_images=1).at(0)[0]
    plain = TrainTransform(Fixed(square(), ignored), INPUTS)[index].valid[0, 0]
    flipped = TrainTransform(Fixed(square(), ignored), INPUTS, mirror=1.0)[index].valid[0, 0]
    assert (plain[:, :3] == 0).all()
    assert (plain[:, 5:] == 1).all()
    assert (flipped[:, 13:] == 0).all()
    assert (flipped[:, :11] == 1).all()


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("place", [(4, 4), (70, 60), (40, 88)])
def test_a_restored_target_is_where_its_mask_was(size, place):
    y, x = place
    mask = np.zeros((128, 128), dtype=bool)
    mask[y : y + 36, x : x + 36] = True
    found = restored(mask, size, "coverage")
    assert np.abs(np.argwhere(found).mean(axis=0) - np.argwhere(mask).mean(axis=0)).max() < 0.6 * 128 / size
    assert (found & mask).sum() / (found | mask).sum() > 0.9


def test_a_restored_strided_target_is_shifted_to_the_right_and_down():
    shifts = []
    for offset in range(4):  # every position that an edge can have between the pixels that are taken
        mask = np.zeros((128, 128), dtype=bool)
        mask[80 + offset : 116 + offset, 80 + offset : 116 + offset] = True
        found = restored(mask, 128, "strided")
        shifts.append(np.argwhere(found).mean(axis=0) - np.argwhere(mask).mean(axis=0))
    assert (np.mean(shifts, axis=0) > 1).all()


@pytest.mark.parametrize("target", ["coverage", "strided"])
def test_a_target_for_a_logit_of_each_pixel_is_the_mask(target):
    mask = torch.rand(32, 32)
    assert torch.equal(shrink(mask, target, stride=1), mask[None])


def restored(mask, size, target):
    """Return a mask after it was shrunk, and restored as scores are."""
    frame = Frame(128, 128, size)
    return frame.restore(shrink(torch.from_numpy(frame.place_mask(mask)), target)[0].numpy()) > 0.5


def test_pixels_are_those_of_the_preprocessing(fixed):
    item = TrainTransform(fixed, INPUTS)[order(num_images=1).at(0)[0]]
    expected, _ = INPUTS.pixels(fixed.samples_of(0)[0].load_image())
    assert np.array_equal(item.pixels.numpy(), expected)


def test_another_normalisation_is_used(fixed):
    inputs = Inputs(image_size=64, word_length=LENGTH, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    item = TrainTransform(fixed, inputs)[order(num_images=1).at(0)[0]]
    assert item.pixels[:, 32, 32].numpy() == pytest.approx(77 / 255)


def test_expressions_are_drawn_evenly_and_without_repetition(fixed):
    transform, counts = TrainTransform(fixed, INPUTS), Counter()
    for step in range(150):
        item = transform[order(num_images=1, batch_size=1, expressions=2).at(step)[0]]
        assert len({tuple(row.tolist()) for row in item.tokens}) == 2
        counts.update(tuple(row.tolist()) for row in item.tokens)
    assert len(counts) == 3
    assert min(counts.values()) > 75


def test_an_error_of_the_data_is_returned_and_then_raised():
    transform = TrainTransform(Broken(square()), INPUTS)
    item = transform[order(num_images=1).at(0)[0]]
    assert isinstance(item, DataError)
    assert collate([item, item]) is item
    with pytest.raises(DataError):
        list(batches(transform, order(num_images=1), range(1)))


def test_to_device_keeps_everything(transform):
    (batch,) = batches(transform, order(), range(1))
    assert_same(to_device(batch, torch.device("cpu")), batch)
