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
from refseg.peers.refine import Refiner
from refseg.peers.sam import Sam, Sam2
from refseg.peers.sam3 import Sam3, Sam3Choice, Sam3Network
from refseg.peers.stored import StoredPeer
from refseg.peers.table import SAM, SAM2, SAM3, Part, peer_entry, refiner_part
from refseg.runtimes.torch import pick_device

__all__ = ["load_peer", "load_refiner"]

LOGGER = logging.getLogger(__name__)
"""By default Python prints warnings to stderr, also where logging is not set up."""
SAMS: MappingProxyType[str, type[Sam]] = MappingProxyType({SAM.repository: Sam, SAM2.repository: Sam2})


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
    folders = [_folder(part, entry.name) for part in entry.parts]
    if entry.caution is not None:
        LOGGER.warning("%s: %s", entry.name, entry.caution)
    if len(folders) == 2:
        boxes, masks = folders
        maker = SAMS[entry.parts[1].repository](masks, place)
        return BoxAndMask(entry, GroundingDino(boxes, place), maker, place, stored.decision)
    (folder,) = folders
    if entry.parts == (SAM3,):
        return Sam3(entry, Sam3Network(folder, place), place, stored.decision)
    return Florence(entry, folder, place, stored.decision)


def load_refiner(name: str, device: str | torch.device = "auto") -> Refiner:
    """Load what sharpens the borders of masks; its files are downloaded as those of a model.

    Args:
        name: of the table.
        device: see `runtimes.torch.pick_device`.

    Raises:
        UnknownNameError: there is no such refiner.
        ConfigError: as `load_peer`.
        DownloadError: as `load_peer`.
        WeightsError: as `load_peer`.
    """
    part, place = refiner_part(name), pick_device(device)
    transformers()
    folder = _folder(part, name)
    maker = Sam3Choice if part is SAM3 else SAMS[part.repository]
    return Refiner(name, part, maker(folder, place), place)


def _folder(part: Part, name: str) -> Path:
    """Return the folder of a part's files."""
    folder = cached_files(part.repository, part.files, revision=part.revision)
    if folder is not None:
        return folder
    LOGGER.warning(
        "%s: downloads %d MB, %s at revision %s of the Hugging Face Hub; licence: %s",
        *(name, part.megabytes, part.repository, part.revision, part.licence),
    )
    try:
        return download_files(part.repository, part.files, revision=part.revision)
    except DownloadError as error:
        raise DownloadError(f"{name}: {part.repository} was not downloaded: {error}") from None
