"""Several processes give the weights of one; a killed run is resumed without a difference."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from refseg.models.folder import load_model

SCRIPT = Path(__file__).with_name("tiny_run.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
pytestmark = pytest.mark.slow


def command(folder, processes=1, *flags, **changes):
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, str(SCRIPT), str(folder), json.dumps(changes), *flags]


def run(*arguments, **changes):
    done = subprocess.run(command(*arguments, **changes), env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder):
    """The loss of each step; the last one of a repeated step."""
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    return [loss for _, loss in sorted({line["step"]: line["loss"] for line in lines}.items())]


def weights(folder):
    return load_model(folder / "last").state_dict()


def assert_near(one, other, atol):
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=0, atol=atol, msg=key)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A run of one process, with frozen statistics: on CPUs each of several would have its own."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, freeze_norm=True)
    return folder


@pytest.mark.parametrize(
    ("flags", "changes"),
    [((), {"accumulate": 2}), (("--shard",), {})],
    ids=["ddp, accumulating", "fsdp"],
)
@pytest.mark.long
def test_two_processes_give_the_losses_and_weights_of_one(alone, tmp_path, flags, changes):
    run(tmp_path, 2, *flags, freeze_norm=True, **changes)
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-4)
    assert_near(weights(tmp_path), weights(alone), atol=5e-4)
    scores = [
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (tmp_path, alone)
    ]
    ours, theirs = ([line["mean_iou"] for line in lines if "mean_iou" in line] for lines in scores)
    assert len(ours) == 2
    assert ours == pytest.approx(theirs, abs=0.02)


def test_a_run_is_resumed_by_another_number_of_processes(alone, tmp_path):
    run(tmp_path, 2, "--shard", freeze_norm=True, stop_after=5)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == 5
    run(tmp_path, freeze_norm=True)
    assert losses(tmp_path) == pytest.approx(losses(alone), rel=1e-4)
    assert_near(weights(tmp_path), weights(alone), atol=5e-4)


def wait_for(folder, steps, process):
    """Wait until a run has taken so many steps."""
    begun = time.monotonic()
    while time.monotonic() - begun < 120 and process.poll() is None:
        if (folder / "losses.jsonl").exists() and (folder / "losses.jsonl").read_text().count("\n") >= steps:
            return
        time.sleep(0.02)
    assert process.poll() == 0, "the run takes no more steps"


@pytest.mark.long
def test_the_command_runs_under_torchrun_and_is_resumed_by_one_process(tmp_path):
    changes = [
        'model.vision={"layers":[1,1,1,1],"width":4,"heads":2,"output_dim":16,"pretrained_size":64}',
        'model.text={"width":16,"heads":2,"layers":1,"output_dim":16}',
        *("model.neck_channels=[8,16,32]", "model.decoder_heads=2", "model.decoder_hidden=32", "model.image_size=64"),
        *("sizes=[]", "epochs=2", "steps_per_epoch=1", "batch_size=4", "workers=0", "validation_images=2"),
    ]
    words = ["-m", "refseg", "train", "shapes-smoke", *changes, "--device", "cpu", "--out", str(tmp_path / "run")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *words]
    for start in (torchrun, words):
        done = subprocess.run([sys.executable, *start], env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("the model folder is") == 1
    assert done.stderr.count("memory: a process needs about") == 1
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "n_acc" in line] == [1, 2]


KILLS = 3


def test_a_run_killed_at_random_moments_equals_one_that_was_not(tmp_path):
    """`kill -9` at random: while it reads, computes, validates or writes."""
    changes = {"epochs": 3, "steps_per_epoch": 4, "save_every": 2, "dropout": 0.1, "validation_images": 1}
    run(tmp_path / "whole", **changes)
    chance = random.Random(3)
    killed = 0
    for _ in range(20):
        process = subprocess.Popen(command(tmp_path / "killed", **changes), env=ENVIRONMENT, stderr=subprocess.PIPE)
        if killed < KILLS:
            before = count(tmp_path / "killed")
            wait_for(tmp_path / "killed", before + 1 + chance.randrange(3), process)
            time.sleep(chance.random() * 0.1)
            if process.poll() is None:
                process.kill()
                killed += 1
        code = process.wait(120)
        assert code in (0, -signal.SIGKILL), process.stderr.read().decode()[-2000:]
        process.stderr.close()
        if code == 0:
            break
    assert code == 0
    assert killed == KILLS
    one, other = weights(tmp_path / "killed"), weights(tmp_path / "whole")
    assert [key for key in one if not torch.equal(one[key], other[key])] == []
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def count(folder):
    path = folder / "losses.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def test_a_run_that_is_asked_to_stop_stores_its_state(tmp_path):
    number = signal.SIGINT
    changes = {"epochs": 3, "steps_per_epoch": 200}
    process = subprocess.Popen(command(tmp_path, **changes), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path, 7, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"stopped by {number.name} after step" in errors
    stored = torch.load(tmp_path / "state.pt", weights_only=True)["step"]
    assert 7 <= stored == count(tmp_path)


def test_a_signal_to_the_group_of_processes_does_not_end_the_workers(tmp_path):
    """Ctrl-C in a terminal sends it to the group, and SLURM at the end of a job's time."""
    number = signal.SIGTERM
    process = subprocess.Popen(
        command(tmp_path, epochs=3, steps_per_epoch=200, workers=1),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_for(tmp_path, 7, process)
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"stopped by {number.name} after step" in errors
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] == count(tmp_path)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def test_a_killed_worker_ends_the_run_with_one_line(tmp_path):
    process = subprocess.Popen(
        command(tmp_path, epochs=3, steps_per_epoch=200, workers=1), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    wait_for(tmp_path, 3, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not list the children of a process")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "a process that prepares batches ended" in errors
