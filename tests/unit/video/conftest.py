"""A small generated video as a file."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest

from refseg.data.shapes.moving import moving_scene

TICKS = 600
"""Of a second."""


def write(path, images, *, times=None, rotation=0, codec="libx264", container=None):
    """Write frames; `times` are in 1/600 s."""
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, options={"crf": "10", "g": "4"} if codec == "libx264" else {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, TICKS)
        if rotation:
            stream.set_display_rotation(rotation)
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = times[index] if times else 24 * index, Fraction(1, TICKS)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return Path(path)


@pytest.fixture(scope="session")
def write_video():
    return write


@pytest.fixture(scope="session")
def scene():
    """A video of 24 frames, of which the last 8 are another scene."""
    return moving_scene(8, 24, cut=True)


@pytest.fixture(scope="session")
def moving(scene):
    return list(scene)


@pytest.fixture(scope="session")
def clip(tmp_path_factory, moving):
    """The same as a file, with times that are not evenly spaced."""
    times = [24 * index + 7 * (index % 3) for index in range(len(moving))]
    return write(tmp_path_factory.mktemp("video") / "clip.mp4", [one.image for one in moving], times=times)
