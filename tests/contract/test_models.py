"""The interface that all models share, on small variants of each family."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from refseg.data.batches import Batch
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.encoders.darknet import DarkNetConfig
from refseg.encoders.efficientnet import EfficientNetConfig
from refseg.encoders.resnet import WideResNetConfig
from refseg.encoders.word_gru import WordGRUConfig
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.masks import intersection_and_union
from refseg.models.base import BoxModel, ModelSpec, PatchMapModel
from refseg.models.clip_map.model import CLIPMapConfig
from refseg.models.clipseg.model import CLIPSegConfig
from refseg.models.cris.model import CRISConfig
from refseg.models.efn.model import EFNConfig
from refseg.models.families import FAMILIES, build
from refseg.models.folder import load_model, save_model
from refseg.models.mcn.model import MCNConfig
from refseg.models.risclip.model import RISCLIPConfig
from refseg.models.vlt.model import VLTConfig
from refseg.predictor import Predictor, load
from refseg.runtimes.export import export
from refseg.runtimes.prepare import prepare
from refseg.runtimes.torch import TorchRuntime
from refseg.training.config import TrainingConfig
from refseg.training.engine import Objective
from refseg.training.families import training_spec
from refseg.training.optim import freeze, set_mode, without_gradient
from refseg.values import Calibration, Decision, Encoding

FEATURES = "refseg.runtimes.torch.FEATURES_AT_ONCE"
START, END = 49406, 49407
RESNET = ResNetConfig(layers=(1, 1, 1, 1), width=8, heads=4, output_dim=24, pretrained_size=96)
VIT = ViTConfig(patch=16, width=32, layers=4, heads=4, output_dim=24, pretrained_size=96)
EFFICIENTNET = EfficientNetConfig(stem=4, widths=(4, 6, 8, 8, 12, 12, 16), depths=(1, 1, 2, 1, 1, 2, 1))
TEXT = TextConfig(width=32, heads=4, layers=3, output_dim=24)
INPUTS = Inputs(image_size=96, word_length=12, mean=(0.4, 0.5, 0.6))
DECISION = Decision(
    threshold=0.4, relative_threshold=0.45, calibration=Calibration(knots=((0.2, 0.3), (0.9, 0.8)), reject_below=0.1)
)
CRIS = {
    "vision": RESNET,
    "text": TEXT,
    "neck_channels": (16, 32, 40),
    "decoder_layers": 2,
    "decoder_heads": 4,
    "decoder_hidden": 48,
}
RISCLIP = {
    "vision": VIT,
    "text": TEXT,
    "fusions": ((2, 1), (4, 3)),
    "cfe_width": 16,
    "cfe_heads": 4,
    "ske_layers": 2,
    "ske_heads": 4,
    "ske_hidden": 20,
    "decoder_blocks": (4, 3, 1),
    "decoder_channels": (12, 10, 8),
}
WITHOUT_PARTS = {"adapter_reduction": 0, "fusions": (), "ske_layers": 0, "decoder_blocks": ()}
EFN = {
    "vision": WideResNetConfig(layers=(1, 1, 2, 1), width=8, factor=2),
    "vocabulary_size": 49_408,
    "width": 16,
    "coattention_width": 8,
    "decoder_widths": (4, 8, 12, 16, 24),
}
DARKNET, WORDS = DarkNetConfig(width=4, depths=(1, 1, 1, 1, 1)), {"vocabulary_size": 49_408, "width": 16}
CLIPSEG = {
    "vision": VIT,
    "text": TEXT,
    "decoder_blocks": (3, 1),
    "decoder_width": 12,
    "decoder_heads": 2,
    "decoder_hidden": 20,
}
VARIANTS = {
    "cris": CRISConfig(**CRIS),
    "cris-baseline": CRISConfig(**CRIS | {"contrastive": False, "decoder_layers": 0}),
    "cris-photos": CRISConfig(**CRIS | {"vision": EFFICIENTNET, "presence": 10}),
    "risclip": RISCLIPConfig(**RISCLIP),
    "risclip-without-parts": RISCLIPConfig(**RISCLIP | WITHOUT_PARTS),
    "clip-map-resnet": CLIPMapConfig(vision=RESNET, text=TEXT),
    "clip-map-vit": CLIPMapConfig(vision=VIT, text=TEXT),
    "clipseg": CLIPSegConfig(**CLIPSEG),
    "efn": EFNConfig(**EFN),
    "efn-asymmetric": EFNConfig(**EFN | {"coattention": "asymmetric"}),
    "mcn": MCNConfig(
        vision=replace(DARKNET, debiased=True), text=WordGRUConfig(**WORDS, gates="hard-sigmoid"), width=16
    ),
    "vlt": VLTConfig(vision=DARKNET, text=WordGRUConfig(**WORDS), queries=3, width=16, heads=4, hidden=24),
    "clipseg-not-refined": CLIPSegConfig(**CLIPSEG | {"refined": False, "frozen": False}),
}


FEWER_PARTS = {"cris-baseline", "risclip-without-parts", "clipseg-not-refined"}
"""Variants whose graphs are parts of those of another one: they are not exported."""
EXPORTED_ALWAYS = {"cris-photos", "clip-map-vit", "clipseg"}
"""Variants that are exported in each test run; the others, which take up to a minute, in `make long`."""
INT8_ALWAYS = {"clip-map-resnet"}
"""The same for exports in int8."""


def make(variant):
    return build(ModelSpec(config=VARIANTS[variant], inputs=INPUTS, decision=DECISION))


@pytest.fixture(params=VARIANTS)
def model(request):
    torch.manual_seed(0)
    model = make(request.param)
    # Running statistics unlike those of the input, so that training and evaluation differ.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def to_export(always):
    """Return the variants that are exported; all but a few in `make long` only."""
    names = [name for name in VARIANTS if name not in FEWER_PARTS]
    return [name if name in always else pytest.param(name, marks=pytest.mark.long) for name in names]


def add_noise(model):
    """Add to all weights: the last layers of residual branches are 0 at first, and would hide those before them."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


def side(model, size):
    """Return the side of images: another one than the model's own, if the model can read it."""
    return size if model.any_size else model.inputs.image_size


def inputs(batch, size, length, seed=0):
    """Return pixels, tokens and padding; the first expression has no padding."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 3, size, size, generator=generator)
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    for row, line in enumerate(tokens):
        words = max(0, length - 2 - 2 * row)
        line[: words + 2] = torch.tensor([START, *torch.randint(1, START, (words,), generator=generator).tolist(), END])
    return pixels, tokens, tokens == 0


def test_the_variants_cover_all_families():
    assert {make(variant).family for variant in VARIANTS} == set(FAMILIES)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("size", [96, 160])
def test_logits_have_the_side_that_the_stride_gives(model, training, size):
    logits = model.train(training)(*inputs(2, side(model, size), 12))
    assert logits.shape == (2, 1, side(model, size) // model.stride, side(model, size) // model.stride)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("length", [2, 77])
def test_any_number_of_tokens(model, length):
    assert model(*inputs(2, side(model, 64), length)).isfinite().all()


@pytest.mark.parametrize("batch", [1, 2])
def test_gradients_of_the_smallest_image_are_finite(model, batch):
    model.train()
    model(*inputs(batch, side(model, 32), 6)).square().mean().backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_forward_composes_encode_image_and_decode(model):
    pixels, tokens, padding = inputs(3, side(model, 64), 10)
    with torch.no_grad():
        image = model.encode_image(pixels)
        assert all(len(part) == 3 for part in image.values())
        assert torch.equal(model.decode(image, tokens, padding), model(pixels, tokens, padding))


def test_one_image_for_many_expressions(model):
    pixels, tokens, padding = inputs(4, side(model, 64), 12)
    with torch.no_grad():
        image = model.encode_image(pixels[:1])
        together = model.decode(image, tokens, padding)
        alone = torch.cat([model.decode(image, tokens[i : i + 1], padding[i : i + 1]) for i in range(4)])
        repeated = model(pixels[:1].expand(4, -1, -1, -1), tokens, padding)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, repeated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("together", [0, 2])
def test_a_processor_computes_expressions_in_groups(model, monkeypatch, together):
    pixels, tokens, padding = (array.numpy() for array in inputs(5, side(model, 64), 12))
    runtime = TorchRuntime(model, "cpu")
    image = runtime.encode(pixels[:1])
    expected = runtime.decode(image, tokens, padding)
    asked = []
    monkeypatch.setattr(FEATURES, together * sum(array.nbytes for array in image.values()))
    monkeypatch.setattr(runtime, "_combine", lambda *given: asked.append(len(given[-1])) or model.combine(*given))
    np.testing.assert_allclose(runtime.decode(image, tokens, padding), expected, rtol=1e-4, atol=1e-5)
    assert asked == [[1] * 5, None, [2, 2, 1]][together]


def test_logits_do_not_depend_on_the_batch(model):
    pixels, tokens, padding = inputs(3, side(model, 64), 12)
    with torch.no_grad():
        together = model(pixels, tokens, padding)
        alone = model(pixels[1:2], tokens[1:2], padding[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_logits_do_not_depend_on_padding(model):
    pixels, tokens, padding = inputs(3, side(model, 64), 12)
    # Smaller ids than that of the end token, whose position is that of the highest id.
    other = torch.where(padding, torch.randint_like(tokens, 1, START), tokens)
    assert not torch.equal(other, tokens)
    with torch.no_grad():
        expected = model(pixels, tokens, padding)
        assert torch.equal(model(pixels, other, padding), expected)
        longer = model(pixels, functional.pad(tokens, (0, 9)), functional.pad(padding, (0, 9), value=True))
    torch.testing.assert_close(longer, expected, rtol=1e-4, atol=1e-5)


def test_logits_depend_on_the_expression_and_on_the_image(model):
    pixels, tokens, padding = inputs(2, side(model, 64), 12)
    with torch.no_grad():
        logits = model(pixels, tokens, padding)
        assert not torch.equal(model(pixels, tokens.where(tokens != tokens[0, 1], 5), padding), logits)
        assert not torch.equal(model(pixels.flip(-1), tokens, padding), logits)


def test_evaluation_changes_no_weights(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(model(*inputs(2, side(model, 64), 12)), model(*inputs(2, side(model, 64), 12)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_untrained_model_of_the_same_spec(model):
    untrained = model.untrained()
    assert type(untrained) is type(model)
    assert untrained.spec == model.spec
    assert untrained.training
    first = next(iter(model.state_dict()))
    assert not torch.equal(untrained.state_dict()[first], model.state_dict()[first])


def test_a_model_folder_keeps_spec_and_weights(model, tmp_path):
    loaded = load_model(save_model(model, tmp_path / "model"))
    assert type(loaded) is type(model)
    assert loaded.spec == model.spec
    assert loaded.spec.inputs == INPUTS
    assert loaded.spec.decision == DECISION
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(*inputs(2, side(model, 64), 12)), model(*inputs(2, side(model, 64), 12)))
    loaded.train()(*inputs(2, side(model, 64), 12)).square().mean().backward()
    assert next(loaded.visual.parameters()).grad.any()


def test_a_prepared_model_computes_the_same(model):
    pixels, tokens, padding = inputs(2, side(model, 96), 12)
    add_noise(model)
    with torch.no_grad():
        expected = model(pixels, tokens, padding)
        prepare(model)
        torch.testing.assert_close(model(pixels, tokens, padding), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("model", to_export(EXPORTED_ALWAYS), indirect=True)
@pytest.mark.usefixtures("unchecked")  # the tracer's numbers are no integers
def test_an_exported_model_answers_as_the_model_does(model, tmp_path):
    add_noise(model)
    eager = Predictor.from_model(model, "cpu")
    exported = load(export(save_model(model, tmp_path / "model", domain="photos"), tmp_path / "exported"))
    assert (exported.inputs, exported.decision, exported.domain) == (INPUTS, DECISION, "photos")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in ((96, 96), (50, 120), (130, 70))]
    words = [f"{side} thing, number {number}" for number in range(6) for side in ("left", "right", "red")][:17]
    scenes, expected = exported.encode(images), [eager.segment(scene, words) for scene in eager.encode(images)]
    for scene, answers in zip(scenes, expected, strict=True):
        for count in (1, 3, 17):
            for found, answer in zip(exported.segment(scene, words[:count]), answers[:count], strict=True):
                np.testing.assert_allclose(found.scores, answer.scores, atol=1e-4)
                assert found.score == pytest.approx(answer.score, abs=1e-3)
                shared, either = intersection_and_union(found.mask, answer.mask)
                assert shared >= 0.99 * either
    assert len({round(float(answer.scores.mean()), 9) for answers in expected for answer in answers}) > 6
    # One by one, in another order, and from a file.
    scenes[1].save(tmp_path / "scene.safetensors")
    for answer in reversed(expected[1]):
        (found,) = exported.segment(Encoding.load(tmp_path / "scene.safetensors"), [answer.expression])
        np.testing.assert_allclose(found.scores, answer.scores, atol=1e-4)
    if isinstance(model, BoxModel):
        (answer,) = exported.segment(scenes[1], words[:1])
        assert answer.detected.score == pytest.approx(expected[1][0].detected.score, abs=1e-4)
        np.testing.assert_allclose(answer.detected_box, expected[1][0].detected_box, atol=1e-2)
    assert exported.word_source == eager.word_source
    if eager.word_source is not None:
        first, second = (each.word_maps(each.encode(images[1]), words[0]) for each in (exported, eager))
        for found, answer in zip(first, second, strict=True):
            assert found.word == answer.word
            np.testing.assert_allclose(found.map, answer.map, atol=1e-4)
    if isinstance(model, PatchMapModel):
        first, second = (each.ground(each.encode(images[1]), words[0]) for each in (exported, eager))
        np.testing.assert_allclose(first.cosines, second.cosines, atol=1e-4)
        np.testing.assert_allclose(first.probability, second.probability, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
@pytest.mark.parametrize("model", to_export(INT8_ALWAYS), indirect=True)
@pytest.mark.usefixtures("unchecked")  # the tracer's numbers are no integers
def test_a_model_in_int8_answers_nearly_the_same(model, to, tmp_path):
    add_noise(model)
    eager, rng = Predictor.from_model(model, "cpu"), np.random.default_rng(0)
    image, words = rng.integers(0, 256, (50, 120, 3), np.uint8), ["left thing", "it", "the third red thing"]
    examples = [(image, words)] if to == "openvino" else []
    folder = export(save_model(model, tmp_path / "model"), tmp_path / "out", to=to, precision="int8", examples=examples)
    exported = load(folder, "cpu", runtime=to)
    for found, expected in zip(*(each.segment(each.encode(image), words) for each in (exported, eager)), strict=True):
        assert np.abs(found.scores - expected.scores).mean() < 0.05


def test_where_each_word_looks(model):
    predictor = Predictor.from_model(model, "cpu")
    scene = predictor.encode(np.random.default_rng(0).integers(0, 256, (50, 120, 3), np.uint8))
    if predictor.word_source is None:
        with pytest.raises(ConfigError, match="cannot tell"):
            predictor.word_maps(scene, "the red disc")
        return
    maps = predictor.word_maps(scene, "the Red-striped disc")
    assert [one.word for one in maps] == ["the", "Red-striped", "disc"]
    assert {one.map.shape for one in maps} == {(50, 120)}
    if predictor.word_source == "attention":
        total = sum(one.scores for one in maps)
        assert 0 < total.min() < total.max() <= 1 + 1e-6
        return
    for one in maps:  # that of the word alone
        np.testing.assert_array_equal(one.map, predictor.ground(scene, one.word).probability)


def test_a_model_of_one_size_is_trained_with_no_other():
    with pytest.raises(ConfigError, match="96 pixels alone"):
        Objective(make("vlt"), TrainingConfig(objective="pixel-sum", sizes=((0.0, 64),)))


def test_gradients_reach_all_parameters_that_learn(model):
    # The decoder of RISCLIP learns by the loss of the mask.
    objectives = training_spec(model).objectives
    objective = "mask" if getattr(model.config, "decoder_blocks", ()) else next(iter(objectives))
    config = TrainingConfig(objective=objective)
    freeze(model, config)
    set_mode(model, config)
    pixels, tokens, padding = inputs(3, side(model, 96), 12)
    target = (torch.rand(3, 1, 96 // model.stride, 96 // model.stride) < 0.3).float()
    batch = Batch(
        pixels=pixels,
        tokens=tokens,
        padding=padding,
        image_index=torch.arange(3),
        target=target,
        valid=torch.ones_like(target),
        weight=torch.ones(3),
        box=torch.tensor([[10.0, 20.0, 50.0, 80.0]]).expand(3, -1),
    )
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD(learning.values(), lr=0.1)
    # The last layer of a residual branch may be zero: no gradient reaches the others before its first step.
    for _ in range(2):
        optimizer.zero_grad()
        Objective(model, config)(batch).backward()
        optimizer.step()
    assert {name for name, p in learning.items() if p.grad is None or not p.grad.any()} == set()
    others = {name: p for name, p in model.named_parameters() if name not in learning}
    assert all(parameter.grad is None for parameter in others.values())
    frozen = {name for name in others if name.startswith(tuple(f"{part}." for part in model.frozen_parts))}
    assert set(others) == frozen | without_gradient(model, objective)
