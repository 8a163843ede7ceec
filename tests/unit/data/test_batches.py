"""Batches: the same for any number of workers and from any step on; targets that come back in place."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.data.batches import TrainOrder, TrainTransform, batches, shrink, to_device
from refseg.data.shapes import Shapes
from refseg.inputs.clip_bpe import Tokenizer
from refseg.inputs.read import Frame, letterbox
from refseg.values import Sample

LENGTH = 12


def order(**changes):
    values = {"items": 5, "batch_size": 2, "expressions": 3, "sizes": ((0, 64),), "seed": 3}
    return TrainOrder(**values | changes)


@pytest.fixture(scope="module")
def drawer():
    return TrainTransform(Shapes("train"), LENGTH)


def assert_same(one, other):
    assert vars(one).keys() == vars(other).keys()
    for name, value in vars(one).items():
        assert torch.equal(value, getattr(other, name)), name


# ── what a batch holds ──


def test_a_batch_is_as_long_as_its_longest_expression():
    order_ = order(items=3, batch_size=3, expressions=20)
    (short,) = batches(TrainTransform(Shapes("train"), 30), order_, range(1))
    lengths = (~short.padding).sum(dim=1)
    assert short.tokens.shape[1] == lengths.max() < 30
    whole = Tokenizer(30)(
        [e for draw in order_.at(0) for s in Shapes("train").samples_of(draw.item) for e in s.expressions]
    )
    longest = int((~whole.padding).sum(dim=1).max())
    assert sorted(map(tuple, short.tokens.tolist())) == sorted(map(tuple, whole.tokens[:, :longest].tolist()))


def test_emphasis_weighs_expressions_by_their_form():
    data = Shapes("train")
    image = next(i for i in range(50) if any("ordinal" in s.attributes["forms"] for s in data.samples_of(i)))
    forms = [form for s in data.samples_of(image) for form in s.attributes["forms"].split(",")]
    drawn = TrainTransform(data, LENGTH, emphasis={"ordinal": 2.5})[
        order(items=image + 1, expressions=20).at(0)[0]._replace(item=image)
    ]
    assert sorted(drawn.weight.tolist()) == sorted(2.5 if form == "ordinal" else 1.0 for form in forms)
    assert set(TrainTransform(data, LENGTH)[order().at(0)[0]].weight.tolist()) == {1.0}


# ── the order ──


def test_all_images_are_drawn_once_before_any_is_drawn_again():
    drawn = [draw.item for step in range(25) for draw in order().at(step)]
    turns = [drawn[start : start + 5] for start in range(0, 50, 5)]
    assert all(sorted(turn) == list(range(5)) for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 5


def test_a_step_depends_on_nothing_before_it():
    forwards = [order().at(step) for step in range(9)]
    assert [order().at(step) for step in reversed(range(9))] == forwards[::-1]
    assert [draw.item for draw in order(seed=4).at(0)] + [0] != [draw.item for draw in forwards[0]] or (
        order(seed=4).at(1) != forwards[1]
    )


def test_a_image_gives_other_expressions_each_turn():
    seeds = Counter(draw.seed for step in range(10) for draw in order().at(step))
    assert max(seeds.values()) == 1


def test_a_batch_may_be_larger_than_the_data():
    drawn = [draw.item for draw in order(items=2, batch_size=7).at(0)]
    assert Counter(drawn) in ({0: 4, 1: 3}, {0: 3, 1: 4})


def test_sizes_follow_their_schedule():
    sizes = order(sizes=((0, 64), (3, 96), (5, 128)))
    assert [sizes.size(step) for step in range(7)] == [64, 64, 64, 96, 96, 128, 128]
    assert {draw.size for draw in sizes.at(4)} == {96}


# ── the batches ──


def test_a_batch_has_n_images_and_their_expressions(drawer):
    (batch,) = batches(drawer, order(), range(1))
    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.image_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.tokens.shape == batch.padding.shape == (6, LENGTH)
    assert batch.target.shape == (6, 1, 16, 16)
    assert 0 <= batch.target.min() <= batch.target.max() <= 1


def test_one_expression_a_image_is_the_published_batch(drawer):
    (batch,) = batches(drawer, order(expressions=1, batch_size=4), range(1))
    assert batch.image_index.tolist() == [0, 1, 2, 3]
    assert len(batch.pixels) == len(batch.tokens) == len(batch.target) == 4


def test_workers_change_nothing(drawer):
    alone = list(batches(drawer, order(sizes=((0, 64), (2, 96))), range(4)))
    helped = list(batches(drawer, order(sizes=((0, 64), (2, 96))), range(4), workers=2))
    assert [batch.pixels.shape[-1] for batch in alone] == [64, 64, 96, 96]
    for one, other in zip(alone, helped, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("start", [1, 2, 3])
def test_starting_anywhere_gives_the_rest(drawer, start):
    whole = list(batches(drawer, order(), range(4)))
    rest = list(batches(drawer, order(), range(start, 4)))
    assert len(rest) == 4 - start
    for one, other in zip(whole[start:], rest, strict=True):
        assert_same(one, other)


def test_a_loader_leaves_the_models_random_numbers_alone(drawer):
    before = torch.get_rng_state()
    list(batches(drawer, order(), range(1)))
    assert torch.equal(torch.get_rng_state(), before)


def test_no_steps_are_no_batches(drawer):
    assert list(batches(drawer, order(), range(4, 4))) == []


# ── one image ──


class Fixed:
    """One image with a known mask, and an expression that fits nothing."""

    images = 1

    def __init__(self, mask):
        self.mask = mask
        self.asked = 0

    def load_mask(self):
        self.asked += 1
        return self.mask

    def samples_of(self, index):
        image = Image.fromarray(np.full((*self.mask.shape, 3), 77, dtype=np.uint8))
        common = {"image_id": "0", "split": "x", "source": "x", "load_image": lambda: image}
        return (
            Sample(id="0/0", expressions=("one", "uno"), load_mask=self.load_mask, **common),
            Sample(id="0/1", expressions=("nothing",), load_mask=None, **common),
        )


@pytest.fixture
def fixed():
    mask = np.zeros((64, 64), dtype=bool)
    mask[8:24, 32:] = True
    return Fixed(mask)


def test_published_targets_are_every_fourth_pixel_of_the_letterboxed_mask(fixed):
    drawn = TrainTransform(fixed, LENGTH, "strided")[order(items=1).at(0)[0]]
    words = [Tokenizer(LENGTH)([text]).tokens[0].tolist() for text in ("one", "uno", "nothing")]
    targets = {words.index(row.tolist()): target[0] for row, target in zip(drawn.tokens, drawn.target, strict=True)}
    assert targets.keys() == {0, 1, 2}
    expected = torch.from_numpy(fixed.mask[::4, ::4]).float()
    assert torch.equal(targets[0], expected)
    assert torch.equal(targets[1], expected)
    assert not targets[2].any()
    assert fixed.asked == 1


@pytest.mark.parametrize("size", [64, 128])
@pytest.mark.parametrize("place", [(4, 4), (70, 60), (40, 88)])
def test_a_target_comes_back_to_where_its_mask_was(size, place):
    """A square's target, restored as logits are, is the square."""
    y, x = place
    mask = np.zeros((128, 128), dtype=bool)
    mask[y : y + 36, x : x + 36] = True
    frame = Frame(128, 128, size)
    found = frame.restore(shrink(frame.letterbox_mask(mask), "coverage")[None])[0].numpy() > 0.5
    assert np.abs(np.argwhere(found).mean(axis=0) - np.argwhere(mask).mean(axis=0)).max() < 0.6 * 128 / size
    assert (found & mask).sum() / (found | mask).sum() > 0.9


def test_a_published_target_comes_back_shifted_to_the_right_and_down():
    frame, shifts = Frame(128, 128, 128), []
    for offset in range(4):  # every place that an edge can have between the pixels that are taken
        mask = np.zeros((128, 128), dtype=bool)
        mask[80 + offset : 116 + offset, 80 + offset : 116 + offset] = True
        found = frame.restore(shrink(frame.letterbox_mask(mask), "strided")[None])[0].numpy() > 0.5
        shifts.append(np.argwhere(found).mean(axis=0) - np.argwhere(mask).mean(axis=0))
    assert (np.mean(shifts, axis=0) > 1).all()


def test_pixels_are_the_letterboxed_image(fixed):
    drawn = TrainTransform(fixed, LENGTH)[order(items=1).at(0)[0]]
    assert torch.equal(drawn.pixels, letterbox(fixed.samples_of(0)[0].load_image(), 64)[0])


def test_expressions_are_drawn_evenly_and_without_repetition(fixed):
    drawer, counts = TrainTransform(fixed, LENGTH), Counter()
    for step in range(150):
        drawn = drawer[order(items=1, batch_size=1, expressions=2).at(step)[0]]
        assert len({tuple(row.tolist()) for row in drawn.tokens}) == 2
        counts.update(tuple(row.tolist()) for row in drawn.tokens)
    assert len(counts) == 3
    assert min(counts.values()) > 75


def test_to_device_keeps_everything(drawer):
    (batch,) = batches(drawer, order(), range(1))
    assert_same(to_device(batch, torch.device("cpu")), batch)
