"""The training loop: it learns, gives the recorded losses, and a resumed run equals one that was not killed."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import refseg.training.families as families
import refseg.training.loop as loop
import refseg.training.state as state
from refseg.cli.main import main
from refseg.data.shapes import Shapes
from refseg.errors import ConfigError, OutputError, TrainingError
from refseg.evaluation.protocols import PROTOCOLS
from refseg.models.folder import load_model, read_folder, save_model
from refseg.training.config import TrainingConfig
from refseg.training.engine import Engine
from refseg.training.loop import Validation, train
from refseg.training.processes import Processes
from refseg.training.recipes import RECIPES
from refseg.values import Decision
from refseg.writers.overlay import overlay

# The first losses of a run with small steps (PyTorch 2.13, x86-64, one thread). Changes of 1e-6 of the initial weights
# change them by 0.5 %, as norms over two images amplify rounding, which differs between processors.
RECORDED = [1.443322, 0.841794, 0.816697, 1.043221, 0.315160, 0.354809]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:tensorboard"),
    pytest.mark.usefixtures("no_tensorboard"),
]


class First:
    """The first images of a data set."""

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

    def go(folder, model_changes=None, digests=None, report=None, **changes):
        model = make_tiny(seed=1, **({"dropout": 0.1, "word_length": 12} | (model_changes or {})))
        how = {"device": "cpu", "show": False, "digests": digests or {}, "report": report}
        return train(model, settings(**changes), scenes, Validation(data=validation), folder, **how)

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


def test_it_overfits_two_scenes(make_tiny, validation, tmp_path, losses, monkeypatch):
    fractions = []
    usual = families.contrastive_loss
    monkeypatch.setattr(
        families, "contrastive_loss", lambda *all: fractions.append(float(all[1].mean())) or usual(*all)
    )
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
    share = np.mean(fractions)
    constant = -share * np.log(share) - (1 - share) * np.log(1 - share)  # the best that one value for all pixels gives
    assert losses[0] > 1
    assert np.mean(losses[-10:]) < 0.3 * constant


def test_the_losses_on_record(run, tmp_path, losses):
    run(tmp_path, model_changes={"dropout": 0.0}, learning_rate=3e-4)
    assert losses == pytest.approx(RECORDED, rel=2e-2)


def test_bfloat16_trains_too(run, tmp_path, losses):
    run(tmp_path, precision="bfloat16", optimizer="adamw", max_norm=1.0, schedule="cosine", warmup_steps=2, epochs=1)
    assert np.isfinite(losses).all()


def test_the_files_of_a_run(run, tmp_path):
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


def test_the_target_is_shown_beside_the_prediction(run, validation, tmp_path, monkeypatch):
    shown = []
    real = loop.panels
    monkeypatch.setattr(loop, "panels", lambda images, **how: shown.extend(images) or real(images, **how))
    run(tmp_path, epochs=1)
    samples = validation.samples_of(0)
    pairs = [(sample, expression.text) for sample in samples for expression in sample.expressions][: loop.SHOWN]
    assert len(shown) == 2 * len(pairs)
    for (sample, text), (target, caption), (_, beside) in zip(pairs, shown[::2], shown[1::2], strict=True):
        assert caption.startswith(text)
        assert beside == "predicted"
        mask = np.zeros((240, 320), bool) if sample.load_mask is None else sample.load_mask()
        assert target == overlay(sample.load_image(), mask)


def test_the_log_has_the_mean_loss(run, tmp_path, losses, monkeypatch):
    monkeypatch.setattr(loop, "LOG_EVERY", 2)
    run(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == pytest.approx(
        [np.mean(losses[i : i + 2]) for i in (0, 2, 4)]
    )


def test_a_run_without_progress_prints_nothing(run, tmp_path, capsys):
    run(tmp_path, epochs=1)
    assert capsys.readouterr() == ("", "")


# ── killed and resumed ──


@pytest.mark.parametrize("step", [2, 5])
def test_a_resumed_run_equals_one_that_was_not_killed(run, tmp_path, monkeypatch, step):
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
def test_a_run_killed_between_two_files_is_resumed(run, tmp_path, monkeypatch, file):
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


def test_a_state_in_another_memory_layout_gives_the_same_weights(run, tmp_path):
    """Sharded runs store contiguous averages, and fused optimizers pair elements by their place in memory."""
    whole = run(tmp_path / "whole")
    run(tmp_path / "part", stop_after=3)
    path = tmp_path / "part" / "state.pt"
    stored = torch.load(path, weights_only=True)
    for values in stored["optimizer"]["state"].values():
        values.update({name: value.contiguous() for name, value in values.items()})
    torch.save(stored, path)
    run(tmp_path / "part")
    assert_same(weights(tmp_path / "part" / "last"), weights(whole))


def test_a_finished_run_is_not_changed(run, tmp_path, losses):
    run(tmp_path)
    before = (tmp_path / "last" / "model.safetensors").read_bytes()
    losses.clear()
    assert run(tmp_path) == tmp_path / "last"
    assert losses == []
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == before


def test_drafts_of_a_killed_process_are_removed(run, tmp_path):
    (tmp_path / ".state.pt.123-456").write_bytes(b"half of a state")
    run(tmp_path, epochs=1)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_state_that_cannot_be_written_leaves_the_older_one(run, tmp_path, monkeypatch):
    run(tmp_path, epochs=1)
    before = (tmp_path / "state.pt").read_bytes()

    def save(state, file):
        file.write(b"half")
        error = RuntimeError("unexpected pos 704 vs 598")  # PyTorch's own, raised while that of the file is handled
        error.__context__ = OSError(28, "No space left on device")
        raise error

    monkeypatch.setattr(state.torch, "save", save)
    with pytest.raises(TrainingError, match="No space left") as caught:
        store_again(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert (tmp_path / "state.pt").read_bytes() == before
    assert len(list(tmp_path.glob("*state.pt*"))) == 1


@pytest.mark.parametrize("name", ["training.json", "validation.jpg"])
def test_a_file_that_cannot_be_written_leaves_the_older_one(run, tmp_path, monkeypatch, name):
    """The disk is full in the middle of the file."""
    run(tmp_path, epochs=1)
    before = (tmp_path / name).read_bytes()
    (tmp_path / "state.pt").unlink()
    usual = Path.write_bytes

    def write(path, content):
        if name in path.name:
            usual(path, content[:10])
            raise OSError(28, "No space left on device")
        return usual(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(OutputError):
        run(tmp_path, epochs=1)
    assert (tmp_path / name).read_bytes() == before


def test_a_run_may_end_early_in_its_schedule(run, tmp_path, losses):
    whole = run(tmp_path / "whole", schedule="cosine")
    first = list(losses)
    losses.clear()
    run(tmp_path / "part", schedule="cosine", stop_after=4)
    assert losses == first[:4]
    run(tmp_path / "part", schedule="cosine")
    assert losses == first
    assert_same(weights(tmp_path / "part" / "last"), weights(whole))


# ── validation ──


def test_validation_follows_the_protocol(make_tiny, scenes, validation, tmp_path, monkeypatch):
    protocol, seen = PROTOCOLS["cris"], []
    usual = loop.summarise
    monkeypatch.setattr(
        loop, "summarise", lambda outcomes, protocol: seen.append(protocol) or usual(outcomes, protocol)
    )
    present = Present(validation)
    train(
        make_tiny(word_length=12),
        settings(epochs=1),
        scenes,
        Validation(data=present, protocol=protocol),
        tmp_path,
        device="cpu",
        show=False,
    )
    assert seen == [protocol]


def test_a_protocol_without_a_rule_for_the_data_is_an_error_at_the_start(make_tiny, scenes, validation, tmp_path):
    how = Validation(data=validation, protocol=PROTOCOLS["cris"])
    with pytest.raises(ConfigError, match="protocol=refseg"):
        train(make_tiny(), settings(), scenes, how, tmp_path / "run", device="cpu", show=False)
    assert not (tmp_path / "run").exists()


class Present(First):
    """Images without the expressions that nothing fits, for protocols that have no rule for them."""

    def __init__(self, data):
        super().__init__(data, data.num_images)

    def samples_of(self, index):
        return tuple(sample for sample in self.data.samples_of(index) if sample.load_mask is not None)


# ── ignored pixels ──


class Ignoring(First):
    """Images of which the upper half is ignored, and the target there is what `upper` says."""

    def __init__(self, data, num_images, upper):
        super().__init__(data, num_images)
        self.upper = upper

    def samples_of(self, index):
        return tuple(self.changed(sample) for sample in super().samples_of(index))

    def changed(self, sample):
        height, width = np.asarray(sample.load_image()).shape[:2]
        ignored, mask = np.zeros((height, width), bool), np.zeros((height, width), bool)
        if sample.load_mask is not None:
            mask = sample.load_mask().copy()
        ignored[: height // 2] = True
        mask[: height // 2] = self.upper
        return replace(sample, load_mask=lambda: mask, load_ignored=lambda: ignored)


@pytest.mark.parametrize("objective", ["text-to-pixel", "mask"])
def test_an_ignored_region_does_not_change_what_is_learnt(make_tiny, validation, tmp_path, objective):
    """Weights are equal whether the ignored half is background or target: no gradient comes from it."""
    ended = []
    for upper in (False, True):
        data = Ignoring(Shapes("train"), 4, upper)
        config = settings(epochs=1, objective=objective, validation_images=0)
        folder = tmp_path / f"{upper}"
        train(
            make_tiny(seed=1, dropout=0.0), config, data, Validation(data=validation), folder, device="cpu", show=False
        )
        ended.append(weights(folder / "last"))
    assert_same(*ended)


def store_again(folder):
    model = load_model(folder / "last")
    optimizer = torch.optim.Adam(model.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    state.store(folder, settings(), {}, model, optimizer, scaler, state.Progress(), Processes(torch.device("cpu")))


# ── errors ──


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"learning_rate": 1e-3}, "learning_rate"), ({"seed": 6, "epochs": 3}, "epochs, seed")],
)
def test_another_run_in_the_same_folder_is_an_error_and_changes_nothing(run, tmp_path, changes, named):
    run(tmp_path, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=f"another {named}; name another folder") as caught:
        run(tmp_path, **{"epochs": 1} | changes)
    assert len(str(caught.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("stop_after", [1, 0], ids=["half done", "finished"])
@pytest.mark.parametrize(
    ("digests", "named"),
    [
        ({"start": "a", "training data": "c"}, "training data"),
        ({"start": "b", "training data": "b"}, "start"),
        ({"start": "b", "training data": "c", "CLIP": "d"}, "CLIP, start, training data"),
        ({"training data": "b"}, "start"),
    ],
)
def test_a_run_made_of_something_else_is_an_error_and_changes_nothing(run, tmp_path, stop_after, digests, named):
    made_of = {"start": "a", "training data": "b"}
    run(tmp_path, epochs=1, stop_after=stop_after, digests=made_of)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=f"another {named}; name another folder with --out, or remove this one"):
        run(tmp_path, epochs=1, digests=digests)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    run(tmp_path, epochs=1, digests=made_of)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 3


def test_the_number_of_images_and_the_state_of_the_run_are_reported(run, tmp_path):
    for stop_after, told in ((1, []), (2, ["resumes after step 1 of 2"]), (2, ["this run is finished (2 steps)"])):
        lines = []
        run(tmp_path, epochs=1, stop_after=stop_after, report=lines.append)
        assert lines[0] == "learns from 6 images, validates on 1 image"
        assert [part for line, part in zip(lines[1:], told, strict=True) if part in line] == told


def test_the_weights_of_a_finished_run_are_written_again_if_they_were_removed(run, tmp_path):
    last = run(tmp_path, epochs=1)
    before = weights(last)
    shutil.rmtree(last)
    assert_same(weights(run(tmp_path, epochs=1)), before)


def test_what_was_measured_of_the_start_is_dropped(run, tmp_path):
    """Masks of a confidence that was low before the training would be rejected after it."""
    measured = {"relative_threshold": 0.6, "calibration": {"knots": [[0.5, 0.5]], "reject_below": 0.99}}
    lines = []
    last = run(tmp_path / "run", model_changes=measured, report=lines.append, epochs=1)
    assert (
        read_folder(last).spec.decision
        == read_folder(tmp_path / "run" / "best").spec.decision
        == Decision(threshold=0.35)
    )
    assert sum("calibration" in line for line in lines) == 1
    plain = run(tmp_path / "plain", epochs=1)
    figures = [read_folder(one.parent / "best").about["validation"] for one in (last, plain)]
    assert figures[0] == figures[1]  # so that the best weights are those by the masks before any rejection


def test_another_model_in_the_same_folder_is_an_error(run, tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(TrainingError, match="another model"):
        run(tmp_path, model_changes={"word_length": 13}, epochs=1)


def test_settings_of_the_computation_may_change(run, tmp_path):
    run(tmp_path, epochs=1)
    run(tmp_path, epochs=1, workers=1, validation_images=0)


@pytest.mark.parametrize("content", [b"", b"no state", None])
def test_a_broken_state_is_an_error(run, tmp_path, content):
    if content is None:
        torch.save({"other": 1}, tmp_path / "state.pt")
    else:
        (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(TrainingError, match="to start anew") as caught:
        run(tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_a_folder_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(TrainingError, match="cannot be written"):
            run(folder)


@pytest.mark.parametrize("step", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run_before_anything_is_saved(run, tmp_path, monkeypatch, step):
    usual, made = families.contrastive_loss, []

    def spoiled(*arguments):
        made.append(None)
        return usual(*arguments) * (float("nan") if len(made) == step else 1)

    monkeypatch.setattr(families, "contrastive_loss", spoiled)
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


TINY = [
    'model.vision={"layers":[1,1,1,1],"width":4,"heads":2,"output_dim":16,"pretrained_size":64}',
    'model.text={"width":16,"heads":2,"layers":1,"output_dim":16}',
    *("model.neck_channels=[8,16,32]", "model.decoder_heads=2", "model.decoder_hidden=32", "model.image_size=64"),
    *("model.decoder_layers=1", "sizes=[[0,64]]", "epochs=1", "batch_size=2", "workers=0"),
]


def test_the_smoke_recipe_trains_from_the_command_line(tmp_path, capsys):
    words = ["train", "shapes-smoke", *TINY, "steps_per_epoch=2", "validation_images=1"]
    assert main([*words, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 0
    assert "refseg predict" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "run" / "last"), "shapes:val", "--limit", "1", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["data"]["images"] == 1
    assert figures["n"] >= 3
    assert figures["n_absent"] == 1


def test_a_run_can_start_from_weights(tmp_path, capsys, make_tiny):
    start = make_tiny(seed=9, word_length=24)
    save_model(make_tiny(word_length=24, decoder_layers=2), tmp_path / "deeper")
    save_model(start, tmp_path / "start")
    words = ["train", "shapes-smoke", *TINY, "steps_per_epoch=1", "validation_images=0"]
    # Images of another size, and no dropout: the weights fit.
    words += ["model.image_size=96", "learning_rate=1e-30", "weight_decay=0", "--device", "cpu"]
    assert main([*words, "--init", str(tmp_path / "start"), "--out", str(tmp_path / "run")]) == 0
    ended = weights(tmp_path / "run" / "last")
    for key, value in start.named_parameters():
        torch.testing.assert_close(ended[key], value.detach(), rtol=0, atol=1e-20, msg=key)
    assert load_model(tmp_path / "run" / "last").inputs.image_size == 96
    capsys.readouterr()
    assert main([*words, "--init", str(tmp_path / "deeper"), "--out", str(tmp_path / "other")]) == 2
    assert "another model" in capsys.readouterr().err
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
        (["train", "shapes-2"], "--init runs/shapes-1/last"),
        (["train", "shapes", "model.layers=2"], "unknown field 'layers'"),
    ],
)
def test_a_command_that_cannot_run_prints_one_line(capsys, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert len(err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_exits_with_the_code_of_its_signal(tmp_path, capsys, monkeypatch, number, code):
    real = Engine.step

    def step(*arguments):
        signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(Engine, "step", step)
    words = ["train", "shapes-smoke", *TINY, "steps_per_epoch=3", "--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main(words) == code
    assert f"stopped by {number.name} after step 1" in capsys.readouterr().err.splitlines()[-1]
    assert torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"] == 1


def test_a_second_signal_has_its_usual_effect():
    # A shell starts what runs in the background with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with loop._stop_signals() as signals:
            signal.raise_signal(signal.SIGINT)
            assert signals == [signal.SIGINT]
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_help_of_a_recipe_explains_its_settings(capsys):
    for words in (["shapes", "--help"], ["-h", "shapes", "--out", "x"]):
        assert main(["train", *words]) == 0
        assert "  epochs=75\n      The number of epochs" in capsys.readouterr().out
    assert main(["train", "--help"]) == 0
    assert "epochs=75" not in capsys.readouterr().out
    assert main(["train", "shape", "--help"]) == 2


def test_the_recipes_are_listed(capsys):
    assert main(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line for line in lines if not line.startswith(" ")} == set(RECIPES)
    assert sum("command:" in line for line in lines) == len(RECIPES)
