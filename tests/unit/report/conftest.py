"""What tests of reports share: small scenes, and results of them or of outcomes with given IoUs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from refseg.evaluation.metrics import Outcome, count
from refseg.evaluation.protocols import PROTOCOLS
from refseg.evaluation.result import make_result
from refseg.masks import encode_rle
from refseg.values import Expression, Sample

HEIGHT, WIDTH = 40, 60


class Scenes:
    """Images with a target on the left, one on the right, and an expression that fits nothing."""

    name, split, skipped_count = "scenes", "val", 0

    def __init__(self, num_images=2, text="the left cup"):
        self.num_images, self.text = num_images, text

    def samples_of(self, index):
        def sample(number, texts, mask):
            return Sample(
                id=f"{index}/{number}",
                image_id=str(index),
                expressions=tuple(
                    Expression(text=text, id=f"{index}/{number}/{place}") for place, text in enumerate(texts)
                ),
                load_image=lambda: Image.new("RGB", (WIDTH, HEIGHT), (40 * index % 256, 120, 90)),
                load_mask=None if mask is None else lambda: mask,
                split=self.split,
                source=self.name,
                attributes={"distractors": 1},
            )

        left, right = np.zeros((2, HEIGHT, WIDTH), dtype=bool)
        left[5:35, 2:26], right[5:35, 34:58] = True, True
        return (
            sample(0, (self.text, f"{self.text}, really the one on the left"), left),
            sample(1, ("right cup",), right),
            sample(2, ("a plate",), None),
        )

    def totals(self):
        return {"images": self.num_images, "references": 3 * self.num_images, "expressions": 4 * self.num_images}

    def digest(self):
        return "digest of scenes"

    def objects(self, index):
        return None

    def files(self):
        return {}

    def notes(self):
        return ()


@pytest.fixture
def scenes():
    """Makes a data set of scenes: `scenes(num_images=2, text="the left cup")`."""
    return Scenes


@pytest.fixture
def answer():
    """Scores a data set by a function of sample and index that returns a mask; also the file of its predictions."""

    def answer(data, mask_of, *, protocol="refseg", whole=True, made_by="a model"):
        outcomes, lines = [], []
        for image in range(data.num_images):
            for sample in data.samples_of(image):
                target = None if sample.load_mask is None else sample.load_mask()
                for index, expression in enumerate(sample.expressions):
                    mask = mask_of(sample, index)
                    outcomes.append(
                        Outcome(
                            id=expression.id,
                            reference=sample.id,
                            image=sample.image_id,
                            expression=expression.text,
                            present=target is not None,
                            score=0.75 if mask.any() else 0.0,
                            empty=not mask.any(),
                            attributes=sample.attributes,
                            **count(mask, target),
                        )
                    )
                    lines.append(json.dumps({"sent_id": expression.id, "rle": encode_rle(mask), "score": 0.75}))
        result = make_result(outcomes, data, PROTOCOLS[protocol], made_by={"model": made_by}, whole=whole)
        return result, "".join(f"{line}\n" for line in lines)

    return answer


@pytest.fixture
def result_of(scenes, make_outcome):
    """Makes a result of rows (image, IoU in hundredths); `changes` are those of its data."""

    def result_of(rows, *, protocol="refseg", made_by="a model", **changes):
        outcomes = [make_outcome(number, *row) for number, row in enumerate(rows)]
        result = make_result(outcomes, scenes(), PROTOCOLS[protocol], made_by={"model": made_by}, whole=False)
        result.figures["data"] |= changes
        return result

    return result_of
