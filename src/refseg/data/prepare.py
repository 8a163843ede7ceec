"""Downloads and unpacks public data sets.

An archive of unknown checksum is accepted at its first download if it is an archive. Its SHA-256 is then recorded in
`downloads.json`, and later downloads of the same file into the same folder have to match it. COCO's images are
downloaded one by one over http and have no checksums: their length and the beginning and end of a JPEG are checked.

Below the root folder:

    downloads.json                         address, sha256, size and date of each downloaded file
    downloads/refcoco.zip                  archives; not needed once they are unpacked
    refcoco/instances.json, refs(unc).p    annotations
    images/train2014/*.jpg                 images
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from tqdm import tqdm

from refseg.archives import archive_type, is_file_name, magic_number, unpack
from refseg.data.sources import CATALOGUE, COCO_IMAGES, IMAGES, Source
from refseg.download import (
    AddressError,
    Client,
    Expected,
    Retries,
    UnreachableError,
    check_sha256,
    check_url,
    download,
    join_url,
    reason,
    storing,
)
from refseg.errors import ConfigError, DataError, DownloadError, UnknownNameError
from refseg.files import replacing

__all__ = ["LOCK_FILE", "Fetched", "Report", "fetch", "fetch_images", "prepare"]

LOCK_FILE = "downloads.json"
ARCHIVES = "downloads"
COCO = f"{IMAGES}/train2014"
LARGEST_IMAGE = 64 * 2**20
MOST_FAILURES = 20


@dataclass(frozen=True, kw_only=True)
class Report:
    """What `prepare` or `fetch_images` has done."""

    name: str
    folder: Path
    splits: tuple[str, ...] = ()
    """The splits whose images were requested; all, if empty."""
    fetched: int = 0
    """Number of downloaded files."""
    kept: int = 0
    """Number of files that were already present."""
    size: int = 0
    """Bytes of the downloaded files."""
    unverified: tuple[str, ...] = ()
    """Archives whose checksum was unknown; it is recorded now."""
    missing: tuple[str, ...] = ()
    """Images that are needed and were in no archive."""


class Fetched(NamedTuple):
    """A file of a data set."""

    path: Path
    size: int
    """The number of bytes downloaded; 0 if it was already present."""
    verified: bool
    """Whether its checksum was known."""


def fetch(
    source: Source,
    root: str | Path,
    *,
    sha256: str | None = None,
    mirrors: Sequence[str] = (),
    retries: Retries = Retries(),  # noqa: B008  (immutable)
    progress: bool = True,
) -> Fetched:
    """Download one file, unless it is already present; an archive is not unpacked.

    An unknown checksum is recorded in `downloads.json`, and later downloads have to match it.

    Args:
        source: The file.
        root: The folder of all data sets.
        sha256: Its checksum, if known. It takes precedence over a recorded one.
        mirrors: Addresses of folders with the file under its name; they are tried first.
        retries: Time limits and number of attempts.
        progress: Show a progress bar if stderr is a terminal.

    Raises:
        DownloadError: It cannot be downloaded or stored, or is not the expected file.
        DataError: `downloads.json` is broken.
    """
    root = Path(root)
    lock = _read_lock(root)
    expected = _expected(source, sha256, lock, root)

    def accept(file: Path, digest: str, url: str | None) -> None:
        if archive_type(source.name) == ".zip" and not zipfile.is_zipfile(file):
            raise AddressError("holds a zip archive without an end")
        if url is not None or lock.get(source.name, {}).get("sha256") != digest:
            _record(root, source.name, url, digest, file.stat().st_size)

    path = root / (ARCHIVES if archive_type(source.name) else source.unpack_to) / source.name
    urls = [*(join_url(mirror, source.name) for mirror in mirrors), *source.urls]
    downloaded = download(urls, path, expected, accept=accept, retries=retries, progress=progress)
    return Fetched(path, downloaded.size, expected.sha256 is not None)


def prepare(
    name: str,
    root: str | Path,
    *,
    splits: tuple[str, ...] = (),
    images: bool = True,
    image_url: str = COCO_IMAGES,
    mirrors: Sequence[str] = (),
    sha256: Mapping[str, str] | None = None,
    workers: int = 8,
    needed: Callable[[Path], Sequence[str]] | None = None,
    retries: Retries = Retries(),  # noqa: B008  (immutable)
    progress: bool = True,
) -> Report:
    """Download and unpack a data set. Existing files are kept, so that the same call continues an interrupted one.

    Args:
        name: A name in `CATALOGUE`.
        root: The folder of all data sets.
        splits: The splits of the images that `needed` returns, for the report.
        images: Whether to download images too.
        image_url: The address of a folder of COCO's images.
        mirrors: Addresses of folders with the archives under their names; they are tried first.
        sha256: Known checksums, by the archive's name.
        workers: Number of images that are downloaded at a time.
        needed: Called with the root folder when the annotations are present, and returns the names of the images. By
            default, all images of `instances.json`.
        retries: Time limits and number of attempts.
        progress: Show a progress bar if stderr is a terminal.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: An argument is invalid.
        DownloadError: A file cannot be downloaded or stored, or is not the expected file.
        DataError: A downloaded file is malformed.
    """
    if name not in CATALOGUE:
        raise UnknownNameError("data set", name, CATALOGUE)
    if splits and images and needed is None:
        raise ConfigError("instances.json does not contain the splits of images; request all, or pass `needed`")
    sums = {key: check_sha256(value) for key, value in (sha256 or {}).items()}
    if unknown := sorted(set(sums) - {source.name for source in CATALOGUE[name]}):
        raise ConfigError(f"{name} has no file {unknown[0]!r} to which a checksum could belong")
    _check_workers(workers)
    root = Path(root)
    sources = [source for source in CATALOGUE[name] if images or not source.is_images]
    fetched = kept = size = 0
    unverified: list[str] = []
    for source in sources:
        if source.holds and all(_is_present(root / held) for held in source.holds):
            kept += 1
            continue
        file = fetch(source, root, sha256=sums.get(source.name), mirrors=mirrors, retries=retries, progress=progress)
        fetched, kept, size = fetched + bool(file.size), kept + (not file.size), size + file.size
        if not file.verified:
            unverified.append(source.name)
        if archive_type(source.name):
            unpack(file.path, root / source.unpack_to, top=source.unpack_to, remedy=_remove("run it again"))
        for held in source.holds:
            if not _is_present(root / held):
                raise DataError(f"{file.path}: does not contain {held}; {_remove('download another')}")
    missing: list[str] = []
    if images:
        names = _all_images(root / name / "instances.json") if needed is None else needed(root)
        if folders := [root / source.unpack_to for source in sources if source.is_images]:
            missing = [image for image in names if not any((folder / image).is_file() for folder in folders)]
        else:
            done = fetch_images(names, root / COCO, image_url, workers=workers, retries=retries, progress=progress)
            fetched, kept, size = fetched + done.fetched, kept + done.kept, size + done.size
    return Report(
        name=name,
        folder=root,
        splits=splits,
        fetched=fetched,
        kept=kept,
        size=size,
        unverified=tuple(unverified),
        missing=tuple(missing),
    )


def fetch_images(
    names: Sequence[str],
    folder: str | Path,
    base_url: str = COCO_IMAGES,
    *,
    workers: int = 8,
    retries: Retries = Retries(),  # noqa: B008  (immutable)
    progress: bool = True,
) -> Report:
    """Download the named JPEGs, except those that are already present and complete.

    If an image cannot be downloaded, the others are; all failures are reported at the end. If the server cannot be
    reached at all, that is reported immediately.

    Args:
        names: File names such as `COCO_train2014_000000123456.jpg`.
        folder: Where they are stored.
        base_url: The address of the folder that contains them.
        workers: Number of images that are downloaded at a time.
        retries: Time limits and number of attempts.
        progress: Show a progress bar if stderr is a terminal.

    Raises:
        DownloadError: Images could not be downloaded or stored.
        DataError: A name is not a file name.
    """
    folder, names = Path(folder), list(dict.fromkeys(names))
    for name in names:
        if not is_file_name(name):
            raise DataError(f"{name!r} is not the file name of an image; the annotations that contain it are malformed")
    check_url(base_url)
    _check_workers(workers)
    client = Client(retries)
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sizes: list[int] = []
    failures: list[str] = []
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(_fetch_image, client, join_url(base_url, name), folder / name): name for name in names}
        with tqdm(total=len(names), desc=folder.name, unit="image", disable=None if progress else True) as bar:
            for future in as_completed(futures):
                try:
                    sizes.append(future.result())
                    bar.update()
                except UnreachableError as error:
                    raise DownloadError(
                        f"{base_url} cannot be reached: {error}; run it again to resume, "
                        f"or download the images by other means and put them into {folder}"
                    ) from None
                except AddressError as error:
                    failures.append(f"{futures[future]}: {error}")
                    if len(failures) >= MOST_FAILURES:
                        break
    finally:
        client.stop.set()
        pool.shutdown(cancel_futures=True)
    if failures:
        gave_up = " before the rest was given up" if len(failures) + len(sizes) < len(names) else ""
        raise DownloadError(
            f"{len(failures)} of {len(names)} images could not be downloaded from {base_url}{gave_up}, the first is "
            f"{failures[0]}; run it again to resume, or put them into {folder} by other means"
        )
    fetched = [size for size in sizes if size]
    return Report(
        name=folder.name, folder=folder, fetched=len(fetched), kept=len(sizes) - len(fetched), size=sum(fetched)
    )


def _is_present(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise ConfigError(f"workers has to be 1 or more, not {workers}")


def _all_images(instances: Path) -> list[str]:
    """Return the names of all images of a file of annotations."""
    try:
        content = json.loads(instances.read_bytes())
        return [str(image["file_name"]) for image in content["images"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise DataError(f"{instances}: contains no list of images; remove its folder and run it again") from None


# ── downloads.json ──


def _expected(source: Source, sha256: str | None, lock: Mapping[str, Mapping[str, Any]], root: Path) -> Expected:
    """Return what is known about a file: a checksum that was passed, is in the catalogue or was recorded."""
    origin = ""
    if sha256 is not None:
        origin = "as requested"
    elif source.sha256 is not None:
        sha256, origin = source.sha256, "as published"
    elif source.name in lock:
        sha256 = str(lock[source.name]["sha256"])
        origin = f"as {root / LOCK_FILE} recorded at the first download; if the change is intended, remove its entry"
    return Expected(
        sha256=None if sha256 is None else check_sha256(sha256),
        origin=origin,
        size=source.size,
        magic=magic_number(source.name),
    )


def _read_lock(root: Path) -> dict[str, dict[str, Any]]:
    path = root / LOCK_FILE
    try:
        lock = json.loads(path.read_bytes())
        for entry in lock.values():
            check_sha256(entry["sha256"])
    except (FileNotFoundError, NotADirectoryError):  # a root that is not a folder is reported when it is created
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {reason(error)}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DataError(
            f"{path}: not a list of downloads; repair it, or remove it to accept the next downloads"
        ) from None
    return dict(lock)


def _record(root: Path, name: str, url: str | None, digest: str, size: int) -> None:
    """Write the checksum of a file to the lock file; the address is None if the file was not downloaded."""
    entry = {"url": url, "sha256": digest, "size": size, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    with replacing(root / LOCK_FILE) as draft:
        draft.write_text(json.dumps(_read_lock(root) | {name: entry}, indent=2) + "\n")


def _remove(then: str) -> str:
    return f"remove it and its entry in {LOCK_FILE}, and {then}"


# ── images ──


def _fetch_image(client: Client, url: str, path: Path) -> int:
    """Download an image, unless it is present and complete, and return its size; 0 if it was present."""
    with storing(path):
        if path.is_file():
            with path.open("rb") as file:
                if _is_complete_jpeg(file):
                    return 0
    content = client.get(url, LARGEST_IMAGE)
    if not _is_complete_jpeg(io.BytesIO(content)):
        raise AddressError("not a complete JPEG")
    with storing(path), replacing(path) as draft:
        draft.write_bytes(content)
    return len(content)


def _is_complete_jpeg(file: io.BufferedReader | io.BytesIO) -> bool:
    if file.read(3) != b"\xff\xd8\xff":
        return False
    file.seek(-2, os.SEEK_END)
    if file.read(2) == b"\xff\xd9":
        return True
    # Other bytes may follow the end of a JPEG. Only decoding tells, which takes too long for every image.
    file.seek(0)
    try:
        with Image.open(file, formats=["JPEG"]) as image:
            image.load()
    except Exception:  # Pillow raises many kinds of exceptions
        return False
    return True
