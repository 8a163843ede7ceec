"""SAM (Kirillov et al., 2023) and SAM 2 (Ravi et al., 2024): the mask of what a box surrounds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refseg.peers.library import load_network
from refseg.peers.preparation import Preparation

__all__ = ["Sam", "Sam2"]

SUREST = 10.0
"""The logits of a draft lie within plus and minus this: those of hard masks would be infinite."""


class Sam:
    """Makes masks of boxes. The image is encoded once; a box takes the small mask decoder.

    Args:
        folder: with the files of the network.
        device: where it computes.

    Raises:
        ConfigError: the library is not installed.
        WeightsError: the files are broken.
    """

    network_kind: ClassVar[str] = "SamModel"

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.preparation = Preparation.read(folder)
        self.network = load_network(self.network_kind, folder, device)
        self.side = int(self.network.prompt_encoder.input_image_size)

    def encode(self, image: Image.Image) -> dict[str, Tensor]:
        """Return what the masks of an image are made of, by name; the first axis is one."""
        pixels = torch.from_numpy(self.preparation.pixels(image))[None].to(self.network.device)
        height, width = pixels.shape[-2:]
        # Of an image that keeps its proportions the right or the lower border is empty.
        square = F.pad(pixels, (0, self.side - width, 0, self.side - height))
        embeddings = self.network.get_image_embeddings(square)
        levels = embeddings if isinstance(embeddings, list) else [embeddings]
        return {f"level{number}": one for number, one in enumerate(levels)}

    def redraw(
        self, levels: Mapping[str, Tensor], words: str, box: Float[Tensor, "4"], draft: Float[Tensor, "H W"]
    ) -> Float[Tensor, "h w"]:
        """Return the logits of the object in a box whose mask a draft is (see `refine.MaskMaker`)."""
        height, width = draft.shape
        logits, _ = self.logits(levels, box[None], height, width, draft)
        return logits[0]

    def masks(
        self, levels: Mapping[str, Tensor], boxes: Float[Tensor, "n 4"], height: int, width: int
    ) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n"]]:
        """Return the probabilities of the pixels of each box's object, and the IoU that the model expects of them.

        As `logits`.
        """
        logits, expected = self.logits(levels, boxes, height, width)
        return logits.sigmoid(), expected

    def logits(
        self,
        levels: Mapping[str, Tensor],
        boxes: Float[Tensor, "n 4"],
        height: int,
        width: int,
        draft: Float[Tensor, "r c"] | None = None,
    ) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n"]]:
        """Return the logits of the pixels of each box's object, and the IoU that the model expects of its mask.

        Args:
            levels: of `encode`.
            boxes: (x0, y0, x1, y1) in fractions of the image.
            height: of the image, pixels.
            width: of the image, pixels.
            draft: logits of a mask to start from, of the image without border at any size; all boxes share it.

        Returns:
            Maps of the image without border, not of its proportions, and the expected IoU, 0..1.
        """
        seen_height, seen_width = self.preparation.resized(height, width)
        scale = boxes.new_tensor([seen_width, seen_height] * 2)
        kept = [levels[f"level{number}"] for number in range(len(levels))]
        found = self.network(
            image_embeddings=kept if len(kept) > 1 else kept[0],
            input_boxes=(boxes * scale)[None],
            input_masks=None if draft is None else self._low(draft, seen_height, seen_width),
            multimask_output=False,  # as a box is not ambiguous
        )
        logits = F.interpolate(found.pred_masks[0], (self.side, self.side), mode="bilinear", align_corners=False)[:, 0]
        return logits[:, :seen_height, :seen_width], found.iou_scores[0, :, 0].clamp(0, 1)

    def _low(self, draft: Float[Tensor, "r c"], height: int, width: int) -> Float[Tensor, "1 1 s s"]:
        """Return a draft at the low resolution in which the network reads masks; the border is no object.

        Args:
            draft: logits of the image without border.
            height: at which the network sees the image, pixels.
            width: at which the network sees the image, pixels.
        """
        low = 4 * self.network.prompt_encoder.image_embedding_size[0]
        size = tuple(max(1, round(side * low / self.side)) for side in (height, width))
        finite = draft.clamp(-SUREST, SUREST)[None, None]
        logits = F.interpolate(finite, size, mode="bilinear", align_corners=False, antialias=True)
        return F.pad(logits, (0, low - size[1], 0, low - size[0]), value=-SUREST)


class Sam2(Sam):
    """SAM 2 for images, whose embeddings have three levels; otherwise as SAM."""

    network_kind = "Sam2Model"
