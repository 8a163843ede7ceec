"""Other people's models by name, or by a folder that `refseg calibrate` wrote: a `config.json` with a decision."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refseg import __version__
from refseg.config import from_dict, load_json, save_json, to_dict
from refseg.files import unwritable
from refseg.models.layout import CONFIG
from refseg.peers.table import PEERS, peer_entry
from refseg.values import Decision

__all__ = ["StoredPeer", "find_peer", "write_peer"]


@dataclass(frozen=True, kw_only=True)
class StoredPeer:
    """A model of other people, and the decision that it answers with."""

    peer: str
    """Its name in the table."""
    decision: Decision = field(default_factory=Decision)
    about: Mapping[str, Any] = field(default_factory=dict)
    """JSON values, such as what was measured when it was calibrated; loading ignores them."""
    refseg: str = __version__
    """The version that wrote it."""


def find_peer(model: str | Path) -> StoredPeer | None:
    """Return the model of other people that a name or a folder stands for, None if it is none.

    Raises:
        ConfigError: the folder's `config.json` is broken.
        UnknownNameError: it names a model that does not exist.
    """
    if isinstance(model, str) and model in PEERS:
        return StoredPeer(peer=model)
    path = Path(os.path.expanduser(model), CONFIG)
    values = load_json(path) if path.is_file() else {}
    if "peer" not in values:
        return None
    about = values.pop("about", {})
    stored = replace(from_dict(StoredPeer, values, where=str(path)), about=about)
    peer_entry(stored.peer)
    return stored


def write_peer(stored: StoredPeer, folder: Path) -> None:
    """Write a folder that `find_peer` reads; the weights stay in the cache of the Hub's client.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from None
    save_json(to_dict(stored), folder / CONFIG)
