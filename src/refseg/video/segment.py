"""Segments the frames of a video: the model is asked on key frames, and the masks are carried between them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray

from refseg.errors import ConfigError
from refseg.inputs.clip_bpe import check_expression, expression_list
from refseg.masks import bounding_box, encode_rle
from refseg.values import Prediction, Segmenter
from refseg.video.motion import Carry, Motion
from refseg.video.read import MAX_FRAME_PIXELS, MAX_FRAMES, VideoFrame, open_video

__all__ = ["Rule", "SegmentedFrame", "VideoMask", "segment_frames", "segment_video"]

INSIDE = 127
"""A carried mask has the pixels of greater values."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When the model is asked, and how masks are carried in between.

    A frame is a key frame, on which all expressions are asked, if it is the first one, if `every` frames have passed
    since the last key frame, or if it differs from the frame before, moved along the flow, by more than `change` grey
    levels on average: over the whole frame, as after a cut, or within a carried mask, as where the object is covered.
    """

    every: int = 10
    """Frames; 1 asks on every frame."""
    change: float = 12.0
    """Grey levels of 0..255."""
    carry: Carry = "flow"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every must be at least 1 frame, got {self.every}")
        if not self.change > 0:
            raise ConfigError(f"change must be greater than 0 grey levels, got {self.change}")


class VideoMask(NamedTuple):
    """What an expression refers to in one frame."""

    expression: str
    """Verbatim."""
    mask: Bool[ndarray, "H W"]
    score: float
    """Of the model's answer in the frame `asked_in`, from which the mask is carried; 0 where the mask is empty."""
    asked_in: int
    """Index of the frame in which the model was asked."""

    @property
    def empty(self) -> bool:
        """Whether nothing fits."""
        return not self.mask.any()


class SegmentedFrame(NamedTuple):
    """A frame with the masks of all expressions."""

    frame: VideoFrame
    asked: bool
    """Whether the model was asked in this frame; otherwise the masks are carried."""
    masks: tuple[VideoMask, ...]
    """In the order of the expressions."""

    def lines(self) -> Iterator[dict[str, object]]:
        """Yield JSON values for each expression: frame, time, score, box, and the mask as COCO's run lengths."""
        for one in self.masks:
            box = bounding_box(one.mask)
            yield {
                "frame": self.frame.index,
                "time": round(self.frame.time, 6),
                "expression": one.expression,
                "score": round(one.score, 6),
                "empty": box is None,
                "box": None if box is None else list(box),
                "segmentation": encode_rle(one.mask),
                "asked": self.asked,
                "asked_in": one.asked_in,
            }


def segment_video(
    path: str | os.PathLike[str],
    expressions: Iterable[str],
    segmenter: Segmenter,
    /,
    *,
    rule: Rule | None = None,
    max_pixels: int = MAX_FRAME_PIXELS,
    max_frames: int = MAX_FRAMES,
) -> Iterator[SegmentedFrame]:
    """Yield the frames of a video file with the masks that expressions refer to.

    Memory does not grow with the length of the video. For what could not be read, use `open_video` and
    `segment_frames`.

    Args:
        path: of the video.
        expressions: texts, one for each target.
        segmenter: the model, from `refseg.load`.
        rule: when it is asked; None: `Rule()`.
        max_pixels: see `open_video`.
        max_frames: see `open_video`.

    Raises:
        InputError: as `open_video`.
        ExpressionError: an expression is blank or not text.
        ConfigError: as `open_video`.
    """
    with open_video(path, max_pixels=max_pixels, max_frames=max_frames) as video:
        yield from segment_frames(video, expressions, segmenter, rule=rule)


def segment_frames(
    frames: Iterable[VideoFrame], expressions: Iterable[str], segmenter: Segmenter, /, *, rule: Rule | None = None
) -> Iterator[SegmentedFrame]:
    """Yield frames, all of one size, with the masks that expressions refer to (see `segment_video`)."""
    rule = rule or Rule()
    texts = [check_expression(text) for text in expression_list(expressions)]
    motion: Motion | None = None
    answers: list[Prediction] = []
    carried: list[UInt8[ndarray, "H W"]] = []
    asked_in = 0
    for frame in frames:
        if motion is None:
            motion = Motion(frame.image, rule.carry)
        elif rule.every > 1:
            motion.follow(frame.image)
            carried = [motion.carried(mask) for mask in carried]
        changes = () if rule.every == 1 else (motion.change(), *(motion.change(mask) for mask in carried))
        asked = not answers or frame.index - asked_in >= rule.every or max(changes, default=0.0) > rule.change
        if asked:
            (image,) = segmenter.encode([frame.image])
            answers, asked_in = segmenter.segment(image, texts), frame.index
            carried = [answer.mask.astype(np.uint8) * 255 for answer in answers]
        masks = [mask > INSIDE for mask in carried]
        yield SegmentedFrame(
            frame,
            asked,
            tuple(
                VideoMask(text, mask, answer.score if mask.any() else 0.0, asked_in)
                for text, mask, answer in zip(texts, masks, answers, strict=True)
            ),
        )
