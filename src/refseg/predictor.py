"""From an image and words to masks: load a model, encode an image once, ask as often as you like."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from refseg.errors import ConfigError, InputError
from refseg.inputs.clip_bpe import Tokenizer, check_expression
from refseg.inputs.read import Frame, ImageSource, letterbox, read_image
from refseg.models.base import Grounder, Segmenter
from refseg.models.folder import load_model, resolve
from refseg.models.grid import to_quarter
from refseg.values import PatchMap, Prediction

__all__ = ["BUNDLED", "Encoding", "Predictor", "load", "pick_device"]

BUNDLED = "shapes"
"""The model that comes with the package: it knows generated scenes, not photos."""
DEVICES = ("auto", "cpu", "cuda", "mps")
CHUNK = 16
"""Expressions computed together, which bounds the memory however many are asked."""


@dataclass(frozen=True, eq=False)
class Encoding:
    """An image as one model encoded it: hand it back to `Predictor.segment` with any words."""

    features: tuple[Tensor, ...]
    frame: Frame
    """The image's own size, and how it lies in the model's square."""
    predictor: Predictor


class Predictor:
    """A model ready to answer.

    Args:
        model: the model; it is moved to the device and put into evaluation mode.
        device: `auto` takes a CUDA GPU, else Apple's, else the processor.

    Raises:
        ConfigError: the device is unknown or not there.
    """

    def __init__(self, model: Segmenter, device: str = "auto") -> None:
        self.device = pick_device(device)
        # Convolutions on a CPU run up to twice as fast when the channels of a pixel lie together.
        self.model = model.to(device=self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.tokenizer = Tokenizer(model.config.word_length)

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str], device: str = "auto") -> Predictor:
        """Load a model by a zoo name, a model folder or a Hub name such as `user/name`.

        Raises:
            UnknownNameError, WeightsError, ConfigError, DownloadError: there is no such model, it is broken, or it
                cannot be fetched.
        """
        return cls(load_model(resolve(model if isinstance(model, str) else Path(model))), device)

    def push_to_hub(self, repo_id: str, *, private: bool = False) -> str:
        """Upload the model as a model folder to the Hugging Face Hub and return its address.

        Raises:
            DownloadError: the Hub cannot be reached or refuses.
        """
        import tempfile

        from refseg.models.folder import push_to_hub, save_model

        with tempfile.TemporaryDirectory() as folder:
            save_model(self.model, Path(folder) / "model")
            return push_to_hub(Path(folder) / "model", repo_id, private=private)

    @torch.inference_mode()
    def encode(self, image: ImageSource) -> Encoding:
        """Encode an image: a path, a PIL image, an RGB uint8 array (H, W, 3), or an open file.

        Raises:
            ImageError: it cannot be read as an image.
        """
        pixels, frame = letterbox(read_image(image), self.model.config.image_size)
        batch = pixels[None].to(self.device, memory_format=torch.channels_last)
        return Encoding(tuple(self.model.encode_image(batch)), frame, self)

    @torch.inference_mode()
    def segment(
        self, image: Encoding, expressions: Sequence[str], *, threshold: float | None = None
    ) -> list[Prediction]:
        """Find the pixels that each expression means, in their order.

        Args:
            image: what `encode` of this same predictor returned.
            expressions: the words, one text for each thing looked for.
            threshold: probability above which a pixel is in the mask, between 0 and 1; by the model's own rule if None.

        Raises:
            ExpressionError: an expression is blank or not text.
            InputError: the image was encoded by another predictor.
            ConfigError: the threshold is out of range.
        """
        self._check(image)
        if threshold is not None and not 0 < threshold < 1:
            raise ConfigError(f"threshold must lie between 0 and 1, got {threshold}")
        words = self.tokenizer([check_expression(expression) for expression in expressions])
        predictions: list[Prediction] = []
        for start in range(0, len(expressions), CHUNK):
            part = slice(start, start + CHUNK)
            logits = self.model.segment(
                image.features, words.tokens[part].to(self.device), words.padding[part].to(self.device)
            )
            # Probabilities are brought back, not logits: so does the reference. Cubic interpolation overshoots.
            probability = image.frame.restore(logits.float().sigmoid()).clamp_(0, 1).cpu().numpy()
            predictions += [
                Prediction(
                    expression,
                    row,
                    self._threshold(row) if threshold is None else threshold,
                    truncated,
                    self.model.config.calibration,
                )
                for expression, row, truncated in zip(
                    expressions[part], probability, words.truncated[part], strict=True
                )
            ]
        return predictions

    @torch.inference_mode()
    def ground(self, image: Encoding, expression: str) -> PatchMap:
        """Return the patch-level map of the expression, of a model that has one: RISCLIP, or plain CLIP.

        Args:
            image: what `encode` of this same predictor returned.
            expression: the words.

        Raises:
            ExpressionError: the expression is blank or not text.
            InputError: the image was encoded by another predictor.
            ConfigError: the model has no such map.
        """
        self._check(image)
        model = self.model
        if not isinstance(model, Grounder):
            raise ConfigError(f"a model of the family {model.family} has no patch-level map; risclip and clip-map do")
        words = self.tokenizer([check_expression(expression)])
        cosines = model.ground(image.features, words.tokens.to(self.device), words.padding.to(self.device))
        logits = to_quarter(model.map_logits(cosines).float(), model.config.image_size)
        probability = image.frame.restore(logits.sigmoid()).clamp_(0, 1)
        return PatchMap(expression, cosines[0].cpu().numpy(), probability[0].cpu().numpy())

    def _threshold(self, probability: Float[ndarray, "H W"]) -> float:
        """Return the threshold that the model's config asks for where these are the probabilities."""
        least: float = self.model.config.threshold
        share: float | None = self.model.config.relative_threshold
        highest = float(probability.max())
        return least if share is None or highest <= least else share * highest

    def _check(self, image: Encoding) -> None:
        if image.predictor is not self:
            raise InputError("this image was encoded by another predictor; encode it with the one that is asked")


def load(model: str | os.PathLike[str] = BUNDLED, device: str = "auto") -> Predictor:
    """Return a predictor: of the model that comes with the package, or of a zoo name, a model folder or a Hub name."""
    return Predictor.from_pretrained(model, device)


def pick_device(name: str) -> torch.device:
    """Return the device of a name; `auto` takes the fastest kind there is.

    Raises:
        ConfigError: the name is unknown, or the machine has no such device.
    """
    if name not in DEVICES:
        raise ConfigError(f"unknown device {name!r}; known are: {', '.join(DEVICES)}")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(kind for kind in ("cuda", "mps", "cpu") if there[kind])
    if not there[name]:
        raise ConfigError(f"this machine has no {name} device that PyTorch can use; take --device auto")
    return torch.device(name)
