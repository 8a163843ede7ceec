"""Computes a model with PyTorch, on a processor or a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from refseg.errors import ConfigError, one_line
from refseg.models.base import AttentionModel, BoxModel, Model, PatchMapModel
from refseg.runtimes.base import Arithmetic, Detections, shortened
from refseg.runtimes.convolutions import tile_convolutions, upsample_after_mixing
from refseg.runtimes.prepare import prepare, round_factors
from refseg.runtimes.text_cache import TextCache
from refseg.values import WordSource

__all__ = ["TorchRuntime", "has_bfloat16", "pick_device"]

FEATURES_AT_ONCE = 2**24
"""Bytes of the features of an image, times the number of expressions, that are computed together on a processor.

Larger maps are slower, as the C library gives their memory back to the system after each use.
"""


class TorchRuntime:
    """A model on a device, in evaluation mode (see `runtimes.base.Runtime`).

    Args:
        model: it is moved to the device and put into evaluation mode; it must not be changed while this is used.
        device: see `pick_device`.
        compiled: whether `torch.compile` compiles it at first use, which takes minutes and needs a C++ compiler.

    Raises:
        ConfigError: the device is unknown, or the machine has none.
    """

    name = "torch"
    """Of the runtime, as in `refseg.load`."""

    def __init__(self, model: Model, device: str | torch.device = "auto", *, compiled: bool = False) -> None:
        self._device = pick_device(device)
        # Convolutions on a CPU run up to twice as fast when the channels of a pixel lie together.
        self.model = model.to(device=self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self._fast = False
        self._encode, self._combine = model.encode_image, model.combine
        if compiled:
            self._encode, self._combine = _compiled(self._encode), _compiled(self._combine)
        self._texts = TextCache(lambda *text: self.model.encode_text(*map(self._tensor, text)))

    @classmethod
    def of_own(
        cls,
        model: Model,
        device: str | torch.device = "auto",
        *,
        precision: Arithmetic = "exact",
        compiled: bool = False,
    ) -> TorchRuntime:
        """Return a runtime that changes the model so that it computes with less work (see `runtimes.prepare`).

        Raises:
            ConfigError: the device is unknown, the machine has none, or it has no arithmetic of this precision.
        """
        place = pick_device(device)
        if precision not in ("exact", "fast"):
            raise ConfigError(f"precision is exact or fast, got {precision!r}")
        if precision == "fast" and not has_bfloat16(place):
            raise ConfigError(f"the device {place} has no bfloat16 arithmetic, so that fast is slow; take exact")
        identity = _fingerprint(model)
        prepare(model)
        if place.type == "cpu" and not compiled:  # a compiler chooses its own form
            upsample_after_mixing(model)
            if precision == "exact":  # tiles amplify the rounding of bfloat16
                tile_convolutions(model)
        if precision == "fast":
            round_factors(model)
            identity = hashlib.sha256(f"{identity} bfloat16".encode()).hexdigest()
        runtime = cls(model, place, compiled=compiled)
        runtime.fingerprint, runtime._fast = identity, precision == "fast"
        return runtime

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        return str(self._device)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights' names, shapes and values, and of the model's config; computed at first use."""
        return _fingerprint(self.model)

    @property
    def word_source(self) -> WordSource | None:
        """What tells where each word looks: attention, or patch-level maps; None: the model has neither."""
        if isinstance(self.model, AttentionModel) and self.model.attends:
            return "attention"
        return "patches" if isinstance(self.model, PatchMapModel) else None

    def encode(self, pixels: Float[ndarray, "N 3 S S"]) -> dict[str, ndarray]:
        """Compute all that depends on the images alone."""
        with self._computing():
            batch = torch.from_numpy(pixels).to(self._device, memory_format=torch.channels_last)
            return {name: value.float().cpu().numpy() for name, value in self._encode(batch).items()}

    def decode(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B h w"]:
        """Return the logits of B expressions about one image."""
        tokens, padding = shortened(tokens, padding)
        groups = self._groups(image, len(tokens))
        with self._computing():
            features = self._image(image)
            texts = {name: value.tensor_split(groups) for name, value in self._texts(tokens, padding).items()}
            logits = [
                self._combine(features, dict(zip(texts, text, strict=True)), mask)
                for *text, mask in zip(*texts.values(), self._tensor(padding).tensor_split(groups), strict=True)
            ]
            return np.asarray(torch.cat(logits)[:, 0].float().cpu().numpy())

    def detect(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Detections | None:
        """Return logits and boxes; None: the model detects none."""
        model = self.model
        if not isinstance(model, BoxModel):
            return None
        with self._computing():
            found = model.detect(self._image(image), self._texts(tokens, padding), self._tensor(padding))
            logits, boxes, scores = (part.float().cpu().numpy() for part in found)
            return Detections(logits[:, 0], boxes, scores)

    def ground(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> tuple[Float[ndarray, "B g g"], Float[ndarray, "B h w"]] | None:
        """Return the patch-level map: cosines, and logits by the map alone; None: the model has no such map."""
        model = self.model
        if not isinstance(model, PatchMapModel):
            return None
        with self._computing():
            cosines, logits = model.patch_map(self._image(image), self._tensor(tokens), self._tensor(padding))
            return cosines.float().cpu().numpy(), logits[:, 0].cpu().numpy()

    def attend(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B _ g g"]:
        """Return how much each cell attends to each token, 0..1, without tokens after the longest expression."""
        model = self.model
        assert isinstance(model, AttentionModel)
        tokens, padding = shortened(tokens, padding)
        with self._computing():
            _, attention = model.attend(self._image(image), self._texts(tokens, padding), self._tensor(padding))
            return attention.cpu().numpy()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
            yield

    def _groups(self, image: Mapping[str, ndarray], expressions: int) -> int:
        """Return the number of groups in which expressions are computed (see `FEATURES_AT_ONCE`)."""
        if self._device.type != "cpu":
            return 1
        together = max(1, FEATURES_AT_ONCE // sum(array.nbytes for array in image.values()))
        return max(1, -(-expressions // together))

    def _image(self, arrays: Mapping[str, ndarray]) -> dict[str, Tensor]:
        # Copied, as PyTorch has no read-only tensors.
        tensors = {name: torch.tensor(array, device=self._device) for name, array in arrays.items()}
        return {
            name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for name, value in tensors.items()
        }

    def _tensor(self, array: ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def pick_device(device: str | torch.device) -> torch.device:
    """Return a device by its name, such as `cuda:1`; `auto` takes a CUDA GPU, else Apple's, else the processor.

    Raises:
        ConfigError: the name is unknown, or the machine has no such device.
    """
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available()), "cpu": 1}
    if device == "auto":
        return torch.device(next(kind for kind, count in there.items() if count))
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError):
        place = None
    if place is None or place.type not in there:
        raise ConfigError(f"unknown device {str(device)!r}; known are: auto, cpu, cuda, cuda:1 and so on, mps")
    if (place.index or 0) >= there[place.type]:
        raise ConfigError(f"this machine has no {place} device that PyTorch can use; take the device auto")
    return place


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies numbers of bfloat16 faster than those of float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # PyTorch names no public function for this in its oldest supported version.
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that is compiled at its first call."""
    compiled = torch.compile(function)

    def call(*arguments: Any) -> Any:
        try:
            return compiled(*arguments)
        except torch._dynamo.exc.TorchDynamoException as error:
            raise ConfigError(f"this model cannot be compiled here, load it without: {one_line(error)}") from None

    return call


def _fingerprint(model: Model) -> str:
    digest = hashlib.sha256(repr(model.config).encode())
    for name, value in sorted(model.state_dict().items()):
        values = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()
