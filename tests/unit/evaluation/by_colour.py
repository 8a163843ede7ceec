"""A second implementation of the protocol `Segmenter`, in NumPy alone, and data that it can answer.

It answers expressions by the colour that they name: pixels of the image that are close to the colour get the
probability 0.9, the first row of the model's square 0.42, all others 0.02.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from refseg.inputs.frame import letterbox
from refseg.inputs.read import read_image
from refseg.values import Decision, Encoding, Expression, Prediction, Sample

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220)}
SIZE = 48


class ByColour:
    """A segmenter that is not a refseg model."""

    device = "cpu"
    runtime_name = "numpy"  # `predict` records it
    domain = None
    fingerprint = "by colour"

    def __init__(self, decision=Decision(threshold=0.35)):  # noqa: B008
        self.decision = decision

    def encode(self, images, /):
        pairs = [letterbox(read_image(image), SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)) for image in images]
        return [Encoding(self.fingerprint, frame, {"pixels": pixels}) for pixels, frame in pairs]

    def segment(self, image, expressions, /):
        return [Prediction(one, self.scores(image, one), image.frame, self.decision) for one in expressions]

    def scores(self, image, expression):
        (colour,) = [value for name, value in COLOURS.items() if name in expression.split()] or [(999, 999, 999)]
        distance = np.abs(image.arrays["pixels"] - np.array(colour)[:, None, None] / 255).max(axis=0)
        scores = np.where(distance < 0.2, 0.9, 0.02).astype(np.float32)
        scores[0] = 0.42
        return scores


class Squares:
    """Square images with a red and a blue square; of the other expressions nothing fits one."""

    name, split, skipped_count = "squares", "val", 0

    def __init__(self, num_images=4, side=48, offset=0):
        self.num_images, self.side, self.offset = num_images, side, offset

    def notes(self):
        return ()

    def objects(self, index):
        masks = np.zeros((2, self.side, self.side), dtype=bool)
        masks[0, 10:30, 4 : 14 + index % 8], masks[1, 20:40, 30:44] = True, True
        return masks

    def files(self):
        return {}

    def image(self, index):
        pixels = np.full((self.side, self.side, 3), 90, dtype=np.uint8)
        for mask, colour in zip(self.objects(index), ("red", "blue"), strict=True):
            pixels[mask] = COLOURS[colour]
        return Image.fromarray(pixels)

    def samples_of(self, index):
        def sample(number, texts, target, **attributes):
            id = f"{index}/{number}"
            return Sample(
                id=id,
                image_id=f"{index:03}.png",
                expressions=tuple(
                    Expression(text=text, id=f"{id}/{place}", attributes={"style": style})
                    for place, (text, style) in enumerate(texts.items())
                ),
                load_image=lambda: self.image(index),
                load_mask=None if target is None else lambda: self.objects(index)[target],
                target_object=target,
                split=self.split,
                source=self.name,
                attributes={"distractors": 1, **attributes},
            )

        return (
            sample(0, {"red": "terse", "the red square": "plain"}, 0, held_out=False),
            sample(1, {"blue one": "plain"}, 1, held_out=True),
            sample(2, {"green square": "plain"}, None, held_out=False),
        )

    def totals(self):
        return {"images": self.num_images, "references": 3 * self.num_images, "expressions": 4 * self.num_images}

    def digest(self):
        return f"squares {self.num_images}"
