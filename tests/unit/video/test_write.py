"""The files of a segmented video, as the command writes them."""

from __future__ import annotations

import json
import signal

import av
import numpy as np
import pytest

from refseg.cli.main import main
from refseg.errors import OutputError
from refseg.masks import decode_rle
from refseg.video import VideoFrame, open_video
from refseg.video.segment import SegmentedFrame, VideoMask
from refseg.video.write import video_folder


def frames_of(path, kind):
    with av.open(str(path)) as file:
        return [(frame.time, frame.to_ndarray(format=kind)) for frame in file.decode(video=0)]


@pytest.fixture(scope="module")
def folder(clip, scene, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "found"
    assert (
        main(["video", str(clip), *scene.expressions, "--model", "shapes", "--out", str(out), "--device", "cpu"]) == 0
    )
    return out


def test_all_files_agree(folder, clip, scene):
    lines = [json.loads(line) for line in (folder / "frames.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "video.json").read_text())
    masks = [one["mask"] for one in summary["expressions"]]
    assert sorted(path.name for path in folder.iterdir()) == ["frames.jsonl", *masks, "overlay.mp4", "video.json"]
    times = [line["time"] for line in lines[:: len(masks)]]
    for number, name in enumerate(masks):
        stored = frames_of(folder / name, "gray")
        assert len(stored) == 24
        assert np.allclose([time for time, _ in stored], times, atol=0.0006), "Matroska has milliseconds"
        for line, (_, pixels) in zip(lines[number :: len(masks)], stored, strict=True):
            assert np.array_equal(pixels, decode_rle(line["segmentation"]) * np.uint8(255)), "without loss"
    overlay = frames_of(folder / "overlay.mp4", "rgb24")
    with open_video(clip) as video:
        assert np.allclose([time for time, _ in overlay], [frame.time for frame in video], atol=1e-4)
    assert np.allclose(times, [time for time, _ in overlay], atol=1e-4)
    assert summary["overlay"]["codec"] == "H.264"
    assert summary["frames"] == 24
    assert summary["problems"] == []
    for one, text in zip(summary["expressions"], scene.expressions, strict=True):
        absent = {line["frame"] for line in lines if line["expression"] == text and line["empty"]}
        told = {n for span in one["nothing_fits"] for n in range(span["first"], span["last"] + 1)}
        assert told == absent >= set(range(scene.cut, 24))
        assert one["frames_found"] == 24 - len(absent)


def test_a_used_folder_and_wrong_settings_are_said_before_anything_is_read(folder, clip, capsys, tmp_path):
    assert main(["video", str(clip), "the dog", "--out", str(folder)]) == 2
    assert "has files already" in capsys.readouterr().err
    assert main(["video", str(clip), "the dog", "--every", "0", "--out", str(tmp_path / "new")]) == 2
    assert main(["video", str(clip), "the dog", "--max-frames", "0", "--out", str(tmp_path / "new")]) == 2
    assert main(["video", str(tmp_path / "missing.mp4"), "the dog", "--out", str(tmp_path / "new")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 3
    assert not (tmp_path / "new").exists()


def test_ctrl_c_leaves_complete_files(clip, scene, tmp_path, capsys, monkeypatch):
    usual, out = VideoFrame.__init__, tmp_path / "out"

    def interrupting(self, index, *rest):
        if index == 3:
            signal.raise_signal(signal.SIGINT)
        usual(self, index, *rest)

    monkeypatch.setattr(VideoFrame, "__init__", interrupting)
    assert main(["video", str(clip), scene.expressions[1], "--model", "shapes", "--out", str(out)]) == 130
    assert "interrupted after 4 frames" in capsys.readouterr().err
    assert len(frames_of(out / "overlay.mp4", "rgb24")) == len((out / "frames.jsonl").read_text().splitlines()) == 4
    assert json.loads((out / "video.json").read_text())["problems"] == ["interrupted after 4 frames"]


def segmented(size, count=3):
    rng = np.random.default_rng(0)
    for index in range(count):
        image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        mask = rng.random(size) < 0.5
        yield SegmentedFrame(
            VideoFrame(index, 40 * index, index / 25, image), True, (VideoMask("x", mask, 1.0, index),)
        )


def test_odd_sizes_and_another_encoder(clip, tmp_path, monkeypatch):
    monkeypatch.setattr("refseg.video.write.ENCODERS", {"none-such": "?", "mpeg4": "MPEG-4 part 2"})
    (tmp_path / "out").mkdir()
    with open_video(clip) as video, video_folder(tmp_path / "out", video, ["x"], {}) as writer:
        for one in segmented((33, 47)):
            writer.add(one)
        assert writer.summary()["overlay"]["codec"] == "MPEG-4 part 2"
    assert [pixels.shape for _, pixels in frames_of(tmp_path / "out" / "overlay.mp4", "rgb24")] == [(34, 48, 3)] * 3
    assert [pixels.shape for _, pixels in frames_of(tmp_path / "out" / "mask-000-x.mkv", "gray")] == [(33, 47)] * 3


def test_after_an_error_nothing_is_left(clip, tmp_path):
    def fail(error):
        (tmp_path / "out").mkdir(exist_ok=True)
        with open_video(clip) as video, video_folder(tmp_path / "out", video, ["x"], {}) as writer:
            writer.add(next(segmented((32, 48))))
            raise error

    with pytest.raises(KeyError):
        fail(KeyError("of the model"))
    with pytest.raises(OutputError, match="out: cannot be written: No space left on device"):
        fail(OSError(28, "No space left on device"))
    assert not (tmp_path / "out").exists()
