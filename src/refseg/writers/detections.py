"""The masks of an image as `supervision.Detections`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from refseg.errors import ConfigError
from refseg.masks import bounding_box
from refseg.writers.labelled import LabelledImage, expressions_of

if TYPE_CHECKING:
    from supervision import Detections

__all__ = ["detections"]


def detections(image: LabelledImage) -> Detections:
    """Return the regions of an image, with the expressions as `class_name`.

    Raises:
        ConfigError: supervision is not installed.
    """
    try:
        import supervision
    except ModuleNotFoundError:
        raise ConfigError("this needs supervision: pip install supervision") from None
    names = expressions_of([image])
    masks = np.stack([region.mask for region in image.regions])
    return supervision.Detections(
        xyxy=np.array([bounding_box(mask) or (0, 0, 0, 0) for mask in masks], dtype=np.float64),
        mask=masks,
        confidence=np.array([region.score for region in image.regions], dtype=np.float64),
        class_id=np.array([names.index(region.expression) for region in image.regions]),
        data={"class_name": np.array([region.expression for region in image.regions])},
    )
