"""Renames the weights of the authors' code to ours and back, and infers a VLT's sizes from its weights.

The code is henghuiding/Vision-Language-Transformer, which stores Keras weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.clip_sizes import count_layers
from refseg.encoders.darknet import infer_darknet
from refseg.encoders.word_gru import infer_word_gru
from refseg.errors import WeightsError
from refseg.models.keras_names import SHARED, blocks, convolution, dense
from refseg.models.vlt.model import VLTConfig

__all__ = ["NAMES", "infer_config"]

LAYERS = 2
"""Blocks of the published transformer's encoder, and of its decoder."""


def _attention(layer: str, ours: str) -> dict[str, str]:
    parts = {"q": "query", "k": "key", "v": "value", "o": "output"}
    return {
        f"{layer}/{layer}_{kind}{letter}:0": f"{ours}.{part}.{value}"
        for letter, part in parts.items()
        for kind, value in (("W", "weight"), ("b", "bias"))
    }


def _norm(layer: str, ours: str) -> dict[str, str]:
    return {f"{layer}-Norm/gamma:0": f"{ours}.norm.weight", f"{layer}-Norm/beta:0": f"{ours}.norm.bias"}


def _feed_forward(layer: str, ours: str) -> dict[str, str]:
    return _norm(layer, f"{ours}.residual") | {
        f"{layer}/{layer}_{kind}{number}:0": f"{ours}.{part}.{value}"
        for number, part in ((1, "widen"), (2, "narrow"))
        for kind, value in (("W", "weight"), ("b", "bias"))
    }


def _transformer() -> dict[str, str]:
    names: dict[str, str] = {}
    for number in range(LAYERS):
        encoder, decoder = f"Encoder-{number + 1}", f"Decoder-{number + 1}"
        block = f"transformer.encoder.{number}"
        names |= _attention(f"{encoder}-MultiHeadSelfAttention", f"{block}.attention")
        names |= _norm(f"{encoder}-MultiHeadSelfAttention", f"{block}.attention_residual")
        names |= _feed_forward(f"{encoder}-FeedForward", f"{block}.feed_forward")
        block = f"transformer.decoder.{number}"
        for kind, part in (("Self", "self"), ("Query", "cross")):
            names |= _attention(f"{decoder}-MultiHead{kind}Attention", f"{block}.{part}_attention")
            names |= _norm(f"{decoder}-MultiHead{kind}Attention", f"{block}.{part}_residual")
        names |= _feed_forward(f"{decoder}-FeedForward", f"{block}.feed_forward")
    return names


NAMES: Mapping[str, str] = {
    **SHARED,
    **blocks(61, 63, *(f"fusion.{part}" for part in ("project1", "merge1", "project2", "merge2"))),
    **blocks(65, 67, *(f"fusion.{part}" for part in ("deepen.0", "deepen.1", "narrow", "merge0", "last"))),
    **blocks(70, 72, *(f"generate.convolutions.{number}" for number in range(3))),
    **convolution(73, "generate.maps", bias=True),
    **dense(3, "generate.of_image"),
    **dense(4, "generate.of_words"),
    **dense(5, "generate.query"),
    **dense(6, "generate.key"),
    **dense(7, "generate.value"),
    **_attention("multi_head_attention_1", "generate.attention"),
    **_transformer(),
    **dense(8, "balance.query"),
    **dense(9, "balance.response"),
    **dense(10, "balance.both"),
    **dense(11, "balance.weight"),
    **dense(12, "maps"),
    **blocks(74, 75, *(f"head.convolutions.{number}" for number in range(3))),
    **blocks(77, 78, *(f"head.enlarge.{number}" for number in range(3))),
    **convolution(80, "head.logit", bias=True),
}
"""Keras' names and ours."""


def infer_config(state: Mapping[str, Tensor]) -> VLTConfig:
    """Infer the sizes of a VLT from the shapes of its weights, under our names.

    The number of heads, which shapes do not determine, is the published one if it fits, else 1.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
        ConfigError: The sizes do not fit each other.
    """
    vision = infer_darknet(state, "visual.", debiased=False)
    text = infer_word_gru(state, "text.", gates="sigmoid")
    layers = count_layers(state, r"transformer\.encoder\.(\d+)\.")
    try:
        queries = len(state["generate.maps.weight"])
        width = len(state["balance.query.weight"])
        hidden = len(state["transformer.encoder.0.feed_forward.widen.weight"])
    except KeyError as error:
        raise WeightsError(f"these weights are not a VLT: {error.args[0]!r} is missing") from None
    except TypeError:
        raise WeightsError("these weights are not a VLT: a matrix is a single number") from None
    heads = VLTConfig.heads if width % VLTConfig.heads == 0 else 1
    return VLTConfig(vision=vision, text=text, queries=queries, width=width, layers=layers, heads=heads, hidden=hidden)
