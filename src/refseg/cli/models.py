"""List the models that have a name: those of this package, and those of other people (`peer`)."""

from __future__ import annotations

import argparse
import json
from typing import Any

from refseg.models.families import MODELS, ModelEntry
from refseg.peers.table import PEERS, PeerEntry

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = "refseg models --json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Carry out the command."""
    models = [*map(_row, MODELS.values()), *map(_peer_row, PEERS.values())]
    if arguments.json:
        print(json.dumps(models, indent=2))
        return 0
    width = max(len(model["name"]) for model in models)
    for model in models:
        print(f"{model['name']:<{width}}  {model['parameters'] / 1e6:7.2f} M  {model['summary']}")
        print(f"{'':<{width}}  weights: {model['weights']}; licence: {model['licence']}")
        print(f"{'':<{width}}  score: {model['score']}; exports: {', '.join(model['exports']) or 'none'}")
    return 0


def _row(entry: ModelEntry) -> dict[str, Any]:
    if entry.weights is not None:
        weights = "in the package" if entry.weights.is_dir() else "missing from this installation"
    elif entry.hub is not None:
        weights = f"downloaded at first use, {entry.hub.megabytes} MB"
    else:
        weights = "none" if entry.clip is None else f"none; its encoders can start from CLIP's {entry.clip}"
    return {
        "name": entry.name,
        "family": entry.family,
        "parameters": entry.parameters,
        "weights": weights,
        "licence": entry.licence,
        "summary": entry.summary,
        "score": entry.score,
        "exports": ["onnx"],
    }


def _peer_row(entry: PeerEntry) -> dict[str, Any]:
    trained = {
        True: "trained on RefCOCO",
        False: "not trained on RefCOCO",
        None: "not known to be zero-shot on RefCOCO",
    }
    return {
        "name": entry.name,
        "family": "peer",
        "parameters": entry.parameters,
        "weights": f"downloaded at first use, {entry.megabytes} MB; needs the extra `refseg[peers]`",
        "licence": entry.licence,
        "summary": entry.summary if entry.caution is None else f"{entry.summary}; {entry.caution}",
        "score": f"published {entry.published}; {trained[entry.trained_on_refcoco]}",
        "exports": [],
    }
