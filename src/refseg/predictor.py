"""From an image and expressions to masks: load a model, encode an image once, ask as many expressions as needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, overload

import numpy as np

from refseg.config import to_dict
from refseg.errors import InputError
from refseg.inputs.preprocessing import Inputs
from refseg.inputs.read import ImageSource
from refseg.runtimes.base import Runtime
from refseg.values import Decision, Encoding, PatchMap, Prediction

if TYPE_CHECKING:
    from refseg.models.base import Model

__all__ = ["BUNDLED", "Predictor", "load"]

BUNDLED = "shapes"
"""The model that comes with the package."""
CHUNK = 16
"""Expressions computed together, which bounds the memory however many are asked."""


class Predictor:
    """A model ready to answer (see `values.Segmenter`); its methods may be called from several threads at once.

    Args:
        runtime: computes the model.
        inputs: the model's preprocessing.
        decision: how its scores become masks.
    """

    def __init__(self, runtime: Runtime, inputs: Inputs, decision: Decision) -> None:
        self.runtime, self.inputs, self.decision = runtime, inputs, decision

    @classmethod
    def from_model(cls, model: Model, device: str = "auto") -> Predictor:
        """Return a predictor of a PyTorch model, which is moved to the device and put into evaluation mode.

        Raises:
            ConfigError: the device is unknown, or the machine has none.
        """
        from refseg.runtimes.torch import TorchRuntime

        return cls(TorchRuntime(model, device), model.inputs, model.decision)

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        return self.runtime.device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of weights and preprocessing: encodings of the same fingerprint are interchangeable."""
        inputs = json.dumps(to_dict(self.inputs), sort_keys=True)
        return hashlib.sha256(f"{self.runtime.fingerprint} {inputs}".encode()).hexdigest()

    @overload
    def encode(self, images: list[ImageSource] | tuple[ImageSource, ...], /) -> list[Encoding]: ...
    @overload
    def encode(self, images: ImageSource, /) -> Encoding: ...
    def encode(self, images: ImageSource | list[ImageSource] | tuple[ImageSource, ...], /) -> Encoding | list[Encoding]:
        """Encode an image, or several at once: paths, PIL images, RGB uint8 arrays (H, W, 3), or open files.

        Returns:
            One encoding for an image; a list of them, in the same order, for a list or a tuple of images.

        Raises:
            ImageError: an image is missing, broken or too large.
        """
        if not isinstance(images, list | tuple):
            return self._encode([images])[0]
        return self._encode(images)

    def _encode(self, images: Sequence[ImageSource]) -> list[Encoding]:
        encodings = []
        for start in range(0, len(images), CHUNK):
            pixels, frames = zip(*(self.inputs.pixels(image) for image in images[start : start + CHUNK]), strict=True)
            arrays = self.runtime.encode(np.stack(pixels))
            encodings += [
                Encoding(self.fingerprint, frame, {name: array[i : i + 1] for name, array in arrays.items()})
                for i, frame in enumerate(frames)
            ]
        return encodings

    def segment(
        self, image: Encoding, expressions: Sequence[str], /, *, threshold: float | None = None
    ) -> list[Prediction]:
        """Segment the image region that each expression refers to.

        Args:
            image: from `encode`, of this predictor or of one with the same fingerprint.
            expressions: one text for each target, at any number.
            threshold: the probability above which a pixel is in the mask, between 0 and 1. It replaces the model's own
                decision, with its calibration, which was measured with other thresholds. By default the model's own.

        Returns:
            The predictions, in the order of the expressions.

        Raises:
            ExpressionError: an expression is blank or not text.
            InputError: the encoding is of another model.
            ConfigError: the threshold is out of range.
            WeightsError: the model computes probabilities that are not finite.
        """
        self._check(image)
        decision = self.decision if threshold is None else Decision(threshold=threshold)
        words = self.inputs.tokens(expressions)
        predictions: list[Prediction] = []
        for start in range(0, len(expressions), CHUNK):
            part = slice(start, start + CHUNK)
            scores = self.runtime.decode(image.arrays, words.tokens[part], words.padding[part])
            predictions += [
                Prediction(expression, row, image.frame, decision, truncated)
                for expression, row, truncated in zip(expressions[part], scores, words.truncated[part], strict=True)
            ]
        return predictions

    def ground(self, image: Encoding, expression: str, /) -> PatchMap:
        """Return the patch-level map of an expression, from a model that has one: RISCLIP, or plain CLIP.

        Raises:
            ExpressionError: the expression is blank or not text.
            InputError: the encoding is of another model.
            ConfigError: the model has no such map.
        """
        self._check(image)
        words = self.inputs.tokens([expression])
        cosines, scores = self.runtime.ground(image.arrays, words.tokens, words.padding)
        return PatchMap(expression, cosines[0], np.clip(image.frame.restore(scores[0]), 0, 1))

    def _check(self, image: Encoding) -> None:
        if image.fingerprint != self.fingerprint:
            raise InputError("this image was encoded by another model; encode it with the one that segments it")


def load(model: str | os.PathLike[str] = BUNDLED, device: str = "auto") -> Predictor:
    """Load a model: the bundled one, or one by its name in `refseg models`, its folder, or its Hub name `user/name`.

    Raises:
        UnknownNameError: there is no such model.
        WeightsError: it has no weights here, or they are broken.
        ConfigError: its config is broken, or the device is unknown or missing.
        DownloadError: it cannot be fetched.
    """
    from refseg.models.folder import load_model
    from refseg.models.hub import resolve

    return Predictor.from_model(load_model(resolve(model if isinstance(model, str) else Path(model))), device)
