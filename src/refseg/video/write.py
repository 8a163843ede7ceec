"""The files of a segmented video: an overlay to look at, a lossless video of each mask, and a line for each frame."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray
from PIL import Image

from refseg.errors import OutputError
from refseg.files import replacing, unwritable
from refseg.video.read import Video, import_av
from refseg.video.segment import SegmentedFrame
from refseg.writers.overlay import COLOURS, fitted, overlays, shrunk
from refseg.writers.result import OVERLAY_SIDE, file_name

__all__ = ["FRAMES", "OVERLAY", "SUMMARY", "VideoFolder", "overlay_encoder", "video_folder"]

OVERLAY, FRAMES, SUMMARY = "overlay.mp4", "frames.jsonl", "video.json"
LONGEST_NAME = 100
"""Bytes of an expression in the name of a file."""
ENCODERS = {"libx264": "H.264", "mpeg4": "MPEG-4 part 2"}
"""Of overlays, by FFmpeg's name: the first that PyAV was built with."""
OPTIONS = {"libx264": {"crf": "20", "preset": "veryfast"}, "mpeg4": {"qscale": "3"}}
MPEG4_CLOCK = 65_535
"""The most ticks a second that MPEG-4 part 2 can express."""
LOSSLESS = "ffv1"


def overlay_encoder() -> str:
    """Return FFmpeg's name of the encoder of overlays."""
    av = import_av()
    for name in ENCODERS:
        with suppress(av.codec.codec.UnknownCodecError):
            return str(av.codec.Codec(name, "w").name)
    raise OutputError(f"this build of PyAV has none of the encoders {', '.join(ENCODERS)}; install another one")


class VideoFolder:
    """The files of one segmented video while they are written (see `video_folder`)."""

    def __init__(self, expressions: Sequence[str], frames: BinaryIO) -> None:
        self.frames = 0
        self.asked = 0
        self.overlay: _Encoder | None = None
        self.masks: list[_Encoder] = []
        self.mask_names = [
            f"mask-{number:03d}-{file_name(text, LONGEST_NAME)}.mkv" for number, text in enumerate(expressions)
        ]
        self._expressions, self._lines = expressions, frames
        self._time = 0.0
        self._found = [0] * len(expressions)
        self._absent: list[list[dict[str, float]]] = [[] for _ in expressions]

    def add(self, one: SegmentedFrame) -> None:
        """Write a frame to all files.

        Raises:
            OutputError: it cannot be written.
        """
        for values in one.lines():
            line = json.dumps(values, ensure_ascii=False, allow_nan=False)
            self._lines.write(line.encode("utf-8", "backslashreplace") + b"\n")
        for encoder, answer in zip(self.masks, one.masks, strict=True):
            encoder.add(answer.mask.astype(np.uint8) * 255, one.frame.ticks)
        if self.overlay is not None:
            shown = fitted(Image.fromarray(one.frame.image), OVERLAY_SIDE)
            image = overlays(shown, [shrunk(answer.mask, shown.size) for answer in one.masks])
            height, width = image.height % 2, image.width % 2
            # The encoders store colours at half the resolution, so that they need even sides.
            even = np.pad(np.asarray(image), ((0, height), (0, width), (0, 0)), mode="edge")
            self.overlay.add(even, one.frame.ticks)
        self._count(one)

    def _count(self, one: SegmentedFrame) -> None:
        index, self._time = one.frame.index, one.frame.time
        for number, answer in enumerate(one.masks):
            spans = self._absent[number]
            if not answer.empty:
                self._found[number] += 1
            elif spans and spans[-1]["last"] == index - 1:
                spans[-1] |= {"last": index, "until": round(one.frame.time, 6)}
            else:
                time = round(one.frame.time, 6)
                spans.append({"first": index, "last": index, "from": time, "until": time})
        self.frames += 1
        self.asked += one.asked

    def summary(self) -> dict[str, Any]:
        """Return JSON values: what was found in how many frames, and where nothing fits."""
        overlay = None if self.overlay is None else {"file": OVERLAY, "codec": ENCODERS[self.overlay.codec]}
        return {
            "frames": self.frames,
            "asked": self.asked,
            "last_time": round(self._time, 6),
            "overlay": overlay,
            "expressions": [
                {
                    "expression": text,
                    "colour": "#{:02x}{:02x}{:02x}".format(*COLOURS[number % len(COLOURS)]),
                    "mask": name,
                    "frames_found": self._found[number],
                    "nothing_fits": self._absent[number],
                }
                for number, (text, name) in enumerate(zip(self._expressions, self.mask_names, strict=True))
            ],
        }


@contextmanager
def video_folder(
    folder: Path, video: Video, expressions: Sequence[str], about: Mapping[str, Any], *, overlay: bool = True
) -> Iterator[VideoFolder]:
    """Yield what writes the files of a segmented video; they appear in the folder at the end, or not at all.

    `overlay.mp4` has the frames with all masks, `mask-000-WORDS.mkv` the mask of an expression as 0 and 255 without
    loss (FFV1), `frames.jsonl` a line for each frame and expression, and `video.json` the summary. The times of the
    frames are those of the video; Matroska rounds them to milliseconds.

    Args:
        folder: exists.
        video: what is segmented, whose problems are in the summary.
        expressions: in the order of the masks.
        about: JSON values for the summary; what is added until the end is in it too.
        overlay: whether to write the overlay.

    Raises:
        OutputError: a file cannot be written.
    """
    av = import_av()
    try:
        with ExitStack() as files:
            frames = files.enter_context(files.enter_context(replacing(folder / FRAMES)).open("wb"))
            writer = VideoFolder(expressions, frames)
            for name in writer.mask_names:
                draft = files.enter_context(replacing(folder / name))
                encoder = _Encoder(av, draft, "matroska", LOSSLESS, "gray", video)
                writer.masks.append(files.enter_context(encoder))
            if overlay:
                draft = files.enter_context(replacing(folder / OVERLAY))
                encoder = _Encoder(av, draft, "mp4", overlay_encoder(), "yuv420p", video)
                writer.overlay = files.enter_context(encoder)
            summary = files.enter_context(replacing(folder / SUMMARY))
            yield writer
            values = {**about, **writer.summary(), "problems": video.problems}
            text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False)
            summary.write_bytes(text.encode("utf-8", "backslashreplace") + b"\n")
    except (OSError, av.error.FFmpegError) as error:
        raise unwritable(folder, error) from None
    finally:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


class _Encoder:
    """One video file with one stream, whose size is that of the first frame."""

    def __init__(self, av: Any, path: Path, kind: str, codec: str, pixel_format: str, video: Video) -> None:
        self.codec = codec
        self._av, self._video, self._pixel_format = av, video, pixel_format
        self._base = video.time_base
        if codec == "mpeg4" and self._base.denominator > MPEG4_CLOCK:
            self._base = Fraction(1, 60_000)
        self._container = av.open(str(path), "w", format=kind)
        self._stream: Any = None
        self._last = -1

    def __enter__(self) -> _Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def add(self, pixels: UInt8[ndarray, "H W 3"] | UInt8[ndarray, "H W"], ticks: int) -> None:
        """Encode a frame that is shown at a time in units of the video's time base."""
        if self._stream is None:
            self._start(pixels)
        frame = self._av.VideoFrame.from_ndarray(pixels, format="gray" if pixels.ndim == 2 else "rgb24")
        self._last = max(self._last + 1, round(ticks * self._video.time_base / self._base))
        frame.pts, frame.time_base = self._last, self._base
        self._container.mux(self._stream.encode(frame))

    def _start(self, pixels: ndarray) -> None:
        self._stream = self._container.add_stream(self.codec, options=OPTIONS.get(self.codec, {}))
        self._stream.height, self._stream.width = pixels.shape[:2]
        self._stream.pix_fmt = self._pixel_format
        self._stream.codec_context.time_base = self._base
