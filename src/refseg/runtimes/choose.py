"""Which runtime computes a model, where more than one can: the fastest one on this machine, measured once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from refseg.config import load_json
from refseg.errors import ConfigError, OutputError, RefsegError
from refseg.files import user_cache, write_text
from refseg.models.exported import REDUCED, find_export, read_export
from refseg.models.layout import has_graphs
from refseg.runtimes.graphs import GraphRuntime, thread_count

__all__ = [
    "LIBRARIES",
    "NEEDS_TORCH",
    "RUNTIMES",
    "ChosenRuntime",
    "RuntimeName",
    "check_torch",
    "choose_runtime",
    "open_graphs",
    "processor",
]

RuntimeName: TypeAlias = Literal["auto", "torch", "onnx", "openvino"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)
ChosenRuntime: TypeAlias = Literal["torch", "onnx", "openvino"]
LIBRARIES: Mapping[ChosenRuntime, str] = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
NEEDS_TORCH = "this needs PyTorch: pip install 'refseg[torch]'"
LARGEST_DEVIATION = 1e-3
"""Of a probability between two runtimes of the same graphs."""
PREFERRED = "REFSEG_RUNTIME"
"""The variable with the runtime that `auto` takes where it has a choice, instead of measuring."""
LOGGER = logging.getLogger(__name__)


def choose_runtime(folder: Path, runtime: str, device: str) -> ChosenRuntime:
    """Return the runtime of a model folder or of an exported model.

    `auto` takes the graphs of a folder where it has any and the model is computed on the processor: they start several
    times as fast as PyTorch. Where both ONNX Runtime and OpenVINO are installed, both are measured at first use on this
    machine, and the faster one is stored in the cache folder; the variable REFSEG_RUNTIME names one instead.

    Args:
        folder: of the model.
        runtime: `auto`, `torch`, `onnx` or `openvino`.
        device: as in `refseg.load`.

    Raises:
        ConfigError: the runtime is unknown, not installed, or cannot compute this model on the device.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"a runtime is one of {', '.join(RUNTIMES)}, got {runtime!r}")
    possible = _possible(folder)
    if runtime != "auto":
        found = next((name for name in possible if name == runtime), None)
        if found is None:
            raise ConfigError(_missing(folder, runtime, possible))
    else:
        on_processor = device == "cpu" or (device == "auto" and ("torch" not in possible or not _has_accelerator()))
        graphs = [name for name in possible if name != "torch" and _installed(LIBRARIES[name])]
        if on_processor and graphs:
            found = graphs[0] if len(graphs) == 1 else _fastest(folder, graphs)
        else:
            found = "torch" if "torch" in possible else possible[0]
    if found == "torch":
        check_torch()
    return found


def open_graphs(folder: Path, runtime: ChosenRuntime, device: str = "auto") -> GraphRuntime:
    """Load the graphs of a folder in ONNX Runtime or OpenVINO.

    Raises:
        ConfigError: the library is not installed, the device is not a processor, or the description is broken.
        WeightsError: a graph is missing or broken.
    """
    if runtime == "openvino":
        from refseg.runtimes.openvino import OpenVinoRuntime

        return OpenVinoRuntime(folder, device, reduced=read_export(folder).precision in REDUCED)
    from refseg.runtimes.onnx import OnnxRuntime

    return OnnxRuntime(folder, device)


def check_torch() -> None:
    """Check that PyTorch is installed.

    Raises:
        ConfigError: it is not.
    """
    if not _installed("torch"):
        raise ConfigError(NEEDS_TORCH)


def processor() -> str:
    """Return the name of the processor of this machine."""
    with suppress(OSError, subprocess.CalledProcessError):
        if sys.platform == "darwin":
            return subprocess.check_output(["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"], text=True).strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _possible(folder: Path) -> list[ChosenRuntime]:
    """Return the runtimes that can compute a folder, PyTorch last."""
    possible: list[ChosenRuntime] = []
    exported = find_export(folder) is not None
    if has_graphs(folder, "openvino"):
        possible = ["openvino"]
    elif has_graphs(folder) or exported:  # what is missing of an export is said when it is loaded
        possible = ["onnx", "openvino"]
    return possible if exported else [*possible, "torch"]


def _missing(folder: Path, runtime: str, possible: Sequence[str]) -> str:
    """Return why a runtime cannot compute a folder, with what to do."""
    if runtime == "torch":
        return f"{folder}: an exported model is not computed by PyTorch; take the model that it was exported from"
    if possible == ["torch"]:
        return f"{folder} has no graphs for {runtime}: `refseg export {folder} --in-place` adds them"
    return f"{folder} was exported for {' and '.join(possible)}; take that runtime, or export the model to {runtime}"


def _fastest(folder: Path, names: Sequence[ChosenRuntime]) -> ChosenRuntime:
    """Return the fastest of several runtimes of the same graphs, measured at first use."""
    for name in names:
        if os.environ.get(PREFERRED) == name:
            return name
    try:
        stored = user_cache("runtimes", f"{_key(folder, names)}.json")
    except OutputError:  # no place to store a measurement, and one at each start would cost more than it gains
        return names[0]
    with suppress(ConfigError):
        for name in names:
            if load_json(stored).get("runtime") == name:
                return name
    seconds = _measure(folder, names)
    fastest = min(seconds, key=lambda name: seconds[name])
    shown = ", ".join(f"{name} {1000 * taken:.0f} ms" for name, taken in seconds.items())
    LOGGER.warning("%s: computed by %s on this machine from now on; measured: %s", folder.name, fastest, shown)
    with suppress(OutputError, OSError):  # then it is measured again
        stored.parent.mkdir(parents=True, exist_ok=True)
        write_text(stored, json.dumps({"runtime": fastest, "seconds": seconds}) + "\n")
    return fastest


def _measure(folder: Path, names: Sequence[ChosenRuntime]) -> dict[ChosenRuntime, float]:
    """Return the seconds of an answer by each runtime that computes the same as the first one.

    Raises:
        RefsegError: the first one cannot compute the graphs.
    """
    from refseg.runtimes.compare import answer_seconds, largest_deviation

    inputs = read_export(folder).inputs
    right = {names[0]: open_graphs(folder, names[0])}
    for name in names[1:]:
        with suppress(RefsegError):  # it cannot compute these graphs
            runtime = open_graphs(folder, name)
            if largest_deviation(right[names[0]], runtime, inputs) <= LARGEST_DEVIATION:
                right[name] = runtime
    return dict(zip(right, answer_seconds(list(right.values()), inputs), strict=True))


def _key(folder: Path, names: Sequence[ChosenRuntime]) -> str:
    """Return a name for the files of a model, the versions of its runtimes, and this machine."""
    from importlib.metadata import version  # slow to import

    files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
    versions = [(name, version(LIBRARIES[name])) for name in names]
    facts = [files, versions, processor(), os.cpu_count(), thread_count()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


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
