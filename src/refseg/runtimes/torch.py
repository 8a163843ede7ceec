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

__all__ = ["TorchRuntime", "pick_device"]


class TorchRuntime:
    """A model on a device, in evaluation mode (see `runtimes.base.Runtime`).

    Args:
        model: it is moved to the device and put into evaluation mode.
        device: see `pick_device`.

    Raises:
        ConfigError: the device is unknown, or the machine has none.
    """

    def __init__(self, model: Model, device: str | torch.device = "auto") -> None:
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
        """Return the logits of B expressions about one image."""
        with torch.inference_mode():
            logits = self.model.decode(self._image(image), self._tensor(tokens), self._tensor(padding))
            return np.asarray(logits[:, 0].float().cpu().numpy())

    def ground(
        self, image: Mapping[str, ndarray], tokens: Int64[ndarray, "B L"], padding: Bool[ndarray, "B L"]
    ) -> tuple[Float[ndarray, "B g g"], Float[ndarray, "B h w"]] | None:
        """Return the patch-level map: cosines, and logits by the map alone; None: the model has no such map."""
        model = self.model
        if not isinstance(model, PatchMapModel):
            return None
        with torch.inference_mode():
            cosines, logits = model.patch_map(self._image(image), self._tensor(tokens), self._tensor(padding))
            return cosines.float().cpu().numpy(), logits[:, 0].cpu().numpy()

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


def _fingerprint(model: Model) -> str:
    digest = hashlib.sha256(repr(model.config).encode())
    for name, value in sorted(model.state_dict().items()):
        values = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
        digest.update(values.data)
    return digest.hexdigest()
