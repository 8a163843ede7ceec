"""MCN: Multi-task Collaborative Network for Joint Referring Expression Comprehension and Segmentation.

Luo et al., CVPR 2020, arXiv 2003.08813. Sizes and order of the layers are those of the authors' code, luogen1996/MCN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from refseg.encoders.darknet import DarkNet, DarkNetConfig, ResidualBlock
from refseg.encoders.word_gru import WordGRU, WordGRUConfig, check_vocabulary
from refseg.errors import ConfigError
from refseg.inputs.preprocessing import Inputs
from refseg.inputs.words import LONGEST
from refseg.models.base import BoxModel, ModelSpec
from refseg.models.first_fusion import FirstFusion
from refseg.models.mcn.detection import ANCHOR_SIDE, DetectionBranch, best_box
from refseg.models.mcn.energy import ConsistencyEnergy
from refseg.models.mcn.segmentation import SegmentationBranch
from refseg.values import Decision

__all__ = ["MCN", "MCNConfig", "Tasks", "default_spec", "mcn", "mcn_compact"]

FROZEN = ("visual.stem", "visual.stages", *(f"visual.top.{number}" for number in range(4)))
"""The first 56 of DarkNet's 58 convolutions."""


@dataclass(frozen=True, kw_only=True)
class MCNConfig:
    """Sizes of an MCN."""

    vision: DarkNetConfig
    """The image encoder."""
    text: WordGRUConfig
    """The language encoder."""
    frozen: bool = True
    """Whether DarkNet stays as it was pretrained, but for its last two convolutions."""
    width: int = 512
    """Channels of both branches."""
    anchors: tuple[tuple[float, float], ...] = ((137.0, 256.0), (248.0, 272.0), (386.0, 271.0))
    """Width and height of the boxes that are refined, in pixels of a square of 416; they scale with the square."""

    def __post_init__(self) -> None:
        if self.width < 2 or self.width % 2 or self.text.width % 2:
            raise ConfigError(f"width ({self.width}) and text.width ({self.text.width}) must be even")
        if not self.anchors or min(side for anchor in self.anchors for side in anchor) <= 0:
            raise ConfigError("anchors must have positive sides")

    @property
    def anchor_count(self) -> int:
        """The number of anchors."""
        return len(self.anchors)


class Tasks(NamedTuple):
    """What the model computes for both tasks."""

    mask: Float[Tensor, "B 1 h w"]
    """Logits, at stride 8."""
    box: Float[Tensor, "B A5 h2 w2"]
    """Values of the anchors, at stride 32."""
    energy: Float[Tensor, "B"]
    """The consistency of both, 0..1."""


class MCN(BoxModel):
    """Two encoders, their first fusion, and a branch for each task, in the order of the paper's figure 2.

    The first fusion multiplies DarkNet's coarsest map by the sentence. What depends on the image alone is therefore
    DarkNet, the residual block above its coarsest map and the projections of its two finer ones; all else is computed
    for each expression.
    """

    family = "mcn"
    stride = 8
    config: MCNConfig
    anchors: Tensor

    def __init__(self, config: MCNConfig, inputs: Inputs, decision: Decision) -> None:
        super().__init__(config, inputs, decision)
        check_vocabulary(config.text, inputs)
        self.frozen_parts = FROZEN if config.frozen else ()
        debiased, channels, sentence = config.vision.debiased, config.vision.channels, config.text.width
        coarsest = channels[-1]
        self.visual = DarkNet(config.vision)
        self.text = WordGRU(config.text, inputs.word_length)
        self.refine = ResidualBlock(coarsest, debiased=debiased)
        self.fuse = FirstFusion(coarsest, sentence, debiased=debiased)
        self.segmentation = SegmentationBranch(channels, config.width, sentence, debiased=debiased)
        self.detection = DetectionBranch(coarsest, config.width, sentence, len(config.anchors), debiased=debiased)
        self.energy = ConsistencyEnergy(config.width)
        self.register_buffer("anchors", torch.tensor(config.anchors) / ANCHOR_SIDE, persistent=False)

    @staticmethod
    def side_step(config: MCNConfig) -> int:
        """Return the number of pixels that `image_size` must be a multiple of: the greatest stride."""
        return 32

    @staticmethod
    def longest_expression(config: MCNConfig) -> int:
        """Return the largest number of words that the model can read; its recurrent encoder sets no limit."""
        return LONGEST

    def encode_image(self, pixels: Float[Tensor, "N 3 S S"]) -> dict[str, Tensor]:
        """Compute everything that depends on the images alone: the maps `f0`, `f1` and `f2`, ready to be fused."""
        maps = self.visual(pixels)
        return {
            "f0": self.refine(maps.f0),
            "f1": self.segmentation.project1(maps.f1),
            "f2": self.segmentation.project2(maps.f2),
        }

    def encode_text(self, tokens: Int64[Tensor, "B L"], padding: Bool[Tensor, "B L"]) -> dict[str, Tensor]:
        """Return the features of the `sentence`."""
        return {"sentence": self.text(tokens, padding).sentence}

    def combine(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B 1 h w"]:
        """Compute the logits of the mask alone."""
        sentence = text["sentence"]
        fused = self.fuse(image["f0"], sentence)
        return self.segmentation(fused, image["f1"], image["f2"], sentence).logits  # type: ignore[no-any-return]

    def detect(
        self, image: Mapping[str, Tensor], text: Mapping[str, Tensor], padding: Bool[Tensor, "B L"]
    ) -> tuple[Float[Tensor, "B 1 h w"], Float[Tensor, "B 4"], Float[Tensor, "B"]]:
        """Return the logits of the masks, and the boxes with the highest scores (see `BoxModel`)."""
        tasks = self.tasks(image, text)
        return tasks.mask, *best_box(tasks.box, self.anchors)

    def tasks(self, image: Mapping[str, Tensor], text: Mapping[str, Tensor]) -> Tasks:
        """Compute what the loss needs: mask, box and consistency."""
        sentence = text["sentence"]
        fused = self.fuse(image["f0"], sentence)
        segmented = self.segmentation(fused, image["f1"], image["f2"], sentence)
        detected = self.detection(fused, segmented, sentence)
        return Tasks(segmented.logits, detected.logits, self.energy.energy(segmented.attended, detected.attended))


def mcn(**changes: Any) -> ModelSpec:
    """Return the published MCN, on DarkNet-53; without words, whose vectors are not part of it.

    Raises:
        ConfigError: A change is unknown or does not fit.
    """
    text = WordGRUConfig(vocabulary_size=1, gates="hard-sigmoid")
    return default_spec(MCNConfig(vision=DarkNetConfig(debiased=True), text=text)).changed(**changes)


def default_spec(config: MCNConfig) -> ModelSpec:
    """Return the spec of an MCN with the published preprocessing: 416 pixels, values of 0..1, 15 words."""
    inputs = Inputs(
        image_size=416,
        word_length=15,
        fit="pad-antialiased",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        tokenizer="words",
    )
    return ModelSpec(config=config, inputs=inputs, decision=Decision(threshold=0.35, box_weighting="soft"))


def mcn_compact(**changes: Any) -> ModelSpec:
    """Return a small MCN for generated scenes, which learns as a whole; without words."""
    config = MCNConfig(
        vision=DarkNetConfig(width=6, depths=(1, 1, 1, 1, 1), debiased=True),
        text=WordGRUConfig(vocabulary_size=1, vector_width=64, width=64, gates="hard-sigmoid"),
        frozen=False,
        width=64,
        anchors=((80.0, 80.0), (135.0, 135.0), (200.0, 200.0)),
    )
    return default_spec(config).changed(image_size=96, word_length=12).changed(**changes)
