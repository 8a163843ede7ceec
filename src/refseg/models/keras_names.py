"""Names of Keras' layers and ours, for MCN and VLT: Keras counts the layers of each kind."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.keras_file import from_keras, renumbered, to_keras
from refseg.errors import WeightsError

__all__ = [
    "SHARED",
    "blocks",
    "convolution",
    "darknet_of_yolo",
    "dense",
    "family_of",
    "from_reference",
    "norm",
    "to_reference",
]


def convolution(number: int, ours: str, *, bias: bool = False) -> dict[str, str]:
    """Return the names of a convolution: Keras' to ours."""
    names = {f"conv2d_{number}/kernel:0": f"{ours}.weight"}
    return names | {f"conv2d_{number}/bias:0": f"{ours}.bias"} if bias else names


def norm(number: int, ours: str) -> dict[str, str]:
    """Return the names of a batch normalisation."""
    layer = f"batch_normalization_{number}"
    return {
        f"{layer}/gamma:0": f"{ours}.weight",
        f"{layer}/beta:0": f"{ours}.bias",
        f"{layer}/moving_mean:0": f"{ours}.running_mean",
        f"{layer}/moving_variance:0": f"{ours}.running_var",
    }


def dense(number: int, ours: str) -> dict[str, str]:
    """Return the names of a linear layer."""
    return {f"dense_{number}/kernel:0": f"{ours}.weight", f"dense_{number}/bias:0": f"{ours}.bias"}


def blocks(first: int, first_norm: int, *ours: str) -> dict[str, str]:
    """Return the names of consecutive convolutions, each with its batch normalisation."""
    names: dict[str, str] = {}
    for offset, block in enumerate(ours):
        names |= convolution(first + offset, f"{block}.conv") | norm(first_norm + offset, f"{block}.norm")
    return names


def _gru(direction: str, ours: str) -> dict[str, str]:
    layer = f"gru_module/bidirectional_1/{direction}_gru_1"
    return {
        f"{layer}/kernel:0": f"text.{ours}.input.weight",
        f"{layer}/recurrent_kernel:0": f"text.{ours}.recurrent",
        f"{layer}/bias:0": f"text.{ours}.input.bias",
    }


def _darknet() -> list[str]:
    """Return our names of DarkNet's 58 convolutions, in Keras' order."""
    names = ["visual.stem"]
    for stage, depth in enumerate((1, 2, 8, 8, 4)):
        names.append(f"visual.stages.{stage}.0")
        for block in range(1, depth + 1):
            names += [f"visual.stages.{stage}.{block}.{part}" for part in ("reduce", "expand")]
    return [*names, *(f"visual.top.{number}" for number in range(6))]


SHARED: Mapping[str, str] = {
    **blocks(1, 1, *_darknet(), "refine.reduce", "refine.expand"),
    **_gru("forward", "ahead"),
    **_gru("backward", "back"),
    **dense(1, "text.attention"),
    **dense(2, "fuse.sentence"),
    **norm(61, "fuse.sentence_norm"),
    **norm(62, "fuse.norm"),
}
"""The layers up to the first fusion."""


def family_of(state: Mapping[str, Tensor]) -> str | None:
    """Return the family whose authors' weights these are: `mcn`, `vlt`, or None."""
    if not any(name.startswith("gru_module/") for name in state):
        return None
    return "vlt" if any(name.startswith("Encoder-1-") for name in state) else "mcn"


def from_reference(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the weights of Keras under our names, in PyTorch's layout.

    Args:
        state: The weights, by Keras' names.
        names: Keras' names and ours.

    Raises:
        WeightsError: A weight is missing or unknown.
    """
    numbered = renumbered(state)
    for what, keys in (("missing", names.keys() - numbered.keys()), ("unknown", numbered.keys() - names.keys())):
        if keys:
            raise WeightsError(f"{len(keys)} weights are {what}, such as {min(keys)!r}")
    return {ours: from_keras(numbered[key]) for key, ours in names.items()}


def darknet_of_yolo(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of DarkNet-53 in those of a YOLOv3 of Keras, under our names; the others are left out.

    Raises:
        WeightsError: A weight is missing.
    """
    numbered, names = renumbered(state), blocks(1, 1, *_darknet())
    if missing := names.keys() - numbered.keys():
        raise WeightsError(f"{len(missing)} weights of DarkNet-53 are missing, such as {min(missing)!r}")
    return {ours.removeprefix("visual."): from_keras(numbered[key]) for key, ours in names.items()}


def to_reference(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Return our weights under Keras' names, in Keras' layout."""
    return {key: to_keras(state[ours]) for key, ours in names.items()}
