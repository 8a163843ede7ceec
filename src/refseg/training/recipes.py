"""Named runs: each a function whose docstring says what it costs and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from refseg.config import replace
from refseg.errors import ConfigError, UnknownNameError
from refseg.models.clip_map.model import CLIPMapConfig, clip_map_compact
from refseg.models.cris.model import CRISConfig, cris, cris_compact
from refseg.models.risclip.model import RISCLIPConfig, risclip, risclip_compact
from refseg.training.config import TrainingConfig

__all__ = [
    "RECIPES",
    "ROWS",
    "SYSTEMS",
    "Recipe",
    "Stage",
    "cris_r50_refcoco",
    "cris_r50_refcoco_plus",
    "cris_r50_refcocog_google",
    "cris_r50_refcocog_umd",
    "cris_r101_refcoco",
    "cris_r101_refcoco_plus",
    "cris_r101_refcocog_google",
    "cris_r101_refcocog_umd",
    "finetune",
    "overfit",
    "overfit_risclip",
    "overfit_risclip_mask",
    "recipe",
    "risclip_b_refcoco",
    "risclip_b_refcoco_mask",
    "risclip_b_refcoco_plus",
    "risclip_b_refcoco_plus_mask",
    "risclip_b_refcocog_umd",
    "risclip_b_refcocog_umd_mask",
    "risclip_l_refcoco_plus",
    "risclip_l_refcoco_plus_mask",
    "shapes",
    "shapes_ablation",
    "shapes_clip",
    "shapes_clip_vit",
    "shapes_risclip",
    "shapes_risclip_mask",
    "shapes_smoke",
]

ROWS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "baseline": {"contrastive": False, "decoder_layers": 0},
        "contrastive": {"contrastive": True, "decoder_layers": 0},
        "decoder": {"contrastive": False, "decoder_layers": 1},
        "both-1": {"contrastive": True, "decoder_layers": 1},
        "both-2": {"contrastive": True, "decoder_layers": 2},
        "both-3": {"contrastive": True, "decoder_layers": 3},
        "both-4": {"contrastive": True, "decoder_layers": 4},
    }
)
"""The rows of CRIS' ablation (its table 3): with and without text-to-pixel contrastive learning and decoder."""


Stage = tuple[str, Mapping[str, Any]]
"""One run of a row that takes several, each of which goes on from the one before: a recipe, and what is changed."""

_EQUAL = {"steps_per_epoch": 250, "batch_size": 8, "expressions_per_image": 6, "sizes": ((0.0, 96),)} | {
    "warmup_steps": 100,
    "validation_images": 0,
}
"""What the systems have in common when they are compared: 1,500 steps in all, of as many expressions."""


def _two_stages(**changes: Any) -> tuple[Stage, ...]:
    return (
        ("shapes-risclip", {**_EQUAL, "epochs": 4, "model.image_size": 96, **changes}),
        ("shapes-risclip-mask", {**_EQUAL, "epochs": 2, "model.image_size": 96, **changes}),
    )


SYSTEMS: MappingProxyType[str, tuple[Stage, ...]] = MappingProxyType(
    {
        "cris": (("shapes-ablation", {**_EQUAL, "epochs": 6}),),
        "cris-from-clip": (("shapes-ablation", {**_EQUAL, "epochs": 6, "clip": "shapes-clip"}),),
        "risclip": _two_stages(),
        "risclip-without-cfe": _two_stages(**{"model.fusions": ()}),
        "risclip-without-ske": _two_stages(**{"model.ske_layers": 0}),
        "risclip-unfrozen": _two_stages(**{"model.frozen": False}),
        "risclip-one-stage": (
            (
                "shapes-risclip-mask",
                {**_EQUAL, "epochs": 6, "model.image_size": 96, "freeze": (), "clip": "shapes-clip-vit"},
            ),
        ),
    }
)
"""CRIS and RISCLIP on generated scenes with equal budgets, and RISCLIP without each of its parts."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A model's config, where its weights start, the numbers of its training, and what it learns from."""

    model: CRISConfig | RISCLIPConfig | CLIPMapConfig | None
    """None takes the model that the run starts from."""
    training: TrainingConfig
    data: str
    """What is learnt from, as NAME:SPLIT."""
    validation: str
    """What chooses the best weights."""
    clip: str | None = None
    """OpenAI's name of the pretrained encoders whose weights the run starts from, or the recipe that trains them."""
    protocol: str = "refseg"
    """How validation compares masks."""


# --- CRIS as published ----------------------------------------------------------------------------------------------


def cris_r50_refcoco(*, faithful: bool = False) -> Recipe:
    """Train CRIS R50 on RefCOCO.

    Command: `refseg train cris-r50-refcoco --data ROOT --clip RN50.pt [--faithful]`. Hardware: the authors used 8 V100
    of 16 GB. Expected, faithful: mean IoU 69.52 on val, 72.72 on testA, 64.70 on testB as published; ours is not
    measured.
    """
    return _published("RN50", "refcoco", 17, faithful=faithful)


def cris_r101_refcoco(*, faithful: bool = False) -> Recipe:
    """Train CRIS R101 on RefCOCO.

    Command: `refseg train cris-r101-refcoco --data ROOT --clip RN101.pt [--faithful]`. Hardware: as for R50. Expected,
    faithful: mean IoU 70.47 on val, 73.18 on testA, 66.10 on testB as published; ours is not measured.
    """
    return _published("RN101", "refcoco", 17, faithful=faithful)


def cris_r50_refcoco_plus(*, faithful: bool = False) -> Recipe:
    """Train CRIS R50 on RefCOCO+.

    Command: `refseg train cris-r50-refcoco+ --data ROOT --clip RN50.pt [--faithful]`. Hardware: the authors used 8 V100
    of 16 GB. Expected, faithful: mean IoU 61.39 on val, 67.10 on testA, 52.48 on testB as published, whose best weights
    testB itself chose; ours is not measured.
    """
    return _published("RN50", "refcoco+", 17, faithful=faithful)


def cris_r101_refcoco_plus(*, faithful: bool = False) -> Recipe:
    """Train CRIS R101 on RefCOCO+.

    Command: `refseg train cris-r101-refcoco+ --data ROOT --clip RN101.pt [--faithful]`. Hardware: as for R50. Expected,
    faithful: mean IoU 62.27 on val, 68.08 on testA, 53.68 on testB as published, whose best weights testB itself chose;
    ours is not measured.
    """
    return _published("RN101", "refcoco+", 17, faithful=faithful)


def cris_r50_refcocog_umd(*, faithful: bool = False) -> Recipe:
    """Train CRIS R50 on RefCOCOg, UMD splits.

    Command: `refseg train cris-r50-refcocog-umd --data ROOT --clip RN50.pt [--faithful]`. Hardware: the authors used 8
    V100 of 16 GB. Expected, faithful: mean IoU 59.35 on val, 59.39 on test as published; ours is not measured.
    """
    return _published("RN50", "refcocog-umd", 22, faithful=faithful)


def cris_r101_refcocog_umd(*, faithful: bool = False) -> Recipe:
    """Train CRIS R101 on RefCOCOg, UMD splits.

    Command: `refseg train cris-r101-refcocog-umd --data ROOT --clip RN101.pt [--faithful]`. Hardware: as for R50.
    Expected, faithful: mean IoU 59.87 on val, 60.36 on test as published; ours is not measured.
    """
    return _published("RN101", "refcocog-umd", 22, faithful=faithful)


def cris_r50_refcocog_google(*, faithful: bool = False) -> Recipe:
    """Train CRIS R50 on RefCOCOg, Google splits.

    Command: `refseg train cris-r50-refcocog-google --data ROOT --clip RN50.pt [--faithful]`. Hardware: the authors used
    8 V100 of 16 GB. Expected: unknown, since no number is published for these splits.
    """
    return _published("RN50", "refcocog-google", 22, faithful=faithful)


def cris_r101_refcocog_google(*, faithful: bool = False) -> Recipe:
    """Train CRIS R101 on RefCOCOg, Google splits.

    Command: `refseg train cris-r101-refcocog-google --data ROOT --clip RN101.pt [--faithful]`. Hardware: as for R50.
    Expected: unknown, since no number is published for these splits.
    """
    return _published("RN101", "refcocog-google", 22, faithful=faithful)


def _published(clip: str, data: str, word_length: int, *, faithful: bool) -> Recipe:
    """Return the published run, or what we would do instead with the same numbers where they are not in question.

    Faithful are: each reference once an epoch with one of its expressions, targets of every fourth pixel, float16, the
    first epoch of the encoders at the full rate, and a validation on the first expressions, for RefCOCO+ on testB. Ours
    draws images with four expressions, targets that come back in place, bfloat16, and chooses on all of val.
    """
    if not faithful:
        training = TrainingConfig(
            batch_size=32, expressions_per_image=4, precision="bfloat16", validation_images=None, workers=8
        )
        return Recipe(
            model=cris(clip, word_length=word_length),
            training=training,
            data=f"{data}:train",
            validation=f"{data}:val",
            clip=clip,
        )
    training = TrainingConfig(
        draw="reference",
        target="strided",
        precision="float16",
        first_epoch_at_full_rate=True,
        validation_expressions="first",
        validation_images=None,
        workers=8,
    )
    return Recipe(
        model=cris(clip, word_length=word_length),
        training=training,
        data=f"{data}:train",
        validation=f"{data}:{'testB' if data == 'refcoco+' else 'val'}",
        clip=clip,
        protocol="cris",
    )


# --- RISCLIP, as far as it is published -------------------------------------------------------------------------------


def risclip_b_refcoco(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-B on RefCOCO, first stage: the patch-level map.

    Command: `refseg train risclip-b-refcoco --data ROOT --clip ViT-B-16.pt [--faithful]`, then its second stage with
    `--init runs/risclip-b-refcoco/best`. Hardware: a GPU of 80 GB, or several smaller ones. Expected after both stages:
    overall IoU 73.57 on val, 76.46 on testA, 69.76 on testB as published; ours is not measured.
    """
    return _grounding("ViT-B/16", "refcoco", 20, faithful=faithful)


def risclip_b_refcoco_mask(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-B on RefCOCO, second stage: the decoder.

    Command: `refseg train risclip-b-refcoco-mask --data ROOT --init runs/risclip-b-refcoco/best [--faithful]`.
    Hardware and what to expect: as for the first stage.
    """
    return _masks("ViT-B/16", "refcoco", 20, faithful=faithful)


def risclip_b_refcoco_plus(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-B on RefCOCO+, first stage: the patch-level map.

    Command: `refseg train risclip-b-refcoco+ --data ROOT --clip ViT-B-16.pt [--faithful]`. Hardware: as for RefCOCO.
    Expected after both stages: overall IoU 65.53 on val, 70.61 on testA, 55.49 on testB as published; ours is not
    measured.
    """
    return _grounding("ViT-B/16", "refcoco+", 20, faithful=faithful)


def risclip_b_refcoco_plus_mask(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-B on RefCOCO+, second stage: the decoder.

    Command: `refseg train risclip-b-refcoco+-mask --data ROOT --init runs/risclip-b-refcoco+/best [--faithful]`.
    Hardware and what to expect: as for the first stage.
    """
    return _masks("ViT-B/16", "refcoco+", 20, faithful=faithful)


def risclip_b_refcocog_umd(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-B on RefCOCOg, UMD splits, first stage: the patch-level map.

    Command: `refseg train risclip-b-refcocog-umd --data ROOT --clip ViT-B-16.pt [--faithful]`. Hardware: as for
    RefCOCO. Expected after both stages: overall IoU 64.10 on val, 65.09 on test as published; ours is not measured.
    """
    return _grounding("ViT-B/16", "refcocog-umd", 40, faithful=faithful)


def risclip_b_refcocog_umd_mask(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-B on RefCOCOg, UMD splits, second stage: the decoder.

    Command: `refseg train risclip-b-refcocog-umd-mask --data ROOT --init runs/risclip-b-refcocog-umd/best`. Hardware
    and what to expect: as for the first stage.
    """
    return _masks("ViT-B/16", "refcocog-umd", 40, faithful=faithful)


def risclip_l_refcoco_plus(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-L on RefCOCO+, first stage: the patch-level map.

    Command: `refseg train risclip-l-refcoco+ --data ROOT --clip ViT-L-14.pt [--faithful]`. Hardware: several GPUs of
    80 GB. Expected after both stages: mean IoU 74.38 on val, 78.77 on testA, 66.84 on testB as published; ours is not
    measured.
    """
    return _grounding("ViT-L/14", "refcoco+", 20, faithful=faithful)


def risclip_l_refcoco_plus_mask(*, faithful: bool = False) -> Recipe:
    """Train RISCLIP-L on RefCOCO+, second stage: the decoder.

    Command: `refseg train risclip-l-refcoco+-mask --data ROOT --init runs/risclip-l-refcoco+/best [--faithful]`.
    Hardware and what to expect: as for the first stage.
    """
    return _masks("ViT-L/14", "refcoco+", 20, faithful=faithful)


STAGE_ONE = ("visual_adapters", "text_adapters", "cfe", "ske", "map")
"""The parts of RISCLIP that its second stage leaves as they are."""


def _grounding(clip: str, data: str, word_length: int, *, faithful: bool) -> Recipe:
    """Return the first stage. Stated by the paper: what is frozen, and the loss on the map.

    Second-hand, from a re-implementation that gives the paper for them: AdamW at 5e-5 with weight decay 5e-3,
    polynomial decay, 60 epochs, batches of 32, and the weights of the losses. Ours: the power of the decay. Faithful
    draws each reference once an epoch with one of its expressions; else images are drawn, with four.
    """
    return Recipe(
        model=risclip(clip, word_length=word_length, decoder_blocks=()),
        training=_risclip_training(faithful=faithful, objective="grounding", epochs=60),
        data=f"{data}:train",
        validation=f"{data}:val",
        clip=clip,
    )


def _masks(clip: str, data: str, word_length: int, *, faithful: bool) -> Recipe:
    """Return the second stage. Two stages are stated; that the first one's parts are frozen then is second-hand.

    Ours: 15 epochs.
    """
    return Recipe(
        model=risclip(clip, word_length=word_length),
        training=_risclip_training(faithful=faithful, objective="mask", epochs=15, freeze=STAGE_ONE),
        data=f"{data}:train",
        validation=f"{data}:val",
    )


def _risclip_training(*, faithful: bool, **changes: Any) -> TrainingConfig:
    usual = TrainingConfig(
        draw="reference" if faithful else "image",
        batch_size=32 if faithful else 16,
        expressions_per_image=1 if faithful else 4,
        optimizer="adamw",
        learning_rate=5e-5,
        backbone_factor=1.0,
        weight_decay=5e-3,
        schedule="polynomial",
        precision="bfloat16",
        validation_images=None,
        workers=8,
    )
    return replace(usual, **changes)


# --- generated scenes -----------------------------------------------------------------------------------------------


def shapes() -> Recipe:
    """Train a compact CRIS on generated scenes.

    Command: `refseg train shapes`. Hardware: two CPU cores with bfloat16 instructions, three hours. Expected: not
    measured yet as one run. The model that comes with the package had more steps, in stages, the last of them at 320
    pixels (`docs/results.md`).
    """
    return Recipe(
        model=cris_compact(),
        training=TrainingConfig(
            epochs=75,
            steps_per_epoch=200,
            batch_size=12,
            expressions_per_image=8,
            sizes=((0.0, 128), (0.7, 192)),
            drill=12,
            optimizer="adamw",
            learning_rate=1e-3,
            backbone_factor=1.0,
            weight_decay=0.01,
            schedule="cosine",
            warmup_steps=300,
            max_norm=1.0,
            precision="bfloat16",
            seed=1,
            workers=1,
            validation_images=24,
        ),
        data="shapes:train",
        validation="shapes:val",
    )


def shapes_clip() -> Recipe:
    """Train a small CLIP on close-ups of generated things: the encoders for a compact CRIS to start from.

    Command: `refseg train shapes-clip`. Hardware: two CPU cores with bfloat16 instructions, ten minutes.
    Expected: names kind and colour of 97 of 100 close-ups, the texture of 74 (`docs/results.md`).
    """
    return _shapes_clip("resnet")


def shapes_clip_vit() -> Recipe:
    """Train a small CLIP with a vision transformer on close-ups: the frozen CLIP of a compact RISCLIP.

    Command: `refseg train shapes-clip-vit`. Hardware: two CPU cores with bfloat16 instructions, ten minutes.
    Expected: names the kind of 39 of 100 close-ups, the colour of 97, the texture of 66; with words that are lent to it
    the kind of 89 (`docs/results.md`, which has the commands).
    """
    return _shapes_clip("vit")


def _shapes_clip(encoder: str) -> Recipe:
    return Recipe(
        model=clip_map_compact(encoder),
        training=TrainingConfig(
            objective="image-text",
            epochs=4,
            steps_per_epoch=500,
            batch_size=64,
            expressions_per_image=7,
            sizes=((0.0, 64),),
            optimizer="adamw",
            learning_rate=2e-3,
            weight_decay=0.02,
            schedule="cosine",
            warmup_steps=100,
            max_norm=1.0,
            precision="bfloat16",
            seed=1,
            workers=2,
            validation_images=40,
        ),
        data="shapes-closeups:train",
        validation="shapes:val",
    )


def shapes_risclip() -> Recipe:
    """Train a compact RISCLIP on generated scenes, first stage: the patch-level map, over a frozen CLIP.

    Command: `refseg train shapes-risclip --clip runs/shapes-clip-vit/last`, then its second stage. Hardware: two CPU
    cores with bfloat16 instructions, half an hour. Expected: not measured yet.
    """
    training = replace(
        shapes().training,
        objective="grounding",
        epochs=10,
        batch_size=8,
        expressions_per_image=6,
        sizes=((0.0, 128), (0.7, 192)),
    )
    return Recipe(
        model=risclip_compact(decoder_blocks=()),
        training=training,
        data="shapes:train",
        validation="shapes:val",
        clip="shapes-clip-vit",
    )


def shapes_risclip_mask() -> Recipe:
    """Train a compact RISCLIP on generated scenes, second stage: the decoder.

    Command: `refseg train shapes-risclip-mask --init runs/shapes-risclip/last`. Hardware: two CPU cores with bfloat16
    instructions, ten minutes. Expected: not measured yet.
    """
    training = replace(
        shapes_risclip().training, objective="mask", epochs=3, sizes=((0.0, 192),), freeze=STAGE_ONE, warmup_steps=50
    )
    return Recipe(model=risclip_compact(), training=training, data="shapes:train", validation="shapes:val")


def shapes_smoke() -> Recipe:
    """Show that training works, in a minute: a few steps of `shapes`, worth nothing.

    Command: `refseg train shapes-smoke`. Hardware: any.
    """
    full = shapes()
    short = replace(
        full.training, epochs=2, steps_per_epoch=10, batch_size=4, warmup_steps=5, workers=0, validation_images=4
    )
    return Recipe(model=full.model, training=short, data=full.data, validation=full.validation)


def shapes_ablation() -> Recipe:
    """Train one row of the ablation on generated scenes; `refseg ablate shapes` trains all of them.

    Command: `refseg train shapes-ablation --row both-3`. Hardware: two CPU cores, a quarter of an hour.
    Expected: `docs/results.md`; no row has learnt the task by then.
    """
    full = shapes()
    short = replace(
        full.training, epochs=5, steps_per_epoch=300, sizes=((0.0, 96),), warmup_steps=100, validation_images=0
    )
    return Recipe(model=cris_compact(image_size=96), training=short, data=full.data, validation=full.validation)


# --- your own data --------------------------------------------------------------------------------------------------


def finetune() -> Recipe:
    """Go on with a trained model on data of your own.

    Command: `refseg train finetune --init MODEL data=my-folder`. Hardware: a GPU of 8 GB for CRIS R50 at a few images
    a step (the command tells what fits), two CPU cores for the model that comes with the package. Expected: depends on
    the data.
    """
    return Recipe(
        model=None,
        training=TrainingConfig(
            epochs=10,
            batch_size=8,
            expressions_per_image=4,
            freeze_norm=True,
            optimizer="adamw",
            learning_rate=5e-5,
            backbone_factor=0.1,
            layer_decay=0.8,
            weight_decay=0.01,
            schedule="cosine",
            warmup_steps=20,
            max_norm=1.0,
            precision="bfloat16",
            mirror=0.5,
            validation_images=None,
            workers=1,
        ),
        data="",
        validation="",
    )


def overfit() -> Recipe:
    """Train a compact CRIS from nothing until it knows a few images by heart: a test of the whole path on any data.

    Command: `refseg train overfit --data ROOT data=refcoco:all`, also `data=refcoco:all,refcocog-google:all`.
    Hardware: two CPU cores, ten minutes. Expected: mean IoU 0.8 on these same images.
    """
    return Recipe(
        model=cris_compact(image_size=256, word_length=24),
        training=TrainingConfig(
            epochs=6,
            steps_per_epoch=60,
            batch_size=8,
            expressions_per_image=4,
            optimizer="adamw",
            learning_rate=2e-3,
            backbone_factor=1.0,
            schedule="cosine",
            warmup_steps=20,
            max_norm=1.0,
            precision="bfloat16",
            workers=1,
            validation_images=None,
        ),
        data="",
        validation="",
    )


def overfit_risclip() -> Recipe:
    """Train a compact RISCLIP until its map knows a few images by heart, over a small CLIP that does not know them.

    Command: `refseg train overfit-risclip --data ROOT data=refcoco:all --clip runs/shapes-clip-vit/last`, or with
    `--clip none`, then its second stage. Hardware: two CPU cores, ten minutes. Expected: mean IoU 0.7 of the map.
    """
    training = replace(overfit().training, objective="grounding", learning_rate=1e-3)
    return Recipe(
        model=risclip_compact(image_size=128, decoder_blocks=()),
        training=training,
        data="",
        validation="",
        clip="shapes-clip-vit",
    )


def overfit_risclip_mask() -> Recipe:
    """Train its decoder: the second stage.

    Command: `refseg train overfit-risclip-mask --data ROOT data=refcoco:all --init runs/overfit-risclip/last`.
    Hardware: two CPU cores, five minutes. Expected: mean IoU 0.86 on these same images.
    """
    training = replace(overfit_risclip().training, objective="mask", freeze=STAGE_ONE)
    return Recipe(model=risclip_compact(image_size=128), training=training, data="", validation="")


RECIPES: MappingProxyType[str, Callable[..., Recipe]] = MappingProxyType(
    {
        "cris-r50-refcoco": cris_r50_refcoco,
        "cris-r101-refcoco": cris_r101_refcoco,
        "cris-r50-refcoco+": cris_r50_refcoco_plus,
        "cris-r101-refcoco+": cris_r101_refcoco_plus,
        "cris-r50-refcocog-umd": cris_r50_refcocog_umd,
        "cris-r101-refcocog-umd": cris_r101_refcocog_umd,
        "cris-r50-refcocog-google": cris_r50_refcocog_google,
        "cris-r101-refcocog-google": cris_r101_refcocog_google,
        "risclip-b-refcoco": risclip_b_refcoco,
        "risclip-b-refcoco-mask": risclip_b_refcoco_mask,
        "risclip-b-refcoco+": risclip_b_refcoco_plus,
        "risclip-b-refcoco+-mask": risclip_b_refcoco_plus_mask,
        "risclip-b-refcocog-umd": risclip_b_refcocog_umd,
        "risclip-b-refcocog-umd-mask": risclip_b_refcocog_umd_mask,
        "risclip-l-refcoco+": risclip_l_refcoco_plus,
        "risclip-l-refcoco+-mask": risclip_l_refcoco_plus_mask,
        "shapes": shapes,
        "shapes-clip": shapes_clip,
        "shapes-clip-vit": shapes_clip_vit,
        "shapes-risclip": shapes_risclip,
        "shapes-risclip-mask": shapes_risclip_mask,
        "shapes-smoke": shapes_smoke,
        "shapes-ablation": shapes_ablation,
        "finetune": finetune,
        "overfit": overfit,
        "overfit-risclip": overfit_risclip,
        "overfit-risclip-mask": overfit_risclip_mask,
    }
)

OWN = frozenset({"data", "validation", "protocol", "clip"})
"""Fields of a recipe that a change may name; those of its model begin with `model.`, any other is its training's."""


def recipe(name: str, *, faithful: bool = False, row: str | None = None, **changes: Any) -> Recipe:
    """Return a named recipe, changed.

    Args:
        name: of the recipe.
        faithful: the published run with its slips, in place of the sensible one.
        row: of the ablation, which changes the model.
        **changes: fields of `TrainingConfig`; `data`, `validation`, `protocol` or `clip`; or fields of the model, as in
            `{"model.decoder_layers": 2}`.

    Raises:
        UnknownNameError: there is no such recipe, or no such row.
        ConfigError: a change is not a field, or out of range; or the recipe has no published run.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    if row is not None and row not in ROWS:
        raise UnknownNameError("row of the ablation", row, ROWS)
    published = "-ref" in name
    if faithful and not published:
        raise ConfigError(f"{name}: nobody has published this run, so that there is nothing to be faithful to")
    found = RECIPES[name](faithful=faithful) if published else RECIPES[name]()
    of_model = {key.removeprefix("model."): value for key, value in changes.items() if key.startswith("model.")}
    of_model = {**(ROWS[row] if row is not None else {}), **of_model}
    if of_model and found.model is None:
        raise ConfigError(f"{name}: the model is the one that the run starts from, and cannot be changed")
    own = {key: value for key, value in changes.items() if key in OWN}
    rest = {key: value for key, value in changes.items() if key not in OWN and not key.startswith("model.")}
    values = {field.name: getattr(found, field.name) for field in fields(Recipe)}
    values["model"] = replace(found.model, **of_model) if of_model else found.model
    values["training"] = replace(found.training, **rest)
    return Recipe(**{**values, **{key: str(value) for key, value in own.items()}})
