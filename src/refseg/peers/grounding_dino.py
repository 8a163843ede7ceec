"""Grounding DINO (Liu et al., 2023): boxes of what a phrase names, each with a score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from refseg.peers.library import load_network, load_tokenizer
from refseg.peers.preparation import Preparation

__all__ = ["GroundingDino"]

BOX_THRESHOLD = 0.25
"""Boxes of lower score are no answer: the default of the library's `post_process_grounded_object_detection`."""
MOST_BOXES = 20
"""Each gets a mask, so that their number is bounded."""
PHRASE_ENDS = str.maketrans(".?", "  ")
"""The model reads a sentence after a full stop or a question mark as another phrase to look for."""


class GroundingDino:
    """Finds boxes by an expression. What the image encoder computes is kept; words enter right after it.

    Args:
        folder: with the files of the network and its tokenizer.
        device: where it computes.

    Raises:
        ConfigError: the library is not installed.
        WeightsError: the files are broken.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self.preparation = Preparation.read(folder)
        self.tokenizer = load_tokenizer(folder)
        self.network = load_network("GroundingDinoForObjectDetection", folder, device)
        backbone = self.network.model.backbone
        self.image_encoder: nn.Module = backbone.conv_encoder.model
        self.kept = _KeptMaps()
        backbone.conv_encoder = self.kept

    def encode(self, image: Image.Image) -> dict[str, Tensor]:
        """Return the maps of the image encoder, by name; the first axis is one."""
        pixels = torch.from_numpy(self.preparation.pixels(image))[None].to(self.network.device)
        maps = self.image_encoder(pixels, return_dict=True).feature_maps
        return {f"map{level}": one for level, one in enumerate(maps)}

    def boxes(self, maps: Mapping[str, Tensor], expression: str) -> tuple[Float[Tensor, "n 4"], Float[Tensor, "n"]]:
        """Return boxes (x0, y0, x1, y1) in fractions of the image, best first, and their scores, 0..1.

        A score is that of the token of the expression that fits the box best, as in the model's own code.
        """
        tokens = self.tokenizer(
            self.prompt(expression), return_tensors="pt", truncation=True, max_length=self.network.config.max_text_len
        ).to(self.network.device)
        self.kept.maps = [maps[f"map{level}"] for level in range(len(maps))]
        # Of the pixels only the number of images is read, as their maps are kept.
        nothing = self.kept.maps[0].new_zeros((1, 3, 1, 1))
        found = self.network(pixel_values=nothing, **tokens)
        scores = found.logits[0].sigmoid().amax(dim=-1)
        best = scores.topk(min(MOST_BOXES, len(scores))).indices
        best = best[scores[best] > BOX_THRESHOLD]
        centre, size = found.pred_boxes[0, best].split(2, dim=-1)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1)
        return corners, scores[best]

    @staticmethod
    def prompt(expression: str) -> str:
        """Return an expression as the model was trained on it: one phrase in lower case, with a full stop."""
        return " ".join(expression.lower().translate(PHRASE_ENDS).split()) + "."

    def is_too_long(self, expression: str) -> bool:
        """Return whether the end of the expression is not read."""
        return len(self.tokenizer(self.prompt(expression)).input_ids) > int(self.network.config.max_text_len)


class _KeptMaps(nn.Module):
    """Stands in the network where its image encoder was, and returns what that has computed."""

    maps: list[Tensor]

    def forward(self, pixels: Tensor, mask: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return each map with a mask that says that all of it is image."""
        return [(one, one.new_ones((len(one), *one.shape[-2:]), dtype=torch.bool)) for one in self.maps]
