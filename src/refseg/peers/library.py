"""The library transformers: imported at first use, its networks loaded from files of this machine only."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import torch

from refseg.errors import ConfigError, WeightsError, one_line

__all__ = ["computing", "enough_memory", "load_network", "load_tokenizer", "transformers"]

NOT_ENOUGH = ("not enough memory", "can't allocate memory", "out of memory")
"""What PyTorch says of a machine whose memory is used up; on a processor it has no type of error for that."""


def transformers() -> Any:
    """Return the library, which takes seconds to import.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the Hub's client is imported
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise ConfigError("this model needs the library transformers: pip install 'refseg[peers]'") from None


def load_network(kind: str, folder: Path, device: torch.device) -> Any:
    """Return a network of the library with the weights of a folder, in float32 and evaluation mode.

    Args:
        kind: the name of its class.
        folder: with `config.json` and `model.safetensors`.
        device: where it computes.

    Raises:
        ConfigError: the library is not installed.
        WeightsError: the folder is broken, of another architecture, or too large for the memory.
    """
    library = transformers()
    try:
        with enough_memory(), _quiet(library):
            network, about = getattr(library, kind).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
            network = network.to(device).eval()
    except WeightsError:
        raise
    except Exception as error:  # the library raises errors of its own, of safetensors and of PyTorch
        raise WeightsError(f"{folder}: cannot be loaded as {kind}: {one_line(error)}") from None
    if lacking := [*about["missing_keys"], *about["mismatched_keys"]]:
        raise WeightsError(f"{folder}: has other weights than a {kind}, for example {lacking[0]}")
    return network


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder.

    Raises:
        ConfigError: the library is not installed.
        WeightsError: the folder has none, or it is broken.
    """
    library = transformers()
    try:
        with _quiet(library):
            return library.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as above
        raise WeightsError(f"{folder}: its tokenizer cannot be loaded: {one_line(error)}") from None


@contextmanager
def computing(one_at_a_time: Lock) -> Iterator[None]:
    """Compute without gradients, while no other thread does with the same lock.

    Raises:
        WeightsError: the memory does not suffice.
    """
    with one_at_a_time, torch.inference_mode(), enough_memory():
        yield


@contextmanager
def enough_memory() -> Iterator[None]:
    """Make an error of one line of a memory that is used up.

    Raises:
        WeightsError: the memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NOT_ENOUGH):
            raise WeightsError("the memory does not suffice for this model; close other programs") from None
        raise


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """Show no progress bar and no advice of the library while it loads, and leave its settings as they were."""
    logging = library.utils.logging
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
