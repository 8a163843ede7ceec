"""List the models that refseg knows by name."""

from __future__ import annotations

import argparse
import json
from typing import Any

from refseg.models.families import ZOO, ZooEntry

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Print the zoo."""
    models = [_plain(entry) for entry in ZOO.values()]
    if arguments.json:
        print(json.dumps(models, indent=2))
        return 0
    width = max(len(model["name"]) for model in models)
    for model in models:
        print(f"{model['name']:<{width}}  {model['parameters'] / 1e6:7.2f} M  {model['summary']}")
        print(f"{'':<{width}}  weights: {model['weights']}; licence: {model['licence']}")
        print(f"{'':<{width}}  score: {model['score']}")
    return 0


def _plain(entry: ZooEntry) -> dict[str, Any]:
    if entry.weights is not None:
        weights = "in the package" if entry.weights.is_dir() else "missing from this installation"
    else:
        weights = "none" if entry.clip is None else f"none; CLIP's {entry.clip} fits its encoders"
    return {
        "name": entry.name,
        "family": entry.family,
        "parameters": entry.parameters,
        "weights": weights,
        "licence": entry.licence,
        "summary": entry.summary,
        "score": entry.score,
    }
