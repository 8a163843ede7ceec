"""From a folder of the user's own to a trained model, in one command."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.data.shapes import Shapes
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.errors import ConfigError, DataError
from refseg.models.clipseg.model import CLIPSegConfig, default_spec
from refseg.models.families import build
from refseg.models.folder import load_model, save_model
from refseg.training.data import check_own_data, open_recipe
from refseg.training.recipes import recipe
from refseg.training.start import start_of
from refseg.values import Decision

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning"),
    pytest.mark.usefixtures("no_tensorboard"),
]


def fill(folder, scenes=12, splits=None):
    """Write generated scenes as a folder of images, masks and a table."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    data = Shapes("train")
    with (folder / "data.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "mask", "text", *(["split"] if splits else [])])
        for scene in range(scenes):
            samples = data.samples_of(scene)
            samples[0].load_image().save(folder / "images" / f"{scene}.png")
            for member, sample in enumerate(samples[:2]):
                mask = f"{scene}-{member}.png"
                Image.fromarray(sample.load_mask().astype(np.uint8) * 255).save(folder / "masks" / mask)
                split = [splits[scene % len(splits)]] if splits else []
                rows.writerow([f"{scene}.png", mask, sample.expressions[0].text, *split])
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("own") / "scenes")


def named(data, **changes):
    return recipe("finetune", data=str(data), **changes)


def opened(data, **changes):
    """Return the training and the validation images of a fine-tuning."""
    report = changes.pop("report", None)
    found = open_recipe(named(data, **changes), report=report)
    return found.training, found.validation.data


def ids(data):
    return {data.samples_of(i)[0].image_id for i in range(data.num_images)}


def scenes(data):
    """Return the numbers of the scenes that a folder was filled with."""
    return sorted(Path(one).stem for one in ids(data))


def test_without_splits_a_tenth_is_held_out_and_remains_so(own, tmp_path):
    train, validation = opened(own)
    assert (train.num_images, validation.num_images) == (11, 1)
    assert not ids(train) & ids(validation)
    more = fill(tmp_path / "more", scenes=13)
    assert ids(opened(more)[1]) <= ids(validation) | {"12", "12.png"}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A folder with the splits train (scenes 0, 1, 4, 5), val (2, 6) and test (3)."""
    return fill(tmp_path_factory.mktemp("own") / "split", scenes=7, splits=["train", "train", "val", "test"])


@pytest.mark.parametrize(
    ("data", "validation", "learnt", "validated"),
    [
        ("FOLDER", "", "0 1 4 5", "2 6"),
        ("FOLDER:train", "", "0 1 4 5", "2 6"),
        ("FOLDER:test,FOLDER:train", "", "0 1 3 4 5", "2 6"),
        ("FOLDER", "FOLDER:test", "0 1 4 5", "3"),
        ("FOLDER:train", "FOLDER:test", "0 1 4 5", "3"),
        ("FOLDER:val", "FOLDER:train", "2 6", "0 1 4 5"),
        ("FOLDER:train,FOLDER:val", "FOLDER:test", "0 1 2 4 5 6", "3"),
        ("FOLDER:train", "same", "0 1 4 5", "0 1 4 5"),
        ("FOLDER", "same", "0 1 4 5", "0 1 4 5"),
    ],
)
def test_validation_is_on_the_named_images_or_on_the_split_val(split, data, validation, learnt, validated):
    train, chosen = opened(data.replace("FOLDER", str(split)), validation=validation.replace("FOLDER", str(split)))
    assert [scenes(train), scenes(chosen)] == [learnt.split(), validated.split()]


@pytest.mark.parametrize("data", ["FOLDER:all", "FOLDER:val", "FOLDER:train,FOLDER:val"])
def test_images_that_are_validated_on_are_not_learnt_from(split, data):
    notes = []
    train, validation = opened(data.replace("FOLDER", str(split)), report=notes.append)
    assert scenes(validation)
    assert not set(scenes(train)) & set(scenes(validation))
    assert all("held out" in note for note in notes)
    assert len(notes) == data.count(":")


def test_a_folder_whose_splits_are_not_named_train_has_to_be_named_with_one(tmp_path):
    folder = fill(tmp_path / "odd", scenes=4, splits=["learn", "test"])
    with pytest.raises(DataError, match="learn, test"):
        opened(folder)


def test_rows_that_cannot_be_used_are_skipped_with_a_note(tmp_path):
    folder = fill(tmp_path / "skipping", scenes=6)
    with (folder / "data.csv").open("a") as table:
        table.write("0.png,0-0.png, \n")  # an expression without words
    notes = []
    check_own_data(named(folder), None, notes.append)
    train, validation = opened(folder, report=notes.append)
    assert (train.num_images, validation.num_images) == (5, 1)
    assert len(notes) == 3  # the findings, the skipped row, the images held out
    (folder / "masks" / "1-0.png").unlink()
    with pytest.raises(DataError):
        check_own_data(named(folder), None, notes.append)


def test_sets_are_joined_with_commas(own, tmp_path):
    other = fill(tmp_path / "other", scenes=3)
    train, validation = opened(f"{own}:all,{other}:all", validation=f"{other}:all")
    assert (train.num_images, validation.num_images) == (15, 3)
    assert [train.samples_of(i)[0].source for i in (0, 11, 12, 14)] == [str(own)] * 2 + [str(other)] * 2
    with pytest.raises(IndexError):
        train.samples_of(15)


def test_a_single_image_cannot_be_divided(tmp_path):
    folder = fill(tmp_path / "one", scenes=1)
    with pytest.raises(DataError, match="a single image"):
        open_recipe(named(folder))


def test_a_recipe_without_data_is_an_error():
    with pytest.raises(ConfigError, match="which data"):
        open_recipe(recipe("finetune"))


def words(own, start, out, *more):
    return [
        *("train", "finetune", f"data={own}", "--init", str(start), "--out", str(out), "--device", "cpu"),
        *("epochs=2", "batch_size=2", "expressions_per_image=2", "precision=float32", "workers=0", *more),
    ]


@pytest.fixture
def start(make_tiny, tmp_path):
    return save_model(make_tiny(seed=9, word_length=24, threshold=0.4, relative_threshold=0.6), tmp_path / "start")


def test_one_command_fine_tunes(own, start, tmp_path, capsys):
    assert main(words(own, start, tmp_path / "run")) == 0
    out, err = capsys.readouterr()
    assert "try: refseg predict" in out
    assert "refseg: memory: a process needs about" in err
    tuned = load_model(tmp_path / "run" / "last")
    assert tuned.spec == replace(load_model(start).spec, decision=Decision(threshold=0.4))
    assert "refseg: learns from 11 images, validates on 1 image" in err.splitlines()
    settings = json.loads((tmp_path / "run" / "training.json").read_text())
    assert settings["steps_per_epoch"] == 5  # 11 images, two a step
    assert settings["data"] == str(own)
    with Image.open(tmp_path / "run" / "validation.jpg") as image:
        assert image.width > 100


def test_parts_can_be_frozen_from_the_command_line(own, start, tmp_path, capsys):
    frozen = 'freeze=["visual","text","neck"]'
    assert main(words(own, start, tmp_path / "run", frozen, "epochs=1")) == 0
    before, after = load_model(start).state_dict(), load_model(tmp_path / "run" / "last").state_dict()
    for key, value in after.items():
        if key.startswith(("visual.", "text.", "neck.")):
            assert (value == before[key]).all(), key
    assert (after["projector.mix.weight"] != before["projector.mix.weight"]).any()


def test_of_a_clipseg_only_the_decoder_is_trained(own, tmp_path):
    config = CLIPSegConfig(
        vision=ViTConfig(patch=16, width=32, layers=2, heads=2, output_dim=16, pretrained_size=64),
        text=TextConfig(width=16, heads=2, layers=1, output_dim=16),
        decoder_blocks=(2, 1),
        decoder_width=8,
        decoder_hidden=16,
    )
    start = save_model(build(default_spec(config).changed(image_size=64)), tmp_path / "start")
    assert main(words(own, start, tmp_path / "run", "epochs=1")) == 0
    before, after = load_model(start).state_dict(), load_model(tmp_path / "run" / "last").state_dict()
    changed = {key for key, value in after.items() if (value != before[key]).any()}
    assert changed == {key for key in after if key.startswith("decoder.")}


def test_broken_data_is_found_before_anything_starts(start, tmp_path, capsys):
    folder = fill(tmp_path / "broken", scenes=3)
    (folder / "masks" / "1-0.png").unlink()
    assert main(words(folder, start, tmp_path / "run")) == 2
    err = capsys.readouterr().err
    assert "1-0.png" in err
    assert f"see: refseg data check {folder}" in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


def test_an_image_that_breaks_during_the_run_is_named(own, start, tmp_path, capsys, monkeypatch):
    folder = fill(tmp_path / "later", scenes=4)
    monkeypatch.setattr("refseg.training.data.check", lambda *_, **__: [])
    for image in (folder / "images").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    for workers in ("0", "1"):
        assert main(words(folder, start, tmp_path / "run", f"workers={workers}")) == 2
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert sum(".png" in line for line in err.splitlines()) == 1


def test_a_dry_run_prints_the_settings_and_writes_nothing(own, start, tmp_path, capsys):
    assert main(words(own, start, tmp_path / "run", "--dry-run")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["training"]["layer_decay"] == 0.8
    assert printed["model"]["inputs"]["image_size"] == 64
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["train", "finetune"], "which data"),
        (["train", "finetune", "data=DATA"], "which model to start from"),
        (["train", "finetune", "data=DATA", "--init", "START", "model.decoder_layers=1"], "cannot change"),
        (
            ["train", "finetune", "data=DATA", "--init", "START", 'freeze=["encoder"]'],
            "the model has no part 'encoder'",
        ),
        (["train", "finetune", "data=DATA", "--init", "START", "batch_size=64"], "batch_size is 64, but the data has"),
        (["train", "finetune", "data=none/such", "--init", "START"], "none/such: no such folder"),
        (["train", "shapes", "--faithful"], "no such run is published"),
        (["train", "shapes-ablation", "validation=shapes:test"], "validation has no effect"),
        (["train", "finetune", "data=DATA", "protocol=cris", "validation_images=0"], "protocol has no effect"),
        (["train", "shapes", "--row", "both-5"], "did you mean 'both-4'?"),
        (["train", "cris-r50-refcoco", "--data", "DATA"], "is not there|No such|no such|not found|refs"),
        (["train", "cris-r50-refcoco"], "give the folder that holds it, with --data ROOT"),
        (["ablate", "shape"], "did you mean 'shapes'?"),
        (["ablate", "shapes", "--rows", "both-9"], "unknown row of the ablation"),
        (["ablate", "shapes", "--seeds", "0"], "must be at least 1"),
    ],
)
def test_a_command_that_cannot_run_prints_one_line(own, start, tmp_path, capsys, monkeypatch, more, said):
    import re

    monkeypatch.chdir(tmp_path)
    chosen = [word.replace("DATA", str(own)).replace("START", str(start)) for word in more]
    assert main(chosen) == 2
    out, err = capsys.readouterr()
    assert out == ""
    told = ("refseg: memory", "refseg: note", "refseg: learns")
    lines = [line for line in err.splitlines() if not line.startswith(told)]
    assert len(lines) == 1
    assert re.search(said.replace("?", r"\?"), lines[0]), lines[0]
    assert not (tmp_path / "runs").exists()


# ── the same folder of a run again ──


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_other_data_and_another_start_have_other_digests(own, split, start, make_tiny, tmp_path):
    def data(name, **changes):
        return dict(open_recipe(named(name, **changes)).digests)

    usual = data(f"{split}:train")
    assert data(str(split)) == usual
    other = data(f"{split}:train", validation=f"{split}:test")
    assert [key for key in usual if usual[key] != other[key]] == ["validation"]
    other = data(f"{split}:train", protocol="gres")
    assert [key for key in usual if usual[key] != other[key]] == ["validation"]
    other = data(f"{split}:test", validation=f"{split}:val")
    assert [key for key in usual if usual[key] != other[key]] == ["training data"]
    assert not set(data(own).values()) & set(usual.values())

    def given(init):
        return dict(start_of(named(own), "finetune", str(init)).digests)

    edited = fill(tmp_path / "edited", scenes=3)
    before = data(edited, validation="same")
    for file in ("images/1.png", "masks/1-0.png"):
        with Image.open(edited / file) as image:
            image.transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(edited / file)
        after = data(edited, validation="same")
        assert all(before[key] != after[key] for key in before)
        before = after

    another = save_model(make_tiny(seed=10, word_length=24), tmp_path / "another")
    assert given(start) == given(shutil.copytree(start, tmp_path / "copy"))
    assert given(start).keys() == given(another).keys() == {"start"}
    assert given(start) != given(another)


def test_a_run_is_not_resumed_after_a_photo_was_added(start, tmp_path, capsys):
    folder, run = fill(tmp_path / "scenes", scenes=3), tmp_path / "run"
    assert main(words(folder, start, run, "epochs=1", "stop_after=1", "batch_size=1")) == 0
    before = contents(run)
    with (folder / "data.csv").open("a") as table:
        table.write("0.png,0-1.png,another one\n")
    assert main(words(folder, start, run, "epochs=1", "batch_size=1")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"refseg: {run}: holds a run with another training data, validation; ")
    assert "--out" in last
    assert contents(run) == before


def test_a_finished_run_says_so_and_is_left_as_it_is(own, start, tmp_path, capsys):
    run = tmp_path / "run"
    assert main(words(own, start, run, "epochs=1")) == 0
    digests = json.loads((run / "training.json").read_text())["digests"]
    assert digests.keys() == {"training data", "validation", "start"}
    before = contents(run)
    assert "is finished" not in capsys.readouterr().err
    assert main(words(own, start, run, "epochs=1", "save_every=3")) == 0
    assert "is finished" in capsys.readouterr().err
    assert contents(run) == before
