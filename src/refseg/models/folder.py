"""A model folder, `config.json` and `model.safetensors`, to a model and back; nothing else is needed to load it."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.overrides import TorchFunctionMode

from refseg import __version__
from refseg.config import from_dict, load_json, replace, save_json, to_dict
from refseg.encoders.clip_files import (
    ClipSource,
    Encoders,
    adopt_encoders,
    archive_name,
    clip_folder,
    clip_weights,
    fingerprint,
    in_a_model,
    is_clip,
    load_encoders,
    read_clip,
    read_file,
    read_weights,
)
from refseg.encoders.clip_sizes import CLIP_SIZES
from refseg.errors import ConfigError, DownloadError, OutputError, UnknownNameError, WeightsError, did_you_mean
from refseg.files import replacing
from refseg.models.base import Segmenter
from refseg.models.cris.convert import as_checkpoint, parse_checkpoint
from refseg.models.families import ZOO, Family, build, family

__all__ = [
    "ModelFolder",
    "adopt_clip",
    "convert",
    "load_model",
    "merge",
    "push_to_hub",
    "read_encoders",
    "read_folder",
    "resolve",
    "save_model",
    "stored_in_half",
]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FOREIGN = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".safetensors")
# How long the Hub may take to accept a connection before it counts as out of reach, in seconds.
PATIENCE = 3.0


@dataclass(frozen=True, kw_only=True)
class ModelFolder:
    """What a model folder's `config.json` says."""

    family: str
    config: Any
    refseg: str
    """The version of refseg that wrote it."""
    clip: ClipSource | None = None
    """The CLIP whose encoders the model borrows: they are not in its weights."""
    about: dict[str, Any] = field(default_factory=dict)
    """The model's name, its training, its scores: whatever `save_model` was given. Nothing reads it to load."""


def save_model(
    model: Segmenter,
    folder: str | Path,
    *,
    dtype: torch.dtype | None = None,
    name: str | None = None,
    extra: dict[str, Any] | None = None,
    merged: bool = False,
) -> Path:
    """Write a model folder, and return it.

    Each file is complete or is not there: it is written beside its place, then moved.

    Args:
        model: On any device.
        folder: Made where it does not exist; a model that is in it is replaced.
        dtype: Stores matrices and kernels in this type, such as `torch.float16`. Vectors (norms, biases, statistics)
            stay float32, and loading always gives float32.
        name: What the model is called.
        extra: JSON values to keep with it under `about`.
        merged: Also stores the encoders that a model borrows from a known CLIP and never changes. Else the folder holds
            what was trained, and the name and fingerprint of that CLIP, which is then needed to load it.

    Raises:
        ConfigError: `extra` is not JSON.
        OutputError: The folder cannot be written.
    """
    folder = Path(folder)
    about = ({} if name is None else {"name": name}) | (extra or {})
    try:
        json.dumps(about, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"what is to be kept with the model is not JSON: {_line(error)}") from None
    values = {"refseg": __version__, "family": model.family, "config": to_dict(model.config)}
    left_out: tuple[str, ...] = ()
    if model.borrowed and model.clip is not None and not merged:
        values["clip"] = model.clip._asdict()
        left_out = tuple(f"{part}." for part in model.borrowed)
    state = {
        key: (value.to(dtype) if dtype and value.ndim >= 2 and value.is_floating_point() else value)
        .detach()
        .cpu()
        .contiguous()
        for key, value in model.state_dict().items()
        if not key.startswith(left_out)
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Both are written before either is moved, so that a full disk leaves the old model as it was.
        with replacing(folder / WEIGHTS) as weights, replacing(folder / CONFIG) as config:
            save_file(state, weights, metadata={"format": "pt"})
            save_json(values | ({"about": about} if about else {}), config)
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{folder}: the model cannot be written: {_line(error)}") from None
    return folder


def read_folder(folder: str | Path) -> ModelFolder:
    """Read what a model folder says of itself, without its weights.

    Raises:
        WeightsError: The folder is missing or is no model folder.
        ConfigError: Its config is broken, or of a family or with a field that is unknown here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise _not_a_folder(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise WeightsError(f"{folder}: no model folder: it has no {CONFIG}")
    values = load_json(path)
    known = ("refseg", "family", "config", "clip", "about")
    for key in values:
        if key not in known:
            raise ConfigError(f"{path}: unknown field {key!r}{did_you_mean(key, known)}; known are: {', '.join(known)}")
    for key in ("family", "config"):
        if key not in values:
            raise ConfigError(f"{path}: field {key!r} is missing")
    about = values.get("about", {})
    if not isinstance(values["family"], str) or not isinstance(about, dict):
        raise ConfigError(f"{path}: `family` must be text and `about` an object")
    try:
        kind = family(values["family"])
    except UnknownNameError as error:
        raise ConfigError(f"{path}: {error}") from None
    config = from_dict(kind.config, values["config"], where=f"{path}: config")
    clip = None
    if "clip" in values:
        try:
            clip = ClipSource(**{key: str(value) for key, value in dict(values["clip"]).items()})
        except (TypeError, ValueError):
            raise ConfigError(f"{path}: `clip` must be an object with name and sha256") from None
    refseg = str(values.get("refseg", "unknown"))
    return ModelFolder(family=kind.name, config=config, refseg=refseg, clip=clip, about=about)


def stored_in_half(folder: str | Path) -> bool:
    """Return whether a model folder holds matrices and kernels in half precision.

    Raises:
        WeightsError: its weights cannot be read.
    """
    path = Path(folder) / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            keys = file.keys()
            return any(file.get_slice(key).get_dtype() == "F16" for key in keys)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot be read: {_line(error)}") from None


def load_model(folder: str | Path, *, device: str | torch.device = "cpu", clip: str | Path | None = None) -> Segmenter:
    """Load a model folder: a model in evaluation mode, in float32. Only the folder's two files are read.

    A model that borrows a CLIP's encoders takes them from that CLIP too: from where it was when the model was trained,
    from this package, or from where `download_clip` puts it. Nothing is downloaded.

    Args:
        folder: The model folder.
        device: Where to put the model.
        clip: The file or model folder of the CLIP that it borrows, where it lies elsewhere.

    Raises:
        WeightsError: The folder or one of its files is missing or broken, or the weights are not the config's.
        ConfigError: The config is broken, or of a family or with a field that is unknown here.
    """
    folder = Path(folder)
    described = read_folder(folder)
    path = folder / WEIGHTS
    if not path.is_file():
        raise WeightsError(f"{folder}: {WEIGHTS} is missing")
    kind = family(described.family)
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                if (kept := file.get_slice(key).get_dtype()) not in ("F16", "BF16", "F32", "F64", "I64"):
                    raise WeightsError(f"{path}: {key} is stored as {kept}; weights are floating-point numbers")
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            encoders = {} if described.clip is None else _borrowed(described.clip, clip, path)
            of_encoders = {key: tuple(value.shape) for key, value in encoders.items()}
            model = _build(kind, described.config, of_encoders | shapes, path)
            # Copied, not mapped: a file that changes under a running model must not change the model.
            model.load_state_dict(encoders | {key: file.get_tensor(key) for key in shapes})
        model.clip = described.clip
        return model.to(device).eval()
    except SafetensorError as error:
        raise WeightsError(f"{path}: broken or incomplete: {_line(error)}") from None
    except (OSError, RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path}: cannot be loaded: {_line(error)}") from None


def read_encoders(path: str | Path) -> dict[str, Tensor]:
    """Read a CLIP under OpenAI's names: from a file of weights (see `read_clip`), or from a model folder.

    A model folder may be a CLIP's, or that of a model with a CLIP's encoders, whatever has become of them.

    Raises:
        WeightsError: It is neither, or the model's encoders are not in it.
    """
    path = Path(path)
    if not path.is_dir():
        return read_clip(path)
    described = read_folder(path)
    if described.clip is not None:
        raise WeightsError(f"{path}: borrows its encoders from {described.clip.name}: give that")
    state = read_weights(path / WEIGHTS)
    encoders = {key: value for key, value in state.items() if key.startswith(("visual.", "text."))}
    return {
        key.removeprefix("text."): value.float() for key, value in encoders.items() if "attnpool.connect" not in key
    }


def adopt_clip(model: Segmenter, path: str | Path, *, name: str | None = None) -> None:
    """Load a CLIP's encoders into a model, which remembers whose they are.

    Args:
        model: Its encoders have the CLIP's sizes.
        path: The CLIP's file, or its model folder.
        name: What it is called; its path if None.

    Raises:
        WeightsError: It cannot be read, or does not fit.
    """
    state = read_encoders(path)
    if not isinstance(model, Encoders):
        raise ConfigError(f"a model of the family {model.family} has no encoders to load a CLIP into")
    model.clip = adopt_encoders(model, state, name or str(Path(path).resolve()))


def _borrowed(source: ClipSource, given: str | Path | None, path: Path) -> dict[str, Tensor]:
    """Return the encoders of the CLIP that a model was trained with, under our names."""
    name = source.name
    places = [Path(given)] if given is not None else [Path(name), clip_folder() / archive_name(name)]
    if given is None and name in ZOO and (weights := ZOO[name].weights) is not None:
        places.insert(0, weights)
    place = next((place for place in places if place.is_dir() or place.is_file()), None)
    if place is None:
        raise WeightsError(
            f"{path}: holds what was trained beside CLIP's {name}, which is not here: put it to {places[-1]}, or give "
            "its file once to `refseg convert FOLDER MERGED --clip FILE`"
        )
    state = read_encoders(place)
    if fingerprint(state) != source.sha256:
        raise WeightsError(f"{place}: is another CLIP than {name}, with which {path} was trained")
    return in_a_model(state)


def merge(source: str | Path, target: str | Path, *, clip: str | Path | None = None) -> Path:
    """Write a model folder that needs no other, of one that borrows a CLIP's encoders, and return it.

    Args:
        source: The model folder.
        target: The folder to write.
        clip: The file or model folder of that CLIP, where `load_model` would not find it.

    Raises:
        WeightsError: The source or the CLIP is missing or broken, or it is another CLIP.
        OutputError: The target cannot be written.
    """
    described = read_folder(source)
    return save_model(load_model(source, clip=clip), target, extra=described.about, merged=True)


def convert(
    source: str | Path, target: str | Path, *, to: Literal["refseg", "reference"] | None = None, **changes: Any
) -> Path:
    """Convert a checkpoint of the reference to a model folder, or a model folder to a checkpoint of the reference.

    A file of CLIP's weights becomes the folder of a plain CLIP, whose answer is how similar each patch is to the words.

    Sizes come from the weights. What no weight tells is what the published runs share: 416 pixels, 17 tokens (the
    models of RefCOCOg have 22), threshold 0.35, 8 heads in the decoder, 64 channels a head in CLIP's encoders. A
    checkpoint that this function wrote carries its config with it, so that a round trip loses nothing.

    Args:
        source: A file, such as the reference's `best_model.pth`, or a model folder.
        target: The folder, or the file.
        to: Which of the two to write; by default a file becomes a folder and a folder a file.
        **changes: Fields of the new folder's config, such as `word_length=22`.

    Returns:
        The target.

    Raises:
        WeightsError: The source is missing, broken, unsafe or of another architecture.
        ConfigError: There is no such field, or its value does not fit.
        OutputError: The target cannot be written.
    """
    source, target = Path(source), Path(target)
    if to is None:
        to = "reference" if source.is_dir() else "refseg"
    if to == "reference":
        if changes:
            raise ConfigError(f"{', '.join(changes)}: a checkpoint of the reference has no settings to change")
        described, model = read_folder(source), load_model(source)
        content = as_checkpoint(model.state_dict(), model.config, described.about)
        try:
            with replacing(target) as draft:
                torch.save(content, draft)
        except (OSError, RuntimeError) as error:
            raise OutputError(f"{target}: cannot be written: {_line(error)}") from None
        return target
    if source.is_dir():
        raise WeightsError(f"{source} is a folder; a checkpoint of the reference is a file")
    stored, beside = read_file(source)
    if is_clip(stored):
        return _convert_clip(clip_weights(stored, source), source, target, **changes)
    state, config, scores = parse_checkpoint(stored, beside, source)
    shapes = {key: tuple(value.shape) for key, value in state.items()}
    model = _build(family("cris"), replace(config, **changes), shapes, source)
    model.load_state_dict(state)
    return save_model(model, target, name=target.name, extra={"source": source.name, **scores})


def _convert_clip(state: Mapping[str, Tensor], source: Path, target: Path, **changes: Any) -> Path:
    inferred = family("clip-map").infer_config(in_a_model(state))
    config = replace(
        inferred,
        **{
            "image_size": 2 * inferred.vision.pretrained_size,
            "word_length": inferred.text.context_length,
            **changes,
        },
    )
    model = build(config)
    assert isinstance(model, Encoders)
    load_encoders(model, state)
    return save_model(model, target, name=target.name, extra={"source": source.name})


def resolve(name_or_path: str | Path, *, allow_download: bool = True) -> Path:
    """Find the model folder that a name or a path means.

    A name of the zoo wins over a folder of the same name (`./shapes` is the folder). `user/name`, where there is no
    such folder, is fetched from the Hugging Face Hub, once: a copy in its cache is used as it is, without the network.

    Raises:
        UnknownNameError: It is neither a name of the zoo, nor a folder, nor a Hub id.
        WeightsError: The model has no weights here, or the path is no folder.
        DownloadError: The Hub does not have it, or cannot be reached.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, str) and text in ZOO:
        weights = ZOO[text].weights
        if weights is None:
            raise WeightsError(
                f"{text!r} comes without weights: make a model folder with `refseg convert` or `refseg train`, "
                "and give its path"
            )
        if not weights.is_dir():
            raise WeightsError(f"{text!r}: its folder is missing from this installation: {weights}")
        return weights
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.suffix.lower() in FOREIGN:
        raise _not_a_folder(path)
    if isinstance(name_or_path, str) and HUB_ID.fullmatch(text):
        return _from_hub(text, allow_download=allow_download)
    if isinstance(name_or_path, Path) or "/" in text or os.sep in text or text.startswith((".", "~")):
        raise _not_a_folder(path)
    raise UnknownNameError("model", text, ZOO)


def push_to_hub(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a model folder to the Hugging Face Hub and return its address; `refseg.load(repo_id)` then fetches it.

    The repository is made where it does not exist. A model card is written into the folder where it has none.

    Raises:
        WeightsError: The folder is no model folder.
        OutputError: It cannot be uploaded.
    """
    folder = Path(folder)
    described = read_folder(folder)
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{folder}: {WEIGHTS} is missing")
    if described.clip is not None and described.clip.name not in CLIP_SIZES:
        raise WeightsError(
            f"{folder}: borrows from a CLIP of yours, which nobody else has: upload what `refseg convert {folder} "
            "MERGED --merge` makes of it"
        )
    _quiet_hub()
    from huggingface_hub import HfApi

    if reason := _hub_out_of_reach():
        raise OutputError(f"{repo_id}: not uploaded: {reason}")
    try:
        card = folder / "README.md"
        if not card.exists():
            card.write_text(_model_card(described, repo_id), encoding="utf-8")
        api = HfApi()
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[CONFIG, WEIGHTS, "README.md"],
            commit_message="Upload a model folder of refseg",
        )
    # The client raises errors of its own, of its HTTP library and of the operating system: all mean the same here.
    except Exception as error:
        raise OutputError(f"{repo_id}: not uploaded: {_line(error)}") from None
    return str(address)


class _Unfilled(TorchFunctionMode):
    """Leaves new weights as the memory was: they are about to be overwritten, and filling them takes seconds."""

    FILLS = frozenset({torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.fill_, torch.Tensor.zero_})

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in self.FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func is torch.randn else func)(*args, **kwargs)


def _build(kind: Family, config: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> Segmenter:
    """Build the model that weights of some shapes belong to; its own weights hold nothing yet."""
    # Config and shapes come from an untrusted source: what could make the build endless is compared first.
    _check_sizes(kind, config, shapes, path)
    try:
        with _Unfilled():
            model: Segmenter = kind.model(config)
    except (RuntimeError, MemoryError) as error:
        raise WeightsError(f"{path}: a model of these sizes cannot be built: {_line(error)}") from None
    _check_shapes(shapes, {key: tuple(value.shape) for key, value in model.state_dict().items()}, str(path))
    return model


def _check_sizes(kind: Family, config: Any, shapes: Mapping[str, tuple[int, ...]], path: Path) -> None:
    try:
        # One number, seen in every place: the shapes without the memory.
        inferred = kind.infer_config({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{path}: {error}") from None
    for size in kind.sizes:
        said, found = config, inferred
        for part in size.split("."):
            said, found = getattr(said, part, None), getattr(found, part, None)
        if said != found:
            raise WeightsError(f"{path}: {CONFIG} says {size} = {_short(said)}, but the weights have {_short(found)}")


def _check_shapes(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Compare the names and shapes of weights with a model's.

    Raises:
        WeightsError: They differ; the message names the first few.
    """
    for what, keys in (
        ("weights are missing", [key for key in wanted if key not in found]),
        ("weights are unexpected", [key for key in found if key not in wanted]),
        (
            "weights have another shape",
            [
                f"{key} {list(found[key])} for {list(wanted[key])}"
                for key in wanted
                if key in found and found[key] != wanted[key]
            ],
        ),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise WeightsError(f"{where}: {len(keys)} {what}: {', '.join(keys[:3])}{more}")


def _not_a_folder(path: Path) -> WeightsError:
    if path.is_file():
        return WeightsError(
            f"{path} is a file, and a model is a folder: `refseg convert {path} FOLDER` makes one of a checkpoint"
        )
    return WeightsError(f"{path}: no such folder")


def _from_hub(repo_id: str, *, allow_download: bool) -> Path:
    _quiet_hub()
    from huggingface_hub import snapshot_download

    def fetch(*, cached: bool) -> Path:
        return Path(snapshot_download(repo_id, allow_patterns=[CONFIG, WEIGHTS], local_files_only=cached))

    try:
        folder = fetch(cached=True)
        if (folder / CONFIG).exists() and (folder / WEIGHTS).exists():
            return folder
    except (OSError, ValueError):
        pass  # not in the cache
    lost = f"there is no folder {repo_id!r}, and it was not fetched from the Hugging Face Hub"
    if not allow_download:
        raise DownloadError(f"{lost}: downloads are not allowed here")
    if reason := _hub_out_of_reach():
        raise DownloadError(f"{lost}: {reason}")
    try:
        folder = fetch(cached=False)
    # The client raises errors of its own, of its HTTP library and of the operating system: all mean the same here.
    except Exception as error:
        raise DownloadError(f"{lost}: {_line(error)}") from None
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).exists():
            raise DownloadError(f"{repo_id} on the Hugging Face Hub is no model of refseg: it has no {name}")
    return folder


def _quiet_hub() -> None:
    # Read once, when the client is imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _hub_out_of_reach() -> str | None:
    """Say why the Hub cannot be reached, within `PATIENCE`: its own client would try for 23 seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
    target = endpoint
    proxies = urllib.request.getproxies()
    proxy = proxies.get(endpoint.scheme) or proxies.get("all")
    if proxy and not urllib.request.proxy_bypass(endpoint.hostname or ""):
        target = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = target.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(target.scheme, 80)
    except ValueError as error:
        return f"{target.geturl()} is no address: {error}"
    outcome: list[str | None] = []

    def knock() -> None:
        try:
            socket.create_connection((target.hostname or "", port), timeout=PATIENCE).close()
            outcome.append(None)
        except (OSError, UnicodeError) as error:
            outcome.append(_line(error))

    # A thread, since no timeout bounds the look-up of a name.
    thread = threading.Thread(target=knock, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    reason = outcome[0] if outcome else f"no answer in {PATIENCE:g} seconds"
    if reason is None:
        return None
    return f"{target.hostname} cannot be reached ({reason}); check the network, or give the path of a model folder"


def _model_card(described: ModelFolder, repo_id: str) -> str:
    name = described.about.get("name", repo_id.rpartition("/")[2])
    config = described.config
    return f"""---
library_name: refseg
pipeline_tag: image-segmentation
tags: [refseg, referring-image-segmentation, {described.family}]
---

# {name}

A model of [refseg](https://pypi.org/project/refseg): an image and some words in, the pixels that the words mean out.

```python
import refseg

predictor = refseg.load("{repo_id}")
scene = predictor.encode("photo.jpg")
(prediction,) = predictor.segment(scene, ["the cup on the left"])
prediction.mask  # bool (H, W)
```

Family `{described.family}`, images of {config.image_size} pixels, {config.word_length} tokens, threshold \
{config.threshold:g}; written by refseg {described.refseg}.
"""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
