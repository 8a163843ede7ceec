"""Which runtime computes a model folder, where it can be computed by more than one."""

from __future__ import annotations

import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from refseg.errors import ConfigError
from refseg.models.layout import has_graphs

__all__ = ["NEEDS_TORCH", "RUNTIMES", "RuntimeName", "check_torch", "choose_runtime"]

RuntimeName: TypeAlias = Literal["auto", "torch", "onnx"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
NEEDS_TORCH = "this needs PyTorch: pip install 'refseg[torch]'"


def choose_runtime(folder: Path, runtime: str, device: str) -> Literal["torch", "onnx"]:
    """Return the runtime of a model folder.

    `auto` is ONNX Runtime where the folder has graphs, it is installed, and the model is computed on the processor: it
    starts several times as fast as PyTorch.

    Args:
        folder: of the model.
        runtime: `auto`, `torch` or `onnx`.
        device: as in `refseg.load`.

    Raises:
        ConfigError: the runtime is unknown, not installed, or cannot compute this model on the device.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"a runtime is one of {', '.join(RUNTIMES)}, got {runtime!r}")
    if runtime == "onnx" and not has_graphs(folder):
        raise ConfigError(f"{folder} has no graphs for ONNX Runtime: `refseg export {folder} --in-place` adds them")
    if runtime != "auto":
        found: Literal["torch", "onnx"] = "torch" if runtime == "torch" else "onnx"
    else:
        on_processor = device == "cpu" or (device == "auto" and not _has_accelerator())
        found = "onnx" if on_processor and has_graphs(folder) and _installed("onnxruntime") else "torch"
    if found == "torch":
        check_torch()
    return found


def check_torch() -> None:
    """Check that PyTorch is installed.

    Raises:
        ConfigError: it is not.
    """
    if not _installed("torch"):
        raise ConfigError(NEEDS_TORCH)


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:  # it is blocked: `sys.modules` has None in its place
        return False


def _has_accelerator() -> bool:
    """Return whether PyTorch finds a GPU; it is slow to import, and imported only on machines that may have one."""
    likely = Path("/dev/nvidiactl").exists() or shutil.which("nvidia-smi") or platform.machine() == "arm64"
    if not likely or not _installed("torch"):
        return False
    from refseg.runtimes.torch import pick_device

    return pick_device("auto").type != "cpu"
