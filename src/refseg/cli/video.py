"""Segment the objects in a video that expressions refer to.

The model is asked on key frames, and the masks are carried along the motion between them (docs/video.md). The results
are in a folder of its own: overlay.mp4 to look at, mask-000-WORDS.mkv with the mask of each expression (0 or 255, FFV1,
without loss), frames.jsonl with a line of JSON for each frame and expression, and video.json, the summary, which says
where nothing fits. After Ctrl-C the files are complete up to there. Sound is left out.
"""

from __future__ import annotations

import argparse
import itertools
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from refseg.cli.options import add_device, add_model, add_precision, add_refine, add_runtime, model_name
from refseg.errors import EXIT_CODE, ConfigError, counted

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = 'refseg video clip.mp4 "the cat on the left" "the cat on the right" --out cats'
INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a video: MP4, MOV, WebM, Matroska, AVI and others")
    parser.add_argument("expressions", nargs="+", metavar="EXPRESSION", help="what to look for, such as 'the dog'")
    add_model(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="a new or empty folder to write to (default: predictions, or predictions-2 and so on where it exists)",
    )
    parser.add_argument(
        "--every",
        type=int,
        default=10,
        metavar="N",
        help="ask the model at least on every N-th frame; 1 asks on every frame (default: %(default)s)",
    )
    parser.add_argument(
        "--change",
        type=float,
        default=12.0,
        metavar="LEVELS",
        help="also ask where a frame, or what a mask covers, differs from the frame before, moved, by more than this "
        "on average, in grey levels of 0..255 (default: %(default)s)",
    )
    parser.add_argument(
        "--carry",
        choices=("flow", "hold"),
        default="flow",
        help="move masks along the optical flow, or keep them where they are (default: %(default)s)",
    )
    parser.add_argument("--no-overlay", action="store_true", help="write no overlay.mp4")
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="the largest width times height of a frame, against files that fill the memory (default: 33,554,432)",
    )
    parser.add_argument(
        "--max-frames", type=int, metavar="N", help="frames after these are left out (default: 1,000,000)"
    )
    add_refine(parser)
    add_device(parser)
    add_runtime(parser)
    add_precision(parser)


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    from tqdm import tqdm

    from refseg.inputs.clip_bpe import check_expression
    from refseg.predictor import load
    from refseg.video import MAX_FRAME_PIXELS, MAX_FRAMES, Rule, open_video, segment_frames
    from refseg.video.write import video_folder
    from refseg.writers.result import ResultFolder

    for option, limit in (("--max-pixels", arguments.max_pixels), ("--max-frames", arguments.max_frames)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{option} must be at least 1, got {limit}")
    rule = Rule(every=arguments.every, change=arguments.change, carry=arguments.carry)
    expressions = [check_expression(text) for text in arguments.expressions]
    results = ResultFolder(arguments.out)
    limits = {
        "max_pixels": arguments.max_pixels or MAX_FRAME_PIXELS,
        "max_frames": arguments.max_frames or MAX_FRAMES,
    }
    with open_video(arguments.file, **limits) as video:
        frames = iter(video)
        first = next(frames)  # a model is slow to load: not before there is a frame to segment
        segmenter = load(
            arguments.model,
            arguments.device,
            runtime=arguments.runtime,
            precision=arguments.precision,
            refine=arguments.refine,
        )
        about = {
            "video": str(arguments.file),
            "width": first.image.shape[1],
            "height": first.image.shape[0],
            "model": model_name(arguments),
            "rule": asdict(rule),
        }
        segmented = segment_frames(itertools.chain([first], frames), expressions, segmenter, rule=rule)
        with (
            video_folder(results.folder, video, expressions, about, overlay=not arguments.no_overlay) as writer,
            _interruptions() as interrupted,
            tqdm(total=video.expected_frames, unit="frame", disable=not sys.stderr.isatty()) as progress,
        ):
            for one in segmented:
                writer.add(one)
                progress.update()
                if interrupted:
                    video.problems.append(f"interrupted after {counted(writer.frames, 'frame')}")
                    break
    for problem in video.problems:
        print(f"refseg: {arguments.file}: {problem}", file=sys.stderr)
    summary = writer.summary()
    for one in summary["expressions"]:
        found, colour = f"in {one['frames_found']:,} of {counted(writer.frames, 'frame')}", one["colour"]
        print(f"{one['expression']!r}: {found}, {colour} -> {results.folder / one['mask']}")
    asked = f"asked on {counted(writer.asked, 'frame')}"
    if summary["overlay"] is None:
        print(f"{asked} -> {results.folder}")
    else:
        print(f"{asked}; {summary['overlay']['codec']} -> {results.folder / summary['overlay']['file']}")
    if interrupted:
        return INTERRUPTED
    return EXIT_CODE if video.problems else 0


@contextmanager
def _interruptions() -> Iterator[list[int]]:
    """Yield a list to which the first Ctrl-C adds, so that a frame is written to all files or to none."""
    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)
        signal.signal(signal.SIGINT, before)  # a second one interrupts at once

    before = signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, before)
