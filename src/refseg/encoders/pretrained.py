"""Loads CLIP's pretrained weights into a model's encoders, and identifies them by a fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from refseg.encoders.clip_resnet import ModifiedResNet
from refseg.encoders.clip_sizes import CLIP_SIZES, ClipSizes, infer_resnet, infer_text, infer_vit
from refseg.encoders.clip_text import TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError, WeightsError

__all__ = [
    "CONNECT",
    "ClipSource",
    "Encoders",
    "adopt_encoders",
    "encoder_weights",
    "fingerprint",
    "in_a_model",
    "load_encoders",
    "load_text_encoder",
]

CONNECT = "attnpool.connect."
"""The layer that CRIS adds to CLIP's attention pool."""


class ClipSource(NamedTuple):
    """The CLIP that a model's encoders were loaded from."""

    name: str
    """OpenAI's name, or the path of its file or folder."""
    sha256: str
    """Its fingerprint."""


@runtime_checkable
class Encoders(Protocol):
    """A model with both of CLIP's encoders."""

    @property
    def visual(self) -> ModifiedResNet | VisionTransformer:
        """The image encoder."""

    @property
    def text(self) -> TextTransformer:
        """The text encoder."""


def load_encoders(model: Encoders, state: Mapping[str, Tensor]) -> None:
    """Load CLIP's weights into both encoders of a model; all names and shapes have to match.

    The layer that CRIS adds to the image encoder keeps its weights. Counters of batches may be missing.

    Args:
        model: A model whose encoders have the sizes of the weights.
        state: Weights under OpenAI's names, as `read_clip` returns them.

    Raises:
        WeightsError: Names or shapes differ; the message names the CLIP that the weights seem to be.
    """
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    if not visual:
        raise WeightsError("these weights have no image encoder: no name starts with 'visual.'")
    own = encoder_weights(model)
    if (given := _image_encoder(state)) != (needed := _image_encoder(own)):
        fits = _describe(own, otherwise="another CLIP")
        raise WeightsError(f"{_describe(state)} ({given}) does not fit this model, which takes {fits} ({needed})")
    _load(model.visual, visual, state)
    load_text_encoder(model.text, state)


def load_text_encoder(text: TextTransformer, state: Mapping[str, Tensor]) -> None:
    """Load CLIP's weights into a text encoder; those of an image encoder are ignored.

    Raises:
        WeightsError: Names or shapes differ.
    """
    _load(text, {key: value for key, value in state.items() if not key.startswith("visual.")}, state)


def adopt_encoders(model: Encoders, state: Mapping[str, Tensor], name: str) -> ClipSource:
    """Load CLIP's weights into both encoders of a model (see `load_encoders`), and return which CLIP it is.

    Raises:
        WeightsError: Names or shapes differ.
    """
    load_encoders(model, state)
    return ClipSource(name, fingerprint(state))


def in_a_model(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return CLIP's weights under the names of a model; OpenAI's names of the text encoder have no prefix."""
    return {key if key.startswith("visual.") else f"text.{key}": value for key, value in state.items()}


def encoder_weights(model: Encoders) -> dict[str, Tensor]:
    """Return the weights of a model's encoders under OpenAI's names."""
    visual = {f"visual.{key}": value for key, value in model.visual.state_dict().items()}
    return visual | model.text.state_dict()


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 that identifies a pair of encoders, independently of the kind of file.

    It covers names, shapes and values, in float32 and in the order of the names. The logit scale, counters of batches
    and the layer that CRIS adds are left out, since CLIP's features do not depend on them.

    Args:
        state: Weights under OpenAI's names, as `read_clip` and `encoder_weights` return them.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name == "logit_scale" or name.endswith("num_batches_tracked") or CONNECT in name:
            continue
        values = state[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def _load(encoder: nn.Module, given: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    """Load weights into an encoder; `whole` is the CLIP that they are from, for the error message."""
    needed = encoder.state_dict()
    optional = {key for key in needed if key.startswith(CONNECT) or key.endswith("num_batches_tracked")}
    shapes = {key for key in given.keys() & needed.keys() if given[key].shape != needed[key].shape}
    for what, keys in (
        ("missing", needed.keys() - given.keys() - optional),
        ("unexpected", given.keys() - needed.keys()),
        ("of another shape", shapes),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise WeightsError(
                f"{_describe(whole)} does not fit this model: {what} are {', '.join(sorted(keys)[:3])}{more}"
            )
    encoder.load_state_dict(given, strict=False)


def _image_encoder(state: Mapping[str, Tensor]) -> str:
    """Return the kind of image encoder that weights belong to."""
    is_vit = any(key.startswith(("visual.proj", "visual.class_embedding")) for key in state)
    return "a vision transformer" if is_vit else "a ResNet"


def _describe(state: Mapping[str, Tensor], otherwise: str = "this file") -> str:
    """Return the name of the CLIP that weights seem to be, or its sizes."""
    try:
        vision = infer_resnet(state) if _image_encoder(state) == "a ResNet" else infer_vit(state)
        sizes = ClipSizes(vision=vision, text=infer_text(state))
    except (WeightsError, ConfigError):
        return otherwise
    names = [name for name, known in CLIP_SIZES.items() if known == sizes]
    if names:
        return f"CLIP's {names[0]}"
    layers = vision.layers if isinstance(vision, ViTConfig) else list(vision.layers)
    return f"a CLIP of width {vision.width} and layers {layers}"
