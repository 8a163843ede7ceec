"""The zoo: the one table of models that have a name, with their weights, licence and expected score.

Importing this module is cheap. torch and the model families are imported by the functions that need them, so that
`refseg models` and the command line's help answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from refseg.config import from_dict, load_json, replace
from refseg.errors import ConfigError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

    from refseg.models.base import Segmenter

__all__ = ["FAMILIES", "ZOO", "Family", "ZooEntry", "build", "create_model", "family", "zoo_entry"]

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True, kw_only=True)
class Family:
    """What all models of one kind share: their classes, and how sizes are read from weights."""

    name: str
    config: type[Any]
    model: Callable[[Any], Segmenter]
    infer_config: Callable[[Mapping[str, Tensor]], Any]
    """Finds a config from shapes alone; raises WeightsError where they are no such model's."""
    sizes: tuple[str, ...]
    """The fields of the config that shapes determine; dots lead into nested configs."""


@dataclass(frozen=True, kw_only=True)
class ZooEntry:
    """A model with a name."""

    name: str
    family: str
    config: Callable[[], Any]
    """Builds the config."""
    parameters: int
    clip: str | None = None
    """OpenAI's name for the pretrained pair of encoders that fits."""
    weights: Path | None = None
    """The model folder inside this package, for a model that comes with it."""
    licence: str
    summary: str
    score: str
    """What to expect of trained weights, with the metric."""


_TOWERS = (
    *("vision.layers", "vision.width", "vision.patch", "vision.output_dim", "vision.pretrained_size"),
    *("text.width", "text.layers", "text.output_dim", "text.context_length", "text.vocabulary_size"),
)
"""The fields of the two encoders' configs that shapes determine; a ResNet has no patches."""


def _cris_family() -> Family:
    from refseg.models.cris.convert import infer_config
    from refseg.models.cris.model import CRIS, CRISConfig

    return Family(
        name="cris",
        config=CRISConfig,
        model=CRIS,
        infer_config=infer_config,
        sizes=(*_TOWERS, "neck_channels", "decoder_layers", "contrastive"),
    )


def _clip_map_family() -> Family:
    from refseg.models.clip_map.convert import infer_config
    from refseg.models.clip_map.model import CLIPMap, CLIPMapConfig

    return Family(name="clip-map", config=CLIPMapConfig, model=CLIPMap, infer_config=infer_config, sizes=_TOWERS)


def _risclip_family() -> Family:
    from refseg.models.risclip.convert import infer_config
    from refseg.models.risclip.model import RISCLIP, RISCLIPConfig

    return Family(
        name="risclip",
        config=RISCLIPConfig,
        model=RISCLIP,
        infer_config=infer_config,
        sizes=(*_TOWERS, "cfe_sizes", "ske_sizes", "decoder_sizes"),
    )


def _clip_map(clip: str) -> Any:
    from refseg.models.clip_map.model import clip_map

    return clip_map(clip)


def _clip_map_compact(encoder: str) -> Any:
    from refseg.models.clip_map.model import clip_map_compact

    return clip_map_compact(encoder)


def _risclip(clip: str) -> Any:
    from refseg.models.risclip.model import risclip

    return risclip(clip)


def _risclip_compact() -> Any:
    from refseg.models.risclip.model import risclip_compact

    return risclip_compact()


def _cris(clip: str) -> Any:
    from refseg.models.cris.model import cris

    return cris(clip)


def _compact() -> Any:
    from refseg.models.cris.model import cris_compact

    return cris_compact()


def _bundled(name: str) -> Any:
    return from_dict(family("cris").config, load_json(WEIGHTS / name / "config.json").get("config"))


FAMILIES: dict[str, Callable[[], Family]] = {
    "cris": _cris_family,
    "risclip": _risclip_family,
    "clip-map": _clip_map_family,
}

ZOO = {
    entry.name: entry
    for entry in (
        ZooEntry(
            name="cris-r50",
            family="cris",
            config=partial(_cris, "RN50"),
            parameters=146_849_122,
            clip="RN50",
            licence="MIT, the published weights of CRIS and of CLIP",
            summary="CRIS on CLIP's ResNet-50, as published; convert the authors' checkpoint or train it",
            score="published mean IoU: RefCOCO 69.52/72.72/64.70, RefCOCO+ 61.39/67.10/52.48, G-Ref (umd) 59.35/59.39",
        ),
        ZooEntry(
            name="cris-r101",
            family="cris",
            config=partial(_cris, "RN101"),
            parameters=161_251_682,
            clip="RN101",
            licence="MIT, the published weights of CRIS and of CLIP",
            summary="CRIS on CLIP's ResNet-101, as published; convert the authors' checkpoint or train it",
            score="published mean IoU: RefCOCO 70.47/73.18/66.10, RefCOCO+ 62.27/68.08/53.68, G-Ref (umd) 59.87/60.36",
        ),
        ZooEntry(
            name="cris-r50x4",
            family="cris",
            config=partial(_cris, "RN50x4"),
            parameters=241_248_314,
            clip="RN50x4",
            licence="MIT, the published weights of CLIP",
            summary="CRIS on CLIP's ResNet-50x4; nobody has published it",
            score="unknown",
        ),
        ZooEntry(
            name="cris-r50x16",
            family="cris",
            config=partial(_cris, "RN50x16"),
            parameters=379_710_098,
            clip="RN50x16",
            licence="MIT, the published weights of CLIP",
            summary="CRIS on CLIP's ResNet-50x16; nobody has published it",
            score="unknown",
        ),
        ZooEntry(
            name="cris-r50x64",
            family="cris",
            config=partial(_cris, "RN50x64"),
            parameters=776_752_834,
            clip="RN50x64",
            licence="MIT, the published weights of CLIP",
            summary="CRIS on CLIP's ResNet-50x64; nobody has published it",
            score="unknown",
        ),
        ZooEntry(
            name="risclip-b",
            family="risclip",
            config=partial(_risclip, "ViT-B/16"),
            parameters=221_324_292,
            clip="ViT-B/16",
            licence="MIT, the published weights of CLIP; the authors have published none of their own",
            summary="RISCLIP on CLIP's ViT-B/16, frozen; train it, since nobody has published weights",
            score="published overall IoU: RefCOCO 73.57/76.46/69.76, RefCOCO+ 65.53/70.61/55.49, G-Ref 64.10/65.09",
        ),
        ZooEntry(
            name="risclip-l",
            family="risclip",
            config=partial(_risclip, "ViT-L/14"),
            parameters=603_389_700,
            clip="ViT-L/14",
            licence="MIT, the published weights of CLIP; the authors have published none of their own",
            summary="RISCLIP on CLIP's ViT-L/14, frozen; train it, since nobody has published weights",
            score="published mean IoU: RefCOCO+ 74.38/78.77/66.84",
        ),
        ZooEntry(
            name="clip-map-b32",
            family="clip-map",
            config=partial(_clip_map, "ViT-B/32"),
            parameters=151_277_313,
            clip="ViT-B/32",
            licence="MIT, the published weights of CLIP",
            summary="plain CLIP's ViT-B/32 with no training: how similar each patch is to the words",
            score="unknown; a map of patches rather than a mask",
        ),
        ZooEntry(
            name="clip-map-b16",
            family="clip-map",
            config=partial(_clip_map, "ViT-B/16"),
            parameters=149_620_737,
            clip="ViT-B/16",
            licence="MIT, the published weights of CLIP",
            summary="plain CLIP's ViT-B/16 with no training: how similar each patch is to the words",
            score="unknown; a map of patches rather than a mask",
        ),
        ZooEntry(
            name="clip-map-l14",
            family="clip-map",
            config=partial(_clip_map, "ViT-L/14"),
            parameters=427_616_513,
            clip="ViT-L/14",
            licence="MIT, the published weights of CLIP",
            summary="plain CLIP's ViT-L/14 with no training: how similar each patch is to the words",
            score="unknown; a map of patches rather than a mask",
        ),
        ZooEntry(
            name="clip-map-r50",
            family="clip-map",
            config=partial(_clip_map, "RN50"),
            parameters=104_106_337,
            clip="RN50",
            licence="MIT, the published weights of CLIP",
            summary="plain CLIP's RN50 with no training: how similar each patch is to the words",
            score="unknown; a map of patches rather than a mask",
        ),
        ZooEntry(
            name="risclip-compact",
            family="risclip",
            config=_risclip_compact,
            parameters=7_767_156,
            licence="Apache-2.0, as this package",
            summary="a small RISCLIP that trains on a laptop, for generated scenes",
            score="mean IoU 0.25 after a short training, beside CRIS; see docs/results.md",
        ),
        ZooEntry(
            name="clip-map-compact",
            family="clip-map",
            config=partial(_clip_map_compact, "resnet"),
            parameters=6_595_193,
            licence="Apache-2.0, as this package",
            summary="a small CLIP for generated scenes, whose encoders a compact CRIS can start from",
            score="names the kind of 97 % of close-ups, see docs/results.md",
        ),
        ZooEntry(
            name="clip-map-compact-vit",
            family="clip-map",
            config=partial(_clip_map_compact, "vit"),
            parameters=6_396_481,
            licence="Apache-2.0, as this package",
            summary="a small CLIP for generated scenes, whose encoders a compact RISCLIP can start from",
            score="names the kind of 89 % of close-ups, see docs/results.md",
        ),
        ZooEntry(
            name="cris-compact",
            family="cris",
            config=_compact,
            parameters=7_934_522,
            licence="Apache-2.0, as this package",
            summary="a small CRIS that trains on a laptop, for generated scenes",
            score="that of `shapes`, which is this architecture trained",
        ),
        ZooEntry(
            name="shapes",
            family="cris",
            config=partial(_bundled, "shapes"),
            parameters=7_934_522,
            weights=WEIGHTS / "shapes",
            licence="Apache-2.0, as this package; trained on generated scenes only",
            summary="the model that comes with refseg: it segments generated scenes of shapes, not photographs",
            score="mean IoU 0.84 on shapes:test, see docs/results.md",
        ),
    )
}


def zoo_entry(name: str) -> ZooEntry:
    """Return the entry of a name.

    Raises:
        UnknownNameError: No model has this name.
    """
    if name not in ZOO:
        raise UnknownNameError("model", name, ZOO)
    return ZOO[name]


def family(name: str) -> Family:
    """Return a model family by the name that a model folder gives it.

    Raises:
        UnknownNameError: There is no such family.
    """
    if name not in FAMILIES:
        raise UnknownNameError("model family", name, FAMILIES)
    return FAMILIES[name]()


def build(config: Any) -> Segmenter:
    """Build the untrained model that a config is of, in training mode."""
    return next(kind.model(config) for make in FAMILIES.values() if type(config) is (kind := make()).config)


def create_model(name: str, *, pretrained: bool | str | Path = False, **changes: Any) -> Segmenter:
    """Build a model of the zoo, untrained, in training mode.

    Args:
        name: A name of the zoo. That of a trained model gives its architecture; `load_model` brings its weights.
        pretrained: False draws random weights. A path is a local file of CLIP's weights for the two encoders. True
            fetches that file from OpenAI's address, once.
        **changes: Fields of the config, such as `decoder_layers=1` or `contrastive=False`.

    Raises:
        UnknownNameError: No model has this name.
        ConfigError: There is no such field, or its value does not fit.
        WeightsError: CLIP's file is broken or does not fit.
        DownloadError: CLIP's file could not be fetched.
    """
    entry = zoo_entry(name)
    if pretrained and entry.clip is None:
        raise ConfigError(f"{name}: no pretrained encoders have its sizes; leave `pretrained` out")
    if entry.weights is not None and not entry.weights.is_dir():
        raise WeightsError(f"{name}: its folder is missing from this installation: {entry.weights}")
    model = family(entry.family).model(replace(entry.config(), **changes))
    if pretrained:
        from refseg.encoders.clip_files import Encoders, adopt_encoders, download_clip, read_clip

        assert entry.clip is not None
        state = read_clip(download_clip(entry.clip) if pretrained is True else Path(pretrained))
        model.clip = adopt_encoders(cast(Encoders, model), state, entry.clip)
    return model
