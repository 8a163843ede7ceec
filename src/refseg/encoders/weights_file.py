"""Reads weights from files of TorchScript, `torch.save` and safetensors, without executing anything in them."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from refseg.errors import WeightsError

__all__ = ["check_finite", "prefix_hint", "read_file", "read_weights", "rename", "save_checkpoint"]

WRAPPERS = re.compile(r"(?:(?:module|_orig_mod|model|net)\.)*")
"""Prefixes of names that data-parallel training, `torch.compile` and modules around the model add."""
COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
"""What `torch.compile` adds to the names of a compiled part of a model."""
AVERAGES = "n_averaged"
"""A counter that `torch.optim.swa_utils.AveragedModel` adds."""
MASK = "attn_mask"
"""The causal mask that some files contain; minus infinity where a token is not attended to."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict of a file (see `read_file`)."""
    return read_file(path)[0]


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state dict of a file, and the other values stored with it, without executing anything in the file.

    TorchScript archives, files of `torch.save` (a state dict, or a dict with one as `state_dict`) and safetensors are
    recognised by their content. Prefixes that wrappers such as `DataParallel` and `torch.compile` add are removed.

    Raises:
        WeightsError: The file is missing, broken, unsafe or without a state dict, its names have different prefixes, or
            its values are not finite.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from None
    content: Any
    try:
        if head[:4] == b"PK\x03\x04":
            with zipfile.ZipFile(path) as archive:
                _check_archive(archive, path)
                scripted = any("/code/" in name for name in archive.namelist())
                content = _read_torchscript(archive) if scripted else _read_pickle(path, mapped=True)
        elif head[8:] == b"{":
            content = load_file(path)
        else:
            content = _read_pickle(path, mapped=False)
    except WeightsError:
        raise
    except pickle.UnpicklingError as error:
        # torch's unpickler names a forbidden object as a global, in a message of many lines.
        if unsafe := re.search(r"GLOBAL (\S+\.\S+)", str(error)):
            raise WeightsError(f"{path}: contains more than weights ({unsafe[1]}); that code was not run") from None
        raise WeightsError(f"{path}: not a file of weights, or a broken one") from None
    # The parsers raise many kinds of exceptions on untrusted bytes.
    except Exception:
        raise WeightsError(f"{path}: not a file of weights, or a broken one") from None
    others: dict[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        others = {str(key): value for key, value in content.items() if key != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: contains no state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: contains no state dict: {str(key)[:60]!r} is not a tensor")
        # A view that repeats its memory could be expanded to any size.
        if (
            value.layout is not torch.strided
            or value.device.type != "cpu"
            or value.nbytes > value.untyped_storage().nbytes()
        ):
            raise WeightsError(f"{path}: {key!r} is not a plain tensor")
    state = _unwrap(content, path)
    check_finite(state, path)
    return state, others


def save_checkpoint(content: Any, path: Path) -> None:
    """Write a file of `torch.save`.

    Raises:
        OSError: It cannot be written, with the operating system's reason, which PyTorch's own error lacks.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def check_finite(state: Mapping[str, Tensor], where: str | Path) -> None:
    """Check that all weights are finite; causal masks (`attn_mask`), which are not, are left out.

    Args:
        state: A state dict.
        where: Its file, for the error message.

    Raises:
        WeightsError: A tensor contains NaN or an infinity; the message names it.
    """
    for key, value in state.items():
        if not (value.is_floating_point() or value.is_complex()) or key.endswith(MASK):
            continue
        if value.is_complex():
            value = torch.view_as_real(value)
        if value.itemsize == 1:  # 8-bit numbers have no sum
            value = value.float()
        # A sum is not finite if one value is not, and is faster than a comparison of each. It may also overflow.
        if not value.sum(dtype=torch.promote_types(value.dtype, torch.float32)).isfinite():
            wrong = int(value.numel() - value.isfinite().sum())
            if wrong:
                raise WeightsError(
                    f"{where}: {key!r} is not finite: {wrong} of {value.numel()} values are NaN or infinite"
                )


def rename(state: Mapping[str, Tensor], name: Callable[[str], str], where: str | Path = "") -> dict[str, Tensor]:
    """Return a state dict under other names.

    Args:
        state: A state dict.
        name: Returns the new name of a weight.
        where: The file of the weights, for the error message; empty if the caller adds it.

    Raises:
        WeightsError: Two weights would have the same name.
    """
    old: dict[str, str] = {}
    for key in state:
        if (first := old.setdefault(name(key), key)) != key:
            place = f"{where}: " if where else ""
            raise WeightsError(f"{place}{first!r} and {key!r} are the same weight {name(key)!r}; remove one of them")
    return {new: state[key] for new, key in old.items()}


def prefix_hint(state: Mapping[str, Tensor]) -> str:
    """Return what to do about a prefix that all names have, as the end of an error message; empty if they have none."""
    parts = [key.split(".")[:-1] for key in state] or [[]]
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(min(parts), max(parts), strict=False))
    prefix = "".join(f"{part}." for part, _ in pairs)
    return f"; all its names start with {prefix!r}: remove that prefix if it is not the model's" if prefix else ""


def _unwrap(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers add to names."""
    prefixes = {key: match[0] for key in state if (match := WRAPPERS.match(key))}
    weights = {key: value for key, value in state.items() if key.removeprefix(prefixes[key]) != AVERAGES}
    if len(found := sorted({prefixes[key] for key in weights})) > 1:
        first, second = (repr(prefix) if prefix else "no prefix" for prefix in (found[-1], found[0]))
        raise WeightsError(f"{path}: its names have different prefixes, {first} and {second}; save one model alone")
    return rename(weights, lambda key: COMPILED.sub("", key.removeprefix(prefixes[key])), path)


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse archives that would unpack to more than their size. torch compresses only code, which is not read here."""
    entries = [entry for entry in archive.infolist() if "/code/" not in entry.filename]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{path}: a compressed archive, which torch does not write; unpack it first")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(f"{path}: a broken archive: its parts overlap")


def _read_pickle(path: Path, *, mapped: bool) -> Any:
    """Read a file of `torch.save` with torch's restricted unpickler; if mapped, unused tensors are not read.

    Numbers of numpy, which training states often contain, are read as floats.
    """
    allowed: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_numpy_number, "numpy.core.multiarray.scalar"),
        (_numpy_number, "numpy._core.multiarray.scalar"),
        (np.dtype, "numpy.dtype"),
        *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "?")),
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _numpy_number(kind: Any, data: bytes) -> float:
    if not isinstance(kind, np.dtype) or kind.kind not in "fib" or len(data) != kind.itemsize:
        raise pickle.UnpicklingError("a broken number of numpy")
    return float(np.frombuffer(data, kind)[0])


class _Node:
    """A module of a TorchScript archive: its attributes, without its code."""


class _ArchiveUnpickler(pickle.Unpickler):
    """Reads the objects of a TorchScript archive; only the functions that rebuild tensors are known to it."""

    STORAGES: ClassVar = {
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "FloatStorage": torch.float32,
        "DoubleStorage": torch.float64,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "ShortStorage": torch.int16,
        "CharStorage": torch.int8,
        "ByteStorage": torch.uint8,
        "BoolStorage": torch.bool,
    }

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}data.pkl")))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}
        self.known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("collections", "OrderedDict"): OrderedDict,
            ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,
            **{("torch", name): kind for name, kind in self.STORAGES.items()},
            **{
                ("torch.jit._pickle", f"build_{kind}list"): lambda values: values
                for kind in ("int", "double", "bool", "tensor")
            },
        }

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Node
        if (module, name) not in self.known:
            raise WeightsError(
                f"{self.archive.filename}: contains {module}.{name}, which is not a weight and was not run"
            )
        return self.known[module, name]

    def persistent_load(self, identity: Any) -> Tensor:
        _, kind, key, _, count = identity
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
        if self.storages[key].dtype != kind or len(self.storages[key]) != count:
            raise ValueError(f"{key} does not contain {count} numbers")
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # raises if it is outside of the storage


def _read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Return the tensors of a TorchScript archive under the names of the modules that contain them."""
    (data,) = (name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name))
    state: dict[str, Tensor] = {}
    waiting, seen = [("", _ArchiveUnpickler(archive, data.removesuffix("data.pkl")).load())], set()
    while waiting:
        prefix, node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        for name, value in vars(node).items():
            if isinstance(value, Tensor):
                state[prefix + name] = value
            elif isinstance(value, _Node):
                waiting.append((f"{prefix}{name}.", value))
    return state
