"""How a photo becomes the pixels of another project's model, read from the JSON file beside it that says so.

The library's own image processors are not used: some need torchvision, which a PyTorch for the CPU may lack.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from PIL import Image

from refseg.errors import WeightsError, one_line

__all__ = ["Preparation"]

FILE = "preprocessor_config.json"
WITH_TOKENIZER = "processor_config.json"
"""Of SAM 3: the file of a processor of images and words, which has that of images in it."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """The resizing and the normalisation of photos."""

    size: Mapping[str, int]
    """`height` and `width`, or `longest_edge`, or this and `shortest_edge`, of which the smaller scale is taken."""
    mean: tuple[float, float, float]
    """Subtracted from RGB values in 0..1."""
    std: tuple[float, float, float]
    """What they are divided by."""
    resample: Image.Resampling

    @classmethod
    def read(cls, folder: Path) -> Preparation:
        """Read it from a model's folder.

        Raises:
            WeightsError: the file is missing, or states something else.
        """
        path = folder / FILE
        try:
            if path.is_file():
                stated: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            else:
                path = folder / WITH_TOKENIZER
                # The processor of SAM 3 resizes so where its file does not say how.
                stated = {"resample": Image.Resampling.BILINEAR} | json.loads(path.read_text(encoding="utf-8"))[
                    "image_processor"
                ]
            return cls(
                size={name: int(value) for name, value in stated["size"].items()},
                mean=_three(stated["image_mean"]),
                std=_three(stated["image_std"]),
                resample=Image.Resampling(stated["resample"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path}: is not what this version of refseg reads: {one_line(error)}") from None

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and the width at which an image of another size is seen.

        Source: the library's image processors of these models, which round each in its own way.
        """
        if "height" in self.size:
            return self.size["height"], self.size["width"]
        longest = self.size["longest_edge"]
        if "shortest_edge" not in self.size:
            scale = longest / max(height, width)
            return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        short, long = sorted((height, width))
        exact = min(self.size["shortest_edge"], longest * short / long)
        pair = (max(1, round(exact)), max(1, int(exact * long / short)))
        return pair if height <= width else pair[::-1]

    def pixels(self, image: Image.Image) -> Float[ndarray, "3 h w"]:
        """Return an RGB image resized and normalised, float32."""
        height, width = self.resized(image.height, image.width)
        values = np.asarray(image.resize((width, height), self.resample), dtype=np.float32) / 255
        normalised = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
