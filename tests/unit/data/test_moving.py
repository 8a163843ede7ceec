"""Generated videos: they are reproducible, and their masks and motion are those of the images."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from refseg.data.shapes import render
from refseg.data.shapes.moving import moving_scene
from refseg.evaluation.video import flicker


def test_a_video_is_reproducible_and_its_masks_move_as_the_objects_do():
    video = moving_scene(8, 12, cut=True)
    frames = list(video)
    assert all(
        np.array_equal(one.image, two.image) for one, two in zip(frames, moving_scene(8, 12, cut=True), strict=True)
    )
    assert {one.image.shape for one in frames} == {(*video.size, 3)}
    visible = np.array([one.masks.any(axis=(1, 2)) for one in frames])
    assert visible[[0, 7]].all(), "the first target comes back"
    assert not visible[video.cut // 2, 0], "it leaves the image"
    assert not visible[video.cut :].any(), "another scene"
    before = [one for one in frames[: video.cut] if one.masks[1].any()]
    for earlier, later in pairwise(before):
        right, down = (round(now - then) for now, then in zip(later.centres[1], earlier.centres[1], strict=True))
        assert flicker(earlier.masks[1], later.masks[1], right, down) < 0.25


def test_without_a_cut_there_is_one_scene():
    video = moving_scene(8, 12)
    assert (video.cut, video.second) == (12, None)
    scene = video.scene
    assert sorted(render(scene)[0].shape[:2]) == sorted(video.size)
    for text, target in zip(video.expressions, video.targets, strict=True):
        assert text == f"the {scene.things[target].colour} {scene.things[target].kind}"
        assert [(thing.colour, thing.kind) for thing in scene.things].count(tuple(text.split()[1:])) == 1
