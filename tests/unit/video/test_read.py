"""Reading videos: frames upright, with their times, from files that may be broken or hostile."""

from __future__ import annotations

import builtins

import numpy as np
import pytest

from refseg.errors import ConfigError, ImageSizeError, InputError
from refseg.video import open_video


def read(path, **limits):
    with open_video(path, **limits) as video:
        return video, list(video)


def quarters(height=48, width=64):
    """An image whose quarters have four colours."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, : width // 2] = 255
    image[: height // 2, width // 2 :, 0] = 255
    image[height // 2 :, : width // 2, 1] = 255
    image[height // 2 :, width // 2 :, 2] = 255
    return image


def close(one, other):
    return one.shape == other.shape and np.abs(one.astype(int) - other)[::7, ::7].mean() < 8


def test_frames_have_the_times_of_the_file(clip, moving):
    video, frames = read(clip)
    assert (len(frames), video.expected_frames, video.problems) == (24, 24, [])
    assert [frame.index for frame in frames] == list(range(24))
    assert np.allclose([frame.time for frame in frames], [(24 * n + 7 * (n % 3)) / 600 for n in range(24)])
    assert all(close(frame.image, one.image) for frame, one in zip(frames, moving, strict=True))


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_frames_are_turned_upright(write_video, tmp_path, degrees):
    path = write_video(tmp_path / "phone.mp4", [quarters()] * 2, rotation=degrees)
    _, (frame, _) = read(path)
    assert close(frame.image, np.rot90(quarters(), degrees // 90))


def test_frames_that_are_mirrored_are_turned_back(tmp_path):
    import av

    with av.open(str(tmp_path / "selfie.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.height, stream.width = quarters().shape[:2]
        stream.set_display_rotation(90, hflip=True)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(quarters(), format="rgb24")))
        file.mux(stream.encode(None))
    _, (frame,) = read(tmp_path / "selfie.mp4")
    assert close(frame.image, np.rot90(quarters())[:, ::-1])


def test_a_video_that_is_cut_off_gives_what_can_be_read(write_video, moving, tmp_path):
    images = [one.image for one in moving]
    path = write_video(tmp_path / "clip.avi", images, codec="mpeg4")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    video, frames = read(path)
    assert 4 < len(frames) < 20
    assert video.problems
    assert all("\n" not in problem for problem in video.problems)


def test_damage_in_the_middle_is_said(clip, tmp_path):
    content = bytearray(clip.read_bytes())
    content[len(content) // 3 : len(content) // 2] = bytes(len(content) // 2 - len(content) // 3)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(content)
    video, frames = read(path)
    assert frames
    assert video.problems


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"no video\n" * 100),
        ("list.m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{clip}\n#EXT-X-ENDLIST\n"),
        ("script.ffconcat", b"ffconcat version 1.0\nfile '{clip}'\n"),
    ],
)
def test_what_is_no_video_is_one_line(tmp_path, clip, name, content):
    """A playlist or a script must not make FFmpeg read other files."""
    path = tmp_path / name
    path.write_bytes(content.replace(b"{clip}", str(clip).encode()))
    with pytest.raises(InputError, match="cannot be read as a video") as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_video_whose_index_is_cut_off_is_one_line(clip, tmp_path):
    content = clip.read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read as a video"):
        read(path)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        read(tmp_path / "missing.mp4")
    with pytest.raises(InputError, match="directory"):
        read(tmp_path)


def test_sound_alone_is_no_video(tmp_path):
    import av

    with av.open(str(tmp_path / "sound.mp4"), "w") as file:
        stream = file.add_stream("aac", rate=8000)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(InputError, match="has no video stream"):
        read(tmp_path / "sound.mp4")


def test_limits(clip):
    with pytest.raises(ImageSizeError, match="frames of 320x240 have more than 1,000 pixels"):
        read(clip, max_pixels=1000)
    video, frames = read(clip, max_frames=5)
    assert len(frames) == 5
    assert video.problems == ["only the first 5 frames are read; raise max_frames for more"]


def test_without_the_extra_the_error_names_it(monkeypatch, clip):
    usual = builtins.__import__

    def without(name, *rest, **more):
        if name == "av":
            raise ModuleNotFoundError(name=name)
        return usual(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'refseg\[video\]'"):
        read(clip)
