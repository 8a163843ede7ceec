"""CLIP's weights, from whichever file they come in, under OpenAI's names.

What is read: OpenAI's TorchScript archives (`RN50.pt`, `ViT-B-16.pt`), state dicts saved by `torch.save`, and
safetensors of open_clip and of transformers (which has no CLIP ResNet, and whose text encoder may come alone). Nothing in
a file is ever executed. Weights do not tell their activation: the encoders here have OpenAI's, `QuickGELU`, and some
CLIPs that others trained have another.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import math
import os
import pickle
import re
import urllib.error
import urllib.request
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm

from refseg.encoders.clip_resnet import ModifiedResNet, ResNetConfig
from refseg.encoders.clip_sizes import CLIP_SIZES, ClipSizes, clip_sizes
from refseg.encoders.clip_text import TextConfig, TextTransformer
from refseg.encoders.clip_vit import VisionTransformer, ViTConfig
from refseg.errors import ConfigError, DownloadError, WeightsError

__all__ = [
    "ClipSource",
    "Encoders",
    "adopt_encoders",
    "archive_name",
    "clip_folder",
    "clip_weights",
    "count_layers",
    "download_clip",
    "encoder_weights",
    "fingerprint",
    "in_a_model",
    "infer_resnet",
    "infer_text",
    "infer_vit",
    "is_clip",
    "load_encoders",
    "load_text_encoder",
    "read_clip",
    "read_file",
    "read_weights",
]

ADDRESS = "https://openaipublic.azureedge.net/clip/models"
# SHA-256 of each archive: OpenAI puts it into the address.
CHECKSUMS = {
    "RN50": "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
    "RN101": "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599",
    "RN50x4": "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd",
    "RN50x16": "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa",
    "RN50x64": "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c",
    "ViT-B/32": "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af",
    "ViT-B/16": "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    "ViT-L/14": "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836",
    "ViT-L/14@336px": "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
}
LARGEST_ARCHIVE = 4 * 2**30
TIMEOUT = 10.0

# In OpenAI's state dicts, but no weights.
SCALARS = ("input_resolution", "context_length", "vocab_size")
# CRIS' own layer inside CLIP's attention pool.
NOT_CLIPS = "attnpool.connect."
PARALLEL = "module."


class ClipSource(NamedTuple):
    """Which CLIP a model's encoders are."""

    name: str
    """OpenAI's name, or where its file or folder was."""
    sha256: str
    """Its fingerprint."""


@runtime_checkable
class Encoders(Protocol):
    """A model with CLIP's two encoders."""

    @property
    def visual(self) -> ModifiedResNet | VisionTransformer:
        """The image encoder."""

    @property
    def text(self) -> TextTransformer:
        """The text encoder."""


def read_clip(path: str | Path) -> dict[str, Tensor]:
    """Read CLIP's weights under OpenAI's names, in float32.

    Raises:
        WeightsError: The file is missing or broken, contains code that is no weights, or is of another architecture.
    """
    path = Path(path)
    return clip_weights(read_weights(path), path)


def clip_weights(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return what a file of CLIP's weights holds under OpenAI's names, in float32.

    Args:
        state: As it is stored, under anybody's names.
        path: Of the file, for what there is to complain about.

    Raises:
        WeightsError: It is of another architecture.
    """
    if any(key.startswith(("text_model.", "vision_model.")) for key in state):
        state = _from_transformers(state, path)
    elif any(key.startswith("text.") for key in state):
        state = {key.removeprefix("text."): value for key, value in state.items()}
    if "token_embedding.weight" not in state:
        raise WeightsError(f"{path}: no CLIP: 'token_embedding.weight' is missing")
    # Some blocks hold the causal mask as a plain tensor, which is no weight.
    return {
        key: value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if key not in SCALARS and not key.endswith("attn_mask")
    }


def is_clip(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict holds a CLIP, both encoders under anybody's names, and nothing else."""
    image = any(key.startswith(("visual.", "vision_model.")) for key in state)
    return (
        image
        and any(key.endswith("token_embedding.weight") for key in state)
        and not any(key.startswith(("neck.", "decoder.", "backbone.")) for key in state)
    )


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict as it is stored (see `read_file`)."""
    return read_file(path)[0]


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict, and what is stored beside it, without executing anything in the file.

    TorchScript archives, files of `torch.save` (also `{"state_dict": ...}` among other things) and safetensors are told
    apart by their content. The prefix that data-parallel training gives to names is taken off.

    Raises:
        WeightsError: The file is missing, broken, unsafe or holds no state dict.
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
        # What torch's unpickler refuses it calls a global; its message is a page long.
        if refused := re.search(r"GLOBAL (\S+\.\S+)", str(error)):
            raise WeightsError(f"{path}: contains more than weights ({refused[1]}); that code was not run") from None
        raise WeightsError(f"{path}: no file of weights, or a broken one") from None
    # Three parsers meet an untrusted bytes here, and each raises whatever it stumbles over.
    except Exception:
        raise WeightsError(f"{path}: no file of weights, or a broken one") from None
    beside: dict[str, Any] = {}
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        beside = {str(key): value for key, value in content.items() if key != "state_dict"}
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no state dict")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{path}: holds no state dict: {str(key)[:60]!r} is no tensor")
        # A view that repeats its memory could unfold to any size.
        if value.layout is not torch.strided or value.nbytes > value.untyped_storage().nbytes():
            raise WeightsError(f"{path}: {key!r} is no plain tensor")
    if all(key.startswith(PARALLEL) for key in content):
        content = {key.removeprefix(PARALLEL): value for key, value in content.items()}
    return dict(content), beside


def load_encoders(model: Encoders, state: Mapping[str, Tensor]) -> None:
    """Load CLIP's weights into a model's encoders, strictly.

    What CLIP does not have (`attnpool.connect`, and all that is not an encoder) stays as it is; what only counts batches
    may be missing.

    Args:
        model: Its encoders have the weights' sizes.
        state: Weights under OpenAI's names, as `read_clip` returns them.

    Raises:
        WeightsError: Names or shapes differ; the message says which CLIP the weights seem to be.
    """
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    if not visual:
        raise WeightsError("these weights have no image encoder: all names that start with 'visual.' are missing")
    has = encoder_weights(model)
    if (kind := _image_encoder(state)) != (wanted := _image_encoder(has)):
        fits = _identity(has, otherwise="another CLIP")
        raise WeightsError(f"{_identity(state)} ({kind}) does not fit this model, which takes {fits} ({wanted})")
    _load(model.visual, visual, state)
    load_text_encoder(model.text, state)


def load_text_encoder(text: TextTransformer, state: Mapping[str, Tensor]) -> None:
    """Load CLIP's weights into a text encoder, strictly; weights of an image encoder are left aside.

    Raises:
        WeightsError: Names or shapes differ.
    """
    _load(text, {key: value for key, value in state.items() if not key.startswith("visual.")}, state)


def adopt_encoders(model: Encoders, state: Mapping[str, Tensor], name: str) -> ClipSource:
    """Load a CLIP's weights into a model's encoders (see `load_encoders`), and return which CLIP it is.

    Raises:
        WeightsError: Names or shapes differ.
    """
    load_encoders(model, state)
    return ClipSource(name, fingerprint(state))


def in_a_model(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a CLIP's weights as a model with both encoders names them; OpenAI's text encoder has no name of its own."""
    return {key if key.startswith("visual.") else f"text.{key}": value for key, value in state.items()}


def encoder_weights(model: Encoders) -> dict[str, Tensor]:
    """Return what a model's encoders hold, under OpenAI's names, as `read_clip` returns a file's weights."""
    visual = {f"visual.{key}": value for key, value in model.visual.state_dict().items()}
    return visual | model.text.state_dict()


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 that is the same for the same pair of encoders, whichever kind of file it was read from.

    Names, shapes and values count, in float32 and in the names' order. What computes no feature does not: the logit
    scale, counts of batches and CRIS' own layer.

    Args:
        state: Weights under OpenAI's names, as `read_clip` and `encoder_weights` return them.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        if name in (*SCALARS, "logit_scale") or name.endswith("num_batches_tracked") or NOT_CLIPS in name:
            continue
        values = state[name].detach().to("cpu", torch.float32).contiguous().numpy()
        digest.update(f"{name} {list(values.shape)}\n".encode())
        digest.update(values.astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def archive_name(name: str) -> str:
    """Return what OpenAI calls the file of a CLIP: `ViT-L-14-336px.pt` for `ViT-L/14@336px`."""
    return name.replace("/", "-").replace("@", "-") + ".pt"


def clip_folder() -> Path:
    """Return where fetched archives are kept: `clip` in `$REFSEG_HOME`, or in `~/.cache/refseg`."""
    return Path(os.environ.get("REFSEG_HOME") or Path.home() / ".cache" / "refseg") / "clip"


def download_clip(name: str, folder: str | Path | None = None, *, address: str = ADDRESS) -> Path:
    """Fetch OpenAI's archive of a CLIP such as `RN50` or `ViT-B/16`, unless it is there, and return its path.

    A transfer that broke off goes on where it ended. The file gets its name only when its checksum is right.

    Args:
        name: One of OpenAI's names.
        folder: Where to keep it; by default `clip` in `$REFSEG_HOME`, or in `~/.cache/refseg`.
        address: A mirror with the same layout, `<address>/<checksum>/<file>`, the file as `archive_name` has it.

    Raises:
        UnknownNameError: There is no such CLIP.
        DownloadError: It cannot be fetched, or what came is something else.
    """
    clip_sizes(name)
    folder = clip_folder() if folder is None else Path(folder)
    path, part = folder / archive_name(name), folder / f"{archive_name(name)}.part"
    wanted = CHECKSUMS[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _checksum(path) == wanted:
            return path
        url = f"{address}/{wanted}/{path.name}"
        if not (part.is_file() and _checksum(part) == wanted):
            _fetch(url, part)
            if _checksum(part) != wanted:
                part.unlink()
                raise DownloadError(f"{url}: what came is not {name} (its checksum is wrong); it was removed")
        part.replace(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, DownloadError):
            raise
        raise DownloadError(
            f"{name} was not fetched from {address}: {_reason(error)}; "
            "run it again to go on, or give the path of a local file"
        ) from None
    return path


def infer_resnet(state: Mapping[str, Tensor], prefix: str = "visual.") -> ResNetConfig:
    """Find the sizes of a ModifiedResNet from the shapes of its weights.

    Raises:
        WeightsError: A weight that tells a size is missing, or of an impossible shape.
    """
    width = _shape(state, f"{prefix}layer1.0.conv1.weight", 4)[0]
    grid = _grid(state, f"{prefix}attnpool.positional_embedding")
    blocks = [count_layers(state, rf"{re.escape(prefix)}layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)]
    return ResNetConfig(
        layers=(blocks[0], blocks[1], blocks[2], blocks[3]),
        width=width,
        heads=max(1, width * 32 // 64),
        output_dim=_shape(state, f"{prefix}attnpool.c_proj.weight", 2)[0],
        pretrained_size=32 * grid,
    )


def infer_vit(state: Mapping[str, Tensor], prefix: str = "visual.") -> ViTConfig:
    """Find the sizes of a vision transformer from the shapes of its weights.

    Raises:
        WeightsError: A weight that tells a size is missing, or of an impossible shape.
    """
    width, _, patch, _ = _shape(state, f"{prefix}conv1.weight", 4)
    return ViTConfig(
        patch=patch,
        width=width,
        layers=count_layers(state, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."),
        heads=max(1, width // 64),
        output_dim=_shape(state, f"{prefix}proj", 2)[1],
        pretrained_size=patch * _grid(state, f"{prefix}positional_embedding"),
    )


def infer_text(state: Mapping[str, Tensor], prefix: str = "") -> TextConfig:
    """Find the sizes of a text transformer from the shapes of its weights.

    Raises:
        WeightsError: A weight that tells a size is missing, or of an impossible shape.
    """
    vocabulary, width = _shape(state, f"{prefix}token_embedding.weight", 2)
    return TextConfig(
        width=width,
        heads=max(1, width // 64),
        layers=count_layers(state, rf"{re.escape(prefix)}transformer\.resblocks\.(\d+)\."),
        output_dim=_shape(state, f"{prefix}text_projection", 2)[1],
        context_length=_shape(state, f"{prefix}positional_embedding", 2)[0],
        vocabulary_size=vocabulary,
    )


def count_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the layers whose number is the pattern's first group.

    Raises:
        WeightsError: A number is left out: a single high one must not pass for that many layers.
    """
    numbers = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    if numbers != set(range(len(numbers))):
        raise WeightsError(f"these weights are incomplete: of the layers up to {max(numbers)} some are missing")
    return len(numbers)


def _shape(state: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    if key not in state:
        raise WeightsError(f"these weights are of another architecture: {key!r} is missing")
    shape = tuple(state[key].shape)
    if len(shape) != dimensions:
        raise WeightsError(f"these weights are of another architecture: {key!r} has the shape {list(shape)}")
    return shape


def _grid(state: Mapping[str, Tensor], key: str) -> int:
    """Return the side of the grid that a positional embedding is for; its first is that of a pooled token."""
    positions, _ = _shape(state, key, 2)
    return math.isqrt(max(positions - 1, 0))


def _load(encoder: nn.Module, weights: Mapping[str, Tensor], whole: Mapping[str, Tensor]) -> None:
    wanted = encoder.state_dict()
    given = {key: value for key, value in weights.items() if key not in SCALARS}
    # A scalar is a vector of one in some files.
    if "logit_scale" in given and given["logit_scale"].numel() == 1:
        given["logit_scale"] = given["logit_scale"].reshape(())
    for what, keys in (
        (
            "missing",
            [
                key
                for key in wanted
                if key not in given and not key.startswith(NOT_CLIPS) and not key.endswith("num_batches_tracked")
            ],
        ),
        ("unexpected", [key for key in given if key not in wanted]),
        ("of another shape", [key for key in given if key in wanted and given[key].shape != wanted[key].shape]),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise WeightsError(
                f"{_identity(whole)} does not fit this model: {what} are {', '.join(sorted(keys)[:3])}{more}"
            )
    encoder.load_state_dict(given, strict=False)


def _image_encoder(state: Mapping[str, Tensor]) -> str:
    """Say of which kind the image encoder of some weights is."""
    is_vit = any(key.startswith(("visual.proj", "visual.class_embedding")) for key in state)
    return "a vision transformer" if is_vit else "a ResNet"


def _identity(state: Mapping[str, Tensor], otherwise: str = "this file") -> str:
    """Say which CLIP some weights seem to be."""
    try:
        vision = infer_resnet(state) if _image_encoder(state) == "a ResNet" else infer_vit(state)
        sizes = ClipSizes(vision=vision, text=infer_text(state))
    except (WeightsError, ConfigError):
        return otherwise
    names = [name for name, known in CLIP_SIZES.items() if known == sizes]
    if names:
        return f"CLIP's {names[0]}"
    layers = vision.layers if isinstance(vision, ViTConfig) else list(vision.layers)
    return f"a CLIP of width {vision.width} and layers {layers}"


# transformers' names of what is not in a layer ("pre_layrnorm" is theirs), and of what is. The prefix of an encoder is the
# first group of the pattern.
TRANSFORMERS = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
TRANSFORMERS_TRANSPOSED = {"text_projection.weight": "text_projection", "visual_projection.weight": "visual.proj"}
TRANSFORMERS_LAYER = r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)"
TRANSFORMERS_LAYERS = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def _from_transformers(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the weights of transformers' CLIP; its queries, keys and values are three layers, and one here."""
    renamed, parts = {}, {"self_attn.q_proj": 0, "self_attn.k_proj": 1, "self_attn.v_proj": 2}
    split: dict[str, dict[int, Tensor]] = {}
    for key, value in state.items():
        if key in TRANSFORMERS:
            renamed[TRANSFORMERS[key]] = value
        elif key in TRANSFORMERS_TRANSPOSED and value.ndim == 2:
            renamed[TRANSFORMERS_TRANSPOSED[key]] = value.mT.contiguous()
        elif layer := re.fullmatch(TRANSFORMERS_LAYER, key):
            encoder, number, name, kind = layer.groups()
            block = f"{'visual.' if encoder == 'vision' else ''}transformer.resblocks.{number}."
            if name in TRANSFORMERS_LAYERS:
                renamed[f"{block}{TRANSFORMERS_LAYERS[name]}.{kind}"] = value
            elif name in parts:
                split.setdefault(f"{block}attn.in_proj_{kind}", {})[parts[name]] = value
            else:
                raise WeightsError(f"{path}: {key!r} is no weight of transformers' CLIP")
        elif not key.endswith("position_ids"):
            raise WeightsError(f"{path}: {key!r} is no weight of transformers' CLIP")
    for key, values in split.items():
        if len(values) != len(parts):
            raise WeightsError(f"{path}: one of the projections of {key} is missing")
        try:
            renamed[key] = torch.cat([values[index] for index in sorted(values)])
        except RuntimeError:
            raise WeightsError(f"{path}: the projections of {key} are of different shapes") from None
    return renamed


def _check_archive(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse archives that would unpack to more than they are. torch compresses code alone, which nobody reads here."""
    entries = [entry for entry in archive.infolist() if "/code/" not in entry.filename]
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise WeightsError(f"{path}: a compressed archive, which torch does not write; unpack it first")
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise WeightsError(f"{path}: a broken archive: its parts overlap")


def _read_pickle(path: Path, *, mapped: bool) -> Any:
    """Read a file of `torch.save` with torch's own restricted unpickler; mapped, tensors that nobody asks for are free.

    Numbers of numpy, which training states often hold among their scores, are let through as floats.
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
        raise pickle.UnpicklingError("a number of numpy is broken")
    return float(np.frombuffer(data, kind)[0])


class _Node:
    """A module of a TorchScript archive: its attributes, and none of its code."""


class _ArchiveUnpickler(pickle.Unpickler):
    """Reads a TorchScript archive's objects; what rebuilds tensors is known to it, and nothing else is."""

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
            raise WeightsError(f"{self.archive.filename}: asks for {module}.{name}, which is no weight and was not run")
        return self.known[module, name]

    def persistent_load(self, identity: Any) -> Tensor:
        _, kind, key, _, count = identity
        if key not in self.storages:
            data = bytearray(self.archive.read(f"{self.root}data/{key}"))
            self.storages[key] = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
        if self.storages[key].dtype != kind or len(self.storages[key]) != count:
            raise ValueError(f"{key} does not hold {count} numbers")
        return self.storages[key]


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)  # refuses what lies outside the storage


def _read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Collect the tensors of a TorchScript archive under the names of the modules that hold them."""
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


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(url: str, part: Path) -> None:
    """Transfer a file, going on where an earlier transfer broke off."""
    start = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "refseg"})  # noqa: S310
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
            return _fetch(url, part)
        raise OSError(f"the server answers {error.code} {error.reason}") from None
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # a server that cannot go on sends everything
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            part.open("ab" if start else "wb") as file,
            tqdm(
                total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, unit_divisor=1024, disable=None
            ) as progress,
        ):
            while chunk := response.read(2**20):
                file.write(chunk)
                progress.update(len(chunk))
                if file.tell() > LARGEST_ARCHIVE:
                    raise OSError(f"the server sends more than {LARGEST_ARCHIVE} bytes")
            if total is not None and file.tell() < total:
                raise OSError(f"the transfer broke off after {file.tell()} of {total} bytes")
    return None


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split())[:200] or type(error).__name__
