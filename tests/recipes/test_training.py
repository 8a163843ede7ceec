"""The training loop: it learns, gives the losses on record, and a run that was killed ends as if it had not been."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import refseg.training.engine as engine
import refseg.training.loop as loop
import refseg.training.state as state
from refseg.data.shapes import Shapes
from refseg.errors import OutputError, TrainingError
from refseg.models.folder import load_model, read_folder
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.loop import Validation, train
from refseg.training.processes import Team
from refseg.training.recipes import RECIPES

# The first losses of `tiny_run`, as this loop gave them when it was written (PyTorch 2.13, x86-64, one thread).
RECORDED = [1.443322, 0.197994, 0.276704, 0.163648, 0.127334, 0.187023]

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard")


class First:
    """The first few images of a data set."""

    def __init__(self, data, images):
        self.data, self.num_images = data, images

    def samples_of(self, index):
        assert index < self.num_images
        return self.data.samples_of(index)


@pytest.fixture(scope="module")
def scenes():
    return First(Shapes("train"), 6)


@pytest.fixture(scope="module")
def validation():
    return First(Shapes("val"), 1)


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch):
    """Its import takes seconds."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)


@pytest.fixture
def losses(monkeypatch):
    """The loss of every step, as it is computed."""
    seen = []
    real = Engine.step

    def step(*arguments):
        seen.append(float(loss := real(*arguments)))
        return loss

    monkeypatch.setattr(Engine, "step", step)
    return seen


def settings(**changes):
    values = {
        "epochs": 2,
        "steps_per_epoch": 3,
        "batch_size": 2,
        "expressions_per_image": 2,
        "learning_rate": 1e-2,
        "backbone_factor": 1.0,
        "seed": 5,
        "validation_images": 1,
    }
    return TrainingConfig(**values | changes)


@pytest.fixture
def run(make_tiny, scenes, validation):
    """Trains a tiny CRIS, whose dropout is on, in a folder."""

    def go(folder, model_changes=None, **changes):
        model = make_tiny(seed=1, **({"dropout": 0.1, "word_length": 12} | (model_changes or {})))
        return train(model, settings(**changes), scenes, Validation(data=validation), folder, device="cpu", show=False)

    return go


class Killed(Exception):
    """Stands for the end of the process."""


def kill_at(monkeypatch, step):
    """Ends a run in the middle of a step, counted from 1 over the steps that this process makes."""
    real, made = Engine.step, []

    def maybe(*arguments):
        made.append(None)
        if len(made) == step:
            raise Killed
        return real(*arguments)

    monkeypatch.setattr(Engine, "step", maybe)


def weights(folder):
    return load_model(folder).state_dict()


def assert_same(one, other):
    assert one.keys() == other.keys()
    different = [key for key in one if not torch.equal(one[key], other[key])]
    assert different == []


# ── it learns ──


def test_it_learns_two_scenes_by_heart(make_tiny, validation, tmp_path, losses, monkeypatch):
    shares = []
    real = engine.contrastive_loss
    monkeypatch.setattr(engine, "contrastive_loss", lambda *both: shares.append(float(both[1].mean())) or real(*both))
    config = settings(
        epochs=1,
        steps_per_epoch=120,
        expressions_per_image=8,
        learning_rate=5e-3,
        schedule="cosine",
        optimizer="adamw",
        warmup_steps=10,
        max_norm=1.0,
        validation_images=0,
    )
    model = make_tiny(seed=1, dropout=0.0, word_length=16)
    train(model, config, First(Shapes("train"), 2), Validation(data=validation), tmp_path, device="cpu", show=False)
    share = np.mean(shares)
    blind = -share * np.log(share) - (1 - share) * np.log(1 - share)  # the best that one answer for all pixels gives
    assert losses[0] > 1
    assert np.mean(losses[-10:]) < 0.3 * blind


def test_the_losses_on_record(run, tmp_path, losses):
    run(tmp_path, model_changes={"dropout": 0.0})
    assert losses == pytest.approx(RECORDED, rel=2e-2)


def test_bfloat16_trains_too(run, tmp_path, losses):
    run(tmp_path, precision="bfloat16", optimizer="adamw", max_norm=1.0, schedule="cosine", warmup_steps=2, epochs=1)
    assert np.isfinite(losses).all()


def test_a_run_leaves_two_models_its_state_and_a_log(run, tmp_path):
    last = run(tmp_path)
    assert last == tmp_path / "last"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best",
        "last",
        "log.jsonl",
        "state.pt",
        "training.json",
        "validation.jpg",
    ]
    about = read_folder(last).about
    assert (about["step"], about["training"]["learning_rate"]) == (6, 1e-2)
    assert read_folder(tmp_path / "best").about["validation"].keys() >= {"mean_iou"}
    assert json.loads((tmp_path / "training.json").read_text())["epochs"] == 2
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "mean_iou" in line] == [3, 6]


def test_the_log_has_the_mean_loss(run, tmp_path, losses, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(
        [np.mean(losses[i : i + 2]) for i in (0, 2, 4)]
    )


def test_a_silent_run_prints_nothing(run, tmp_path, capsys):
    run(tmp_path, epochs=1)
    assert capsys.readouterr() == ("", "")


# ── it may be killed ──


@pytest.mark.parametrize("step", [1, 2, 5, 6])
def test_a_killed_run_ends_as_if_it_had_not_been(run, tmp_path, monkeypatch, step):
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Killed):
            run(tmp_path / "killed")
    run(tmp_path / "killed")
    assert_same(weights(tmp_path / "killed" / "last"), weights(tmp_path / "whole" / "last"))
    assert_same(weights(tmp_path / "killed" / "best"), weights(tmp_path / "whole" / "best"))
    whole, killed = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "killed"))
    assert (killed["step"], killed["best"]) == (whole["step"], whole["best"])
    assert killed["optimizer"]["state"].keys() == whole["optimizer"]["state"].keys()
    for name, values in whole["optimizer"]["state"].items():
        assert_same(killed["optimizer"]["state"][name], values)


@pytest.mark.parametrize("file", ["best", "last", "state"])
def test_killed_between_files(run, tmp_path, monkeypatch, file):
    run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        saved = []

        def save(model, folder, **kwargs):
            saved.append(folder.name)
            if len(saved) > 2 and folder.name == file:
                raise Killed
            return real(model, folder, **kwargs)

        real = loop.save_model
        patch.setattr(loop, "save_model", save)
        if file == "state":
            real_store, stored = loop.store, []

            def store(*arguments):
                stored.append(None)
                if len(stored) == 2:
                    raise Killed
                real_store(*arguments)

            patch.setattr(loop, "store", store)
        try:
            run(tmp_path / "killed")
        except Killed:
            pass
        else:
            assert file == "best"  # the second epoch was no better
    run(tmp_path / "killed")
    assert_same(weights(tmp_path / "killed" / "last"), weights(tmp_path / "whole" / "last"))


def test_a_finished_run_is_left_as_it_is(run, tmp_path, losses):
    run(tmp_path)
    before = (tmp_path / "last" / "model.safetensors").read_bytes()
    losses.clear()
    assert run(tmp_path) == tmp_path / "last"
    assert losses == []
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == before


def test_half_a_state_beside_the_whole_one_is_harmless(run, tmp_path):
    run(tmp_path / "whole")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "state.partial").write_bytes(b"half of a state")
    run(folder)
    assert_same(weights(folder / "last"), weights(tmp_path / "whole" / "last"))
    assert not (folder / "state.partial").exists()


def test_a_state_that_cannot_be_written_leaves_the_older_one(run, tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    before = (tmp_path / "state.pt").read_bytes()
    monkeypatch.setattr(state.os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises((TrainingError, OutputError), match="No space left") as caught:
        store_again(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "state.pt").read_bytes() == before
    assert not (tmp_path / "state.partial").exists()


def store_again(folder):
    model = load_model(folder / "last")
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state.store(folder, settings(), model, optimizer, scaler, state.Progress(), Team(torch.device("cpu")))


# ── it refuses ──


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"learning_rate": 1e-3}, "learning_rate"), ({"seed": 6, "epochs": 3}, "epochs, seed")],
)
def test_another_run_in_the_same_folder_is_refused_and_changes_nothing(run, tmp_path, changes, named):
    run(tmp_path, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=f"another {named}; choose another folder") as caught:
        run(tmp_path, **{"epochs": 1} | changes)
    assert len(str(caught.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_another_model_in_the_same_folder_is_refused(run, tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="another model"):
        run(tmp_path, model_changes={"word_length": 13}, epochs=1)


def test_how_batches_are_prepared_may_change(run, tmp_path):
    run(tmp_path, epochs=1)
    run(tmp_path, epochs=1, workers=1, validation_images=0)


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_a_broken_state_is_refused(run, tmp_path, content):
    if content is None:
        torch.save({"other": 1}, tmp_path / "state.pt")
    else:
        (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(TrainingError, match="delete it to start anew") as caught:
        run(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(TrainingError, match="cannot be written"):
            run(folder)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_saved(run, tmp_path, monkeypatch, step):
    real, made = engine.contrastive_loss, []

    def spoiled(logits, target):
        made.append(None)
        return real(logits, target) * (float("nan") if len(made) == step else 1)

    monkeypatch.setattr(engine, "contrastive_loss", spoiled)
    with pytest.raises(TrainingError, match=f"the loss is nan at step {step}"):
        run(tmp_path, epochs=3)
    if step <= 3:
        assert not (tmp_path / "last").exists()
        assert not (tmp_path / "state.pt").exists()
    else:
        assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3
        assert read_folder(tmp_path / "last").about["step"] == 3
        assert all(value.isfinite().all() for value in weights(tmp_path / "last").values())


# ── the command ──


def test_the_smoke_recipe_trains_from_the_command_line(tmp_path, capsys, monkeypatch, make_tiny):
    from refseg.cli.main import main
    from refseg.training import recipes

    small = make_tiny(word_length=24).config
    monkeypatch.setattr(recipes, "cris_compact", lambda: small)
    words = ["train", "shapes-smoke", "epochs=1", "steps_per_epoch=2", "batch_size=2", "validation_images=1"]
    words += ["sizes=[[0,64]]", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == 0
    assert "try: refseg predict" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run" / "last"), "shapes:val", "--limit", "1"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["data"]["images"] == 1
    assert said["n"] >= 3
    assert said["n_absent"] == 1


def test_a_run_can_start_from_weights(tmp_path, capsys, monkeypatch, make_tiny):
    from refseg.cli.main import main
    from refseg.config import replace
    from refseg.models.folder import save_model
    from refseg.training import recipes

    start = make_tiny(seed=9, word_length=24)
    # For images of another size: that is how weights are used, and they fit all the same.
    monkeypatch.setattr(recipes, "cris_compact", lambda: replace(start.config, image_size=96))
    save_model(make_tiny(word_length=24, decoder_layers=2), tmp_path / "deeper")
    save_model(start, tmp_path / "start")
    words = ["train", "shapes-smoke", "epochs=1", "steps_per_epoch=1", "batch_size=2", "validation_images=0"]
    words += ["sizes=[[0,64]]", "learning_rate=1e-30", "weight_decay=0", "--device", "cpu"]
    assert main([*words, "--init", str(tmp_path / "start"), "--out", str(tmp_path / "run")]) == 0
    ended = weights(tmp_path / "run" / "last")
    for key, value in start.named_parameters():
        torch.testing.assert_close(ended[key], value.detach(), rtol=0, atol=1e-20, msg=key)
    capsys.readouterr()
    assert main([*words, "--init", str(tmp_path / "deeper"), "--out", str(tmp_path / "other")]) == 2
    assert "another model than the recipe" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train"], "which recipe"),
        (["train", "shape"], "did you mean 'shapes'?"),
        (["train", "shapes", "epoch=3"], "did you mean 'epochs'?"),
        (["train", "shapes", "epochs"], "KEY=VALUE"),
        (["train", "shapes", "epochs=two"], "expected int"),
        (["train", "shapes", "learning_rate=NaN"], "finite"),
        (["train", "shapes", "learning_rate=Infinity"], "finite"),
        (["train", "shapes", "seed=-1"], "at least 0"),
        (["train", "shapes", "epochs=" + "[" * 100_000], "expected int"),
        (["train", "shapes", "schedule=linear"], "expected one of"),
        (["evaluate", "shapes", "shapes"], "which split"),
        (["evaluate", "shapes", "shape:test"], "did you mean 'shapes'?"),
        (["evaluate", "shapes", "shapes:tests"], "did you mean 'test'?"),
        (["evaluate", "shapes", "shapes:test", "--limit", "0"], "at least 1"),
        (["evaluate", "shapes", "shapes:test", "--out", "/nowhere/file"], "no folder"),
        (["evaluate", "shapes", "shapes:test", "--out", "/"], "is a folder"),
        (["evaluate", "shape", "shapes:test"], "did you mean 'shapes'?"),
    ],
)
def test_what_cannot_be_run_is_said_in_one_line(capsys, tmp_path, monkeypatch, words, said):
    from refseg.cli.main import main

    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_recipes_are_listed(capsys):
    from refseg.cli.main import main

    assert main(["train", "--list"]) == 0
    out = capsys.readouterr().out
    for name in RECIPES:
        assert name in out.splitlines()
    assert "Command: `refseg train shapes" in out


def test_evaluate_writes_what_it_prints(model_folder, capsys, tmp_path):
    from refseg.cli.main import main

    file = tmp_path / "result.json"
    assert main(["evaluate", str(model_folder), "shapes:test", "--limit", "1", "--out", str(file)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert Path(file).read_text() == out
    assert json.loads(out)["by"].keys() >= {"style", "form", "held_out", "size", "words", "distractors"}
