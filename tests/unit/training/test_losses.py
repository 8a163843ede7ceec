"""The losses against plain, independent computations of the same."""

import math

import pytest
import torch
from torch.nn import functional

from refseg.training.losses import contrastive_loss, focal_dice_loss, image_text_loss

ALL = torch.ones(4, dtype=torch.bool)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def row(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def mask_losses(logits, target, valid):
    """Every loss of a mask."""
    return {
        "contrastive": contrastive_loss(logits, target, valid),
        "focal": focal_dice_loss(logits, target, valid, focal=1.0, dice=0.0),
        "dice": focal_dice_loss(logits, target, valid, focal=0.0, dice=1.0),
    }


def test_the_contrastive_loss_is_the_cross_entropy_of_every_pixel():
    logits, target = row(2.0, -1.0), row(1.0, 0.25)
    p, q = sigmoid(2), sigmoid(-1)
    expected = (-math.log(p) - 0.25 * math.log(q) - 0.75 * math.log(1 - q)) / 2
    assert contrastive_loss(logits, target, torch.ones_like(target)).tolist() == pytest.approx([expected])


def test_each_expression_has_its_own_loss():
    logits, target, valid = torch.randn(3, 1, 4, 4), torch.rand(3, 1, 4, 4), torch.rand(3, 1, 4, 4)
    for name, losses in mask_losses(logits, target, valid).items():
        alone = [mask_losses(logits[i : i + 1], target[i : i + 1], valid[i : i + 1])[name].item() for i in range(3)]
        assert losses.tolist() == pytest.approx(alone), name


def test_half_precision_is_widened_first():
    logits = torch.full((1, 1, 2, 2), -9.0, dtype=torch.bfloat16)
    loss = contrastive_loss(logits, torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-9)), rel=5e-3)


def test_focal_and_dice_by_hand():
    logits, target = row(2.0, -1.0, 0.5), row(1.0, 0.0, 0.0)
    valid = torch.ones_like(target)
    p = [sigmoid(x) for x in (2.0, -1.0, 0.5)]
    focal = (
        0.65 * (1 - p[0]) ** 2 * -math.log(p[0])
        + 0.35 * p[1] ** 2 * -math.log(1 - p[1])
        + 0.35 * p[2] ** 2 * -math.log(1 - p[2])
    ) / 3
    dice = 1 - (2 * p[0] + 1) / (sum(p) + 1 + 1)
    losses = mask_losses(logits, target, valid)
    assert losses["focal"].item() == pytest.approx(focal, rel=1e-5)
    assert losses["dice"].item() == pytest.approx(dice, rel=1e-5)
    both = focal_dice_loss(logits, target, valid, focal=1.75, dice=0.5)
    assert both.item() == pytest.approx(1.75 * focal + dice / 2)


def test_an_empty_prediction_of_an_empty_target_costs_nothing():
    losses = mask_losses(torch.full((1, 1, 4, 4), -30.0), torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    assert all(loss.item() == pytest.approx(0, abs=1e-6) for loss in losses.values())


# ── ignored pixels ──


@pytest.mark.parametrize("name", ["contrastive", "focal", "dice"])
def test_ignored_pixels_get_no_gradient_and_do_not_matter(name):
    torch.manual_seed(0)
    valid = torch.ones(2, 1, 4, 4)
    valid[:, :, :2] = 0
    logits, target = torch.randn(2, 1, 4, 4, requires_grad=True), (torch.rand(2, 1, 4, 4) > 0.5).float()
    loss = mask_losses(logits, target, valid)[name]
    loss.sum().backward()
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].all()
    other = torch.where(valid > 0, target, 1 - target)
    assert torch.equal(mask_losses(logits, other, valid)[name], loss)
    # The loss is that of the valid pixels alone.
    cut = mask_losses(logits[:, :, 2:], target[:, :, 2:], valid[:, :, 2:])[name]
    assert loss.tolist() == pytest.approx(cut.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", ["contrastive", "focal", "dice"])
def test_an_expression_whose_pixels_are_all_ignored_costs_nothing(name):
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = mask_losses(logits, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4))[name]
    loss.sum().backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_without_ignored_pixels_the_losses_are_bit_for_bit_those_without_weights():
    torch.manual_seed(1)
    logits, target = torch.randn(3, 1, 13, 13), torch.rand(3, 1, 13, 13)
    plain = functional.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(1, 2, 3))
    assert torch.equal(contrastive_loss(logits, target, torch.ones_like(target)), plain)


# ── images and sentences ──


def test_each_is_matched_with_its_own_among_all():
    torch.manual_seed(0)
    images, sentences = (functional.normalize(torch.randn(4, 8), dim=-1) for _ in range(2))
    scale = torch.tensor(3.0)
    found = image_text_loss(images, sentences, scale.log(), torch.eye(4, dtype=torch.bool), ALL[:4])
    for i in range(4):
        of_sentence = [math.exp(3 * float(sentences[i] @ images[j])) for j in range(4)]
        of_image = [math.exp(3 * float(sentences[j] @ images[i])) for j in range(4)]
        expected = -math.log(of_sentence[i] / sum(of_sentence)) / 2 - math.log(of_image[i] / sum(of_image)) / 2
        assert found[i].item() == pytest.approx(expected, rel=1e-5)


def test_equal_sentences_are_no_negatives():
    torch.manual_seed(0)
    images = functional.normalize(torch.randn(3, 8), dim=-1).requires_grad_()
    sentences = functional.normalize(torch.randn(3, 8), dim=-1)
    sentences[1] = sentences[0]
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = same[1, 0] = True
    image_text_loss(images, sentences, torch.tensor(0.0), same, ALL[:3])[0].backward()
    assert not images.grad[1].any()
    assert images.grad[2].any()


def test_the_scale_is_at_most_a_hundred():
    images = torch.eye(2)
    some = image_text_loss(images, images.flip(0), torch.tensor(100.0).log(), torch.eye(2, dtype=torch.bool), ALL[:2])
    more = image_text_loss(images, images.flip(0), torch.tensor(1e4).log(), torch.eye(2, dtype=torch.bool), ALL[:2])
    assert torch.equal(some, more)
    assert some.tolist() == pytest.approx([100, 100])


def test_a_hard_negative_has_no_loss_and_is_a_wrong_answer_for_images():
    torch.manual_seed(0)
    images, sentences = (functional.normalize(torch.randn(3, 8), dim=-1) for _ in range(2))
    images[1] = images[0]  # the second sentence was written for the first image too
    fits = torch.tensor([True, False, True])
    same = torch.eye(3, dtype=torch.bool)
    same[0, 1] = True
    found = image_text_loss(images, sentences, torch.tensor(0.0), same, fits)
    assert found[1] == 0

    def likelihood(sentence, image):
        return math.exp(float(sentences[sentence] @ images[image]))

    of_sentence = likelihood(0, 0) / (likelihood(0, 0) + likelihood(0, 2))
    of_image = likelihood(0, 0) / sum(likelihood(sentence, 0) for sentence in range(3))
    assert found[0].item() == pytest.approx(-math.log(of_sentence) / 2 - math.log(of_image) / 2, rel=1e-5)
