"""Finds model folders by name, in this package, on disk or on the Hugging Face Hub, and uploads them to the Hub."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from refseg.download import Expected, download, exclusive, join_url, storing
from refseg.errors import DownloadError, OutputError, UnknownNameError, WeightsError, one_line
from refseg.files import user_cache, write_text
from refseg.models.families import MODELS, HubFile, ModelEntry
from refseg.models.layout import CONFIG, WEIGHTS, not_a_folder

if TYPE_CHECKING:
    from refseg.models.folder import ModelFolder

__all__ = ["cached_files", "download_files", "push_to_hub", "resolve"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin", ".pkl", ".safetensors")
TIMEOUT = 3.0
"""Seconds that the Hub may take to accept a connection."""


def resolve(name_or_path: str | Path, *, allow_download: bool = True) -> Path:
    """Return the model folder of a name or a path.

    A name of `refseg models` takes precedence over a folder of the same name, which can be given as `./shapes`. The
    published weights of a named model are downloaded and converted at first use, after a line with size and licence.
    `user/name`, if there is no such folder, is downloaded from the Hugging Face Hub, or taken from its cache without
    the network.

    Raises:
        UnknownNameError: It is neither the name of a model, nor a folder, nor a Hub name.
        WeightsError: The model has no weights in this package, or the path is not a folder.
        DownloadError: The Hub does not have it, or cannot be reached.
    """
    text = str(name_or_path)
    if not text:  # as a path it would be the working folder
        raise UnknownNameError("model", text, MODELS)
    if isinstance(name_or_path, str) and text in MODELS:
        entry = MODELS[text]
        if entry.hub is not None:
            return _published(entry, entry.hub, allow_download=allow_download)
        weights = entry.weights
        if weights is None:
            raise WeightsError(
                f"{text!r} has no weights in this package: make a model folder with `refseg convert` or "
                "`refseg train`, and give its path"
            )
        if not weights.is_dir():
            raise WeightsError(f"{text!r}: its folder is missing from this installation: {weights}")
        return weights
    path = Path(name_or_path)
    with suppress(RuntimeError):  # no home folder: the name stays as it is, and is reported below
        path = path.expanduser()
    if path.is_dir():
        return path
    if path.exists() or path.suffix.lower() in CHECKPOINTS:
        raise not_a_folder(path)
    if isinstance(name_or_path, str) and HUB_ID.fullmatch(text):
        return _from_hub(text, allow_download=allow_download)
    if isinstance(name_or_path, Path) or "/" in text or os.sep in text or text.startswith((".", "~")):
        raise not_a_folder(path)
    raise UnknownNameError("model", text, MODELS)


def push_to_hub(folder: str | Path, repo_id: str, *, private: bool = False) -> str:
    """Upload a model folder to the Hugging Face Hub and return its address; `refseg.load(repo_id)` then downloads it.

    The repository is created if it does not exist. A model card is written into the folder if it has none.

    Args:
        folder: The model folder.
        repo_id: The Hub name, `user/name`.
        private: Whether a new repository is private.

    Raises:
        WeightsError: The folder is not a model folder, or needs a CLIP that is not public.
        ConfigError: Its config is broken.
        OutputError: The name is invalid, or it cannot be uploaded.
    """
    from refseg.encoders.clip_sizes import CLIP_SIZES
    from refseg.models.folder import read_folder

    folder = Path(folder)
    stored = read_folder(folder)
    if not (folder / WEIGHTS).is_file():
        raise WeightsError(f"{folder}: {WEIGHTS} is missing")
    if stored.clip is not None and stored.clip.name not in CLIP_SIZES:
        raise WeightsError(
            f"{folder}: needs your CLIP {stored.clip.name}, which is not public: run `refseg convert {folder} MERGED "
            "--merge` and upload MERGED"
        )
    _disable_telemetry()
    from huggingface_hub import HfApi

    if reason := _connection_error():
        raise OutputError(f"{repo_id}: not uploaded: {reason}")
    try:
        card = folder / "README.md"
        if not card.exists():
            write_text(card, _model_card(stored, repo_id))
        api = HfApi()
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            allow_patterns=[CONFIG, WEIGHTS, "README.md"],
            commit_message="Upload a model folder of refseg",
        )
    except Exception as error:  # as in `download_files`
        raise OutputError(f"{repo_id}: not uploaded: {one_line(error)}") from None
    return str(address)


def _published(entry: ModelEntry, file: HubFile, *, allow_download: bool) -> Path:
    """Return the model folder made of the published weights of a named model; it is made at first use."""
    from huggingface_hub import constants

    folder = user_cache("models", f"{entry.name}-{file.sha256[:12]}")
    if (folder / CONFIG).is_file():
        return folder
    missing = f"the weights of {entry.name!r} are not here yet, and were not downloaded from the Hugging Face Hub"
    if not allow_download:
        raise DownloadError(f"{missing}: downloads are not allowed here")
    if reason := _connection_error():
        raise DownloadError(f"{missing}: {reason}")
    page = f"{constants.ENDPOINT}/{file.repository}"
    with storing(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent):
        if (folder / CONFIG).is_file():  # another process has made it meanwhile
            return folder
        # By default Python prints warnings to stderr, also where logging is not set up.
        logging.getLogger(__name__).warning(
            "%s: downloads %d MB from %s (revision %s); licence: %s",
            *(entry.name, file.megabytes, page, file.revision, entry.licence),
        )
        path = user_cache("downloads", f"{folder.name}{Path(file.name).suffix}")
        expected = Expected(sha256=file.sha256, origin="as the Hub lists it", limit=2 * 10**6 * file.megabytes)
        download([join_url(f"{page}/resolve/{file.revision}", file.name)], path, expected)
        from refseg.models.convert import read_foreign
        from refseg.models.folder import save_model

        model, _ = read_foreign(path)
        about = {"source": f"{file.repository}/{file.name}", "revision": file.revision, "licence": entry.licence}
        save_model(model, folder, name=entry.name, domain="photos", extra=about)
        path.unlink()
    return folder


def _from_hub(repo_id: str, *, allow_download: bool) -> Path:
    files = (CONFIG, WEIGHTS)
    missing = f"there is no folder {repo_id!r}, and it was not downloaded from the Hugging Face Hub"
    if (folder := cached_files(repo_id, files)) is not None:
        return folder
    if not allow_download:
        raise DownloadError(f"{missing}: downloads are not allowed here")
    try:
        return download_files(repo_id, files)
    except DownloadError as error:
        raise DownloadError(f"{missing}: {error}") from None


def cached_files(repo_id: str, files: Sequence[str], *, revision: str | None = None) -> Path | None:
    """Return the folder of a repository's files in the cache of the Hub's client, None if it lacks one of them.

    Args:
        repo_id: `user/name`.
        files: their names.
        revision: a commit; None: the newest in the cache.
    """
    try:
        folder = _snapshot(repo_id, files, revision, cached=True)
    except (OSError, ValueError):
        return None
    return None if _lacking(folder, files) else folder


def download_files(repo_id: str, files: Sequence[str], *, revision: str | None = None) -> Path:
    """Download files of a repository on the Hugging Face Hub, and return their folder.

    Args:
        repo_id: `user/name`.
        files: their names; no other file is downloaded.
        revision: a commit; None: the newest.

    Raises:
        DownloadError: the Hub does not have them, or cannot be reached, or its owners have not admitted the user.
    """
    _disable_telemetry()
    from huggingface_hub.errors import GatedRepoError

    if reason := _connection_error():
        raise DownloadError(reason)
    try:
        folder = _snapshot(repo_id, files, revision, cached=False)
    except GatedRepoError:
        raise DownloadError(
            f"{repo_id} is only for users whom its owners admitted: ask at https://huggingface.co/{repo_id}, then run "
            "`hf auth login`"
        ) from None
    # The client raises errors of its own, of its HTTP library and of the operating system.
    except Exception as error:
        raise DownloadError(one_line(error)) from None
    if lacking := _lacking(folder, files):
        raise DownloadError(f"{repo_id} has no {lacking[0]}, so that it is not a model of the kind that is read here")
    return folder


def _snapshot(repo_id: str, files: Sequence[str], revision: str | None, *, cached: bool) -> Path:
    _disable_telemetry()
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(repo_id, revision=revision, allow_patterns=[*files], local_files_only=cached))


def _lacking(folder: Path, files: Sequence[str]) -> list[str]:
    return [name for name in files if not (folder / name).exists()]


def _disable_telemetry() -> None:
    """Set what the client reads when it is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def _connection_error() -> str | None:
    """Return why the Hub cannot be reached, or None; its client would try for 23 seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        target = endpoint = urllib.parse.urlsplit(constants.ENDPOINT)
        proxies = urllib.request.getproxies()
        proxy = proxies.get(endpoint.scheme) or proxies.get("all")
        if proxy and not urllib.request.proxy_bypass(endpoint.hostname or ""):
            target = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = target.port or {"https": 443, "socks5": 1080, "socks5h": 1080}.get(target.scheme, 80)
    except ValueError as error:
        return f"the address of the Hub or of the proxy is broken: {error}"
    outcome: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((target.hostname or "", port), timeout=TIMEOUT).close()
            outcome.append(None)
        except (OSError, UnicodeError) as error:
            outcome.append(one_line(error))

    # In a thread, as the timeout does not apply to the look-up of the name.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    reason = outcome[0] if outcome else f"no answer in {TIMEOUT:g} seconds"
    if reason is None:
        return None
    return f"{target.hostname} cannot be reached ({reason}); check the network, or give the path of a model folder"


def _model_card(stored: ModelFolder, repo_id: str) -> str:
    name = stored.about.get("name", repo_id.rpartition("/")[2])
    spec = stored.spec
    return f"""---
library_name: refseg
pipeline_tag: image-segmentation
tags: [refseg, referring-image-segmentation, {stored.family}]
---

# {name}

A model of [refseg](https://pypi.org/project/refseg) for referring image segmentation: it segments the object in an
image that an expression refers to.

```python
import refseg

predictor = refseg.load("{repo_id}")
image = predictor.encode("photo.jpg")
(prediction,) = predictor.segment(image, ["the cup on the left"])
prediction.mask  # bool (H, W)
```

Family `{stored.family}`, images of {spec.inputs.image_size} pixels, {spec.inputs.word_length} tokens, threshold \
{spec.decision.threshold:g}; written by refseg {stored.refseg}.
"""
