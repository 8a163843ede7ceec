"""What tests of results share: outcomes with an IoU of one's choice, small scenes, and results made of either."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refseg.data.formats.regions import encode
from refseg.evaluation.evaluate import attributes_of, expression_id
from refseg.evaluation.metrics import Outcome, count
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import make_result
from refseg.values import Sample

HEIGHT, WIDTH = 40, 60


class Scenes:
    """Images of a left thing, a right thing, and words that fit nothing."""

    name, split = "scenes", "val"

    def __init__(self, images=2, words="the left cup"):
        self.num_images, self.words = images, words

    def samples_of(self, index):
        def sample(number, expressions, mask, **attributes):
            return Sample(
                id=f"{index}/{number}",
                image_id=str(index),
                expressions=expressions,
                load_image=lambda: Image.new("RGB", (WIDTH, HEIGHT), (40 * index % 256, 120, 90)),
                load_mask=None if mask is None else lambda: mask,
                split=self.split,
                source=self.name,
                attributes={"distractors": 1, **attributes},
            )

        left, right = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
        left[5:35, 2:26], right[5:35, 34:58] = True, True
        return (
            sample(0, (self.words, f"{self.words}, really the one on the left"), left, forms="side,side"),
            sample(1, ("right cup",), right, forms="side"),
            sample(2, ("a plate",), None, forms="absent"),
        )

    def totals(self):
        return {"images": self.num_images, "references": 3 * self.num_images, "expressions": 4 * self.num_images}

    def digest(self):
        return "digest of scenes"


@pytest.fixture
def scenes():
    """Returns a data set of scenes: `scenes(images=2, words="the left cup")`."""
    return Scenes


@pytest.fixture
def answer():
    """Scores a data set by a function of sample and index that returns a mask; also the file of its predictions."""

    def answer(data, mask_of, *, protocol="refseg", whole=True, made_by="a model"):
        outcomes, lines = [], []
        for image in range(data.num_images):
            for sample in data.samples_of(image):
                truth = None if sample.load_mask is None else sample.load_mask()
                for index, expression in enumerate(sample.expressions):
                    mask = mask_of(sample, index)
                    id = expression_id(sample, index)
                    outcomes.append(
                        Outcome(
                            id=id,
                            reference=sample.id,
                            image=sample.image_id,
                            expression=expression,
                            present=truth is not None,
                            score=0.75 if mask.any() else 0.0,
                            empty=not mask.any(),
                            attributes=attributes_of(sample, index),
                            **count(mask, truth),
                        )
                    )
                    lines.append(json.dumps({"sent_id": id, "rle": encode(mask), "score": 0.75}))
        result = make_result(outcomes, data, PROTOCOLS[protocol], made_by={"model": made_by}, whole=whole)
        return result, "".join(f"{line}\n" for line in lines)

    return answer


@pytest.fixture
def result_of(scenes):
    """Makes a result of rows (image, IoU in hundredths), or of outcomes; `changes` are those of its data."""

    def outcome(number, image, hundredths):
        return Outcome(
            id=f"{number:04}",
            reference=f"{number:04}",
            image=str(image),
            expression="the left cup" if number % 2 else "cup",
            present=hundredths is not None,
            intersection=hundredths or 0,
            union=100,
            found=100 if hundredths is None else hundredths,
            meant=0 if hundredths is None else 100,
            pixels=10_000,
            score=0.5,
            empty=hundredths == 0,
        )

    def result_of(rows, *, protocol="refseg", made_by="a model", **about):
        outcomes = [row if isinstance(row, Outcome) else outcome(i, *row) for i, row in enumerate(rows)]
        result = make_result(outcomes, scenes(), PROTOCOLS[protocol], made_by={"model": made_by}, whole=False)
        result.figures["data"] |= about
        return result

    return result_of
