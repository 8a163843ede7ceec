"""Converts weights of other projects: checkpoints of the CRIS reference, CLIP's weights, and transformers' CLIPSeg."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from refseg.config import load_json
from refseg.encoders.clip_files import clip_weights, is_clip
from refseg.encoders.efficientnet import EfficientNet
from refseg.encoders.keras_file import ENDINGS as HDF5
from refseg.encoders.keras_file import is_hdf5, read_keras
from refseg.encoders.pretrained import Encoders, adopt_encoders, in_a_model, load_encoders
from refseg.encoders.weights_file import read_file, save_checkpoint
from refseg.errors import ConfigError, OutputError, WeightsError, one_line
from refseg.files import replacing
from refseg.inputs.vectors import read_vectors
from refseg.inputs.words import read_vocabulary
from refseg.models.base import Model, ModelSpec
from refseg.models.checked import build_checked
from refseg.models.clip_map.model import CLIPMap
from refseg.models.clip_map.model import default_spec as clip_map_spec
from refseg.models.clipseg.convert import config_of_transformers, from_transformers, is_clipseg
from refseg.models.clipseg.model import default_spec as clipseg_spec
from refseg.models.cris.convert import as_checkpoint, parse_checkpoint
from refseg.models.efn.convert import from_reference as from_efn_names
from refseg.models.efn.convert import is_efn
from refseg.models.efn.convert import to_reference as to_efn_names
from refseg.models.efn.model import default_spec as efn_spec
from refseg.models.families import family
from refseg.models.folder import load_model, read_encoders, read_folder, save_model
from refseg.models.keras_names import family_of as keras_family
from refseg.models.keras_names import from_reference as from_keras_names
from refseg.models.layout import CONFIG
from refseg.models.mcn.convert import NAMES as MCN_NAMES
from refseg.models.mcn.model import default_spec as mcn_spec
from refseg.models.vlt.convert import NAMES as VLT_NAMES
from refseg.models.vlt.model import CELL as VLT_CELL
from refseg.models.vlt.model import default_spec as vlt_spec

__all__ = ["adopt_clip", "convert", "merge", "read_foreign"]

CHECKPOINTS = (".pth", ".pt")
"""Endings of files of `torch.save`."""
ENDINGS = (*CHECKPOINTS, ".safetensors", ".bin", ".ckpt", ".onnx", ".zip", *HDF5)
"""Endings of files of weights, which a folder should not have."""
TRANSFORMERS_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""In a folder that transformers wrote, the preferred one first."""


def adopt_clip(model: Model, path: str | Path, *, name: str | None = None) -> None:
    """Load a CLIP into the encoders of a model, and store its name and fingerprint as `model.clip`.

    Args:
        model: Its encoders have the sizes of the CLIP.
        path: The file of the CLIP, or a model folder with its encoders.
        name: OpenAI's name of the CLIP; by default its path.

    Raises:
        WeightsError: The weights are missing, broken or of other sizes.
        ConfigError: The model has no encoders of a CLIP.
    """
    if not isinstance(model, Encoders) or isinstance(model.visual, EfficientNet):
        raise ConfigError(f"this model of the family {model.family} has no encoders to load a CLIP into")
    model.clip = adopt_encoders(model, read_encoders(path), name or str(Path(path).resolve()))


def merge(source: str | Path, target: str | Path, *, clip: str | Path | None = None) -> Path:
    """Write a copy of a model folder that contains the encoders of its CLIP too, and return it.

    Args:
        source: The model folder.
        target: The folder to write.
        clip: The file or model folder of the CLIP, if `load_model` does not find it.

    Raises:
        WeightsError: The source or the CLIP is missing or broken, or it is another CLIP.
        ConfigError: The config of the source is broken.
        OutputError: The target exists, or cannot be written.
    """
    _check_folder(Path(target))
    stored = read_folder(source)
    return save_model(load_model(source, clip=clip), target, domain=stored.domain, extra=stored.about, merged=True)


def convert(
    source: str | Path,
    target: str | Path,
    *,
    to: Literal["refseg", "reference"] | None = None,
    vectors: str | Path | None = None,
    vocabulary: str | Path | None = None,
    **changes: Any,
) -> Path:
    """Convert a checkpoint of the CRIS reference to a model folder, or a model folder to such a checkpoint.

    A file of CLIP's weights is converted to the model folder of a plain CLIP (see `refseg.models.clip_map`), a folder
    or a file of transformers' CLIPSeg to that of a CLIPSeg. With the extra `refseg[keras]`, a file of Keras (`.h5`) of
    MCN or VLT is converted too, to a model with 416 pixels, 15 words (20 for RefCOCOg) and threshold 0.35. A file of
    EFN's weights is converted to a model with 320 pixels, 20 words and threshold 0.5, and back.

    Sizes are inferred from the weights. All others are those of the published models: of CRIS images of 416 pixels, 17
    tokens (22 for RefCOCOg), threshold 0.35 and 8 heads in the decoder; of CLIPSeg 352 pixels, 77 tokens, threshold 0.3
    and 4 heads; 64 channels in each head of CLIP's encoders. Checkpoints written by this function contain the whole
    spec. A folder of transformers has a `config.json`, which is read too.

    Args:
        source: A file, such as the reference's `best_model.pth`, a model folder, or a folder of transformers' CLIPSeg.
        target: The folder, or the file.
        to: What to write; by default a folder if the source is a file, and a file if it is a folder.
        vectors: The word vectors that MCN and VLT were trained with, which their weights do not contain: a text file
            of GloVe, or the folder of a spaCy model.
        vocabulary: The list of words that EFN was trained with, one a line (see `read_vocabulary`), which its weights
            do not contain. Without it the model reads tokens alone, and no texts.
        **changes: Fields of the new folder's spec, such as `word_length=22`.

    Returns:
        The target.

    Raises:
        WeightsError: The source is missing, broken, unsafe, not finite, or of another architecture.
        ConfigError: A change is unknown or does not fit.
        OutputError: The target exists, its name does not fit what is written, or it cannot be written.
    """
    source, target = Path(source), Path(target)
    if to is None:
        to = "reference" if source.is_dir() and _transformers_files(source) is None else "refseg"
    if to == "reference":
        if changes:
            raise ConfigError(f"{', '.join(changes)}: a checkpoint of the reference has no settings to change")
        _check_file(target)
        return _to_reference(source, target)
    _check_folder(target)
    model, about = read_foreign(source, vectors=vectors, vocabulary=vocabulary, **changes)
    return save_model(model, target, name=target.name, extra={"source": source.name, **about})


def read_foreign(
    source: str | Path, *, vectors: str | Path | None = None, vocabulary: str | Path | None = None, **changes: Any
) -> tuple[Model, dict[str, Any]]:
    """Return the model of another project's weights, and what is stored with them about its training (see `convert`).

    Raises:
        WeightsError: The source is missing, broken, unsafe, not finite, or of another architecture.
        ConfigError: A change is unknown or does not fit, or the config of transformers is broken.
    """
    path, config = Path(source), None
    if path.is_file() and is_hdf5(path):
        return _of_keras(read_keras(path), path, vectors, **changes), {}
    if vectors is not None:
        raise ConfigError("word vectors are only needed for the weights of MCN and VLT, files of Keras")
    if path.is_dir():
        if (files := _transformers_files(path)) is None:
            raise WeightsError(f"{path} is a folder without a {CONFIG} of transformers; give the file of the weights")
        path, config = files
    stored, others = read_file(path)
    if is_efn(stored):
        return _of_efn(stored, path, vocabulary, **changes), {}
    if vocabulary is not None:
        raise ConfigError("a list of words is only needed for the weights of EFN")
    if is_clipseg(stored):
        return _of_clipseg(stored, path, config, **changes), {}
    if config is not None:
        raise WeightsError(f"{path}: not the weights of a CLIPSeg, the only model of transformers that is converted")
    if is_clip(stored):
        return _of_clip(stored, path, **changes), {}
    state, spec, scores = parse_checkpoint(stored, others, path)
    return _load("cris", spec.changed(**changes), state, path), scores


def _of_keras(stored: Mapping[str, Tensor], path: Path, vectors: str | Path | None, **changes: Any) -> Model:
    """Return the MCN or VLT of the weights of a file of Keras."""
    name = keras_family(stored)
    if name is None:
        raise WeightsError(f"{path}: neither an MCN nor a VLT, the only models of Keras that are converted")
    if vectors is None:
        raise ConfigError(
            f"{path}: the weights of {name.upper()} do not contain its word vectors; give them: a text file of GloVe, "
            "or the folder of the spaCy model en_vectors_web_lg (--vectors)"
        )
    words, table = read_vectors(Path(vectors))
    names = MCN_NAMES if name == "mcn" else VLT_NAMES
    try:
        state = from_keras_names(stored, names)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    zero = torch.zeros(1, table.shape[1])
    state["text.vectors"] = torch.cat([zero, torch.from_numpy(table)])
    config = _inferred(name, state, path)
    if name == "mcn":
        spec = mcn_spec(config)
    else:
        side = math.isqrt(state["generate.of_image.weight"].shape[1]) * VLT_CELL
        spec = vlt_spec(config).changed(image_size=side)
    counts = {f"{key.removesuffix('running_mean')}num_batches_tracked" for key in state if key.endswith("running_mean")}
    state |= {key: torch.tensor(0) for key in counts}
    return _load(name, spec.changed(vocabulary=words, **changes), state, path)


def _of_efn(stored: Mapping[str, Tensor], path: Path, vocabulary: str | Path | None, **changes: Any) -> Model:
    try:
        state = from_efn_names(stored)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    config = _inferred("efn", state, path)
    if vocabulary is not None:
        changes["vocabulary"] = read_vocabulary(Path(vocabulary), config.vocabulary_size)
    return _load("efn", efn_spec(config).changed(**changes), state, path)


def _check_folder(target: Path) -> None:
    if target.suffix.lower() in ENDINGS:
        raise OutputError(
            f"{target}: a model folder is written, and {target.suffix} is the ending of a file; name a folder"
        )
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise OutputError(f"{target}: exists already and is not replaced; name another folder, or remove it")


def _check_file(target: Path) -> None:
    if target.suffix.lower() not in CHECKPOINTS:
        endings = " or ".join(CHECKPOINTS)
        raise OutputError(f"{target}: a checkpoint of the reference is written; let its name end with {endings}")
    if target.exists():
        raise OutputError(f"{target}: exists already and is not replaced; name another file, or remove it")


def _to_reference(source: Path, target: Path) -> Path:
    described, model = read_folder(source), load_model(source)
    if described.family == "efn":
        content: dict[str, Any] = {**to_efn_names(model.state_dict())}
    elif described.family == "cris":
        content = as_checkpoint(model.state_dict(), model.spec, described.about)
    else:
        raise WeightsError(f"{source}: a model of the family {described.family}; only CRIS and EFN are converted back")
    try:
        with replacing(target) as path:
            save_checkpoint(content, path)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"{target}: cannot be written: {one_line(error)}") from None
    return target


def _of_clip(stored: Mapping[str, Tensor], path: Path, **changes: Any) -> Model:
    state = clip_weights(stored, path)
    spec = clip_map_spec(_inferred("clip-map", in_a_model(state), path)).changed(**changes)
    model = CLIPMap(spec.config, spec.inputs, spec.decision)
    load_encoders(model, state)
    return model


def _of_clipseg(stored: Mapping[str, Tensor], path: Path, config: Path | None, **changes: Any) -> Model:
    state = from_transformers(stored, path)
    sizes = _inferred("clipseg", state, path)
    if config is not None:
        sizes = config_of_transformers(sizes, load_json(config), where=str(config))
    return _load("clipseg", clipseg_spec(sizes).changed(**changes), state, path)


def _inferred(name: str, state: Mapping[str, Tensor], path: Path) -> Any:
    """Return the config of a family that weights have, under our names."""
    try:
        return family(name).infer_config(state)
    except (WeightsError, ConfigError) as error:
        raise WeightsError(f"{path}: {error}") from None


def _load(name: str, spec: ModelSpec, state: Mapping[str, Tensor], path: Path) -> Model:
    """Return the model of some weights, under our names."""
    model = build_checked(family(name), spec, {key: tuple(value.shape) for key, value in state.items()}, path)
    model.load_state_dict(state)
    return model


def _transformers_files(folder: Path) -> tuple[Path, Path] | None:
    """Return the weights and the config of a model of transformers; None if the folder has no config of one."""
    config = folder / CONFIG
    if not config.is_file() or "model_type" not in load_json(config):
        return None
    weights = next((folder / name for name in TRANSFORMERS_WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise WeightsError(f"{folder}: has a {CONFIG} of transformers, but none of {', '.join(TRANSFORMERS_WEIGHTS)}")
    return weights, config
