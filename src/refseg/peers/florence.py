"""Florence-2 (Xiao et al., 2024): reads an expression and writes the polygons of what it refers to, token by token."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from refseg.inputs.frame import Frame
from refseg.masks import polygon_mask
from refseg.peers.base import Found, Peer, size_in_square
from refseg.peers.library import load_network, load_tokenizer, transformers
from refseg.peers.preparation import Preparation
from refseg.peers.table import PeerEntry
from refseg.values import Decision

__all__ = ["Florence", "polygons"]

PROMPT = "Locate {} in the image with mask"
"""Of the task `<REFERRING_EXPRESSION_SEGMENTATION>`."""
LOCATION = re.compile(r"<loc_(\d+)>")
BINS = 1000
"""A location token is one of these positions along the width or the height."""
CHUNK = 8
"""Expressions computed together, which bounds the memory however many are asked."""


class Florence(Peer):
    """Florence-2. The image is encoded once; each expression takes the text encoder and a token at a time.

    The model answers every expression. The probability that an answer is right is taken to be the mean probability
    (geometric) of the tokens that it wrote.

    Args:
        entry: of the table.
        folder: with the files of the network and its tokenizer.
        device: where it computes.
        decision: how its scores become masks.

    Raises:
        ConfigError: the library is not installed.
        WeightsError: the files are broken.
    """

    def __init__(self, entry: PeerEntry, folder: Path, device: torch.device, decision: Decision) -> None:
        super().__init__(entry, device, decision)
        self.preparation = Preparation.read(folder)
        self.tokenizer = load_tokenizer(folder)
        self.network = load_network("Florence2ForConditionalGeneration", folder, device)
        self.longest = int(self.network.config.text_config.max_position_embeddings)

    def look(self, image: Image.Image) -> dict[str, Tensor]:
        """Return the tokens of an RGB image, as the text encoder reads them."""
        pixels = torch.from_numpy(self.preparation.pixels(image))[None].to(self._device)
        return {"image": self.network.get_image_features(pixels).pooler_output}

    def find(self, seen: Mapping[str, Tensor], frame: Frame, expressions: Sequence[str]) -> Iterator[Found]:
        """Yield the answer to each expression."""
        height, width = size_in_square(frame)
        for start in range(0, len(expressions), CHUNK):
            part = [PROMPT.format(" ".join(expression.split())) for expression in expressions[start : start + CHUNK]]
            for tokens, score, truncated in self._written(seen["image"], part):
                corners = [(np.reshape(one, (-1, 2)) * (width, height)).ravel().tolist() for one in polygons(tokens)]
                mask = polygon_mask(corners, size=(height, width))
                probabilities = torch.from_numpy(mask.astype(np.float32)) if mask.any() else None
                yield Found(probabilities, score if mask.any() else 0.0, truncated)

    def _written(self, image: Tensor, prompts: Sequence[str]) -> Iterator[tuple[list[str], float, bool]]:
        """Yield the tokens that the model writes for each prompt, their mean probability, and whether it was cut."""
        most = self.longest - image.shape[1]
        truncated = [len(ids) > most for ids in self.tokenizer(list(prompts)).input_ids]
        words = self.tokenizer(
            list(prompts), padding=True, truncation=True, max_length=most, padding_side="right", return_tensors="pt"
        ).to(self._device)
        text = self.network.get_input_embeddings()(words.input_ids)
        sequence = torch.cat([image.expand(len(prompts), -1, -1), text], dim=1)
        attention = torch.cat(
            [words.attention_mask.new_ones(sequence.shape[0], image.shape[1]), words.attention_mask], 1
        )
        encoder = self.network.model.language_model.get_encoder()
        states = encoder(inputs_embeds=sequence, attention_mask=attention).last_hidden_state
        output = transformers().modeling_outputs.BaseModelOutput
        # `generate` repeats the states in what it is given, once for each beam.
        written = self.network.generate(
            encoder_outputs=output(states), attention_mask=attention, max_length=self.longest, do_sample=False
        )
        # Read once more for the probabilities: what beam search returns are scores of beams.
        logits = self.network(
            encoder_outputs=output(states), attention_mask=attention, decoder_input_ids=written[:, :-1]
        ).logits
        chosen = logits.log_softmax(dim=-1).gather(-1, written[:, 1:, None])[..., 0]
        real = written[:, 1:] != self.network.config.text_config.pad_token_id
        means = ((chosen * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)).exp()
        for ids, mean, cut in zip(written.tolist(), means.tolist(), truncated, strict=True):
            # The network may have numbers for which the tokenizer has no token.
            yield [token or "" for token in self.tokenizer.convert_ids_to_tokens(ids)], min(1.0, mean), cut


def polygons(tokens: Sequence[str]) -> list[list[float]]:
    """Return the polygons of an answer, each x, y, x, y... in fractions of the image.

    Consecutive location tokens are a polygon; any other token ends it. Fewer than three corners are none.
    """
    found: list[list[float]] = [[]]
    for token in tokens:
        if match := LOCATION.fullmatch(token):
            found[-1].append((int(match[1]) + 0.5) / BINS)
        elif found[-1]:
            found.append([])
    return [one[: len(one) // 2 * 2] for one in found if len(one) >= 6]
