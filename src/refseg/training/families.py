"""The facts of training of each model family: what it can minimise, which parameters learn, and how fast."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from refseg.data.batches import Batch
from refseg.encoders.clip_resnet import Bottleneck, ResNetConfig
from refseg.encoders.darknet import ConvNormLeaky
from refseg.encoders.efficientnet import EfficientNetConfig, InvertedBottleneck
from refseg.encoders.layers import ResidualAttentionBlock, blocks_above
from refseg.encoders.resnet import Bottleneck as WideBottleneck
from refseg.errors import ConfigError
from refseg.models.base import Model, PatchMapModel
from refseg.models.clip_map.model import CLIPMap, CLIPMapConfig
from refseg.models.clipseg.decoder import PostNormBlock
from refseg.models.clipseg.model import CLIPSegConfig
from refseg.models.cris.decoder import DecoderLayer
from refseg.models.cris.model import CRISConfig
from refseg.models.efn.boundary import SqueezeBodyEdge
from refseg.models.efn.coattention import AsymmetricCoAttention, VanillaCoAttention
from refseg.models.efn.layers import ConvNormPReLU
from refseg.models.efn.model import EFN, EFNConfig
from refseg.models.mcn.model import MCN
from refseg.models.risclip.cfe import CrossModalFeatureExtraction
from refseg.models.risclip.model import RISCLIPConfig
from refseg.models.risclip.ske import SharedSpaceKnowledgeExploitation
from refseg.models.vlt.transformer import DecoderBlock, EncoderBlock
from refseg.training.box_loss import collaborative_loss
from refseg.training.config import TrainingConfig
from refseg.training.losses import boundary_loss, contrastive_loss, focal_dice_loss, image_text_loss, pixel_sum_loss

__all__ = ["TRAINING", "TrainingSpec", "training_spec"]

Loss = Callable[[Any, Batch, TrainingConfig], Float[Tensor, "B"]]
"""Returns the loss of each expression of a batch; its first argument is the model."""


@dataclass(frozen=True, kw_only=True)
class TrainingSpec:
    """How the models of a family are trained."""

    objectives: Mapping[str, Loss]
    """The losses that a model of the family can minimise, by name."""
    without_gradient: Callable[[Any, str], tuple[str, ...]]
    """Returns the prefixes of parameters that no gradient reaches, from the config and the objective."""
    is_backbone: Callable[[Any, str], bool]
    """Whether a parameter belongs to the pretrained encoders, which train at a lower learning rate, from the config
    and its name."""
    layer_id: Callable[[Any, str], int]
    """Returns how many layers of its encoder are above a parameter of the backbone, from the config and its name."""
    blocks: Callable[[Any], list[nn.Module]]
    """Returns the modules that do most of the work, none inside another, to be recomputed, or sharded, one by one."""
    cell_size: Callable[[Any], int]
    """Returns the side of a token of the image in pixels, from the config."""
    penalised: Callable[[Any], list[Tensor]] = lambda model: []
    """Returns the kernels whose squares the published loss penalises (see `TrainingConfig.kernel_penalty`)."""
    image_side: tuple[str, ...] = ("visual.",)
    """The prefixes of the parameters that depend on which image encoder the model has: the encoder's own, and those of
    the layers that read its features."""


def training_spec(model: Model) -> TrainingSpec:
    """Return how a model is trained.

    Raises:
        ConfigError: its family has no training.
    """
    if model.family not in TRAINING:
        raise ConfigError(
            f"models of the family {model.family} cannot be trained; it has no entry in training.families"
        )
    return TRAINING[model.family]


# ── losses ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encoded(model: Model, batch: Batch) -> dict[str, Tensor]:
    """Encode each image once, and return its features for each expression."""
    features = model.encode_image(batch.pixels)
    return {name: values.index_select(0, batch.image_index) for name, values in features.items()}


def _text_to_pixel(model: Model, batch: Batch, config: TrainingConfig) -> Float[Tensor, "B"]:
    """CRIS, equations 8 and 9; the binary cross-entropy of each pixel, with which CLIPSeg was trained too."""
    logits = model.decode(_encoded(model, batch), batch.tokens, batch.padding)
    return contrastive_loss(logits, batch.target, batch.valid)


def _mask(model: Model, batch: Batch, config: TrainingConfig) -> Float[Tensor, "B"]:
    logits = model.decode(_encoded(model, batch), batch.tokens, batch.padding)
    return focal_dice_loss(logits, batch.target, batch.valid, focal=config.focal, dice=config.dice)


def _grounding(model: PatchMapModel, batch: Batch, config: TrainingConfig) -> Float[Tensor, "B"]:
    """A patch belongs to the target if more than half of its valid part does."""
    logits = model.map_logits(model.ground(_encoded(model, batch), batch.tokens, batch.padding))
    side = logits.shape[-1]
    valid = F.adaptive_avg_pool2d(batch.valid, side)
    target = F.adaptive_avg_pool2d(batch.target * batch.valid, side) > 0.5 * valid
    return focal_dice_loss(logits, target.to(batch.target.dtype), valid, focal=config.focal, dice=config.dice)


def _image_text(model: CLIPMap, batch: Batch, config: TrainingConfig) -> Float[Tensor, "B"]:
    """Expressions whose target is empty are hard negatives."""
    images, sentences = model.embed(batch.pixels, batch.tokens)
    fits = batch.target.flatten(1).any(dim=1)
    # An expression matches each image that has an equal one among its own.
    equal = (batch.tokens[:, None] == batch.tokens[None]).all(dim=-1).float()
    of_image = F.one_hot(batch.image_index, len(images)).to(equal) * fits[:, None]
    same = (equal @ of_image)[:, batch.image_index] > 0
    return image_text_loss(images[batch.image_index], sentences, model.text.logit_scale, same, fits)


def _boundary(model: EFN, batch: Batch, config: TrainingConfig) -> Float[Tensor, "B"]:
    text = model.encode_text(batch.tokens, batch.padding)
    levels = model.levels(_encoded(model, batch), text, batch.padding)
    return boundary_loss([*levels.masks, *levels.bodies], levels.edges, batch.target, batch.valid)


def _pixel_sum(model: Model, batch: Batch, config: TrainingConfig) -> Float[Tensor, "B"]:
    logits = model.decode(_encoded(model, batch), batch.tokens, batch.padding)
    return pixel_sum_loss(logits, batch.target, batch.valid)


def _collaborative(model: MCN, batch: Batch, config: TrainingConfig) -> Float[Tensor, "B"]:
    tasks = model.tasks(_encoded(model, batch), model.encode_text(batch.tokens, batch.padding))
    return collaborative_loss(tasks, batch.target, batch.box, model.anchors, batch.valid, batch.pixels.shape[-1])


# ── parameters and modules ───────────────────────────────────────────────────────────────────────────────────────────

RESNET_STAGES = ("attnpool", "layer4", "layer3", "layer2", "layer1")
"""The stages of CLIP's ResNet, from its output down; the stem is below them."""
EFFICIENTNET_STAGES = 7
EFN_IMAGE_SIDE = tuple(f"fusion{stage}.{layer}." for stage in (3, 4, 5) for layer in ("image", "mix"))
"""The layers of EFN's fusions that read and write features of the image encoder."""


def _is_cris_backbone(config: CRISConfig, parameter: str) -> bool:
    """The positional embeddings train at the rate of the new layers (CRIS; its code, model/__init__.py)."""
    pretrained = ("visual.",) if isinstance(config.vision, EfficientNetConfig) else ("visual.", "text.")
    return parameter.startswith(pretrained) and "positional_embedding" not in parameter


def _cris_layer_id(config: CRISConfig, parameter: str) -> int:
    encoder, _, rest = parameter.partition(".")
    if isinstance(config.vision, EfficientNetConfig):
        return EFFICIENTNET_STAGES - (int(rest.split(".")[1]) + 1 if rest.startswith("stages.") else 0)
    if encoder == "visual":
        above = (number for number, stage in enumerate(RESNET_STAGES) if rest.startswith(stage))
        return next(above, len(RESNET_STAGES))
    return blocks_above(rest, config.text.layers)


def _cris_blocks(model: Any) -> list[nn.Module]:
    return [
        *_modules(model, Bottleneck, InvertedBottleneck, ResidualAttentionBlock, DecoderLayer),
        model.projector.pixels,
    ]


def _transformer_layer_id(config: RISCLIPConfig | CLIPSegConfig, parameter: str) -> int:
    encoder, _, rest = parameter.partition(".")
    return blocks_above(rest, (config.vision if encoder == "visual" else config.text).layers)


def _risclip_without_gradient(config: RISCLIPConfig, objective: str) -> tuple[str, ...]:
    """The map is computed without the decoder."""
    return ("text.logit_scale", "decoder.") if objective == "grounding" else ("text.logit_scale",)


def _clipseg_without_gradient(config: CLIPSegConfig, objective: str) -> tuple[str, ...]:
    """The decoder uses no image block after the first of `decoder_blocks`."""
    unused = range(config.decoder_blocks[0], config.vision.layers)
    blocks = (f"visual.transformer.resblocks.{index}." for index in unused)
    return ("text.logit_scale", "visual.ln_post.", "visual.proj", *blocks)


def _clip_map_without_gradient(config: CLIPMapConfig, objective: str) -> tuple[str, ...]:
    return ("visual.attnpool.connect.",) if isinstance(config.vision, ResNetConfig) else ()


def _efn_layer_id(config: EFNConfig, parameter: str) -> int:
    """The stages of the image encoder, from its output down; the stem is below them."""
    stage = parameter.removeprefix("visual.layer")[:1]
    return 4 - (int(stage) if stage.isdecimal() else 0)


def _is_darknet(config: Any, parameter: str) -> bool:
    return parameter.startswith("visual.")


def _kernels(model: nn.Module, *outputs: nn.Conv2d) -> list[Tensor]:
    """Return the kernels that the authors' helper for convolutions makes, which penalises them (MCN and VLT)."""
    blocks = [block for block in model.modules() if isinstance(block, ConvNormLeaky)]
    return [*(block.conv.weight for block in blocks), *(output.weight for output in outputs)]


def _modules(model: nn.Module, *kinds: type[nn.Module]) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kinds)]


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────

TRAINING: Mapping[str, TrainingSpec] = MappingProxyType(
    {
        "cris": TrainingSpec(
            objectives={"text-to-pixel": _text_to_pixel, "mask": _mask},
            without_gradient=lambda config, objective: ("text.logit_scale",),
            is_backbone=_is_cris_backbone,
            layer_id=_cris_layer_id,
            blocks=_cris_blocks,
            cell_size=lambda config: 16,
            image_side=("visual.", "neck.project3.", "neck.project4.", "neck.project5."),
        ),
        "risclip": TrainingSpec(
            objectives={"grounding": _grounding, "mask": _mask},
            without_gradient=_risclip_without_gradient,
            is_backbone=lambda config, name: name.startswith(("visual.", "text.")),
            layer_id=_transformer_layer_id,
            blocks=lambda model: _modules(
                model, ResidualAttentionBlock, CrossModalFeatureExtraction, SharedSpaceKnowledgeExploitation
            ),
            cell_size=lambda config: int(config.vision.patch),
        ),
        "clip-map": TrainingSpec(
            objectives={"image-text": _image_text},
            without_gradient=_clip_map_without_gradient,
            is_backbone=lambda config, name: False,
            layer_id=lambda config, name: 0,
            blocks=lambda model: _modules(model, Bottleneck, ResidualAttentionBlock),
            cell_size=lambda config: int(config.patch),
        ),
        "clipseg": TrainingSpec(
            objectives={"text-to-pixel": _text_to_pixel, "mask": _mask},
            without_gradient=_clipseg_without_gradient,
            is_backbone=lambda config, name: name.startswith(("visual.", "text.")),
            layer_id=_transformer_layer_id,
            blocks=lambda model: _modules(model, ResidualAttentionBlock, PostNormBlock),
            cell_size=lambda config: int(config.vision.patch),
        ),
        "efn": TrainingSpec(
            objectives={"boundary": _boundary},
            # The backward GRU is read after one word, from a state of zeros.
            without_gradient=lambda config, objective: ("text.backwards.weight_hh",),
            is_backbone=lambda config, name: name.startswith("visual."),
            layer_id=_efn_layer_id,
            blocks=lambda model: _modules(
                model, WideBottleneck, ConvNormPReLU, SqueezeBodyEdge, VanillaCoAttention, AsymmetricCoAttention
            ),
            cell_size=lambda config: 16,
            image_side=("visual.", "pixel_norm.", "lateral.", *EFN_IMAGE_SIDE),
        ),
        "mcn": TrainingSpec(
            objectives={"collaborative": _collaborative},
            without_gradient=lambda config, objective: (),
            is_backbone=_is_darknet,
            layer_id=lambda config, name: 0,
            blocks=lambda model: _modules(model, ConvNormLeaky),
            cell_size=lambda config: 8,
            penalised=lambda model: _kernels(model, model.segmentation.logit, model.detection.logits),
            image_side=("visual.", "refine.", "segmentation.project1.", "segmentation.project2."),
        ),
        "vlt": TrainingSpec(
            objectives={"pixel-sum": _pixel_sum, "mask": _mask},
            without_gradient=lambda config, objective: (),
            is_backbone=_is_darknet,
            layer_id=lambda config, name: 0,
            blocks=lambda model: _modules(model, ConvNormLeaky, EncoderBlock, DecoderBlock),
            cell_size=lambda config: 16,
            penalised=lambda model: _kernels(model, model.generate.maps, model.head.logit),
            image_side=("visual.", "refine.", "fusion.project1.", "fusion.project2."),
        ),
    }
)
"""By the name of the family."""
