"""The recipes: named training runs in one table, with what each costs and gives (`refseg train --list`)."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from refseg.config import field_docs, replace
from refseg.encoders.clip_download import archive_name
from refseg.encoders.clip_resnet import ResNetConfig
from refseg.encoders.clip_text import TextConfig
from refseg.encoders.clip_vit import ViTConfig
from refseg.errors import ConfigError, UnknownNameError
from refseg.models.base import ModelSpec
from refseg.models.clip_map.model import CLIPMapConfig, clip_map_compact, default_spec
from refseg.models.cris.model import cris, cris_compact, cris_photos
from refseg.models.efn.model import efn, efn_compact
from refseg.models.mcn.model import mcn, mcn_compact
from refseg.models.risclip.model import risclip, risclip_compact
from refseg.models.vlt.model import vlt, vlt_compact
from refseg.published import METRIC_NAMES, Metric, all_published
from refseg.training.config import TrainingConfig

__all__ = ["FIRST_STAGE", "MEASURED", "OWN", "RECIPES", "ROWS", "Recipe", "describe", "recipe", "settings"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named training run."""

    summary: str
    """One sentence."""
    model: ModelSpec | None
    """None: the model that the run starts from."""
    training: TrainingConfig
    data: str
    """The training images: `NAME:SPLIT`, several joined with commas, or a folder; empty: the user has to name it."""
    validation: str
    """The images by which the best weights are chosen; `same`: those of `data`. Empty: the split `val` of each set, or
    else every tenth image, which is then not learnt from."""
    clip: str | None = None
    """The CLIP whose encoders the run starts from: OpenAI's name, or the recipe that trains it; `--clip`
    gives its file or folder."""
    backbone: str | None = None
    """The image encoder whose pretrained weights the run starts from, by its usual name; `--backbone` gives their
    file."""
    vectors: str | None = None
    """The word vectors that the run starts from, by the name of those that the authors used; `--vectors` gives them."""
    init: str | None = None
    """The recipe whose weights the run starts from, which `--init` gives; or the name of a model of this package."""
    protocol: str = "refseg"
    """How validation compares masks, as with `refseg evaluate --protocol`."""
    options: str = ""
    """What the command needs besides the name."""
    hardware: str
    expected: str
    """The scores of the result, as published or measured."""
    faithful: Mapping[str, Any] | None = None
    """Changes that make it the published run, bugs included; None: the run is not published."""

    def changed(self, **changes: Any) -> Recipe:
        """Return the recipe with some settings changed.

        Args:
            **changes: fields of `TrainingConfig`; `data`, `validation`, `protocol`, `clip` or `init`; or fields of the
                model, with `model.` in front, such as `{"model.decoder_layers": 2}`.

        Raises:
            ConfigError: there is no such field, its value does not fit, or the model is that of `--init`.
        """
        of_model = {key.removeprefix("model."): changes[key] for key in changes if key.startswith("model.")}
        own = {key: changes[key] for key in changes if key in OWN}
        rest = {key: changes[key] for key in changes if key not in OWN and not key.startswith("model.")}
        if measured := sorted(MEASURED & of_model.keys()):
            raise ConfigError(
                f"model.{measured[0]} is measured with the trained weights: `refseg calibrate --thresholds` does so"
            )
        if of_model and self.model is None:
            raise ConfigError("the recipe trains the model that it starts from, which model.KEY=VALUE cannot change")
        values: dict[str, Any] = {key: value if value is None else str(value) for key, value in own.items()}
        values["training"] = replace(self.training, **rest)
        if of_model and self.model is not None:
            values["model"] = self.model.changed(**of_model)
        return dataclasses.replace(self, **values)


WIDTH = 100
"""Of the meaning of a setting, characters."""

OWN = frozenset({"data", "validation", "protocol", "clip", "init"})
"""The fields of a recipe that a change may name without a prefix, beside those of its training."""

MEASURED = frozenset({"relative_threshold", "calibration"})
"""The fields of a model that no training can set (see `Decision.unmeasured`)."""

ROWS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
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
"""The rows of CRIS' ablation (its table 3), as changes of the model: text-to-pixel contrastive learning and decoder."""


def recipe(name: str, *, faithful: bool = False, row: str | None = None, **changes: Any) -> Recipe:
    """Return a recipe by its name, changed.

    Args:
        name: of the recipe.
        faithful: whether to take the published run, bugs of its code included.
        row: of the ablation, which changes the model.
        **changes: see `Recipe.changed`; they come last.

    Raises:
        UnknownNameError: there is no such recipe, or no such row.
        ConfigError: a change does not fit, or the run is not published.
    """
    if name not in RECIPES:
        raise UnknownNameError("recipe", name, RECIPES)
    if row is not None and row not in ROWS:
        raise UnknownNameError("row of the ablation", row, ROWS)
    found = RECIPES[name]
    if faithful:
        if found.faithful is None:
            raise ConfigError(f"{name}: no such run is published, so --faithful has no meaning")
        found = found.changed(**found.faithful)
    if row is not None:
        found = found.changed(**{f"model.{key}": value for key, value in ROWS[row].items()})
    return found.changed(**changes)


def describe(name: str) -> str:
    """Return what `refseg train --list` prints of a recipe."""
    found = RECIPES[name]
    faithful = " [--faithful]" if found.faithful is not None else ""
    return (
        f"{name}\n  {found.summary}\n  command:  refseg train {' '.join([name, *found.options.split()])}{faithful}\n"
        f"  hardware: {found.hardware}\n  expected: {found.expected}"
    )


def settings(name: str) -> str:
    """Return the settings of a recipe: each key that a change may name, with its value and its meaning.

    Raises:
        UnknownNameError: there is no such recipe.
    """
    found = recipe(name)
    parts: list[tuple[str, Any]] = [("", found), ("", found.training)]
    if found.model is not None:
        parts += [("model.", part) for part in (found.model.config, found.model.inputs, found.model.decision)]
    lines = [f"settings of {name}, KEY=VALUE:"]
    for prefix, part in parts:
        for key, meaning in field_docs(type(part)).items():
            if (part is not found or key in OWN) and key not in MEASURED:
                value = getattr(part, key)
                shown = value if isinstance(value, str) else json.dumps(value, default=dataclasses.asdict)
                lines += [f"  {prefix}{key}={shown}", textwrap.indent(textwrap.fill(meaning, WIDTH), "      ")]
    return "\n".join(lines)


# ── CRIS as published ────────────────────────────────────────────────────────────────────────────────────────────────

TITLES = {
    "refcoco": "RefCOCO",
    "refcoco+": "RefCOCO+",
    "refcocog-umd": "RefCOCOg, UMD splits",
    "refcocog-google": "RefCOCOg, Google splits",
}


def _scores(system: str, backbone: str, metric: Metric, data: str) -> str:
    found = [
        f"{row.value:.2f} on {row.split}"
        for row in all_published()
        if (row.system, row.backbone, row.metric, row.data) == (system, backbone, metric, data)
    ]
    if not found:
        return "unknown; no number is published"
    return f"{METRIC_NAMES[metric]} {', '.join(found)}, as published; not measured by us"


def _cris(name: str, clip: str, data: str, word_length: int) -> Recipe:
    """Return the published run; by default without what is questionable in it.

    Faithful are: each reference once an epoch with one of its expressions, targets of every fourth pixel, float16, the
    encoders at the full rate in the first epoch, and validation on the first expressions, for RefCOCO+ on testB. By
    default images are sampled, with up to four expressions, targets are not shifted, and all of val is validated on.
    """
    return Recipe(
        summary=f"Train {name} on {TITLES[data]}.",
        model=cris(clip, word_length=word_length),
        training=TrainingConfig(
            batch_size=32, expressions_per_image=4, precision="bfloat16", validation_images=None, workers=8
        ),
        data=f"{data}:train",
        validation=f"{data}:val",
        clip=clip,
        options=f"--data ROOT --clip {archive_name(clip)}",
        hardware="the authors used 8 V100 of 16 GB",
        expected=_scores("CRIS", f"CLIP ResNet-{clip.removeprefix('RN')}", "mIoU", data)
        + ("; the authors chose the best weights on testB" if data == "refcoco+" else ""),
        faithful={
            "batch_size": 64,
            "expressions_per_image": 1,
            "sample_by": "reference",
            "target": "strided",
            "precision": "float16",
            "first_epoch_at_full_rate": True,
            "validation_expressions": "first",
            "validation": f"{data}:{'testB' if data == 'refcoco+' else 'val'}",
            "protocol": "cris",
        },
    )


# ── RISCLIP, as far as it is published ───────────────────────────────────────────────────────────────────────────────

FIRST_STAGE = ("visual_adapters", "text_adapters", "cfe", "ske", "map")
"""The parts of RISCLIP that its first stage trains, and its second stage freezes."""
RISCLIP_TRAINING = TrainingConfig(
    batch_size=16,
    expressions_per_image=4,
    optimizer="adamw",
    learning_rate=5e-5,
    backbone_factor=1.0,
    weight_decay=5e-3,
    schedule="polynomial",
    precision="bfloat16",
    validation_images=None,
    workers=8,
)
"""Stated by the paper: the frozen CLIP, two stages, and the loss of the map. Second-hand, from a re-implementation that
cites the paper for them: AdamW at 5e-5 with weight decay 5e-3, polynomial decay, 60 epochs, batches of 32, the weights
of the losses, and that the second stage freezes the first one's parts. Ours: the exponent of the decay, 15 epochs of
the second stage, and images with four expressions are sampled instead of references with one."""


def _risclip(name: str, clip: str, data: str, word_length: int, metric: Metric, backbone: str) -> dict[str, Recipe]:
    """Return both stages: the patch-level map, then the decoder."""
    letter = name.rpartition("-")[2].lower()
    first = f"risclip-{letter}-{data}"
    hardware = "a GPU of 80 GB, or several smaller ones" if letter == "b" else "several GPUs of 80 GB"
    expected = f"after both stages {_scores(name, backbone, metric, data)}"
    faithful = {"sample_by": "reference", "batch_size": 32, "expressions_per_image": 1}
    return {
        first: Recipe(
            summary=f"Train {name} on {TITLES[data]}, first stage: the patch-level map.",
            model=risclip(clip, word_length=word_length, decoder_blocks=()),
            training=replace(RISCLIP_TRAINING, objective="grounding", epochs=60),
            data=f"{data}:train",
            validation=f"{data}:val",
            clip=clip,
            options=f"--data ROOT --clip {archive_name(clip)}",
            hardware=hardware,
            expected=expected,
            faithful=faithful,
        ),
        f"{first}-mask": Recipe(
            summary=f"Train {name} on {TITLES[data]}, second stage: the decoder.",
            model=risclip(clip, word_length=word_length),
            training=replace(RISCLIP_TRAINING, objective="mask", epochs=15, freeze=FIRST_STAGE),
            data=f"{data}:train",
            validation=f"{data}:val",
            init=first,
            options=f"--data ROOT --init runs/{first}/best",
            hardware=hardware,
            expected=expected,
            faithful=faithful,
        ),
    }


# ── EFN as published ─────────────────────────────────────────────────────────────────────────────────────────────────


def _efn(data: str) -> Recipe:
    """Return the published run: stochastic gradient descent at one rate for all weights, and no augmentation.

    Faithful are: each reference once an epoch with one of its expressions (inferred: the authors' data is not part of
    their code), float32, and validation on masks that grow (see `evaluation.protocols`). By default images are sampled,
    with up to two expressions. The numbers are those of the authors' code for 16 images a step. The vocabulary is made
    of the training data.
    """
    return Recipe(
        summary=f"Train EFN on {TITLES[data]}.",
        model=efn(),
        training=TrainingConfig(
            objective="boundary",
            epochs=10,
            steps_per_epoch=10_000,
            batch_size=8,
            expressions_per_image=2,
            optimizer="sgd",
            learning_rate=1e-3,
            backbone_factor=1.0,
            weight_decay=5e-4,
            milestones=(6,),
            precision="bfloat16",
            validation_images=None,
            workers=8,
        ),
        data=f"{data}:train",
        validation=f"{data}:val",
        backbone="wide ResNet-101",
        options="--data ROOT --backbone wide_resnet101_2-32ee1156.pth",
        hardware="a GPU of 80 GB, or several smaller ones",
        expected=_scores("EFN", "Wide ResNet-101 + GRU", "oIoU", data),
        faithful={
            "batch_size": 16,
            "expressions_per_image": 1,
            "sample_by": "reference",
            "precision": "float32",
            "protocol": "efn",
        },
    )


# ── MCN and VLT as published ─────────────────────────────────────────────────────────────────────────────────────────

GLOVE = "the authors: those of spaCy's en_vectors_web_lg"
ON_WORDS = TrainingConfig(
    learning_rate=1e-3,
    backbone_factor=1.0,
    kernel_penalty=5e-4,
    precision="bfloat16",
    validation_images=None,
    workers=8,
)
"""What the runs of MCN and VLT share: Adam at 0.001, and a penalty on the squares of kernels. The first 56 of DarkNet's
58 convolutions do not learn."""
ON_WORDS_FAITHFUL: Mapping[str, Any] = MappingProxyType(
    {
        "expressions_per_image": 1,
        "sample_by": "reference",
        "target": "strided",
        "precision": "float32",
        "frozen_norm": "batch",
    }
)


def _on_words(
    system: str, data: str, spec: ModelSpec, training: Mapping[str, Any], faithful: Mapping[str, Any]
) -> Recipe:
    backbone = "Darknet-53 + GRU"
    name = system.partition(" ")[0]
    return Recipe(
        summary=f"Train {name} on {TITLES[data]}.",
        model=spec.changed(word_length=20 if data.startswith("refcocog") else 15),
        training=replace(ON_WORDS, **training),
        data=f"{data}:train",
        validation=f"{data}:val",
        backbone="DarkNet-53",
        vectors=GLOVE,
        options="--data ROOT --backbone yolov3.h5 --vectors glove.840B.300d.txt",
        hardware="not measured; --dry-run estimates the memory",
        expected=_scores(system, backbone, "mIoU", data),
        faithful={**ON_WORDS_FAITHFUL, **faithful},
    )


def _mcn(data: str) -> Recipe:
    """Return the published run, whose learning rate falls after 29, 34 and 39 of 45 epochs.

    Faithful are: each reference once an epoch with one of its expressions, targets of every eighth pixel, float32,
    frozen layers that normalise with the batch's statistics, and the best weights by the accuracy of boxes. By default
    images are sampled, with up to two expressions, cells have the fraction of the mask in them, and the mean IoU
    chooses.
    """
    return _on_words(
        "MCN",
        data,
        mcn(),
        {
            "objective": "collaborative",
            "epochs": 45,
            "milestones": (29, 34, 39),
            "batch_size": 18,
            "expressions_per_image": 2,
        },
        {"batch_size": 35, "chosen_by": "box_accuracy"},
    )


def _vlt(data: str) -> Recipe:
    """Return the published run, whose learning rate falls after 39, 44 and 49 of 50 epochs.

    Faithful are: each reference once an epoch with one of its expressions, every second pixel of the mask resized
    cubically, float32, and frozen layers that normalise with the batch's statistics. By default images are sampled,
    with up to four expressions, and cells have the fraction of the mask in them.
    """
    return _on_words(
        "VLT (2021)",
        data,
        vlt(),
        {
            "objective": "pixel-sum",
            "epochs": 50,
            "milestones": (39, 44, 49),
            "batch_size": 32,
            "expressions_per_image": 4,
        },
        {"batch_size": 128},
    )


# ── generated scenes ─────────────────────────────────────────────────────────────────────────────────────────────────

TWO_CORES = "two CPU cores with bfloat16 instructions"
SHAPES = Recipe(
    summary="Train a compact CRIS on generated scenes.",
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
    hardware=f"{TWO_CORES}, three hours",
    expected="not measured as one run; the bundled model was trained by shapes-1 to shapes-12",
)
NEAREST = (("nearest", 1.5),)


def _stage(number: int, summary: str, minutes: str, *, image_size: int = 192, **training: Any) -> Recipe:
    """Return one of the twelve runs that trained the bundled model, each from the last weights of the one before.

    The numbers are those on record (`docs/results/shapes`), and `scripts/bundle_model.py shapes RUNS --train` runs all
    of them, but the weights come out different: the drill of stages 5 to 9 asked for ordinals and "nearest" (a quarter
    each), then for textures (a third), and for no other form, and the code no longer has it; and
    `scripts/name_looks.py` was run with another seed and for a time, not for a number of steps.
    """
    before = f"shapes-{number - 1}"
    start = {7: "encoder", 8: "words"}.get(number, f"{before}/last")
    return dataclasses.replace(
        SHAPES,
        summary=f"Train the bundled model, stage {number} of 12: {summary}.",
        model=cris_compact(image_size=image_size),
        training=replace(SHAPES.training, **training),
        init=None if number == 1 else before,
        options="" if number == 1 else f"--init runs/{start}",
        hardware=f"{TWO_CORES}, {minutes}",
        expected=EXPECTED.get(number, "an intermediate model"),
    )


EXPECTED = {
    8: "expressions with a texture point right in 86.2 % of cases",
    9: "mean IoU 0.801 (docs/results.md); expressions with a texture point right in 95.9 % of cases",
    10: "mean IoU 0.835 (docs/results.md)",
    11: "mean IoU 0.875 on 400 scenes of shapes:val",
    12: "mean IoU 0.880 on 400 scenes of shapes:val; calibrated, 0.869 on shapes:test",
}
"""Of the stages, as they were measured (`docs/results.md`)."""


STAGES = {
    "shapes-1": _stage(
        1,
        "masks of every fourth pixel",
        "56 minutes",
        target="strided",
        epochs=30,
        stop_after=5400,
        sizes=((0, 128), (0.6, 192), (0.82, 256)),
        drill=0,
    ),
    "shapes-2": _stage(
        2,
        "masks that are not shifted",
        "nine minutes",
        epochs=5,
        steps_per_epoch=120,
        sizes=((0, 192),),
        drill=0,
        learning_rate=3e-4,
        warmup_steps=20,
        seed=2,
    ),
    "shapes-3": _stage(
        3,
        "the start of a longer run",
        "eight minutes",
        epochs=32,
        steps_per_epoch=500,
        stop_after=1000,
        sizes=((0, 128), (0.72, 192)),
        drill=0,
        warmup_steps=100,
        seed=3,
        validation_images=60,
    ),
    "shapes-4": _stage(
        4,
        "ordinals and nearest with a greater weight",
        "44 minutes",
        epochs=29,
        steps_per_epoch=400,
        stop_after=4800,
        sizes=((0, 128), (0.69, 192)),
        drill=0,
        emphasis=(("ordinal", 2.5), ("nearest", 2.0)),
        warmup_steps=50,
        seed=4,
        validation_images=40,
    ),
    "shapes-5": _stage(
        5,
        "more expressions of the hard forms",
        "73 minutes",
        epochs=15,
        steps_per_epoch=400,
        stop_after=5600,
        sizes=((0, 128), (0.66, 192)),
        drill=8,
        learning_rate=8e-4,
        warmup_steps=50,
        seed=5,
        validation_images=40,
    ),
    "shapes-6": _stage(
        6,
        "appearance and nearest with a greater weight",
        "eleven minutes",
        epochs=3,
        sizes=((0, 192),),
        drill=4,
        emphasis=(("attributes", 2.0), ("nearest", 2.5)),
        learning_rate=3e-4,
        warmup_steps=20,
        seed=6,
        validation_images=40,
    ),
    "shapes-7": _stage(
        7,
        "with a new image encoder (scripts/name_looks.py runs/shapes-6/last runs/encoder)",
        "21 minutes",
        epochs=7,
        sizes=((0, 160), (0.5, 192)),
        learning_rate=8e-4,
        warmup_steps=50,
        seed=21,
        validation_images=40,
    ),
    "shapes-8": _stage(
        8,
        "with texture words told apart (scripts/part_words.py runs/shapes-7/last runs/words)",
        "31 minutes",
        epochs=10,
        sizes=((0, 160), (0.45, 192)),
        emphasis=NEAREST,
        learning_rate=6e-4,
        warmup_steps=50,
        seed=23,
        validation_images=40,
    ),
    "shapes-9": _stage(
        9,
        "more steps",
        "16 minutes",
        epochs=5,
        sizes=((0, 192),),
        emphasis=NEAREST,
        learning_rate=6e-4,
        warmup_steps=30,
        seed=24,
        validation_images=20,
    ),
    "shapes-10": _stage(
        10,
        "256 pixels",
        "76 minutes on one thread",
        image_size=256,
        epochs=8,
        sizes=((0, 256),),
        emphasis=NEAREST,
        learning_rate=6e-4,
        warmup_steps=40,
        seed=25,
        validation_images=12,
    ),
    "shapes-11": _stage(
        11,
        "320 pixels",
        "82 minutes on one thread",
        image_size=320,
        epochs=5,
        sizes=((0, 320),),
        emphasis=(("nearest", 2.0),),
        learning_rate=6e-4,
        warmup_steps=30,
        seed=26,
        validation_images=12,
    ),
    "shapes-12": _stage(
        12,
        "320 pixels, a lower learning rate",
        "48 minutes on one thread",
        image_size=320,
        epochs=3,
        sizes=((0, 320),),
        learning_rate=4e-4,
        warmup_steps=20,
        seed=27,
        validation_images=12,
    ),
}
"""The runs of the bundled model."""


def _shapes_clip(
    spec: ModelSpec,
    summary: str,
    expected: str,
    scenes: str = "shapes",
    hardware: str = f"{TWO_CORES}, ten minutes",
    **training: Any,
) -> Recipe:
    return Recipe(
        summary=summary,
        model=spec,
        training=replace(
            TrainingConfig(
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
            **training,
        ),
        data=f"{scenes}-closeups:train",
        validation=f"{scenes}:val",
        hardware=hardware,
        expected=expected,
    )


EASY_SIDE = 64
"""Pixels that the compact systems read of easy scenes."""
SMALL_CRIS = cris_compact(
    vision=ResNetConfig(layers=(1, 1, 1, 1), width=12, heads=8, output_dim=64, pretrained_size=EASY_SIDE),
    text=TextConfig(width=64, heads=4, layers=2, output_dim=64),
    neck_channels=(48, 64, 64),
    decoder_hidden=128,
    image_size=EASY_SIDE,
    word_length=12,
)
SMALL_RISCLIP = risclip_compact(
    vision=ViTConfig(patch=8, width=96, layers=6, heads=4, output_dim=64, pretrained_size=EASY_SIDE),
    text=TextConfig(width=64, heads=4, layers=3, output_dim=64),
    fusions=((5, 2), (6, 3)),
    frozen=False,
    cfe_width=64,
    ske_layers=2,
    ske_hidden=64,
    decoder_channels=(32, 32, 16),
    image_size=EASY_SIDE,
    word_length=12,
)
"""CRIS and RISCLIP with about as many parameters, those of words apart, as the compact EFN, MCN and VLT. RISCLIP starts
from random weights, so its encoders learn too, in one stage."""


def _easy_clip(spec: ModelSpec) -> ModelSpec:
    """Return the CLIP that has the encoders of a compact model for easy scenes."""
    clip = default_spec(CLIPMapConfig(vision=spec.config.vision, text=spec.config.text))
    return clip.changed(image_size=EASY_SIDE, word_length=spec.inputs.word_length)


def _easy(system: str, spec: ModelSpec, mean_iou: str, **training: Any) -> Recipe:
    """Return a run of a compact system on easy scenes: equally many steps and images for all systems.

    Learning rates were chosen on `val`, for 300 steps and seed 0.
    """
    return Recipe(
        summary=f"Train a compact {system} on easy generated scenes.",
        model=spec,
        training=replace(
            TrainingConfig(
                epochs=20,
                steps_per_epoch=80,
                batch_size=8,
                expressions_per_image=6,
                optimizer="adamw",
                learning_rate=1e-3,
                backbone_factor=1.0,
                weight_decay=0.01,
                schedule="cosine",
                warmup_steps=30,
                max_norm=1.0,
                validation_images=30,
            ),
            **training,
        ),
        data="shapes-easy:train",
        validation="shapes-easy:val",
        hardware="a CPU core, four to fifteen minutes",
        expected=f"mean IoU {mean_iou} on 200 images of test (docs/ablation.md)",
    )


SHAPES_RISCLIP_TRAINING = replace(
    SHAPES.training, objective="grounding", epochs=10, batch_size=8, expressions_per_image=6
)

# ── any data ─────────────────────────────────────────────────────────────────────────────────────────────────────────

OVERFIT_TRAINING = TrainingConfig(
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
)

# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────

_B, _L = "CLIP ViT-B/16, frozen", "CLIP ViT-L"
HARD_FORMS = ("side", "superlative", "ordinal", "middle", "size", "depth", "corner", "colour")
"""Forms of expressions about photos that single out one of several objects."""
FINE_DETAIL = ("visual.stem", "visual.stages.0", "visual.stages.1", "visual.stages.2")
"""The layers of an EfficientNet up to stride 8, which cost most of the gradient's time and change least."""
PHOTOS = Recipe(
    summary="",
    model=cris_photos(),
    training=TrainingConfig(
        epochs=8,
        steps_per_epoch=300,
        batch_size=16,
        expressions_per_image=6,
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.01,
        max_norm=1.0,
        schedule="cosine",
        warmup_steps=100,
        precision="bfloat16",
        mirror=0.5,
        zoom=0.15,
        validation_images=100,
        workers=1,
        save_every=100,
    ),
    data="",
    validation="",
    hardware=TWO_CORES,
    expected="",
)


def _photos(number: int, summary: str, minutes: str, *, image_size: int, **training: Any) -> Recipe:
    """Return one of the runs that trained the bundled model for photos, each from the last weights of the one before.

    `scripts/bundle_model.py photos RUNS --train` runs all of them.
    """
    start = f"--init runs/photos-{number - 1}/last" if number > 1 else "--backbone efficientnet-lite0-57934424.pth"
    composed = {3: ",composed:train", 4: ",composed:train,composed-further:train"}.get(number)
    data = "photos:train" if composed is None else f"photos:train{composed} validation=photos:val"
    return dataclasses.replace(
        PHOTOS,
        summary=f"Train the bundled model for photos, stage {number} of 4: {summary}.",
        model=cris_photos(image_size=image_size),
        training=replace(PHOTOS.training, seed=number - 1, **training),
        init="shapes" if number == 1 else f"photos-{number - 1}",
        backbone="EfficientNet-Lite0" if number == 1 else None,
        options=f"{start} data={data}",
        hardware=f"{TWO_CORES}, {minutes}",
        expected="docs/photos.md has the scores of the last stage",
    )


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        **{
            f"cris-r{layers}-{data}": _cris(f"CRIS R{layers}", f"RN{layers}", data, word_length)
            for data, word_length in (("refcoco", 17), ("refcoco+", 17), ("refcocog-umd", 22), ("refcocog-google", 22))
            for layers in (50, 101)
        },
        **_risclip("RISCLIP-B", "ViT-B/16", "refcoco", 20, "oIoU", _B),
        **_risclip("RISCLIP-B", "ViT-B/16", "refcoco+", 20, "oIoU", _B),
        **_risclip("RISCLIP-B", "ViT-B/16", "refcocog-umd", 40, "oIoU", _B),
        **_risclip("RISCLIP-L", "ViT-L/14", "refcoco+", 20, "mIoU", _L),
        **{f"efn-{data}": _efn(data) for data in ("refcoco", "refcoco+", "refcocog-google")},
        **{f"mcn-{data}": _mcn(data) for data in ("refcoco", "refcoco+", "refcocog-umd")},
        **{f"vlt-{data}": _vlt(data) for data in ("refcoco", "refcoco+", "refcocog-umd")},
        "shapes": SHAPES,
        **STAGES,
        "shapes-smoke": dataclasses.replace(
            SHAPES,
            summary="Take a few steps of shapes, to show that training works; the model is useless.",
            training=replace(
                SHAPES.training,
                epochs=2,
                steps_per_epoch=10,
                batch_size=4,
                warmup_steps=5,
                workers=0,
                validation_images=4,
            ),
            hardware="any, a minute",
            expected="nothing",
        ),
        "shapes-ablation": dataclasses.replace(
            SHAPES,
            summary="Train one row of CRIS' ablation on generated scenes; refseg ablate shapes trains all of them.",
            model=cris_compact(image_size=96),
            training=replace(
                SHAPES.training,
                epochs=5,
                steps_per_epoch=300,
                sizes=((0.0, 96),),
                warmup_steps=100,
                validation_images=0,
            ),
            options="--row both-3",
            hardware="two CPU cores, a quarter of an hour",
            expected="mean IoU 0.10 (docs/results.md); no row has learnt the task by then",
        ),
        "shapes-clip": _shapes_clip(
            clip_map_compact("resnet"),
            "Train a small CLIP on close-ups of generated objects, whose encoders a compact CRIS can start from.",
            "names the kind of 97 of 100 close-ups, the colour of 98, the texture of 74 (docs/results.md)",
        ),
        "shapes-clip-vit": _shapes_clip(
            clip_map_compact("vit"),
            "Train a small CLIP with a vision transformer on close-ups: the frozen CLIP of a compact RISCLIP.",
            "names the kind of 39 of 100 close-ups, the colour of 97, the texture of 66; with a trained text encoder "
            "(scripts/lend_words.py) the kind of 89 (docs/results.md)",
        ),
        "shapes-easy-clip": _shapes_clip(
            _easy_clip(SMALL_CRIS),
            "Train a small CLIP on close-ups of easy scenes, whose encoders a compact CRIS can start from.",
            "names kind and colour of all close-ups (docs/ablation.md)",
            scenes="shapes-easy",
            hardware="a CPU core, seven to sixteen minutes",
            precision="float32",
            batch_size=32,
            steps_per_epoch=300,
        ),
        "shapes-easy-clip-vit": _shapes_clip(
            _easy_clip(SMALL_RISCLIP),
            "Train a small CLIP with a vision transformer on close-ups of easy scenes, for a compact RISCLIP.",
            "names the kind of 998 of 1,000 close-ups, the colour of all (docs/ablation.md)",
            scenes="shapes-easy",
            hardware="a CPU core, seven to sixteen minutes",
            precision="float32",
            batch_size=32,
            steps_per_epoch=300,
            learning_rate=1e-3,
        ),
        "shapes-easy": _easy("CRIS", SMALL_CRIS, "0.71"),
        "shapes-easy-efn": _easy("EFN", efn_compact(image_size=EASY_SIDE), "0.88", objective="boundary"),
        "shapes-easy-mcn": _easy(
            "MCN",
            mcn_compact(image_size=EASY_SIDE),
            "0.45",
            objective="collaborative",
            learning_rate=3e-3,
        ),
        # After 300 steps mean IoU on `val` is 0.29, and 0.13 with the published `pixel-sum` (seed 0).
        "shapes-easy-vlt": _easy("VLT", vlt_compact(image_size=EASY_SIDE), "0.61", objective="mask"),
        "shapes-easy-risclip": _easy("RISCLIP", SMALL_RISCLIP, "0.46", objective="mask", learning_rate=2e-3),
        "shapes-risclip": Recipe(
            summary="Train a compact RISCLIP on generated scenes, first stage: the patch-level map over a frozen CLIP.",
            model=risclip_compact(decoder_blocks=()),
            training=SHAPES_RISCLIP_TRAINING,
            data="shapes:train",
            validation="shapes:val",
            clip="shapes-clip-vit",
            options="--clip runs/shapes-clip-vit/last",
            hardware=f"{TWO_CORES}, half an hour",
            expected="not measured",
        ),
        "shapes-risclip-mask": Recipe(
            summary="Train a compact RISCLIP on generated scenes, second stage: the decoder.",
            model=risclip_compact(),
            training=replace(
                SHAPES_RISCLIP_TRAINING,
                objective="mask",
                epochs=3,
                sizes=((0.0, 192),),
                freeze=FIRST_STAGE,
                warmup_steps=50,
            ),
            data="shapes:train",
            validation="shapes:val",
            init="shapes-risclip",
            options="--init runs/shapes-risclip/last",
            hardware=f"{TWO_CORES}, ten minutes",
            expected="not measured",
        ),
        "photos-1": _photos(
            1,
            "neck, decoder and text encoder of `shapes`, over a frozen EfficientNet-Lite0",
            "15 minutes",
            image_size=192,
            sizes=((0.0, 192),),
            freeze=("visual",),
            stop_after=600,
        ),
        "photos-2": _photos(
            2,
            "the upper layers of the image encoder learn too, and hard forms weigh more",
            "22 minutes",
            image_size=192,
            sizes=((0.0, 192),),
            freeze=FINE_DETAIL,
            backbone_factor=0.2,
            emphasis=tuple((form, 2.0) for form in HARD_FORMS),
            stop_after=600,
        ),
        "photos-3": _photos(
            3,
            "also photos that were composed of several (scripts/compose_photos.py)",
            "an hour",
            image_size=256,
            sizes=((0.0, 192), (0.75, 256)),
            epochs=8,
            steps_per_epoch=250,
            freeze=FINE_DETAIL,
            backbone_factor=0.2,
            emphasis=tuple((form, 2.0) for form in HARD_FORMS),
        ),
        "photos-4": _photos(
            4,
            "expressions are worded as people write them, and more photos are composed",
            "95 minutes",
            image_size=256,
            sizes=((0.0, 192), (0.75, 256)),
            epochs=8,
            steps_per_epoch=240,
            learning_rate=8e-4,
            freeze=FINE_DETAIL,
            backbone_factor=0.2,
            emphasis=(*((form, 2.0) for form in HARD_FORMS), ("rare", 1.5)),
        ),
        "finetune": Recipe(
            summary="Fine-tune a trained model on data of your own.",
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
            options="--init MODEL data=my-folder",
            hardware="a GPU of 8 GB for CRIS R50 with a few images a step, two CPU cores for the bundled model",
            expected="depends on the data",
        ),
        "overfit": Recipe(
            summary="Train a compact CRIS from random weights until it overfits a few images: a test of any data.",
            model=cris_compact(image_size=256, word_length=24),
            training=OVERFIT_TRAINING,
            data="",
            validation="same",
            options="--data ROOT data=refcoco:all",
            hardware="two CPU cores, ten minutes",
            expected="mean IoU 0.8 on these same images",
        ),
        "overfit-risclip": Recipe(
            summary="Train a compact RISCLIP over a small frozen CLIP until its map overfits a few images.",
            model=risclip_compact(image_size=128, decoder_blocks=()),
            training=replace(OVERFIT_TRAINING, objective="grounding", learning_rate=1e-3),
            data="",
            validation="same",
            clip="shapes-clip-vit",
            options="--data ROOT data=refcoco:all --clip runs/shapes-clip-vit/last",
            hardware="two CPU cores, ten minutes",
            expected="mean IoU 0.7 of the map on these same images",
        ),
        "overfit-risclip-mask": Recipe(
            summary="Train the decoder of overfit-risclip: its second stage.",
            model=risclip_compact(image_size=128),
            training=replace(OVERFIT_TRAINING, objective="mask", learning_rate=1e-3, freeze=FIRST_STAGE),
            data="",
            validation="same",
            init="overfit-risclip",
            options="--data ROOT data=refcoco:all --init runs/overfit-risclip/last",
            hardware="two CPU cores, five minutes",
            expected="mean IoU 0.86 on these same images",
        ),
    }
)
"""All recipes, by name."""
