"""Loads a model of other people: its files from the cache of the Hub's client, or downloaded at their revision."""

from __future__ import annotations

import logging
from pathlib import Path
from types import MappingProxyType

import torch

from refseg.errors import DownloadError
from refseg.models.hub import cached_files, download_files
from refseg.peers.base import Peer
from refseg.peers.box_and_mask import BoxAndMask
from refseg.peers.florence import Florence
from refseg.peers.grounding_dino import GroundingDino
from refseg.peers.library import transformers
from refseg.peers.sam import Sam, Sam2
from refseg.peers.stored import StoredPeer
from refseg.peers.table import PeerEntry, peer_entry
from refseg.runtimes.torch import pick_device

__all__ = ["load_peer"]

MASK_MAKERS: MappingProxyType[str, type[Sam]] = MappingProxyType(
    {"grounding-dino-sam": Sam, "grounding-dino-sam2": Sam2}
)


def load_peer(stored: StoredPeer, device: str | torch.device = "auto") -> Peer:
    """Load a model of other people. What is missing is downloaded, after a line with its size and its licence.

    Args:
        stored: its name, and the decision that it answers with.
        device: see `runtimes.torch.pick_device`.

    Raises:
        UnknownNameError: there is no such model.
        ConfigError: the library transformers is not installed, or the device is unknown or missing.
        DownloadError: a file is not in the cache and cannot be downloaded.
        WeightsError: the files are broken, or the memory does not suffice.
    """
    entry, place = peer_entry(stored.peer), pick_device(device)
    transformers()  # before anything is downloaded for it
    folders = _folders(entry)
    if entry.name in MASK_MAKERS:
        boxes, masks = folders
        detector = GroundingDino(boxes, place)
        return BoxAndMask(entry, detector, MASK_MAKERS[entry.name](masks, place), place, stored.decision)
    (folder,) = folders
    return Florence(entry, folder, place, stored.decision)


def _folders(entry: PeerEntry) -> list[Path]:
    """Return the folder of each part's files."""
    folders = []
    for part in entry.parts:
        folder = cached_files(part.repository, part.files, revision=part.revision)
        if folder is None:
            # By default Python prints warnings to stderr, also where logging is not set up.
            logging.getLogger(__name__).warning(
                "%s: downloads %d MB, %s at revision %s of the Hugging Face Hub; licence: %s",
                *(entry.name, part.megabytes, part.repository, part.revision, part.licence),
            )
            try:
                folder = download_files(part.repository, part.files, revision=part.revision)
            except DownloadError as error:
                raise DownloadError(f"{entry.name}: {part.repository} was not downloaded: {error}") from None
        folders.append(folder)
    return folders
