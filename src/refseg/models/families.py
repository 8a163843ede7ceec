"""The table of model families, and the table of models with a name.

Importing this module does not import torch, so that `refseg models` and the help of the command line are fast.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg.errors import ConfigError, UnknownNameError, WeightsError
from refseg.published import Metric, published_scores

if TYPE_CHECKING:
    from torch import Tensor

    from refseg.models.base import Model, ModelSpec

__all__ = ["FAMILIES", "MODELS", "Family", "HubFile", "ModelEntry", "build", "create_model", "family", "model_entry"]

WEIGHTS = Path(__file__).parent / "weights"

# ── families ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class Family:
    """The classes of a model family, and how sizes are inferred from weights."""

    name: str
    config: type[Any]
    model: type[Model]
    infer_config: Callable[[Mapping[str, Tensor]], Any]
    """Returns a config from the shapes of weights; raises WeightsError if they are not of this family."""
    sizes: tuple[str, ...]
    """The fields of the config that the shapes of weights determine; a dot separates nested fields."""


ENCODERS = (
    *("vision.layers", "vision.width", "vision.patch", "vision.output_dim", "vision.pretrained_size"),
    *("vision.stem", "vision.widths", "vision.depths"),
    *("text.width", "text.layers", "text.output_dim", "text.context_length", "text.vocabulary_size"),
)
"""The fields of the two encoders' configs that shapes determine; no encoder has all of them."""


def _cris_family() -> Family:
    from refseg.models.cris.convert import infer_config
    from refseg.models.cris.model import CRIS, CRISConfig

    sizes = (*ENCODERS, "neck_channels", "decoder_layers", "contrastive")
    return Family(name="cris", config=CRISConfig, model=CRIS, infer_config=infer_config, sizes=sizes)


def _risclip_family() -> Family:
    from refseg.models.risclip.convert import infer_config
    from refseg.models.risclip.model import RISCLIP, RISCLIPConfig

    sizes = (*ENCODERS, "cfe_sizes", "ske_sizes", "decoder_sizes")
    return Family(name="risclip", config=RISCLIPConfig, model=RISCLIP, infer_config=infer_config, sizes=sizes)


def _clip_map_family() -> Family:
    from refseg.models.clip_map.convert import infer_config
    from refseg.models.clip_map.model import CLIPMap, CLIPMapConfig

    return Family(name="clip-map", config=CLIPMapConfig, model=CLIPMap, infer_config=infer_config, sizes=ENCODERS)


def _clipseg_family() -> Family:
    from refseg.models.clipseg.convert import infer_config
    from refseg.models.clipseg.model import CLIPSeg, CLIPSegConfig

    sizes = (*ENCODERS, "decoder_sizes")
    return Family(name="clipseg", config=CLIPSegConfig, model=CLIPSeg, infer_config=infer_config, sizes=sizes)


def _efn_family() -> Family:
    from refseg.models.efn.convert import infer_config
    from refseg.models.efn.model import EFN, EFNConfig

    sizes = (
        *("vision.layers", "vision.width", "vision.factor"),
        *("vocabulary_size", "width", "coattention", "coattention_width", "decoder_widths"),
    )
    return Family(name="efn", config=EFNConfig, model=EFN, infer_config=infer_config, sizes=sizes)


WORD_ENCODERS = ("vision.width", "vision.depths", "text.vocabulary_size", "text.vector_width", "text.width")
"""The fields of the configs of DarkNet and of the encoder of word vectors that shapes determine."""


def _mcn_family() -> Family:
    from refseg.models.mcn.convert import infer_config
    from refseg.models.mcn.model import MCN, MCNConfig

    sizes = (*WORD_ENCODERS, "width", "anchor_count")
    return Family(name="mcn", config=MCNConfig, model=MCN, infer_config=infer_config, sizes=sizes)


def _vlt_family() -> Family:
    from refseg.models.vlt.convert import infer_config
    from refseg.models.vlt.model import VLT, VLTConfig

    sizes = (*WORD_ENCODERS, "queries", "width", "layers", "hidden")
    return Family(name="vlt", config=VLTConfig, model=VLT, infer_config=infer_config, sizes=sizes)


FAMILIES: Mapping[str, Callable[[], Family]] = {
    "cris": _cris_family,
    "risclip": _risclip_family,
    "clip-map": _clip_map_family,
    "clipseg": _clipseg_family,
    "efn": _efn_family,
    "mcn": _mcn_family,
    "vlt": _vlt_family,
}


def family(name: str) -> Family:
    """Return a model family by its name in model folders.

    Raises:
        UnknownNameError: There is no such family.
    """
    if name not in FAMILIES:
        raise UnknownNameError("model family", name, FAMILIES)
    return FAMILIES[name]()


def build(spec: ModelSpec) -> Model:
    """Build a model with random weights, in training mode.

    Raises:
        ConfigError: The config is of no family, or the preprocessing does not fit the architecture.
    """
    for make in FAMILIES.values():
        kind = make()
        if type(spec.config) is kind.config:
            return kind.model(spec.config, spec.inputs, spec.decision)
    raise ConfigError(f"{type(spec.config).__name__} is not the config of a model family")


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """A file of weights on the Hugging Face Hub."""

    repository: str
    revision: str
    """The commit, in full."""
    name: str
    sha256: str
    """As the Hub lists it on the file's page."""
    megabytes: int


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """A model with a name."""

    name: str
    family: str
    spec: Callable[[], ModelSpec]
    parameters: int
    clip: str | None = None
    """OpenAI's name of the CLIP whose encoders have the sizes of this model's."""
    weights: Path | None = None
    """The model folder in this package; None if there is none."""
    hub: HubFile | None = None
    """The published file that is downloaded and converted when the model is first used; None if there is none."""
    licence: str
    """Of the weights."""
    summary: str
    published: tuple[str, str, Metric] | None = None
    """System, backbone and metric of the published scores (see `refseg.published`)."""
    measured: str = "unknown"
    """Scores on other data sets, or of weights that were trained with this package."""

    @property
    def score(self) -> str:
        """The scores to expect of trained weights."""
        return self.measured if self.published is None else f"published {published_scores(*self.published)}"


def _cris(clip: str | None) -> ModelSpec:
    from refseg.models.cris.model import cris, cris_compact

    return cris_compact() if clip is None else cris(clip)


def _risclip(clip: str | None) -> ModelSpec:
    from refseg.models.risclip.model import risclip, risclip_compact

    return risclip_compact() if clip is None else risclip(clip)


def _clip_map(clip: str) -> ModelSpec:
    from refseg.models.clip_map.model import clip_map, clip_map_compact

    return clip_map_compact(clip) if clip in ("resnet", "vit") else clip_map(clip)


def _clipseg(refined: bool) -> ModelSpec:
    from refseg.models.clipseg.model import clipseg

    return clipseg(refined=refined)


def _efn(compact: bool) -> ModelSpec:
    from refseg.models.efn.model import efn, efn_compact

    return efn_compact() if compact else efn()


def _mcn(compact: bool) -> ModelSpec:
    from refseg.models.mcn.model import mcn, mcn_compact

    return mcn_compact() if compact else mcn()


def _vlt(compact: bool) -> ModelSpec:
    from refseg.models.vlt.model import vlt, vlt_compact

    return vlt_compact() if compact else vlt()


def _bundled(name: str) -> ModelSpec:
    from refseg.models.folder import read_folder

    return read_folder(WEIGHTS / name).spec


OWN = "Apache-2.0, as this package"
OWN_PHOTOS = "Apache-2.0, as this package; trained on photos of various terms, see README.md beside the weights"
OF_CLIP = "MIT, the published weights of CLIP"
OF_CRIS = "MIT, the published weights of CRIS and of CLIP"

OF_EFN = "none stated by the authors"
OF_CLIPSEG = "Apache-2.0 by the Hub's page; the authors' code is MIT, its README excludes the weights"

MODELS: dict[str, ModelEntry] = {
    entry.name: entry
    for entry in (
        ModelEntry(
            name="cris-r50",
            family="cris",
            spec=partial(_cris, "RN50"),
            parameters=146_849_122,
            clip="RN50",
            licence=OF_CRIS,
            summary="CRIS on CLIP's ResNet-50, as published; convert the authors' checkpoint or train it",
            published=("CRIS", "CLIP ResNet-50", "mIoU"),
        ),
        ModelEntry(
            name="cris-r101",
            family="cris",
            spec=partial(_cris, "RN101"),
            parameters=161_251_682,
            clip="RN101",
            licence=OF_CRIS,
            summary="CRIS on CLIP's ResNet-101, as published; convert the authors' checkpoint or train it",
            published=("CRIS", "CLIP ResNet-101", "mIoU"),
        ),
        ModelEntry(
            name="cris-r50x4",
            family="cris",
            spec=partial(_cris, "RN50x4"),
            parameters=241_248_314,
            clip="RN50x4",
            licence=OF_CLIP,
            summary="CRIS on CLIP's ResNet-50x4; there are no published weights",
        ),
        ModelEntry(
            name="cris-r50x16",
            family="cris",
            spec=partial(_cris, "RN50x16"),
            parameters=379_710_098,
            clip="RN50x16",
            licence=OF_CLIP,
            summary="CRIS on CLIP's ResNet-50x16; there are no published weights",
        ),
        ModelEntry(
            name="cris-r50x64",
            family="cris",
            spec=partial(_cris, "RN50x64"),
            parameters=776_752_834,
            clip="RN50x64",
            licence=OF_CLIP,
            summary="CRIS on CLIP's ResNet-50x64; there are no published weights",
        ),
        ModelEntry(
            name="risclip-b",
            family="risclip",
            spec=partial(_risclip, "ViT-B/16"),
            parameters=221_324_292,
            clip="ViT-B/16",
            licence=OF_CLIP,
            summary="RISCLIP on CLIP's ViT-B/16, frozen; there are no published weights, train it",
            published=("RISCLIP-B", "CLIP ViT-B/16, frozen", "oIoU"),
        ),
        ModelEntry(
            name="risclip-l",
            family="risclip",
            spec=partial(_risclip, "ViT-L/14"),
            parameters=603_389_700,
            clip="ViT-L/14",
            licence=OF_CLIP,
            summary="RISCLIP on CLIP's ViT-L/14, frozen; there are no published weights, train it",
            published=("RISCLIP-L", "CLIP ViT-L", "mIoU"),
        ),
        ModelEntry(
            name="clip-map-b32",
            family="clip-map",
            spec=partial(_clip_map, "ViT-B/32"),
            parameters=151_277_313,
            clip="ViT-B/32",
            licence=OF_CLIP,
            summary="plain CLIP, ViT-B/32: the similarity of each patch to the expression",
        ),
        ModelEntry(
            name="clip-map-b16",
            family="clip-map",
            spec=partial(_clip_map, "ViT-B/16"),
            parameters=149_620_737,
            clip="ViT-B/16",
            licence=OF_CLIP,
            summary="plain CLIP, ViT-B/16: the similarity of each patch to the expression",
        ),
        ModelEntry(
            name="clip-map-l14",
            family="clip-map",
            spec=partial(_clip_map, "ViT-L/14"),
            parameters=427_616_513,
            clip="ViT-L/14",
            licence=OF_CLIP,
            summary="plain CLIP, ViT-L/14: the similarity of each patch to the expression",
        ),
        ModelEntry(
            name="clip-map-r50",
            family="clip-map",
            spec=partial(_clip_map, "RN50"),
            parameters=104_106_337,
            clip="RN50",
            licence=OF_CLIP,
            summary="plain CLIP, ResNet-50: the similarity of each patch to the expression",
        ),
        ModelEntry(
            name="clipseg",
            family="clipseg",
            spec=partial(_clipseg, True),
            parameters=150_747_746,
            clip="ViT-B/16",
            hub=HubFile(
                repository="CIDAS/clipseg-rd64-refined",
                revision="583b388deb98a04feb3e1f816dcdb8f3062ee205",
                name="pytorch_model.bin",
                sha256="dd9308225b8314bb7236f207e6ea72b22db5d90dba03fe3dc7d654f54dcfd08a",
                megabytes=603,
            ),
            licence=OF_CLIPSEG,
            summary="CLIPSeg with the refined decoder, for nouns and looks in photos; it hardly knows left from right",
            measured="none published for this decoder; see `clipseg-rd64`",
        ),
        ModelEntry(
            name="clipseg-rd64",
            family="clipseg",
            spec=partial(_clipseg, False),
            parameters=150_693_890,
            clip="ViT-B/16",
            hub=HubFile(
                repository="CIDAS/clipseg-rd64",
                revision="bd24dd21b694654bf18b388d3ebfda7b06a5f8c9",
                name="pytorch_model.bin",
                sha256="63e3e34334d7ef9975b1ffcf17d78b3391e0556241ec9ac654f6c19248b6a5b7",
                megabytes=603,
            ),
            licence=OF_CLIPSEG,
            summary="CLIPSeg with the decoder of the paper",
            measured="published on PhraseCut: mean IoU 43.4, IoU of the foreground 54.7 (arXiv 2112.10003, table 3, "
            "PC+); by others, without training there: IoU 30.1 on RefCOCO, 30.3 on RefCOCO+, 33.8 on RefCOCOg (arXiv "
            "2303.12343, table 3)",
        ),
        ModelEntry(
            name="risclip-compact",
            family="risclip",
            spec=partial(_risclip, None),
            parameters=7_767_156,
            licence=OWN,
            summary="a small RISCLIP for generated scenes, which can be trained on a laptop",
            measured="mean IoU 0.248 on shapes:val after 1,500 steps at 96 pixels, own thresholds; see docs/results.md",
        ),
        ModelEntry(
            name="clip-map-compact",
            family="clip-map",
            spec=partial(_clip_map, "resnet"),
            parameters=6_595_193,
            licence=OWN,
            summary="a small CLIP for generated scenes, with the encoders of `cris-compact`",
            measured="the kind of the object is right in 97 % of close-ups; see docs/results.md",
        ),
        ModelEntry(
            name="clip-map-compact-vit",
            family="clip-map",
            spec=partial(_clip_map, "vit"),
            parameters=6_396_481,
            licence=OWN,
            summary="a small CLIP for generated scenes, with the encoders of `risclip-compact`",
            measured="the kind of the object is right in 39 % of close-ups, in 89 % with the text encoder of "
            "`clip-map-compact`; see docs/results.md",
        ),
        ModelEntry(
            name="cris-compact",
            family="cris",
            spec=partial(_cris, None),
            parameters=7_934_522,
            licence=OWN,
            summary="a small CRIS for generated scenes, which can be trained on a laptop",
            measured="see `shapes`, which is this architecture, trained",
        ),
        ModelEntry(
            name="mcn",
            family="mcn",
            spec=partial(_mcn, False),
            parameters=81_734_130,
            licence="MIT, the authors' weights",
            summary="MCN on DarkNet-53, as published, which answers with a box too; convert the authors' weights",
            published=("MCN", "Darknet-53 + GRU", "mIoU"),
        ),
        ModelEntry(
            name="vlt",
            family="vlt",
            spec=partial(_vlt, False),
            parameters=89_312_230,
            licence="MIT, the authors' weights",
            summary="VLT on DarkNet-53, as published; convert the authors' weights",
            published=("VLT (2021)", "Darknet-53 + GRU", "mIoU"),
        ),
        ModelEntry(
            name="efn",
            family="efn",
            spec=partial(_efn, False),
            parameters=232_781_405,
            licence=OF_EFN,
            summary="EFN on a wide ResNet-101, as published; convert the authors' weights or train it",
            published=("EFN", "Wide ResNet-101 + GRU", "oIoU"),
        ),
        ModelEntry(
            name="efn-compact",
            family="efn",
            spec=partial(_efn, True),
            parameters=1_831_933,
            licence=OWN,
            summary="a small EFN for easy generated scenes, which can be trained on a laptop; without words",
        ),
        ModelEntry(
            name="mcn-compact",
            family="mcn",
            spec=partial(_mcn, True),
            parameters=1_441_564,
            licence=OWN,
            summary="a small MCN for easy generated scenes, which can be trained on a laptop; without words",
        ),
        ModelEntry(
            name="vlt-compact",
            family="vlt",
            spec=partial(_vlt, True),
            parameters=1_585_208,
            licence=OWN,
            summary="a small VLT for easy generated scenes, which can be trained on a laptop; without words",
        ),
        ModelEntry(
            name="photos",
            family="cris",
            spec=partial(_bundled, "photos"),
            parameters=9_314_947,
            weights=WEIGHTS / "photos",
            licence=OWN_PHOTOS,
            summary="the model in this package for photos: people, common animals and things, by name and place",
            measured="mean IoU 0.619 on the test photos of docs/photos.md; by name 0.74 for people and five animals",
        ),
        ModelEntry(
            name="shapes",
            family="cris",
            spec=partial(_bundled, "shapes"),
            parameters=7_934_522,
            weights=WEIGHTS / "shapes",
            licence=OWN,
            summary="the model in this package for generated scenes of shapes; it cannot be used on photos",
            measured="mean IoU 0.869 on shapes:test, 95.3 % pointing; see docs/results.md",
        ),
    )
}


def model_entry(name: str) -> ModelEntry:
    """Return the entry of a name.

    Raises:
        UnknownNameError: There is no such model.
    """
    if name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return MODELS[name]


def create_model(name: str, *, pretrained: bool | str | Path = False, **changes: Any) -> Model:
    """Build a model by its name, in training mode, with random weights.

    Args:
        name: As listed by `refseg models`. For a trained model only its architecture is used; `load_model` loads its
            weights.
        pretrained: True downloads the CLIP of the model's encoders and loads it. A path is the file of that CLIP, or a
            model folder with its encoders.
        **changes: Fields of the spec, such as `decoder_layers=1`, `image_size=320` or `threshold=0.5`.

    Raises:
        UnknownNameError: There is no such model.
        ConfigError: A change is unknown or does not fit, or there is no CLIP of these sizes.
        WeightsError: The weights of CLIP are broken or do not fit.
        DownloadError: CLIP could not be downloaded.
    """
    entry = model_entry(name)
    if pretrained and entry.clip is None:
        raise ConfigError(f"{name}: there is no pretrained CLIP of its sizes; leave `pretrained` out")
    if entry.weights is not None and not entry.weights.is_dir():
        raise WeightsError(f"{name}: its folder is missing from this installation: {entry.weights}")
    model = build(entry.spec().changed(**changes))
    if pretrained:
        from refseg.encoders.clip_download import download_clip
        from refseg.models.convert import adopt_clip

        assert entry.clip is not None
        adopt_clip(model, download_clip(entry.clip) if pretrained is True else Path(pretrained), name=entry.clip)
    return model
