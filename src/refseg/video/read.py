"""Reads the frames of a video file, upright and one at a time, with their times."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

from refseg.errors import ConfigError, ImageSizeError, InputError, counted, one_line

if TYPE_CHECKING:
    import av
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = [
    "MAX_FRAMES",
    "MAX_FRAME_PIXELS",
    "NEEDS_VIDEO",
    "Video",
    "VideoFrame",
    "import_av",
    "open_video",
]

NEEDS_VIDEO = "videos need PyAV and OpenCV: pip install 'refseg[video]'"
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,asf,flv,ogg,gif"
"""The formats that are read. FFmpeg also knows playlists and scripts, whose files name other files and addresses."""
MAX_FRAME_PIXELS = 2**25
"""Width times height of a frame: a little more than 7680 x 4320."""
MAX_FRAMES = 1_000_000
DISPLAY_MATRIX = "DISPLAYMATRIX"


@dataclass(frozen=True, eq=False)
class VideoFrame:
    """A frame of a video."""

    index: int
    """From 0 on."""
    ticks: int
    """When it is shown, in units of the video's `time_base`; greater than that of the frame before."""
    time: float
    """When it is shown, seconds."""
    image: UInt8[ndarray, "H W 3"]
    """Upright, RGB."""


class Video:
    """A video file that is open; iterating decodes its frames once, of which it keeps none.

    `problems` says, when all frames are read, what could not be read: a line each.
    """

    def __init__(
        self, container: InputContainer, stream: VideoStream, name: str, *, max_pixels: int, max_frames: int
    ) -> None:
        self._container, self._stream, self._name = container, stream, name
        self._max_pixels, self._max_frames = max_pixels, max_frames
        self.time_base = stream.time_base or Fraction(1, 1000)
        self.problems: list[str] = []

    @property
    def expected_frames(self) -> int | None:
        """The number of frames that the file says it has, or nearly; None: it does not say."""
        if self._stream.frames:
            return self._stream.frames
        seconds, rate = self._seconds, self._stream.average_rate
        return None if seconds is None or not rate else round(seconds * rate)

    @property
    def _seconds(self) -> float | None:
        if self._stream.duration is not None:
            return float(self._stream.duration * self.time_base)
        return None if self._container.duration is None else self._container.duration / 1_000_000

    def __iter__(self) -> Iterator[VideoFrame]:
        """Yield the frames.

        Raises:
            InputError: no frame can be decoded.
            ImageSizeError: frames have more pixels than are accepted.
        """
        step = max(1, round(1 / ((self._stream.average_rate or 25) * self.time_base)))
        ticks, shape, count = -1, None, 0
        for decoded in self._decoded():
            self._check_size(decoded.width, decoded.height)
            if count == self._max_frames:
                self.problems.append(f"only the first {counted(count, 'frame')} are read; raise max_frames for more")
                return
            image = _upright(decoded)
            if shape not in (None, image.shape):
                self.problems.append(f"the size of the frames changes after {counted(count, 'frame')}; they end there")
                return
            shape = image.shape
            # Broken files have frames without a time, or of the same time.
            ticks = max(ticks + 1, ticks + step if decoded.pts is None else decoded.pts) if count else decoded.pts or 0
            yield VideoFrame(count, ticks, float(ticks * self.time_base), image)
            count += 1
        if not count:
            raise InputError(f"{self._name}: no frame of it can be decoded; it is empty, cut off or broken")
        if self._stream.frames > count:
            self.problems.append(f"{count:,} of {counted(self._stream.frames, 'frame')} can be read; it is cut off")

    def _decoded(self) -> Iterator[av.VideoFrame]:
        from av.error import FFmpegError, InvalidDataError

        broken = 0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    yield from packet.decode()
                except InvalidDataError:
                    broken += 1
        except FFmpegError as error:
            self.problems.append(f"it cannot be read to its end ({_reason(error)})")
        if broken:
            self.problems.append(f"{counted(broken, 'packet')} of it cannot be decoded, whose frames are missing")

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._max_pixels:
            raise ImageSizeError(
                f"{self._name}: frames of {width}x{height} have more than {self._max_pixels:,} pixels; scale the video "
                "down or raise max_pixels"
            )


@contextmanager
def open_video(
    path: str | os.PathLike[str], *, max_pixels: int = MAX_FRAME_PIXELS, max_frames: int = MAX_FRAMES
) -> Iterator[Video]:
    """Open a video file. It may come from anybody: nothing but the file itself is read, and frame by frame.

    Args:
        path: of the file, whose first video stream is read.
        max_pixels: the largest width times height of a frame that is accepted.
        max_frames: frames after these are left out, with a problem that says so.

    Raises:
        InputError: the file is missing, unreadable, or no video in a format that is read.
        ImageSizeError: frames have more pixels than are accepted.
        ConfigError: the extra `refseg[video]` is not installed.
    """
    name = repr(os.fsdecode(path))
    av = import_av()
    with ExitStack() as opened:
        try:
            file = opened.enter_context(Path(path).open("rb"))
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        try:
            options = {"format_whitelist": CONTAINERS}
            container = opened.enter_context(av.open(file, "r", container_options=options, metadata_errors="ignore"))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{name}: cannot be read as a video ({_reason(error)})") from None
        stream = container.streams.best("video")
        if stream is None:
            raise InputError(f"{name}: has no video stream; name a file with images that move")
        stream.thread_type = "AUTO"
        video = Video(container, stream, name, max_pixels=max_pixels, max_frames=max_frames)
        video._check_size(stream.width, stream.height)
        yield video


def import_av() -> Any:
    """Return PyAV.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise ConfigError(NEEDS_VIDEO) from None
    return av


def _upright(frame: av.VideoFrame) -> UInt8[ndarray, "H W 3"]:
    """Return the pixels of a decoded frame as a viewer shows them, by its display matrix: phones store a rotation.

    The matrix (a, b, ., c, d, ., ...) moves a pixel at (x, y) to (a x + c y, b x + d y).
    """
    pixels = frame.to_ndarray(format="rgb24")
    stored = frame.side_data.get(DISPLAY_MATRIX)
    if stored is None:
        return pixels
    a, b, _, c, d, *_ = np.frombuffer(cast(Any, stored), np.int32).tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or one_line(error)
