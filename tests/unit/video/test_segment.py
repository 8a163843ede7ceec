"""Segmenting a video: when the model is asked, how masks move in between, and objects that leave and come back."""

from __future__ import annotations

import weakref
from unittest.mock import Mock

import numpy as np
import pytest

import refseg
from refseg.errors import ConfigError, ExpressionError
from refseg.evaluation.video import region_similarity
from refseg.masks import decode_rle, iou
from refseg.video import Rule, VideoFrame, segment_frames, segment_video
from refseg.video.motion import Motion


@pytest.fixture(scope="module")
def shapes():
    return refseg.load("shapes", "cpu")


def as_frames(images):
    return [VideoFrame(index, index, index / 25, image) for index, image in enumerate(images)]


@pytest.fixture(scope="module")
def found(shapes, scene, moving):
    counting = Mock(wraps=shapes)
    frames = as_frames([one.image for one in moving])
    return list(segment_frames(frames, scene.expressions, counting, rule=Rule(every=6))), counting.encode.call_count


def test_masks_follow_objects_that_leave_and_come_back(found, moving):
    frames, asked = found
    truth = np.array([one.masks.any(axis=(1, 2)) for one in moving])
    assert not truth[8, 0], "the object has left"
    assert truth[15].all(), "it is back"
    assert not truth[16:].any(), "the other scene has none"
    scores = np.array(
        [
            [region_similarity(answer.mask, mask) for answer, mask in zip(one.masks, true.masks, strict=True)]
            for one, true in zip(frames, moving, strict=True)
        ]
    )
    assert scores[:, 1].mean() > 0.9
    assert scores[[0, 8, 15, 16, 23]].min() > 0.75
    assert asked < len(frames) / 2


def test_a_cut_is_asked_at_once(found, scene):
    frames, asked = found
    assert asked == sum(one.asked for one in frames)
    assert frames[scene.cut].asked
    assert frames[0].asked
    assert [one.masks[0].asked_in for one in frames][scene.cut :] == [16] * 6 + [22] * 2
    carried = [one.masks[1] for one in frames[: scene.cut] if not one.asked]
    assert all(one.score > 0.5 for one in carried), "the score is that of the answer that is carried"


def test_lines_are_complete(found, scene):
    frames, _ = found
    lines = [line for one in frames for line in one.lines()]
    assert [(line["frame"], line["expression"]) for line in lines] == [
        (index, text) for index in range(24) for text in scene.expressions
    ]
    for line, answer in zip(lines, (answer for one in frames for answer in one.masks), strict=True):
        assert np.array_equal(decode_rle(line["segmentation"]), answer.mask)
        assert line["empty"] == answer.empty == (line["box"] is None) == (line["score"] == 0)


def test_every_frame_is_what_the_model_answers(shapes, scene, moving):
    images = [one.image for one in moving[:3]]
    for image, one in zip(
        images, segment_frames(as_frames(images), scene.expressions, shapes, rule=Rule(every=1)), strict=True
    ):
        assert one.asked
        for answer, mask in zip(shapes.segment(shapes.encode(image), scene.expressions), one.masks, strict=True):
            assert np.array_equal(answer.mask, mask.mask)
            assert (answer.score, mask.asked_in) == (mask.score, one.frame.index)


def test_a_file_is_segmented(shapes, scene, clip):
    first = next(segment_video(clip, scene.expressions, shapes))
    assert not any(one.empty for one in first.masks)


def texture(height, width):
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return np.kron(small, np.ones((8, 8, 1), np.uint8))


@pytest.mark.parametrize("size", [(240, 320), (960, 1280)])
def test_masks_move_with_the_image(size):
    """Also where the motion is computed on a smaller image."""
    height, width = size
    image, step = texture(height + 80, width + 80), height // 80
    mask = np.zeros(size, np.uint8)
    mask[height // 4 : height // 2, width // 4 : width // 2] = 255
    motion = Motion(image[40:-40, 40:-40], "flow")
    for moves in (1, 2, 3):
        motion.follow(np.ascontiguousarray(image[40 : height + 40, 40 - moves * step : width + 40 - moves * step]))
        mask = motion.carried(mask)
    expected = np.zeros(size, bool)
    expected[height // 4 : height // 2, width // 4 + 3 * step : width // 2 + 3 * step] = True
    assert iou(mask > 127, expected) > 0.95
    assert motion.change() < 12
    motion.follow(np.ascontiguousarray(255 - image[40:-40, 40:-40]))
    assert motion.change() > 12


def test_what_covers_a_mask_is_a_change():
    image = texture(240, 320)
    mask = np.zeros((240, 320), np.uint8)
    mask[100:140, 100:140] = 255
    motion = Motion(image, "hold")
    covered = image.copy()
    covered[100:140, 100:140] = 255 - covered[100:140, 100:140]
    motion.follow(covered)
    assert motion.change() < 12 < motion.change(mask)
    assert motion.change(np.zeros_like(mask)) == 0
    assert motion.carried(mask) is mask


def test_frames_are_not_kept(shapes, moving):
    alive = []

    def frames():
        for index in range(4):
            image = moving[0].image.copy()
            alive.append(weakref.ref(image))
            yield VideoFrame(index, index, index / 25, image)

    for one in segment_frames(frames(), ["the green ball"], shapes):
        assert sum(ref() is not None for ref in alive) <= 2, one.frame.index


def test_settings_and_expressions_are_checked(shapes, moving):
    with pytest.raises(ConfigError, match="every must be at least 1"):
        Rule(every=0)
    with pytest.raises(ConfigError, match="change must be greater than 0"):
        Rule(change=float("nan"))
    with pytest.raises(ExpressionError):
        next(segment_frames(as_frames([moving[0].image]), [" "], shapes))
