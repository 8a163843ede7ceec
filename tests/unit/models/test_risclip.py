"""The parts of RISCLIP, its map before training, and its model folders."""

from __future__ import annotations

import json

import pytest
import torch

from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.encoders.pretrained import fingerprint
from refseg.errors import ConfigError, WeightsError
from refseg.inputs.preprocessing import Inputs
from refseg.models.clip_map.model import CLIPMap, CLIPMapConfig
from refseg.models.convert import adopt_clip, merge
from refseg.models.families import create_model
from refseg.models.folder import load_model, read_encoders, read_folder, save_model
from refseg.models.hub import push_to_hub
from refseg.models.risclip.cfe import CrossModalFeatureExtraction
from refseg.models.risclip.grounding import cosine_map
from refseg.models.risclip.model import RISCLIP, RISCLIPConfig, risclip, risclip_compact
from refseg.models.risclip.ske import SharedSpaceKnowledgeExploitation
from refseg.values import Decision

VISION = ViTConfig(patch=8, width=16, layers=3, heads=2, output_dim=12, pretrained_size=32)
TEXT = TextConfig(width=16, heads=2, layers=2, output_dim=12)
INPUTS, DECISION = Inputs(image_size=64, word_length=12), Decision(threshold=0.5)
START, END = 49406, 49407


def config(**changes):
    values = {
        "vision": VISION,
        "text": TEXT,
        "fusions": ((2, 1), (3, 2)),
        "cfe_width": 8,
        "cfe_heads": 2,
        "ske_layers": 2,
        "ske_heads": 2,
        "ske_hidden": 6,
        "decoder_blocks": (3, 2, 1),
        "decoder_channels": (8, 6, 4),
    } | changes
    return RISCLIPConfig(**values)


def small(**changes):
    return RISCLIP(config(**changes), INPUTS, DECISION)


def plain_clip(vision=VISION):
    return CLIPMap(CLIPMapConfig(vision=vision, text=TEXT), INPUTS, DECISION).eval()


def inputs(batch=2, size=64):
    tokens = torch.tensor([[START, 5, 6, 7, END, 0], [START, 9, END, 0, 0, 0]])[:batch]
    return torch.randn(batch, 3, size, size), tokens, tokens == 0


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def clip(tmp_path):
    return save_model(plain_clip(), tmp_path / "clip")


@pytest.mark.parametrize(("name", "parts", "trained"), [
    ("risclip-b", {"visual_adapters": 14.2, "text_adapters": 6.3, "cfe": 20.5, "ske": 28.4}, 69.4),
    ("risclip-l", {"visual_adapters": 50.4, "text_adapters": 14.2, "cfe": 44.9, "ske": 63.9}, 173.4),
])  # fmt: skip
def test_parameters_of_the_trained_parts(name, parts, trained):
    """From the sizes on record: about 69 and 173 million, without the decoder."""
    with torch.device("meta"):
        model = create_model(name)
    found = {part: sum(p.numel() for p in getattr(model, part).parameters()) / 1e6 for part in parts}
    assert found == pytest.approx(parts, abs=0.06)
    assert sum(found.values()) == pytest.approx(trained, abs=0.06)


def test_the_published_sizes():
    assert risclip("ViT-B/16").inputs.image_size == 640  # 40 x 40 patches
    assert risclip("ViT-L/14").inputs.image_size == 560
    b, large = risclip("ViT-B/16").config, risclip("ViT-L/14").config
    assert b.fusions == tuple((block, block) for block in range(7, 13))
    assert large.fusions == ((13, 7), (15, 8), (17, 9), (19, 10), (21, 11), (23, 12))
    assert (b.decoder_blocks, large.decoder_blocks) == ((12, 9, 6), (24, 18, 12))
    assert (b.image_only_blocks, large.image_only_blocks) == (6, 12)
    with pytest.raises(ConfigError, match="vision transformer"):
        risclip("RN50")


@pytest.mark.parametrize("size", [32, 64], ids=["CLIP's own size", "twice that"])
def test_before_training_the_map_equals_plain_clip(clip, size):
    plain = load_model(clip)
    model = small().eval()
    adopt_clip(model, clip)
    pixels, tokens, padding = inputs(size=size)
    with torch.no_grad():
        expected = plain.ground(plain.encode_image(pixels), tokens, padding)
        found = model.ground(model.encode_image(pixels), tokens, padding)
        # Independently: the cosine of CLIP's projected patches and end token.
        patches = plain.visual(pixels).tokens[:, 1:]
        cosines = torch.cosine_similarity(patches, plain.text(tokens).sentence[:, None], dim=-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(found.flatten(1), cosines, rtol=0, atol=1e-5)


def test_each_trained_part_changes_the_logits():
    model = small().eval()
    batch = inputs()
    with torch.no_grad():
        before = model(*batch)
        for part in ("visual_adapters", "text_adapters", "cfe", "ske"):
            for p in getattr(model, part).parameters():
                p.add_(0.05 * torch.randn_like(p))
            after = model(*batch)
            assert (after - before).abs().max() > 1e-4, part
            before = after


def test_cfe_attends_to_words_and_patches_but_not_to_padding():
    fuse = CrossModalFeatureExtraction(6, 4, 8, 2)
    for p in fuse.parameters():
        torch.nn.init.normal_(p, std=0.3)
    vision, words, padding = torch.randn(1, 5, 6), torch.randn(1, 4, 4), torch.tensor([[False, False, False, True]])
    fused_vision, fused_words = fuse(vision, words, padding)
    other = words.clone()
    other[:, 3] += torch.randn(4)
    assert torch.equal(fuse(vision, other, padding)[0], fused_vision)
    other[:, 2] += torch.randn(4)
    assert not torch.equal(fuse(vision, other, padding)[0], fused_vision)
    assert not torch.equal(fuse(vision + 1 + torch.randn_like(vision), words, padding)[1], fused_words)


def test_both_modalities_of_ske_attend_to_the_input_of_the_layer():
    layer = SharedSpaceKnowledgeExploitation(8, 2, 6)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.3)
    vision, words, padding = torch.randn(2, 5, 8), torch.randn(2, 3, 8), torch.zeros(2, 3, dtype=torch.bool)
    fused_vision, fused_words = layer(vision, words, padding)
    torch.testing.assert_close(fused_vision, layer.vision(vision, words, None, padding))
    torch.testing.assert_close(fused_words, layer.words(words, vision, padding, None))


def test_the_map_is_the_cosine():
    patches, sentence = torch.randn(2, 4, 8), torch.randn(2, 8)
    found = cosine_map(patches, 7 * sentence, 2)
    expected = [[float(p @ s / p.norm() / s.norm()) for p in row] for row, s in zip(patches, sentence, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected).reshape(2, 2, 2))


def test_blocks_before_the_first_fusion_run_once_for_an_image():
    model = small().eval()
    ran = []
    for number, block in enumerate(model.visual.blocks, start=1):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    pixels, tokens, padding = inputs()
    with torch.no_grad():
        encoded = model.encode_image(pixels)
        assert ran == [1]
        model.decode(encoded, tokens, padding)
    assert ran == [1, 2, 3]


def test_a_folder_contains_the_trained_weights_and_names_the_clip(clip, tmp_path):
    model = small().eval()
    adopt_clip(model, clip)
    folder = save_model(model, tmp_path / "risclip")
    described = read_folder(folder)
    assert described.clip is not None
    assert described.clip.name == str(clip)
    assert described.clip.sha256 == fingerprint(read_encoders(clip))
    whole = save_model(model, tmp_path / "whole", merged=True)
    size, whole_size = ((place / "model.safetensors").stat().st_size for place in (folder, whole))
    assert size < whole_size / 10  # most weights are those of the token embedding
    batch = inputs()
    with torch.no_grad():
        expected = model(*batch)
        for place in (folder, whole, merge(folder, tmp_path / "merged")):
            assert torch.equal(load_model(place)(*batch), expected)
    assert read_folder(whole).clip is None


def test_a_folder_that_needs_a_local_clip_is_not_uploaded(clip, tmp_path):
    model = small()
    adopt_clip(model, clip)
    folder = save_model(model, tmp_path / "risclip")
    with pytest.raises(WeightsError, match="--merge"):
        push_to_hub(folder, "user/name")


def test_a_folder_without_its_clip_is_an_error(clip, tmp_path):
    model = small()
    adopt_clip(model, clip)
    folder = save_model(model, tmp_path / "risclip")
    moved = clip.rename(tmp_path / "elsewhere")
    with pytest.raises(WeightsError, match="--clip FILE"):
        load_model(folder)
    assert load_model(folder, clip=moved).clip == model.clip
    torch.manual_seed(9)
    other = save_model(plain_clip(), tmp_path / "other")
    with pytest.raises(WeightsError, match="another CLIP"):
        load_model(folder, clip=other)
    with pytest.raises(WeightsError, match="does not contain its encoders"):
        read_encoders(folder)


@pytest.mark.parametrize(
    "broken", ["here", [1], {"name": "x"}, {"name": "x", "sha256": 3}, {"name": "x", "sha256": "y", "more": "z"}]
)
def test_a_broken_clip_entry_is_an_error(clip, tmp_path, broken):
    model = small()
    adopt_clip(model, clip)
    folder = save_model(model, tmp_path / "risclip")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"clip": broken}))
    with pytest.raises(ConfigError, match="clip"):
        read_folder(folder)


def test_an_unfrozen_model_is_stored_whole(clip, tmp_path):
    model = small(frozen=False)
    adopt_clip(model, clip)
    folder = save_model(model, tmp_path / "unfrozen")
    assert read_folder(folder).clip is None
    assert load_model(folder).spec == model.spec


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"fusions": ((2, 1), (2, 2))}, "must rise"),
        ({"fusions": ((2, 1), (4, 2))}, "1..3"),
        ({"fusions": ((2, 1), (3, 3))}, "1..2"),
        ({"decoder_blocks": (1, 2, 3)}, "must rise"),
        ({"decoder_blocks": (2, 1)}, "3 blocks or none"),
        ({"cfe_heads": 3}, "cfe_heads"),
        ({"ske_heads": 5}, "ske_heads"),
        ({"ske_layers": -1}, "ske_layers"),
        ({"map_scale": 0.0}, "map_scale"),
        ({"text": TextConfig(width=16, heads=2, layers=2, output_dim=8)}, "output_dim"),
    ],
)
def test_impossible_sizes_are_errors(changes, field):
    with pytest.raises(ConfigError, match=field):
        config(**changes)


def test_image_sizes_that_are_not_a_multiple_of_the_patch_are_errors():
    with pytest.raises(ConfigError, match="multiple of 8"):
        RISCLIP(config(), Inputs(image_size=60, word_length=12), DECISION)


def test_a_config_with_other_sizes_than_the_weights_is_an_error(tmp_path):
    folder = save_model(small(), tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    for field, value in (("ske_layers", 5), ("ske_hidden", 10**9), ("cfe_width", 10**9), ("fusions", [[2, 1]])):
        changed = {**values, "config": {**values["config"], field: value}}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(WeightsError, match="but the weights have"):
            load_model(folder)


def test_a_clip_with_a_resnet_is_an_error(tmp_path):
    resnet = ResNetConfig(layers=(1, 1, 1, 1), width=4, heads=2, output_dim=12, pretrained_size=64)
    clip = save_model(plain_clip(resnet), tmp_path / "clip")
    with pytest.raises(WeightsError, match="vision transformer"):
        adopt_clip(small(), clip)


def test_the_compact_model():
    config = risclip_compact().config
    assert config.image_only_blocks == 3
    assert config.vision.patch == 8
