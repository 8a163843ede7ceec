"""Renames the weights of the authors' code to ours and back, and infers an MCN's sizes from its weights.

The code is luogen1996/MCN, which stores Keras weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.darknet import infer_darknet
from refseg.encoders.word_gru import infer_word_gru
from refseg.errors import WeightsError
from refseg.models.keras_names import SHARED, blocks, convolution, dense, norm
from refseg.models.mcn.detection import VALUES
from refseg.models.mcn.model import MCNConfig

__all__ = ["NAMES", "infer_config"]


def _attention(first: int, norm_number: int, ours: str) -> dict[str, str]:
    parts = ("collect_key", "value", "distribute_key", "query")
    names: dict[str, str] = {}
    for offset, part in enumerate(parts):
        names |= dense(first + offset, f"{ours}.{part}")
    return names | norm(norm_number, f"{ours}.norm")


NAMES: Mapping[str, str] = {
    **SHARED,
    **blocks(61, 63, *(f"segmentation.{part}" for part in ("project1", "merge1", "project2", "merge2"))),
    **_attention(3, 67, "segmentation.attention"),
    **blocks(65, 68, *(f"segmentation.pyramid.{part}" for part in ("point", "dilated.0", "dilated.1", "dilated.2"))),
    **blocks(69, 72, "segmentation.pyramid.pooled"),
    **convolution(70, "segmentation.logit", bias=True),
    **blocks(71, 73, "detection.fine.0", "detection.fine.1", "detection.mix"),
    **blocks(74, 76, "detection.middle.0", "detection.middle.1", "detection.merge"),
    **_attention(7, 79, "detection.attention"),
    **convolution(77, "detection.logits", bias=True),
    **convolution(78, "energy.mask", bias=True),
    **convolution(79, "energy.box", bias=True),
}
"""Keras' names and ours."""


def infer_config(state: Mapping[str, Tensor]) -> MCNConfig:
    """Infer the sizes of an MCN from the shapes of its weights, under our names.

    They determine the number of anchors, but not their sides.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
        ConfigError: The sizes do not fit each other.
    """
    vision = infer_darknet(state, "visual.", debiased=True)
    text = infer_word_gru(state, "text.", gates="hard-sigmoid")
    try:
        outputs, width = state["detection.logits.weight"].shape[:2]
    except (KeyError, ValueError):
        raise WeightsError("these weights are not an MCN: 'detection.logits.weight' is missing or broken") from None
    published, count = MCNConfig.anchors, outputs // VALUES
    anchors = published if count == len(published) else published[:1] * count
    return MCNConfig(vision=vision, text=text, width=width, anchors=anchors)
