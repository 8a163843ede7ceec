"""Masks in generated videos with known truth: asked on key frames and carried between them, against asking every frame.

python benchmarks/video.py [--clips 20] [--frames 100] [--image FILE] [--out FILE]

In the videos of `refseg.data.shapes.moving` objects swing, cover each other, leave the image and come back, and every
second video has a cut to another scene. J and F are those of DAVIS (`refseg.evaluation.video`), means over all frames
and expressions, where nothing found is right if nothing is visible. Flicker is measured before the cut, with the true
motion; true masks have one too. `nearest` takes the answer of the nearest key frame, and has to look ahead. The ways
take turns on each video, so that a slow machine slows all of them. Frames a second count asking and carrying alone.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

import refseg
from measure import write
from refseg.data.shapes.moving import MovingFrame, MovingScene, moving_scene
from refseg.evaluation.video import contour_accuracy, flicker, region_similarity
from refseg.segmenter import BaseSegmenter
from refseg.video import Rule, SegmentedFrame, VideoFrame, segment_frames
from refseg.writers.overlay import overlays, panels

NEVER = 255.0
"""A change that no frame has."""
EVERY_FRAME = "every frame"
WAYS = {
    EVERY_FRAME: Rule(every=1),
    "hold, every 10": Rule(carry="hold", change=NEVER),
    "flow, every 10, no change": Rule(change=NEVER),
    "flow, every 5": Rule(every=5),
    "flow, every 10": Rule(),
    "flow, every 20": Rule(every=20),
}
NEAREST = 10
MEASURES = ("J", "F", "flicker")
Masks = list[list[Bool[ndarray, "H W"]]]
"""Of each frame, of each expression."""


def found(
    segmenter: BaseSegmenter, video: MovingScene, frames: list[MovingFrame], rule: Rule
) -> tuple[list[SegmentedFrame], float]:
    """Return the segmented frames, and the seconds it took."""
    given = [VideoFrame(index, index, index / 25, one.image) for index, one in enumerate(frames)]
    begun = time.perf_counter()
    return list(segment_frames(given, video.expressions, segmenter, rule=rule)), time.perf_counter() - begun


def nearest(asked: Masks) -> Masks:
    """Return for each frame the masks of the nearest key frame."""
    keys = range(0, len(asked), NEAREST)
    return [asked[min(keys, key=lambda key: abs(key - index))] for index in range(len(asked))]


def measures(masks: Masks, video: MovingScene, frames: list[MovingFrame]) -> Iterator[tuple[str, float]]:
    """Yield each measure of each frame and expression."""
    for index, (predicted, true) in enumerate(zip(masks, frames, strict=True)):
        for number, mask in enumerate(predicted):
            yield "J", region_similarity(mask, true.masks[number])
            yield "F", contour_accuracy(mask, true.masks[number])
            before = masks[index - 1][number] if 0 < index < video.cut else None
            if before is not None and (before.any() or mask.any()):
                moves = [
                    round(now) - round(then)
                    for now, then in zip(true.centres[number], frames[index - 1].centres[number], strict=True)
                ]
                yield "flicker", flicker(before, mask, *moves)


def strip(frames: list[SegmentedFrame], count: int = 6) -> Image.Image:
    """Return some frames of a video with their masks, side by side."""
    chosen = [frames[round(index)] for index in np.linspace(0, len(frames) - 1, count)]
    shown = [
        (
            overlays(Image.fromarray(one.frame.image), [mask.mask for mask in one.masks]),
            f"frame {one.frame.index}, " + ("asked" if one.asked else "carried"),
        )
        for one in chosen
    ]
    return panels(shown, columns=3, width=300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first video; the next ones follow")
    parser.add_argument("--image", type=Path, help="write frames of the second video there, as JPEG")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    arguments = parser.parse_args()
    segmenter = refseg.load(arguments.model, "cpu")
    values: dict[str, dict[str, list[float]]] = {}
    asked: dict[str, int] = dict.fromkeys(WAYS, 0)
    seconds: dict[str, float] = dict.fromkeys(WAYS, 0.0)
    total = 0

    def add(way: str, masks: Masks, video: MovingScene, frames: list[MovingFrame]) -> None:
        for name, value in measures(masks, video, frames):
            values.setdefault(way, {name: [] for name in MEASURES})[name].append(value)

    for clip in range(arguments.clips):
        video = moving_scene(arguments.seed + clip, arguments.frames, cut=clip % 2 == 1)
        frames = list(video)
        total += len(frames)
        for way, rule in WAYS.items():
            segmented, took = found(segmenter, video, frames, rule)
            masks = [[one.mask for one in frame.masks] for frame in segmented]
            add(way, masks, video, frames)
            if way == EVERY_FRAME:
                add(f"nearest, every {NEAREST}", nearest(masks), video, frames)
            asked[way] += sum(one.asked for one in segmented)
            seconds[way] += took
            if arguments.image is not None and clip == 1 and rule == Rule():
                strip(segmented).save(arguments.image, quality=85)
        add("true masks", [list(one.masks) for one in frames], video, frames)
        print(f"video {clip + 1} of {arguments.clips}", flush=True)
    rows = [
        {
            "way": way,
            **{name: round(float(np.mean(measured[name])), 4) for name in MEASURES},
            "asked": round(asked[way] / total, 4) if way in asked else None,
            "frames_per_second": round(total / seconds[way], 2) if way in seconds else None,
        }
        for way, measured in values.items()
    ]
    for row in rows:
        print("  ".join(f"{value if value is not None else '-':>10}" for value in row.values()))
    about = {
        "command": shlex.join(["python", "benchmarks/video.py", *sys.argv[1:]]),
        "model": arguments.model,
        "seed": arguments.seed,
        "frames": total,
    }
    write(arguments.out, {**about, "ways": rows})


if __name__ == "__main__":
    main()
