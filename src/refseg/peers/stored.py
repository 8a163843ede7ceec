"""Other people's models by name, or by a folder that `refseg calibrate` wrote: a `peer.json` with a decision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refseg import __version__
from refseg.config import from_dict, load_json, save_json, to_dict
from refseg.errors import OutputError
from refseg.peers.table import PEERS, peer_entry
from refseg.values import Decision

__all__ = ["StoredPeer", "find_peer", "write_peer"]

FILE = "peer.json"


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
        ConfigError: the folder's file is broken.
        UnknownNameError: it names a model that does not exist.
    """
    if isinstance(model, str) and model in PEERS:
        return StoredPeer(peer=model)
    path = Path(model, FILE)
    if not path.is_file():
        return None
    values = load_json(path)
    about = values.pop("about", {})
    stored = from_dict(StoredPeer, values, where=str(path))
    peer_entry(stored.peer)
    return StoredPeer(peer=stored.peer, decision=stored.decision, about=about, refseg=stored.refseg)


def write_peer(stored: StoredPeer, folder: Path) -> None:
    """Write a folder that `find_peer` reads; the weights stay in the cache of the Hub's client.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from None
    save_json(to_dict(stored), folder / FILE)
