"""What every segmenter keeps to: one suite over every variant in small widths, and the small ones as they are."""

import pytest
import torch
from torch.nn import functional

from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.models.base import Segmenter
from refseg.models.clip_map.model import CLIPMap, CLIPMapConfig
from refseg.models.cris.model import CRIS, CRISConfig
from refseg.models.families import FAMILIES, create_model
from refseg.models.folder import load_model, save_model
from refseg.models.risclip.model import RISCLIP, RISCLIPConfig
from refseg.training.config import TrainingConfig
from refseg.training.engine import Objective
from refseg.training.optim import freeze, set_mode

START, END = 49406, 49407


def small_cris(**changes):
    """A CRIS with every part of the published one, at a few channels."""
    values = {
        "vision": ResNetConfig(layers=(1, 2, 1, 1), width=8, heads=4, output_dim=24, pretrained_size=96),
        "text": TextConfig(width=32, heads=4, layers=2, output_dim=24),
        "neck_channels": (16, 32, 40),
        "decoder_heads": 4,
        "decoder_hidden": 48,
        "dropout": 0.1,
        "image_size": 96,
    } | changes
    return CRIS(CRISConfig(**values))


def small_risclip(**changes):
    """A RISCLIP with every part of the proposed one, at a few channels."""
    values = {
        "vision": ViTConfig(patch=16, width=32, layers=4, heads=4, output_dim=24, pretrained_size=96),
        "text": TextConfig(width=32, heads=4, layers=3, output_dim=24),
        "fusions": ((2, 1), (4, 3)),
        "cfe_width": 16,
        "cfe_heads": 4,
        "ske_layers": 2,
        "ske_heads": 4,
        "ske_hidden": 20,
        "decoder_blocks": (4, 3, 1),
        "decoder_channels": (12, 10, 8),
        "image_size": 96,
    } | changes
    return RISCLIP(RISCLIPConfig(**values))


def small_clip_map(vision):
    text = TextConfig(width=32, heads=4, layers=2, output_dim=24)
    return CLIPMap(CLIPMapConfig(vision=vision, text=text, image_size=96))


VARIANTS = {
    **{
        f"cris-{'contrastive' if contrastive else 'plain'}-{layers}": (
            lambda contrastive=contrastive, layers=layers: small_cris(contrastive=contrastive, decoder_layers=layers)
        )
        for contrastive in (True, False)
        for layers in (0, 1, 2)
    },
    "cris-compact": lambda: create_model("cris-compact"),
    "risclip": small_risclip,
    "risclip-unfrozen": lambda: small_risclip(frozen=False),
    "risclip-map": lambda: small_risclip(decoder_blocks=()),
    "risclip-without-adapters": lambda: small_risclip(adapter_reduction=0),
    "risclip-without-cfe": lambda: small_risclip(fusions=()),
    "risclip-without-ske": lambda: small_risclip(ske_layers=0),
    "risclip-compact": lambda: create_model("risclip-compact"),
    "clip-map-resnet": lambda: small_clip_map(
        ResNetConfig(layers=(1, 1, 1, 1), width=8, heads=4, output_dim=24, pretrained_size=96)
    ),
    "clip-map-vit": lambda: small_clip_map(
        ViTConfig(patch=16, width=32, layers=2, heads=4, output_dim=24, pretrained_size=96)
    ),
}


@pytest.fixture(params=VARIANTS)
def model(request):
    torch.manual_seed(0)
    model = VARIANTS[request.param]()
    # Statistics of training, so that evaluation does something else than training.
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def ask(batch, size, length, seed=0):
    """Return pixels, tokens and padding; the first expression fills all of its length."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 3, size, size, generator=generator)
    tokens = torch.zeros(batch, length, dtype=torch.int64)
    for row, line in enumerate(tokens):
        words = max(0, length - 2 - 2 * row)
        line[: words + 2] = torch.tensor([START, *torch.randint(1, START, (words,), generator=generator).tolist(), END])
    return pixels, tokens, tokens == 0


def test_every_family_is_here(model):
    assert isinstance(model, Segmenter)
    assert model.family in FAMILIES
    assert {make().family for make in VARIANTS.values()} == set(FAMILIES)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("size", [64, 96, 160])
def test_logits_are_a_quarter_of_the_side(model, training, size):
    model.train(training)
    logits = model(*ask(2, size, 12))
    assert logits.shape == (2, 1, size // 4, size // 4)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("length", [2, 3, 17, 77])
def test_any_number_of_tokens(model, length):
    model.eval()
    assert model(*ask(2, 64, length)).isfinite().all()


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("batch", [1, 2])
def test_training_on_one_expression_and_on_the_smallest_image(model, size, batch):
    model.train()
    logits = model(*ask(batch, size, 6))
    assert logits.shape == (batch, 1, size // 4, size // 4)
    logits.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_forward_is_encode_then_segment(model):
    model.eval()
    pixels, tokens, padding = ask(3, 64, 10)
    with torch.no_grad():
        encoded = model.encode_image(pixels)
        assert all(len(part) == 3 for part in encoded)
        assert torch.equal(model.segment(encoded, tokens, padding), model(pixels, tokens, padding))
        # Any tuple will do: an encoding may have been stored, or sliced.
        assert torch.equal(model.segment(tuple(encoded), tokens, padding), model(pixels, tokens, padding))


def test_one_image_for_many_expressions(model):
    model.eval()
    pixels, tokens, padding = ask(4, 64, 12)
    with torch.no_grad():
        encoded = model.encode_image(pixels[:1])
        together = model.segment(encoded, tokens, padding)
        alone = torch.cat([model.segment(encoded, tokens[i : i + 1], padding[i : i + 1]) for i in range(4)])
        repeated = model(pixels[:1].expand(4, -1, -1, -1), tokens, padding)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together, repeated, rtol=1e-4, atol=1e-5)


def test_a_result_does_not_depend_on_its_batch(model):
    model.eval()
    pixels, tokens, padding = ask(3, 64, 12)
    with torch.no_grad():
        together = model(pixels, tokens, padding)
        alone = model(pixels[1:2], tokens[1:2], padding[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_what_stands_in_the_padding_does_not_matter(model):
    model.eval()
    pixels, tokens, padding = ask(3, 64, 12)
    assert padding.any()
    # Below the end token: the highest id marks the end of an expression.
    other = torch.where(padding, torch.randint_like(tokens, 1, START), tokens)
    with torch.no_grad():
        assert torch.equal(model(pixels, tokens, padding), model(pixels, other, padding))


def test_more_padding_does_not_matter(model):
    model.eval()
    pixels, tokens, padding = ask(2, 64, 8)
    with torch.no_grad():
        longer = model(pixels, functional.pad(tokens, (0, 9)), functional.pad(padding, (0, 9), value=True))
        torch.testing.assert_close(longer, model(pixels, tokens, padding), rtol=1e-4, atol=1e-5)


def test_words_and_image_matter(model):
    model.eval()
    pixels, tokens, padding = ask(2, 64, 12)
    with torch.no_grad():
        logits = model(pixels, tokens, padding)
        # Untrained, and through statistics that are not its own, it whispers.
        assert not torch.equal(model(pixels, tokens.where(tokens != tokens[0, 1], 5), padding), logits)
        assert not torch.equal(model(pixels.flip(-1), tokens, padding), logits)


def test_evaluation_repeats_itself(model):
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(model(*ask(2, 64, 12)), model(*ask(2, 64, 12)))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_gradients_reach_every_parameter_that_learns_and_no_other(model):
    # A decoder learns by its mask alone, a map without one by either.
    objective = "mask" if getattr(model.config, "decoder_blocks", ()) else model.objectives[0]
    config = TrainingConfig(objective=objective)
    freeze(model, config)
    set_mode(model, config)
    pixels, tokens, padding = ask(3, 96, 12)
    target = (torch.rand(3, 1, 24, 24) < 0.3).float()
    learns = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.SGD(learns.values(), lr=0.1)
    # Branches that are nothing at first pass no gradient on before their last layer has taken a step.
    for _ in range(2):
        optimizer.zero_grad()
        Objective(model, config)(pixels, tokens, padding, torch.arange(3), target, torch.ones(3)).backward()
        optimizer.step()
    assert {name for name, p in learns.items() if p.grad is None or not p.grad.any()} == set()
    assert all(p.grad is None for name, p in model.named_parameters() if name not in learns)
    frozen = {name for name, _ in model.named_parameters() if name not in learns}
    borrowed = {name for name, _ in model.named_parameters() if name.partition(".")[0] in model.borrowed}
    assert frozen == borrowed | model.silent(objective)


def test_the_backbone_is_of_the_encoders(model):
    backbone = {name for name, _ in model.named_parameters() if model.is_backbone(name)}
    assert all(name.startswith(("visual.", "text.")) for name in backbone)
    assert all(model.layers_above(name) >= 0 for name in backbone)


def test_saved_and_loaded_it_is_the_same(model, tmp_path):
    model.eval()
    loaded = load_model(save_model(model, tmp_path / "model"))
    assert loaded.config == model.config
    assert not loaded.training
    with torch.no_grad():
        assert torch.equal(loaded(*ask(2, 64, 12)), model(*ask(2, 64, 12)))


def test_a_loaded_model_trains(model, tmp_path):
    loaded = load_model(save_model(model, tmp_path / "model")).train()
    loaded(*ask(2, 64, 12)).square().mean().backward()
    assert all(p.requires_grad for p in loaded.parameters())
    assert loaded.get_parameter("visual.conv1.weight").grad.any()
