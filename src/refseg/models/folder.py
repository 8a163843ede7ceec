"""Saves and loads model folders: `config.json` and `model.safetensors`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from refseg import __version__
from refseg.config import load_json
from refseg.encoders.clip_download import archive_name, clip_folder
from refseg.encoders.clip_files import read_clip
from refseg.encoders.pretrained import CONNECT, ClipSource, fingerprint, in_a_model
from refseg.encoders.weights_file import check_finite, read_weights
from refseg.errors import ConfigError, OutputError, UnknownNameError, WeightsError, did_you_mean, one_line
from refseg.files import replacing
from refseg.models.base import Model, ModelSpec
from refseg.models.checked import build_checked
from refseg.models.exported import find_export
from refseg.models.families import MODELS, family
from refseg.models.layout import CONFIG, WEIGHTS, not_a_folder
from refseg.values import Decision

__all__ = [
    "ModelFolder",
    "load_model",
    "read_encoders",
    "read_folder",
    "save_model",
    "write_decision",
]

FIELDS = ("refseg", "family", "domain", "config", "inputs", "decision", "clip", "about")
DTYPES = ("F16", "BF16", "F32", "F64", "I64")


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """The contents of a model folder's `config.json`."""

    family: str
    spec: ModelSpec
    refseg: str
    """The version of refseg that wrote it."""
    domain: str | None = None
    """The kind of images that it was trained on, such as `photos`; None: not declared.

    `refseg predict` says of a model of any other domain that it does not know photos.
    """
    clip: ClipSource | None = None
    """The CLIP whose frozen encoders are not in the weights; it is needed to load the model."""
    about: dict[str, Any] = field(default_factory=dict)
    """The name of the model, its training, its scores: any JSON values given to `save_model`. Loading ignores them."""


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def save_model(
    model: Model,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    name: str | None = None,
    domain: str | None = None,
    extra: dict[str, Any] | None = None,
    merged: bool = False,
) -> Path:
    """Write a model folder and return it. Each file is written completely or not at all.

    Args:
        model: On any device.
        folder: Created if it does not exist; a model in it is replaced.
        dtype: Stores matrices and convolution kernels in this type, such as `torch.float16`. Vectors (norms, biases,
            statistics) are stored in float32, and loading always returns float32.
        name: The name of the model.
        domain: The kind of images that it was trained on, such as `photos`; None: not known.
        extra: JSON values to store as `about`.
        merged: Whether frozen encoders of a known CLIP are stored too. Otherwise the folder contains the trained
            weights and the name and fingerprint of that CLIP, which is needed to load it.

    Raises:
        ConfigError: `extra` is not JSON.
        WeightsError: A weight is not finite, or not in `dtype`.
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    about = ({} if name is None else {"name": name}) | (extra or {})
    clip = model.clip if model.frozen_parts and not merged else None
    left_out = () if clip is None else tuple(f"{part}." for part in model.frozen_parts)
    state = {
        key: (value.to(dtype) if dtype and value.ndim >= 2 and value.is_floating_point() else value)
        .detach()
        .cpu()
        .contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith(left_out)
    }
    check_finite(state, folder)
    config = ModelFolder(
        family=model.family, spec=model.spec, refseg=__version__, domain=domain, clip=clip, about=about
    )
    return _write(folder, config, lambda path: save_file(state, path, metadata={"format": "pt"}))


def write_decision(source: str | Path, target: str | Path, decision: Decision, about: dict[str, Any]) -> Path:
    """Write a copy of a model folder with another decision and return it. The weights are copied byte for byte.

    Args:
        source: The model folder.
        target: The folder to write; it may be the source.
        decision: Replaces the stored one.
        about: JSON values, added to those of the source; None removes one.

    Raises:
        WeightsError: The source is not a model folder.
        ConfigError: The config of the source is broken, or `about` is not JSON.
        OutputError: The target cannot be written.
    """
    source, target = Path(source), Path(target)
    stored = read_folder(source)
    if not (source / WEIGHTS).is_file():
        raise WeightsError(f"{source}: {WEIGHTS} is missing")
    spec = ModelSpec(config=stored.spec.config, inputs=stored.spec.inputs, decision=decision)
    kept = {key: value for key, value in (stored.about | about).items() if value is not None}
    config = replace(stored, spec=spec, about=kept)
    same = target.resolve() == source.resolve()
    return _write(target, config, None if same else lambda path: shutil.copyfile(source / WEIGHTS, path))


def _write(folder: Path, config: ModelFolder, write_weights: Callable[[Path], object] | None) -> Path:
    """Write a config, and weights if there is a function that writes them to a path, and return the folder."""
    values: dict[str, Any] = {"refseg": config.refseg, "family": config.family}
    if config.domain is not None:
        values["domain"] = config.domain
    values |= config.spec.to_dict()
    if config.clip is not None:
        values["clip"] = config.clip._asdict()
    if config.about:
        values["about"] = config.about
    try:
        text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{folder}: the values to store with the model are not JSON: {one_line(error)}") from None
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, and a model is a folder; name another")
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / CONFIG) as path:
            path.write_text(text, encoding="utf-8")
            # Both are written before one is replaced: if the disk is full, the old model stays as it was.
            if write_weights is not None:
                with replacing(folder / WEIGHTS) as weights:
                    write_weights(weights)
    except (OSError, SafetensorError) as error:
        if is_new:
            with suppress(OSError):  # it may not exist
                folder.rmdir()
        raise OutputError(f"{folder}: the model cannot be written: {one_line(error)}") from None
    return folder


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_folder(folder: str | Path) -> ModelFolder:
    """Read the `config.json` of a model folder.

    Raises:
        WeightsError: The folder does not exist or is not a model folder.
        ConfigError: The config is broken, of an unknown family, or a field is missing, unknown or of a wrong type.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise not_a_folder(folder)
    path = folder / CONFIG
    if not path.is_file():
        if find_export(folder) is not None:
            raise WeightsError(
                f"{folder}: is an exported model, which can only predict; give the model folder that it was made from"
            )
        inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))[:3]
        hint = f", but there are model folders in it: {', '.join(map(str, inside))}" if inside else ""
        raise WeightsError(f"{folder}: not a model folder: it has no {CONFIG}{hint}")
    values = load_json(path)
    for key in values:
        if key not in FIELDS:
            raise ConfigError(
                f"{path}: unknown field {key!r}{did_you_mean(key, FIELDS)}; known are: {', '.join(FIELDS)}"
            )
    for key, kind in (("refseg", str), ("family", str), ("domain", str), ("about", dict)):
        if key in values and not isinstance(values[key], kind):
            raise ConfigError(f"{path}: {key} must be {'an object' if kind is dict else 'a text'}")
    if "family" not in values:
        raise ConfigError(f"{path}: field 'family' is missing")
    try:
        kind_of_model = family(values["family"])
    except UnknownNameError as error:
        raise ConfigError(f"{path}: {error}") from None
    return ModelFolder(
        family=kind_of_model.name,
        spec=ModelSpec.from_dict(kind_of_model.config, values, where=str(path)),
        refseg=values.get("refseg", "unknown"),
        domain=values.get("domain"),
        clip=_clip_source(values["clip"], path) if "clip" in values else None,
        about=values.get("about", {}),
    )


def _clip_source(values: Any, path: Path) -> ClipSource:
    texts = isinstance(values, dict) and all(isinstance(value, str) for value in values.values())
    if not texts or set(values) != set(ClipSource._fields):
        raise ConfigError(f"{path}: clip must be an object with the texts name and sha256")
    return ClipSource(**values)


def load_model(folder: str | Path, *, device: str | torch.device = "cpu", clip: str | Path | None = None) -> Model:
    """Load a model folder: a model in evaluation mode, in float32. Only the two files of the folder are read.

    Frozen encoders that are not in the weights are read from their CLIP: from its path during training, from this
    package, or from the folder of `download_clip`. Nothing is downloaded.

    Args:
        folder: The model folder.
        device: The device of the model.
        clip: The file or model folder of that CLIP, if it is elsewhere.

    Raises:
        WeightsError: A file is missing or broken, the weights do not fit the config, or are not finite.
        ConfigError: The config is broken, of an unknown family, or has an unknown field; or there is no such device.
    """
    folder = Path(folder)
    stored = read_folder(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"{folder}: {WEIGHTS} is missing")
    try:
        path.open("rb").close()  # safetensors says of every file that cannot be opened that it does not exist
        with safe_open(path, framework="pt") as file:
            shapes = {}
            for key in file.keys():  # noqa: SIM118
                part = file.get_slice(key)
                if part.get_dtype() not in DTYPES:
                    raise WeightsError(f"{path}: {key} is stored as {part.get_dtype()}, not as floating-point numbers")
                shapes[key] = tuple(part.get_shape())
            frozen = {} if stored.clip is None else _frozen_weights(stored.clip, clip, path)
            of_frozen = {key: tuple(value.shape) for key, value in frozen.items()}
            model = build_checked(family(stored.family), stored.spec, of_frozen | shapes, path)
            # Copied, not mapped: the model must not change with the file.
            model.load_state_dict(frozen | {key: file.get_tensor(key) for key in shapes})
    except SafetensorError as error:
        raise WeightsError(f"{path}: broken or incomplete: {one_line(error)}") from None
    except (OSError, RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path}: cannot be loaded: {one_line(error)}") from None
    check_finite(model.state_dict(), path)
    model.clip = stored.clip
    try:
        return model.to(device).eval()
    except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built with CUDA
        raise ConfigError(f"the model cannot be moved to the device {device}: {one_line(error)}") from None


def read_encoders(path: str | Path) -> dict[str, Tensor]:
    """Read CLIP's weights, under OpenAI's names, from a file (see `read_clip`) or from a model folder.

    The model folder may be that of a CLIP, or of any model with the encoders of a CLIP, trained further or not.

    Raises:
        WeightsError: It is neither, its weights are broken, or the encoders are not among them.
        ConfigError: The config of the model folder is broken.
    """
    path = Path(path)
    if not path.is_dir():
        return read_clip(path)
    stored = read_folder(path)
    if stored.clip is not None:
        raise WeightsError(f"{path}: does not contain its encoders; they are those of {stored.clip.name}: give that")
    return {
        key.removeprefix("text."): value.float()
        for key, value in read_weights(path / WEIGHTS).items()
        if key.startswith(("visual.", "text.")) and CONNECT not in key
    }


def _frozen_weights(source: ClipSource, given: str | Path | None, path: Path) -> dict[str, Tensor]:
    """Return the encoders of the CLIP that a model was trained with, under our names."""
    name = source.name
    places = [Path(given)] if given is not None else [Path(name), clip_folder() / archive_name(name)]
    if given is None and name in MODELS and (weights := MODELS[name].weights) is not None:
        places.insert(0, weights)
    place = next((place for place in places if place.is_dir() or place.is_file()), None)
    if place is None:
        raise WeightsError(
            f"{path}: does not contain the encoders of CLIP's {name}, which was not found: put it to {places[-1]}, or "
            "give its file to `refseg convert FOLDER MERGED --merge --clip FILE`"
        )
    state = read_encoders(place)
    if fingerprint(state) != source.sha256:
        raise WeightsError(f"{place}: is another CLIP than {name}, with which {path} was trained")
    return in_a_model(state)
