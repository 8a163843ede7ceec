"""From a CLIP trained on close-ups to a RISCLIP in two stages, by the commands of the docs."""

from __future__ import annotations

import json

import pytest
import torch

from refseg.cli.main import main
from refseg.encoders.pretrained import encoder_weights, fingerprint
from refseg.models.folder import load_model, read_encoders, read_folder

SMALL = (
    *("epochs=1", "steps_per_epoch=3", "batch_size=2", "expressions_per_image=3", "sizes=[[0,64]]", "workers=0"),
    *("precision=float32", "validation_images=1", "warmup_steps=0", "learning_rate=0.01", "model.image_size=64"),
)


def train(recipe, folder, *options):
    assert main(["train", recipe, *SMALL, "--device", "cpu", "--out", str(folder), *options]) == 0
    return folder / "last"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    clip = train("shapes-clip-vit", folder / "clip")
    first = train("shapes-risclip", folder / "first", "--clip", str(clip))
    second = train("shapes-risclip-mask", folder / "second", "--init", str(first))
    return clip, first, second


@pytest.mark.slow
def test_the_frozen_clip_is_not_changed_and_stored_once(runs):
    clip, first, second = runs
    own = fingerprint(read_encoders(clip))
    for folder in (first, second):
        described = read_folder(folder)
        assert described.clip is not None
        assert described.clip.sha256 == own
        assert fingerprint(encoder_weights(load_model(folder))) == own
        assert (folder / "model.safetensors").stat().st_size < (clip / "model.safetensors").stat().st_size / 2


@pytest.mark.slow
def test_the_first_stage_trains_the_map_and_the_second_only_the_decoder(runs):
    _, first, second = runs
    one, two = load_model(first).state_dict(), load_model(second).state_dict()
    assert not any(key.startswith("decoder.") for key in one)
    assert any(key.startswith("decoder.") for key in two)
    assert all(torch.equal(two[key], value) for key, value in one.items())
    assert any(value.abs().max() > 0 for key, value in one.items() if key.endswith("vision_out.weight"))


@pytest.mark.slow
def test_a_merged_folder_needs_no_other(runs, tmp_path, capsys):
    clip, _, second = runs
    assert main(["convert", str(second), str(tmp_path / "merged"), "--merge"]) == 0
    hidden = clip.rename(clip.with_name("hidden"))
    try:
        assert main(["convert", str(second), str(tmp_path / "other"), "--merge"]) == 2
        assert "--clip FILE" in capsys.readouterr().err
        assert main(["convert", str(second), str(tmp_path / "given"), "--merge", "--clip", str(hidden)]) == 0
        merged, given = (load_model(tmp_path / name).state_dict() for name in ("merged", "given"))
        assert all(torch.equal(given[key], value) for key, value in merged.items())
    finally:
        hidden.rename(clip)


@pytest.mark.slow
def test_a_cris_can_start_from_a_clip(tmp_path):
    clip = train("shapes-clip", tmp_path / "clip")
    before = fingerprint(read_encoders(clip))
    still = ("--clip", str(clip), 'freeze=["visual","text"]', "freeze_norm=true", "drill=0")
    cris = load_model(train("shapes", tmp_path / "cris", *still))
    found = {key: value for key, value in encoder_weights(cris).items() if "connect" not in key}
    assert fingerprint(found) == before


@pytest.mark.parametrize(
    ("arguments", "message_part"),
    [
        (["shapes-risclip"], "runs/shapes-clip-vit/last"),
        (["shapes-risclip", "--clip", "download"], "cannot be downloaded"),
        (["risclip-b-refcoco"], "--clip ViT-B-16.pt"),
        (["risclip-b-refcoco-mask", "--init", "shapes"], "another model"),
        (["risclip-b-refcoco-mask"], "--init runs/risclip-b-refcoco/last"),
        (["shapes", "objective=grounding"], "cannot be trained with objective=grounding"),
        (["shapes-risclip", "--clip", "none", "objective=image-text"], "grounding or mask"),
        (["shapes", "objective=masks"], "expected one of"),
    ],
)
def test_a_run_that_cannot_start_prints_one_line(arguments, message_part, tmp_path, capsys):
    if "refcoco" in arguments[0]:
        arguments = [*arguments, "--dry-run"]
    status = main(["train", *arguments, "--out", str(tmp_path / "run")])
    message = capsys.readouterr().err.splitlines()[-1]
    assert status == 2
    assert message_part in message
    assert json.dumps(message).count("\\n") == 0
