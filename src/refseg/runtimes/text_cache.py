"""Keeps the features of the expressions that were asked last, so that each is encoded once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeAlias

from jaxtyping import Bool, Int64
from numpy import ndarray
from torch import Tensor, stack
from torch.nn.utils.rnn import pad_sequence

__all__ = ["TextCache"]

CAPACITY = 256
"""Expressions, some tens of kilobytes each for the largest models."""
Features: TypeAlias = Mapping[str, Tensor]
Encode: TypeAlias = Callable[[ndarray, ndarray], Features]


class TextCache:
    """The features of at most 256 expressions; it may be used from several threads at once.

    Args:
        encode: Returns what `Model.encode_text` does, of tokens and padding.
    """

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._kept: OrderedDict[bytes, Features] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]) -> dict[str, Tensor]:
        """Return the features of expressions; those that are not kept are encoded together.

        Args:
            tokens: Of the expressions, padded to the longest of them.
            padding: True where a token is padding.
        """
        lengths = (~padding).sum(axis=1).tolist()
        keys = [row[:length].tobytes() for row, length in zip(tokens, lengths, strict=True)]
        with self._lock:
            found = {key: self._kept[key] for key in keys if key in self._kept}
        rows = {key: row for row, key in enumerate(keys) if key not in found}
        if rows:
            index = list(rows.values())
            encoded = self._encode(tokens[index], padding[index])
            for place, (key, row) in enumerate(rows.items()):
                found[key] = {name: _row(name, part, place, lengths[row]) for name, part in encoded.items()}
        with self._lock:
            for key in keys:
                self._kept[key] = found[key]
                self._kept.move_to_end(key)
            while len(self._kept) > CAPACITY:
                self._kept.popitem(last=False)
        chosen = [found[key] for key in keys]
        return {name: _joined(name, [features[name] for features in chosen]) for name in chosen[0]}


def _row(name: str, part: Tensor, place: int, length: int) -> Tensor:
    # Copied, as a view would keep all expressions that were encoded with it.
    return (part[place, :length] if name == "words" else part[place]).clone()


def _joined(name: str, rows: list[Tensor]) -> Tensor:
    return pad_sequence(rows, batch_first=True) if name == "words" else stack(rows)
