"""Measurements of a model: what is counted, and what is said about it."""

from __future__ import annotations

import json

import pytest

from refseg import bench
from refseg.bench import Bench, Speed, measure
from refseg.cli.main import main
from refseg.errors import RefsegError
from refseg.masks import agreement
from refseg.runtimes import torch as torch_runtime


@pytest.fixture(scope="module")
def measured(model_folder, photo):
    return measure(str(model_folder), image=photo, expressions=[1, 3], rounds=2, device="cpu")


@pytest.fixture
def in_this_process(monkeypatch):
    """Measures without another process, whose start takes seconds, and with a small product of matrices."""
    monkeypatch.setattr(bench, "measure_apart", measure)
    monkeypatch.setattr(bench, "PEAK_SIDE", 64)


def test_what_is_measured(measured, model_folder):
    assert [speed.expressions for speed in measured.segment] == [1, 3]
    assert all(len(speed.seconds) == 2 and min(speed.seconds) > 0 for speed in (measured.encode, *measured.segment))
    size = sum(file.stat().st_size for file in model_folder.iterdir())
    assert measured.megabytes == pytest.approx(size / 1e6)
    assert measured.load_seconds > 0
    assert measured.peak > 1e6
    assert len(measured.masks) == len(bench.COMPARED)
    json.dumps(measured.to_dict())


def test_operations_are_those_of_the_model(measured, predictor):
    # The first convolution alone: 64 x 64 pixels at stride 2, 3 x 3 x 3 factors for each of two channels.
    assert measured.encode.operations > 2 * 32 * 32 * 27 * 2
    one, three = (speed.operations for speed in measured.segment)
    assert 2.9 < three / one < 3.2  # words are padded to the longest expression


def test_latency_throughput_and_share_of_the_peak():
    encode = Speed(expressions=0, seconds=[0.1, 0.2, 0.9], operations=10**9)
    speed = Speed(expressions=4, seconds=[0.2, 0.3, 0.9], operations=3 * 10**9)
    found = Bench(
        model="x",
        runtime="torch",
        precision="exact",
        device="cpu",
        load_seconds=1,
        megabytes=None,
        peak_memory=None,
        encode=encode,
        segment=[speed],
        peak=20e9,
        masks=[],
    )
    assert speed.latency == 0.3
    assert found.throughput(speed) == pytest.approx(4 / 0.5)
    assert found.share_of_peak(speed) == pytest.approx(0.5)


def test_no_expression_is_asked_twice(model_folder, photo, monkeypatch):
    asked = []
    real = bench._answers
    monkeypatch.setattr(
        bench, "_answers", lambda segmenter, scene, words: asked.extend(words) or real(segmenter, scene, words)
    )
    measure(str(model_folder), image=photo, expressions=[1, 40], rounds=2, device="cpu")
    assert len(asked) == len(set(asked)) == 3 * 41


def test_a_model_agrees_with_itself(measured):
    assert agreement(measured.masks, measured.masks) == 1


@pytest.mark.usefixtures("in_this_process")
def test_the_command(model_folder, photo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch_runtime, "has_bfloat16", lambda device: True)
    out, plot = tmp_path / "bench.json", tmp_path / "bench.html"
    words = [
        "bench",
        model_folder,
        "--image",
        photo,
        "--device",
        "cpu",
        "--precision",
        "exact",
        "fast",
        "--rounds",
        "1",
    ]
    assert main([*map(str, words), "--expressions", "1", "2", "--out", str(out), "--plot", str(plot)]) == 0
    shown = capsys.readouterr().out
    assert "torch exact, cpu" in shown
    stored = json.loads(out.read_text())
    assert [one["precision"] for one in stored["results"]] == ["exact", "fast"]
    assert 0.5 < stored["iou_of_fast_with_exact"][str(model_folder)] <= 1
    assert "<polyline" in plot.read_text()


@pytest.mark.usefixtures("in_this_process")
def test_the_operations_of_other_runtimes_are_those_of_the_model_in_pytorch(tmp_path, capsys):
    words = ["bench", "shapes", "--device", "cpu", "--rounds", "1", "--expressions", "1"]
    counted, alone = tmp_path / "counted.json", tmp_path / "alone.json"
    assert main([*words, "--runtime", "torch", "onnx", "--out", str(counted)]) == 0
    (one,), (other,) = (found["segment"] for found in json.loads(counted.read_text())["results"])
    assert one["operations"] == other["operations"] > 1e9
    assert other["share_of_peak"] > 0
    assert main([*words, "--runtime", "onnx", "--out", str(alone)]) == 0
    (found,) = json.loads(alone.read_text())["results"]
    assert found["segment"][0]["operations"] is found["segment"][0]["share_of_peak"] is None
    assert found["peak"] > 1e6


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["shapes", "--rounds", "0"], "must be at least 1"),
        (["shapes", "--expressions", "0"], "must be at least 1"),
        (["shape"], "did you mean 'shapes'"),
        (["shapes", "--image", "missing.png"], "missing.png"),
    ],
)
@pytest.mark.usefixtures("in_this_process")
def test_bad_input_is_one_line(words, said, capsys):
    assert main(["bench", *words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_errors_come_back_from_the_other_process(photo):
    with pytest.raises(RefsegError, match="did you mean 'shapes'"):
        bench.measure_apart("shape", image=photo, expressions=[1], rounds=1)
