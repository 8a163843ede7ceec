"""SAM 3 (Carion et al., 2025): all objects that a noun phrase names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from refseg.inputs.frame import Frame
from refseg.peers.base import Found, Peer, several
from refseg.peers.library import load_network, load_tokenizer, transformers
from refseg.peers.preparation import Preparation
from refseg.peers.table import PeerEntry
from refseg.values import Decision

__all__ = ["Sam3", "Sam3Choice", "Sam3Network"]

INSTANCE_THRESHOLD = 0.3
"""Objects of lower score are no answer: the default of the library's `post_process_instance_segmentation`."""
MOST_OBJECTS = 20
"""The best of so many are kept, so that the memory of their masks is bounded."""


class Sam3Network:
    """Finds objects by words. The image is encoded once.

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
        self.network = load_network("Sam3Model", folder, device)
        self.longest = int(self.network.config.text_config.max_position_embeddings)

    def encode(self, image: Image.Image) -> dict[str, Tensor]:
        """Return the maps of the image encoder that the rest of the network reads, by name; the first axis is one."""
        pixels = torch.from_numpy(self.preparation.pixels(image))[None].to(self.network.device)
        levels = self.network.get_vision_features(pixels).fpn_hidden_states
        return {f"level{number}": one for number, one in enumerate(levels[:-1])}  # the last one is not read

    def objects(self, levels: Mapping[str, Tensor], words: str) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n"]]:
        """Return the logits of the pixels of each object that words name, best first, and the objects' scores, 0..1.

        A map is of the whole image, not of its proportions. `levels` are those of `encode`.
        """
        words = " ".join(words.split())
        tokens = self.tokenizer(
            words, return_tensors="pt", padding="max_length", truncation=True, max_length=self.longest
        ).to(self.network.device)
        found = self.network(
            vision_embeds=self._vision(levels), input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
        )
        scores = found.pred_logits[0].sigmoid() * found.presence_logits[0].sigmoid()
        best = scores.topk(min(MOST_OBJECTS, len(scores))).indices
        best = best[scores[best] > INSTANCE_THRESHOLD]
        return found.pred_masks[0, best], scores[best]

    def is_too_long(self, words: str) -> bool:
        """Return whether the end of a phrase is not read."""
        return len(self.tokenizer(words).input_ids) > self.longest

    def _vision(self, levels: Mapping[str, Tensor]) -> Any:
        """Return maps as the network takes them from its image encoder, with the positions that it computes."""
        kept = [levels[f"level{number}"] for number in range(len(levels))]
        encode = self.network.vision_encoder.neck.position_encoding
        positions = [encode(one.shape, one.device, one.dtype) for one in kept]
        output = transformers().models.sam3.modeling_sam3.Sam3VisionEncoderOutput
        # The network leaves out the last level itself.
        return output(fpn_hidden_states=(*kept, kept[-1]), fpn_position_encoding=(*positions, positions[-1]))


class Sam3(Peer):
    """SAM 3 as a model of its own: an expression is a noun phrase, and all objects that it names are the answer.

    Args:
        entry: of the table.
        network: finds objects.
        device: where it computes.
        decision: how its scores become masks.
    """

    def __init__(self, entry: PeerEntry, network: Sam3Network, device: torch.device, decision: Decision) -> None:
        super().__init__(entry, device, decision)
        self.network = network

    def look(self, image: Image.Image) -> dict[str, Tensor]:
        """Return what the network computes from an RGB image alone."""
        return self.network.encode(image)

    def find(self, seen: Mapping[str, Tensor], frame: Frame, expressions: Sequence[str]) -> Iterator[Found]:
        """Yield the answer to each expression."""
        for expression in expressions:
            logits, scores = self.network.objects(seen, expression)
            yield several(logits.sigmoid(), scores, self.network.is_too_long(expression))


class Sam3Choice(Sam3Network):
    """SAM 3 as a maker of sharper masks (see `refine.MaskMaker`): a mask chooses, by IoU, among the objects found.

    SAM 3 hardly reads words for positions and relations, but finds the objects that the other words name.
    """

    def redraw(
        self, levels: Mapping[str, Tensor], words: str, box: Float[Tensor, "4"], draft: Float[Tensor, "H W"]
    ) -> Float[Tensor, "h w"]:
        """Return the logits of the object whose mask has the highest IoU with a draft's; of none, only background."""
        logits, _ = self.objects(levels, words)
        if not len(logits):
            return logits.new_full((1, 1), -torch.inf)
        wanted = F.interpolate(draft.clamp(-1, 1)[None, None], logits.shape[-2:], mode="area")[0, 0] > 0
        return logits[_ious(logits > 0, wanted).argmax()]


def _ious(masks: Bool[Tensor, "n h w"], wanted: Bool[Tensor, "h w"]) -> Float[Tensor, "n"]:
    shared = (masks & wanted).sum(dim=(1, 2))
    return shared / (masks | wanted).sum(dim=(1, 2)).clamp(min=1)
