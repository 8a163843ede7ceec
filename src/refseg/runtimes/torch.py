"""Computes a model with PyTorch, on a processor or a GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from refseg.errors import ConfigError
from refseg.models.base import Model, PatchMapModel
from refseg.models.grid import to_quarter

__all__ = ["DEVICES", "TorchRuntime", "pick_device"]

DEVICES = ("auto", "cpu", "cuda", "mps")


class TorchRuntime:
    """A model on a device, in evaluation mode (see `runtimes.base.Runtime`).

    Args:
        model: it is moved to the device and put into evaluation mode.
        device: `auto` takes a CUDA GPU, else Apple's, else the processor.

    Raises:
        ConfigError: the device is unknown, or the machine has none.
    """

    def __init__(self, model: Model, device: str = "auto") -> None:
        self._device = pick_device(device)
        # Convolutions on a CPU run up to twice as fast when the channels of a pixel lie together.
        self.model = model.to(device=self._device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @property
    def device(self) -> str:
        """The device that it computes on, such as `cpu`."""
        return str(self._device)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights' names, shapes and values, and of the model's config; computed at first use."""
        return _fingerprint(self.model)

    def encode(self, pixels: Float[ndarray, "N 3 S S"]) -> dict[str, ndarray]:
        """Compute all that depends on the images alone."""
        with torch.inference_mode():
            batch = torch.from_numpy(pixels).to(self._device, memory_format=torch.channels_last)
            return {name: value.float().cpu().numpy() for name, value in self.model.encode_image(batch).items()}

    def decode(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> Float[ndarray, "B h w"]:
        """Return the probabilities of B expressions about one image."""
        with torch.inference_mode():
            logits = self.model.decode(self._image(image), self._tensor(tokens), self._tensor(padding))
            # Probabilities are restored to the image's size, not logits: so does the reference.
            return np.asarray(logits[:, 0].float().sigmoid().cpu().numpy())

    def ground(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> tuple[Float[ndarray, "B g g"], Float[ndarray, "B h w"]]:
        """Return the patch-level map: cosines, and probabilities by the map alone.

        Raises:
            ConfigError: the model has no such map.
        """
        model = self.model
        if not isinstance(model, PatchMapModel):
            raise ConfigError(f"a model of the family {model.family} has no patch-level map; risclip and clip-map do")
        with torch.inference_mode():
            cosines = model.ground(self._image(image), self._tensor(tokens), self._tensor(padding))
            logits = to_quarter(model.map_logits(cosines).float(), model.inputs.image_size)
            return cosines.float().cpu().numpy(), logits[:, 0].sigmoid().cpu().numpy()

    def _image(self, arrays: Mapping[str, ndarray]) -> dict[str, Tensor]:
        # Copied, as PyTorch has no read-only tensors.
        tensors = {name: torch.tensor(array, device=self._device) for name, array in arrays.items()}
        return {
            name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
            for name, value in tensors.items()
        }

    def _tensor(self, array: ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device)


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


def _fingerprint(model: Model) -> str:
    digest = hashlib.sha256(repr(model.config).encode())
    for name, value in sorted(model.state_dict().items()):
        values = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()
