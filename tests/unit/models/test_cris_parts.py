"""The parts of CRIS against simple, independent implementations."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from refseg.encoders.layers import BatchNorm1d, BatchNorm2d
from refseg.errors import ConfigError, UnknownNameError
from refseg.models.cris.decoder import VisionLanguageDecoder, sine_1d, sine_2d
from refseg.models.cris.model import cris, cris_compact
from refseg.models.cris.presence import PresenceHead
from refseg.models.cris.projector import Projector
from refseg.models.families import build


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_projector_is_a_convolution_with_a_kernel_for_each_expression(batch):
    projector = Projector(16, 12, contrastive=True).eval()
    vision, sentence = torch.randn(batch, 16, 5, 7), torch.randn(batch, 12)
    found = projector(vision, sentence)
    assert found.shape == (batch, 1, 20, 28)
    pixels = projector.mix(projector.pixels(vision))
    predicted = projector.kernel(sentence)
    expected = functional.conv2d(
        pixels.reshape(1, batch * 8, 20, 28),
        predicted[:, :-1].reshape(batch, 8, 3, 3),
        predicted[:, -1],
        padding=1,
        groups=batch,
    ).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_contrastive_learning_the_projector_ignores_the_sentence():
    projector = Projector(16, 12, contrastive=False).eval()
    vision = torch.randn(2, 16, 4, 4)
    assert torch.equal(projector(vision, torch.randn(2, 12)), projector(vision, torch.randn(2, 12)))


def test_sine_1d():
    found = sine_1d(8, 5)
    for position in range(5):
        for channel in range(8):
            angle = position * 10_000 ** (-2 * (channel // 2) / 8)
            expected = math.cos(angle) if channel % 2 else math.sin(angle)
            assert float(found[position, channel]) == pytest.approx(expected, abs=1e-6)


def test_sine_2d_encodes_x_and_then_y():
    rows, columns = 3, 4
    found = sine_2d(8, rows, columns)
    assert found.shape == (12, 8)
    for y in range(rows):
        for x in range(columns):
            for channel in range(8):
                position, inner = (x, channel) if channel < 4 else (y, channel - 4)
                angle = position * 10_000 ** (-2 * (inner // 2) / 4)
                expected = math.cos(angle) if inner % 2 else math.sin(angle)
                assert float(found[y * columns + x, channel]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("norm", "shape"), [(BatchNorm1d(3), (1, 3)), (BatchNorm2d(3), (1, 3, 1, 1))])
def test_batch_norms_of_a_single_value_use_running_statistics(norm, shape):
    norm.train()
    x = torch.randn(shape)
    before = norm.running_var.clone()
    torch.testing.assert_close(norm(x), x / math.sqrt(1 + norm.eps))
    assert torch.equal(norm.running_var, before)


ABLATION = [
    (False, 0, 131.86),
    (True, 0, 134.22),
    (False, 1, 136.07),
    (True, 1, 138.43),
    (True, 2, 142.64),
    (True, 3, 146.85),
    (True, 4, 151.06),
]
"""Contrastive learning, decoder layers, and millions of parameters (CRIS, table 3 and its talk)."""


@pytest.mark.parametrize(("contrastive", "layers", "millions"), ABLATION)
def test_parameters_of_the_ablation(contrastive, layers, millions):
    with torch.device("meta"):
        model = build(cris("RN50", contrastive=contrastive, decoder_layers=layers))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"decoder_heads": 7}, "decoder_heads"),
        ({"decoder_layers": -1}, "decoder_layers"),
        ({"image_size": 100}, "image_size"),
        ({"word_length": 78}, "word_length|77"),
        ({"threshold": 1.0}, "threshold"),
        ({"relative_threshold": 0.0}, "relative_threshold"),
        ({"dropout": 1.0}, "dropout"),
        ({"neck_channels": (8, 9, 8)}, "neck_channels"),
    ],
)
def test_specs_that_do_not_fit_are_errors(change, field):
    with pytest.raises(ConfigError, match=field):
        build(cris_compact(**change))


def test_clips_without_a_resnet_are_errors():
    with pytest.raises(UnknownNameError, match="RN50x4"):
        cris("RN50x5")
    with pytest.raises(ConfigError, match="ResNet"):
        cris("ViT-B/16")


def test_attention_multiplies_by_its_weights_once_for_all_positions():
    # A batched product would copy a weight for each position, which in bfloat16 on a CPU takes longer than the rest.
    decoder = VisionLanguageDecoder(1, 16, 2, 32, 0.0).eval()
    vision, words = torch.randn(2, 16, 3, 3), torch.randn(2, 5, 16)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    with (
        torch.inference_mode(),
        torch.autocast("cpu", torch.bfloat16),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        decoder(vision, words, padding)
    called = {event.key for event in profile.key_averages()}
    assert "aten::addmm" in called
    assert "aten::bmm" not in called


def test_the_attention_is_that_of_the_last_layer_averaged_over_its_heads(make_tiny):
    model = make_tiny(decoder_layers=2).eval()
    tokens = torch.tensor([[49_406, 320, 1125, 525, 49_407, 0], [49_406, 736, 49_407, 0, 0, 0]])
    padding = tokens == 0
    layer = model.decoder.layers[1].cross_attention
    with torch.no_grad():
        image, text = model.encode_image(torch.randn(1, 3, 64, 64)), model.encode_text(tokens, padding)
        given = []
        hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
        expected = model.combine(image, text, padding)
        hook.remove()
        query, key, value = (x.transpose(0, 1) for x in given[0])
        # PyTorch's own function, which the authors' code calls.
        _, weights = functional.multi_head_attention_forward(
            query, key, value, layer.embed_dim, layer.num_heads, layer.in_proj_weight, layer.in_proj_bias, None, None,
            False, 0.0, layer.out_proj.weight, layer.out_proj.bias, training=False, key_padding_mask=padding,
        )  # fmt: skip
        logits, attention = model.attend(image, text, padding)
    assert torch.equal(logits, expected)
    assert attention.shape == (2, 6, 4, 4)
    torch.testing.assert_close(attention, weights.mT.reshape(2, 6, 4, 4), rtol=0, atol=1e-6)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, 4, 4))
    assert not attention.movedim(1, -1)[padding[:, None, None].expand(-1, 4, 4, -1)].any()
    assert attention[0, :5].std(dim=(1, 2)).min() > 0


def test_the_head_for_presence_knows_what_is_in_the_map_and_not_where():
    head = PresenceHead(16, 12, 20).eval()
    vision, sentence = torch.randn(3, 16, 5, 7), torch.randn(3, 12)

    def judged(vision, sentence):
        return head.judge(head.pool(vision), sentence)

    found = judged(vision, sentence)
    assert found.shape == (3,)
    assert found.std() > 0
    torch.testing.assert_close(judged(vision.flip(2).roll(3, dims=3), sentence), found)
    assert not torch.allclose(judged(vision, sentence[[1, 2, 0]]), found)
    assert not torch.allclose(judged(vision[[1, 2, 0]], sentence), found)


def test_logits_are_lowered_where_evidence_is_missing():
    head = PresenceHead(16, 12, 20).eval()
    vision, sentence, logits = torch.randn(1, 16, 5, 7), torch.randn(1, 12), torch.randn(1, 1, 20, 28)
    number = head.judge(head.pool(vision), sentence).item()
    for evidence, change in ((3.0, 0.0), (0.0, math.log(0.5)), (-3.0, -12.0)):
        given = logits - logits.amax() - number + evidence
        torch.testing.assert_close(head(given, vision, sentence), given + change, rtol=0, atol=1e-4)


def test_a_negative_size_of_the_head_is_an_error():
    with pytest.raises(ConfigError, match="presence"):
        cris_compact(presence=-1)
