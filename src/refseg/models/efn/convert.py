"""Renames the weights of the authors' code to ours and back, and infers an EFN's sizes from its weights.

The code is fengguang94/CEFNet, which stores the state dict of the network alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from refseg.encoders.resnet import infer_wide_resnet
from refseg.encoders.weights_file import rename
from refseg.errors import WeightsError
from refseg.models.efn.model import EFNConfig

__all__ = ["from_reference", "infer_config", "is_efn", "to_reference"]

LEVELS = (5, 4, 3, 2)
"""The authors' numbers of the decoder's levels, the coarsest first."""
NAMES = (
    ("img_bn.", "pixel_norm."),
    ("scale1.0.", "visual.conv1."),
    ("scale1.1.", "visual.bn1."),
    ("scale2.1.", "visual.layer1."),
    *((f"scale{number + 1}.", f"visual.layer{number}.") for number in (2, 3, 4)),
    ("textmodel.embedding.", "text.embedding."),
    ("textmodel.mlp.0.", "text.project."),
    *(
        (f"textmodel.rnn.{kind}_{part}_l0_reverse", f"text.backwards.{kind}_{part}")
        for kind in ("weight", "bias")
        for part in ("ih", "hh")
    ),
    ("textmodel.rnn.", "text.forwards."),
    ("mapping_lang.", "text.words."),
    ("mapping_hT.", "text.sentence."),
    *(
        pair
        for stage in (3, 4, 5)
        for pair in (
            (f"lang_c{stage}_1.", f"fusion{stage}.image."),
            (f"lang_c{stage}_2.", f"fusion{stage}.joint."),
            (f"lang_c{stage}_3.", f"fusion{stage}.mix."),
            (f"c{stage}_lang.", f"fusion{stage}.words."),
            (f"wordvisual{stage}.visual.", f"fusion{stage}.attend."),
            (f"attention{stage}.linear_e.", f"fusion{stage}.coattention.query."),
            (f"attention{stage}.linear_q.", f"fusion{stage}.coattention.key."),
            (f"attention{stage}.conv1.", f"fusion{stage}.coattention.first."),
            (f"attention{stage}.conv2.", f"fusion{stage}.coattention.second."),
        )
    ),
    *((f"reduced_c{stage}.", f"lateral.{stage - 1}.") for stage in (1, 2, 3, 4, 5)),
    ("output5.", "decoder.start."),
    ("output1.1.", "decoder.mask."),
    *(
        pair
        for number, level in enumerate(LEVELS)
        for pair in (
            (f"squeeze_body_edge{level}.down.", f"decoder.split.{number}.shrink."),
            (f"squeeze_body_edge{level}.flow_make.", f"decoder.split.{number}.context."),
            (f"squeeze_body_edge{level}.fc_loc.", f"decoder.split.{number}.warp."),
            (f"edge_fusion{level}.", f"decoder.sharpen.{number}."),
            (f"output{level - 1}." if level > 2 else "output1.0.", f"decoder.join.{number}."),
            (f"final_seg{level - 1}.", f"heads.masks.{number}."),
            (f"dsn_seg_body{level - 1}.", f"heads.bodies.{number}."),
            (f"edge_out{level - 1}.", f"heads.edges.{number}."),
        )
    ),
)
"""Prefixes of the authors' names, and ours; the first match applies."""
PARTS = ((".bn.", ".norm."), (".relu.", ".prelu."))
"""The same within a convolution with its norm."""


def is_efn(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict is that of the authors' EFN."""
    return "img_bn.weight" in state and "squeeze_body_edge5.flow_make.weight" in state


def from_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' weights to ours.

    Raises:
        WeightsError: A name is not one of theirs, or two weights would have the same name.
    """
    return rename(state, lambda key: _renamed(key, 0))


def to_reference(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename our weights to the authors'."""
    return {_renamed(key, 1): value for key, value in state.items()}


def infer_config(state: Mapping[str, Tensor]) -> EFNConfig:
    """Infer the sizes of an EFN from the shapes of its weights, under our names.

    Raises:
        WeightsError: A weight that determines a size is missing or has an impossible shape.
        ConfigError: The sizes do not fit each other.
    """
    vision = infer_wide_resnet(state, "visual.")
    asymmetric = "fusion3.coattention.image_query.0.weight" in state
    query = "fusion3.coattention.image_query.0.weight" if asymmetric else "fusion3.coattention.query.weight"
    try:
        vocabulary, width = state["text.embedding.weight"].shape
        widths = [len(state[f"lateral.{number}.conv.weight"]) for number in range(5)]
        return EFNConfig(
            vision=vision,
            vocabulary_size=vocabulary,
            width=width,
            coattention="asymmetric" if asymmetric else "vanilla",
            coattention_width=len(state[query]),
            decoder_widths=(widths[0], widths[1], widths[2], widths[3], widths[4]),
        )
    except KeyError as error:
        raise WeightsError(f"these weights are not an EFN: {error.args[0]!r} is missing") from None
    except (TypeError, ValueError):
        raise WeightsError("these weights are not an EFN: a weight has an impossible shape") from None


def _renamed(key: str, source: int) -> str:
    """Return the other name of a weight whose name is that of the authors (source 0) or ours (source 1)."""
    target = 1 - source
    for pair in NAMES:
        if key.startswith(pair[source]):
            renamed = pair[target] + key.removeprefix(pair[source])
            break
    else:
        raise WeightsError(f"EFN has no weight {key!r}")
    for pair in PARTS:
        renamed = renamed.replace(pair[source], pair[target])
    return renamed
