"""The losses against plain, independent ways to compute the same."""

import math

import pytest
import torch
from torch.nn import functional

from refseg.training.losses import contrastive_loss, focal_dice_loss, image_text_loss

ALL = torch.ones(4, dtype=torch.bool)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_text_to_pixel_contrast_is_cross_entropy_of_every_pixel():
    logits, target = torch.tensor([[[[2.0, -1.0]]]]), torch.tensor([[[[1.0, 0.25]]]])
    p, q = sigmoid(2), sigmoid(-1)
    expected = (-math.log(p) - 0.25 * math.log(q) - 0.75 * math.log(1 - q)) / 2
    assert contrastive_loss(logits, target).tolist() == pytest.approx([expected])


def test_focal_and_dice_by_hand():
    logits, target = torch.tensor([[[[2.0, -1.0, 0.5]]]]), torch.tensor([[[[1.0, 0.0, 0.0]]]])
    p = [sigmoid(x) for x in (2.0, -1.0, 0.5)]
    focal = (
        0.65 * (1 - p[0]) ** 2 * -math.log(p[0])
        + 0.35 * p[1] ** 2 * -math.log(1 - p[1])
        + 0.35 * p[2] ** 2 * -math.log(1 - p[2])
    ) / 3
    dice = 1 - (2 * p[0] + 1) / (sum(p) + 1 + 1)
    assert focal_dice_loss(logits, target, focal=1.0, dice=0.0).item() == pytest.approx(focal, rel=1e-5)
    assert focal_dice_loss(logits, target, focal=0.0, dice=1.0).item() == pytest.approx(dice, rel=1e-5)
    assert focal_dice_loss(logits, target, focal=1.75, dice=0.5).item() == pytest.approx(1.75 * focal + dice / 2)


def test_nothing_meant_and_nothing_found_costs_nothing():
    loss = focal_dice_loss(torch.full((1, 1, 4, 4), -30.0), torch.zeros(1, 1, 4, 4), focal=1.0, dice=1.0)
    assert loss.item() == pytest.approx(0, abs=1e-6)


def test_each_finds_its_own_among_all():
    torch.manual_seed(0)
    images, sentences = (functional.normalize(torch.randn(4, 8), dim=-1) for _ in range(2))
    scale = torch.tensor(3.0)
    found = image_text_loss(images, sentences, scale.log(), torch.eye(4, dtype=torch.bool), ALL[:4])
    for i in range(4):
        by_words = [math.exp(3 * float(sentences[i] @ images[j])) for j in range(4)]
        by_image = [math.exp(3 * float(sentences[j] @ images[i])) for j in range(4)]
        expected = -math.log(by_words[i] / sum(by_words)) / 2 - math.log(by_image[i] / sum(by_image)) / 2
        assert found[i].item() == pytest.approx(expected, rel=1e-5)


def test_the_same_words_are_not_pushed_away():
    torch.manual_seed(0)
    images = functional.normalize(torch.randn(3, 8), dim=-1).requires_grad_()
    sentences = functional.normalize(torch.randn(3, 8), dim=-1)
    sentences[1] = sentences[0]
    alike = torch.eye(3, dtype=torch.bool)
    alike[0, 1] = alike[1, 0] = True
    image_text_loss(images, sentences, torch.tensor(0.0), alike, ALL[:3])[0].backward()
    assert not images.grad[1].any()
    assert images.grad[2].any()


def test_the_scale_is_at_most_a_hundred():
    images = torch.eye(2)
    some = image_text_loss(images, images.flip(0), torch.tensor(100.0).log(), torch.eye(2, dtype=torch.bool), ALL[:2])
    more = image_text_loss(images, images.flip(0), torch.tensor(1e4).log(), torch.eye(2, dtype=torch.bool), ALL[:2])
    assert torch.equal(some, more)
    assert some.tolist() == pytest.approx([100, 100])


def test_what_does_not_fit_is_only_there_not_to_be_found():
    torch.manual_seed(0)
    images, sentences = (functional.normalize(torch.randn(3, 8), dim=-1) for _ in range(2))
    images[1] = images[0]  # the second sentence was written for the first image too
    fits = torch.tensor([True, False, True])
    alike = torch.eye(3, dtype=torch.bool)
    alike[0, 1] = True
    found = image_text_loss(images, sentences, torch.tensor(0.0), alike, fits)
    assert found[1] == 0

    def likely(sentence, image):
        return math.exp(float(sentences[sentence] @ images[image]))

    by_words = likely(0, 0) / (likely(0, 0) + likely(0, 2))
    by_image = likely(0, 0) / sum(likely(sentence, 0) for sentence in range(3))
    assert found[0].item() == pytest.approx(-math.log(by_words) / 2 - math.log(by_image) / 2, rel=1e-5)
