"""Reads and writes the description of an exported model, which stands beside its graphs.

That is `export.json`, or the `config.json` of a model folder that has graphs too.

Importing this module does not import PyTorch: predicting with an exported model does not need it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

from refseg import __version__
from refseg.config import from_dict, load_json, save_json, to_dict
from refseg.inputs.preprocessing import Inputs
from refseg.models.families import MODELS
from refseg.models.layout import CONFIG, DESCRIPTION, Format
from refseg.values import Decision

__all__ = ["REDUCED", "Exported", "Precision", "find_export", "read_export", "write_export"]

Precision: TypeAlias = Literal["float32", "float16", "bfloat16", "int8"]
REDUCED: frozenset[Precision] = frozenset({"bfloat16", "int8"})
"""With these OpenVINO computes in bfloat16 what is not in int8, on processors that have instructions for it."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """All of an exported model but its graphs."""

    format: Format
    """Of the graphs."""
    family: str
    inputs: Inputs
    decision: Decision
    precision: Precision | None = "float32"
    """In which the weights are stored; None: as in the model folder that has the graphs.

    Values are computed in float32, products of bfloat16 and of int8 in these; see also `REDUCED`.
    """
    domain: str | None = None
    """The kind of images that it was trained on, such as `photos`; None: not known."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: those of the model folder, and how the export was made. Loading ignores them."""
    refseg: str = __version__
    """The version that wrote it."""


def find_export(model: str | os.PathLike[str]) -> Path | None:
    """Return the folder of an exported model that a path stands for, None if it is another model."""
    if isinstance(model, str) and model in MODELS:
        return None
    folder = Path(os.path.expanduser(model))
    return folder if (folder / DESCRIPTION).is_file() else None


def read_export(folder: Path) -> Exported:
    """Read the description of an exported model.

    Raises:
        ConfigError: it is missing or broken.
    """
    path = folder / DESCRIPTION
    if not path.is_file() and (folder / CONFIG).is_file():
        path = folder / CONFIG
        values = load_json(path)
        for name in ("config", "clip"):
            values.pop(name, None)
        values |= {"format": "onnx", "precision": None}
    else:
        values = load_json(path)
    about = values.pop("about", {})
    return replace(from_dict(Exported, values, where=str(path)), about=about)


def write_export(exported: Exported, folder: Path) -> None:
    """Write the description of an exported model into its folder.

    Raises:
        OutputError: it cannot be written.
    """
    save_json(to_dict(exported), folder / DESCRIPTION)
