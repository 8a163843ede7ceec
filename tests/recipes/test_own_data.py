"""From a folder of the user's own to a trained model, in one command."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from refseg.cli.main import main
from refseg.data.shapes import Shapes
from refseg.errors import ConfigError, DataError
from refseg.models.folder import load_model, save_model
from refseg.training.data import check_own_data, open_recipe
from refseg.training.recipes import recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)


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


def ids(data):
    return {data.samples_of(i)[0].image_id for i in range(data.num_images)}


def test_without_splits_a_tenth_is_held_out_and_remains_so(own, tmp_path):
    train, validation = open_recipe(named(own))
    assert (train.num_images, validation.data.num_images) == (11, 1)
    assert not ids(train) & ids(validation.data)
    more = fill(tmp_path / "more", scenes=13)
    assert ids(open_recipe(named(more))[1].data) <= ids(validation.data) | {"12", "12.png"}


def test_the_splits_of_the_folder_are_used(tmp_path):
    folder = fill(tmp_path / "split", scenes=6, splits=["train", "train", "val"])
    train, validation = open_recipe(named(folder))
    assert (train.num_images, validation.data.num_images) == (4, 2)
    train, validation = open_recipe(named(f"{folder}:val", validation=f"{folder}:train"))
    assert (train.num_images, validation.data.num_images) == (2, 4)


def test_rows_that_cannot_be_used_are_skipped_with_a_note(tmp_path):
    folder = fill(tmp_path / "skipping", scenes=6)
    with (folder / "data.csv").open("a") as table:
        table.write("0.png,0-0.png, \n")  # an expression without words
    notes = []
    check_own_data(named(folder), None, notes.append)
    train, validation = open_recipe(named(folder), report=notes.append)
    assert (train.num_images, validation.data.num_images) == (5, 1)
    assert len(notes) == 2
    (folder / "masks" / "1-0.png").unlink()
    with pytest.raises(DataError):
        check_own_data(named(folder), None, notes.append)


def test_sets_are_joined_with_commas(own, tmp_path):
    other = fill(tmp_path / "other", scenes=3)
    train, validation = open_recipe(named(f"{own}:all,{other}:all", validation=f"{other}:all"))
    assert (train.num_images, validation.data.num_images) == (15, 3)
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
    assert tuned.spec == load_model(start).spec
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
        (line,) = [line for line in err.splitlines() if line.startswith("refseg: ") and "memory" not in line]
        assert ".png" in line


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
    lines = [line for line in err.splitlines() if not line.startswith("refseg: memory")]
    assert len(lines) == 1
    assert re.search(said.replace("?", r"\?"), lines[0]), lines[0]
    assert not (tmp_path / "runs").exists()
