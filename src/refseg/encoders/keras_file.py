"""Reads weights in the layout of Keras 2's `save_weights`, without executing anything in the file."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from refseg.encoders.weights_file import check_finite
from refseg.errors import ConfigError, WeightsError, one_line

__all__ = ["ENDINGS", "from_keras", "is_hdf5", "read_keras", "renumbered", "to_keras"]

ENDINGS = (".h5", ".hdf5")
SIGNATURE = b"\x89HDF\r\n\x1a\n"
NUMBERED = re.compile(r"(conv2d|batch_normalization|dense|bidirectional|gru|multi_head_attention)_(\d+)")
"""Layers that Keras names by counting them within a session."""


def is_hdf5(path: Path) -> bool:
    """Return whether a file is one of HDF5, by its first bytes.

    Raises:
        WeightsError: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None


def read_keras(path: Path) -> dict[str, Tensor]:
    """Return the weights of a file by Keras' names, such as `conv2d_1/kernel:0`, in Keras' layout.

    Raises:
        WeightsError: The file is missing or broken, its values are not finite, or it refers to other files.
        ConfigError: The extra `refseg[keras]` is missing.
    """
    library = _h5py()
    try:
        with library.File(path, "r") as file:
            root = _own(library, file, "model_weights", path) if "model_weights" in file else file
            state = {
                name: _array(library, group, name, path)
                for layer in _texts(root.attrs["layer_names"])
                for group in (_own(library, root, layer, path),)
                for name in _texts(group.attrs["weight_names"])
            }
    except WeightsError:
        raise
    # The library raises many kinds of exceptions on untrusted bytes.
    except Exception as error:
        raise WeightsError(f"{path}: not a file of Keras weights, or a broken one: {one_line(error)}") from None
    check_finite(state, path)
    return state


def renumbered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under the numbers of a new session: the layers of each kind are counted from one."""
    kinds: dict[str, set[int]] = {}
    for name in state:
        for kind, number in NUMBERED.findall(name):
            kinds.setdefault(kind, set()).add(int(number))
    ranks = {
        f"{kind}_{number}": f"{kind}_{rank}"
        for kind, numbers in kinds.items()
        for rank, number in enumerate(sorted(numbers), start=1)
    }
    return {NUMBERED.sub(lambda match: ranks[match[0]], name): value for name, value in state.items()}


def from_keras(value: Tensor) -> Tensor:
    """Return a weight in PyTorch's layout: kernels have the outputs first."""
    if value.ndim == 4:
        return value.permute(3, 2, 0, 1).contiguous()
    return value.T.contiguous() if value.ndim == 2 else value


def to_keras(value: Tensor) -> Tensor:
    """Return a weight in Keras' layout: kernels have the outputs last."""
    if value.ndim == 4:
        return value.permute(2, 3, 1, 0).contiguous()
    return value.T.contiguous() if value.ndim == 2 else value


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError:
        raise ConfigError("files of Keras need the library h5py: pip install 'refseg[keras]'") from None


def _texts(values: Any) -> list[str]:
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values]


def _own(library: Any, group: Any, name: str, path: Path) -> Any:
    """Return a member of a group that lies in the file itself."""
    for part in name.split("/"):
        if not isinstance(group.get(part, getlink=True), library.HardLink):
            raise WeightsError(f"{path}: {name!r} is missing, or lies in another file, which is not read")
        group = group[part]
    return group


def _array(library: Any, group: Any, name: str, path: Path) -> Tensor:
    data = _own(library, group, name, path)
    if not isinstance(data, library.Dataset) or data.dtype.kind != "f":
        raise WeightsError(f"{path}: {name!r} is not an array of floating-point numbers")
    if data.is_virtual or data.external or data.nbytes > path.stat().st_size:
        raise WeightsError(f"{path}: {name!r} is larger than the file, or lies in another one, which is not read")
    values: ndarray = np.asarray(data[()], np.float32)
    return torch.from_numpy(values)
