"""Fetches public data sets: the only file of the package that downloads data.

What is checked, and what is not. No checksum of the archives in `CATALOGUE` is known to us. The first download of one
is therefore taken on trust: it has to look like an archive, no more. Its SHA-256 is written to `downloads.json`, and
every later download of that file into the same folder has to match. Whoever knows a checksum gives it, and then it is
checked from the first time on. COCO's images come one by one over plain http, and there are no checksums of them at
all; each has to be as long as the server says, and to begin and end as a JPEG does.

Below the root folder:

    downloads.json                         what was fetched: address, sha256, size, date
    downloads/refcoco.zip                  archives; not needed any more once they are unpacked
    refcoco/instances.json, refs(unc).p    annotations
    images/train2014/*.jpg                 images

A file appears under its name only when it is whole. Until then it is `NAME.part`, and the same command goes on with it.
"""

from __future__ import annotations

import errno
import filecmp
import gzip
import hashlib
import http.client
import io
import json
import os
import re
import shutil
import ssl
import stat
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import IO, Any, TypeVar
from urllib.parse import quote, urlsplit

from PIL import Image
from tqdm import tqdm

from refseg.errors import ConfigError, DataError, DownloadError, RefsegError, UnknownNameError

__all__ = ["CATALOGUE", "COCO_IMAGES", "LOCK_FILE", "Report", "Source", "fetch", "fetch_images", "prepare", "unpack"]

COCO_IMAGES = "http://images.cocodataset.org/train2014/"
LOCK_FILE = "downloads.json"
ARCHIVES = "downloads"
IMAGES = "images"

TIMEOUT = 30.0
CONNECT_TIMEOUT = 5.0
ATTEMPTS = 4
PAUSE = 1.0
LONGEST_PAUSE = 120.0
PROGRESS_MADE = 2**20
"""A transfer that came this much further than ever before has all its attempts again."""

CHUNK = 2**16
LARGEST_FILE = 64 * 2**30
LARGEST_IMAGE = 64 * 2**20
LARGEST_UNPACKED = 16 * 2**30
MOST_UNPACKED = 200_000
MOST_FAILURES = 20

HEAD = 512
ARCHIVE_KINDS = (".zip", ".tar.gz", ".tgz", ".tar")
BUSY = (408, 425, 429, 500, 502, 503, 504)

T = TypeVar("T")


# Before the catalogue, which is checked as it is made.


def _is_plain(name: str) -> bool:
    """Return whether a name is that of a file in a folder, on any system."""
    return bool(re.fullmatch(r"[^\x00-\x1f/\\:]{1,240}", name)) and name not in (".", "..")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        right = False
    if not right:
        raise DownloadError(f"{url!r} is no address that is fetched; it has to start with http:// or https://")
    if parts.username is not None:  # addresses are recorded and shown
        raise DownloadError(f"the address at {parts.hostname} has a user's name in it; give one without")


def _check_sha256(value: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ConfigError(f"{value!r} is no SHA-256: that has 64 hexadecimal digits")
    return value.lower()


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file to fetch, and where it belongs."""

    name: str
    """Its file name. Archives (.zip, .tar, .tar.gz, .tgz) are unpacked, other files are placed as they are."""
    urls: tuple[str, ...] = ()
    """Where it can be had, in order of preference."""
    sha256: str | None = None
    size: int | None = None
    unpack_to: str = ""
    """A folder below the root; `""` is the root itself. Images belong below `images`."""
    holds: tuple[str, ...] = ()
    """Files or folders below the root that come out of it. Where all of them are there, nothing is fetched."""

    def __post_init__(self) -> None:
        if not _is_plain(self.name):
            raise ConfigError(f"{self.name!r} is no file name")
        for place in (self.unpack_to, *self.holds):
            if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts or "\\" in place:
                raise ConfigError(f"{self.name}: {place!r} does not lie below the root folder")
        if self.size is not None and self.size < 0:
            raise ConfigError(f"{self.name}: its size cannot be {self.size}")
        if self.sha256 is not None:
            _check_sha256(self.sha256)
        for url in self.urls:
            _check_url(url)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was done."""

    name: str
    folder: Path
    splits: tuple[str, ...] = ()
    """The splits whose images were asked for; all, if empty."""
    fetched: int = 0
    """Files that came over the network."""
    kept: int = 0
    """Files that were there."""
    size: int = 0
    """Bytes of the files that were fetched."""
    unverified: tuple[str, ...] = ()
    """Archives whose checksum nobody knew; what was seen is in the lock file now."""
    missing: tuple[str, ...] = ()
    """Images that are needed and were in no archive."""


def _annotations(name: str, capture: str, references: str) -> Source:
    # The authors' own server has answered 503 since 2022.
    return Source(
        name=f"{name}.zip",
        urls=(f"https://web.archive.org/web/{capture}/https://bvisionweb1.cs.unc.edu/licheng/referit/data/{name}.zip",),
        unpack_to=name,
        holds=(f"{name}/instances.json", f"{name}/{references}"),
    )


CATALOGUE: MappingProxyType[str, tuple[Source, ...]] = MappingProxyType(
    {
        "refcoco": (_annotations("refcoco", "20220413011718", "refs(unc).p"),),
        "refcoco+": (_annotations("refcoco+", "20220413011656", "refs(unc).p"),),
        "refcocog": (_annotations("refcocog", "20220413012904", "refs(umd).p"),),
        "refclef": (
            _annotations("refclef", "20220413011817", "refs(unc).p"),
            Source(
                name="saiapr_tc-12.zip",
                urls=(
                    "https://web.archive.org/web/20220515000000/"
                    "http://bvisionweb1.cs.unc.edu/licheng/referit/data/images/saiapr_tc-12.zip",
                ),
                unpack_to="images/saiapr_tc-12",
                holds=("images/saiapr_tc-12",),
            ),
        ),
    }
)
"""What each data set needs. A set without an archive of images takes COCO's, one by one."""


def fetch(
    source: Source,
    root: str | Path,
    *,
    sha256: str | None = None,
    progress: bool = True,
    mirrors: Sequence[str] = (),
    timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> Path:
    """Fetch one file, unless it is there already, and return its path; an archive is not unpacked.

    A transfer that broke off goes on where it ended. A file that lies at the path already, from an earlier download or
    put there by hand, is checked like one that comes. Where no checksum is known, none is checked: the one that was
    seen is written to the lock file, and later downloads have to match it.

    Args:
        source: The file.
        root: The folder of all data sets.
        sha256: Its checksum, if the caller knows one. It has precedence over a recorded one.
        progress: Show a bar, where stderr is a terminal.
        mirrors: Addresses of folders that hold the file under its name; they are tried first.
        timeout: Seconds without a sign of life after which a transfer has broken off.
        attempts: How often in a row one address may fail.
        pause: Seconds before the second attempt; they double with each. A server's Retry-After is honoured.

    Raises:
        DownloadError: It cannot be fetched or stored, or what came is something else.
        DataError: The lock file is broken.
    """
    return _obtain(source, Path(root), sha256, progress, mirrors, _Patience(timeout, attempts, pause)).path


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
    progress: bool = True,
    needed: Callable[[Path], Sequence[str]] | None = None,
    timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> Report:
    """Fetch and unpack a data set; what is there is kept as it is, so that the same command goes on after a stop.

    Args:
        name: A name in `CATALOGUE`.
        root: The folder of all data sets.
        splits: The splits that `needed` looks at, for the report; only `needed` can tell the images of a split.
        images: Whether images are wanted too.
        image_url: The address of a folder that holds COCO's images.
        mirrors: Addresses of folders that hold the archives under their names; they are tried first.
        sha256: Checksums that the caller knows, by the archive's name.
        workers: How many images are fetched at a time.
        progress: Show a bar, where stderr is a terminal.
        needed: Is given the root when the annotations are there, and returns the names of the images. By default, all
            that `instances.json` names.
        timeout: As for `fetch`.
        attempts: As for `fetch`.
        pause: As for `fetch`.

    Raises:
        UnknownNameError: There is no such data set.
        ConfigError: An argument makes no sense.
        DownloadError: Something cannot be fetched or stored, or what came is something else.
        DataError: What came is malformed.
    """
    if name not in CATALOGUE:
        raise UnknownNameError("data set", name, CATALOGUE)
    if splits and images and needed is None:
        raise ConfigError("the images of a split cannot be told from instances.json; ask for all, or give `needed`")
    sources = [source for source in CATALOGUE[name] if images or not _is_of_images(source)]
    sums = dict(sha256 or {})
    if strange := sorted(set(sums) - {source.name for source in CATALOGUE[name]}):
        raise ConfigError(f"{name} has no {strange[0]!r} that could have a checksum")
    for value in sums.values():
        _check_sha256(value)
    _check_workers(workers)
    root, patience = Path(root), _Patience(timeout, attempts, pause)
    fetched = kept = size = 0
    unverified: tuple[str, ...] = ()
    for source in sources:
        if source.holds and all(_is_there(root / held) for held in source.holds):
            kept += 1
            continue
        obtained = _obtain(source, root, sums.get(source.name), progress, mirrors, patience)
        fetched, kept, size = fetched + bool(obtained.size), kept + (not obtained.size), size + obtained.size
        if not obtained.checked:
            unverified += (source.name,)
        if _kind(source.name):
            unpack(obtained.path, root / source.unpack_to, top=source.unpack_to)
        for held in source.holds:
            if not _is_there(root / held):
                raise DataError(f"{obtained.path}: should hold {held}, and does not; {_remove('fetch another')}")
    missing: tuple[str, ...] = ()
    if images:
        names = _all_images(root / name / "instances.json") if needed is None else list(needed(root))
        if folders := [root / source.unpack_to for source in sources if _is_of_images(source)]:
            missing = tuple(one for one in names if not any((folder / one).is_file() for folder in folders))
        else:
            done = fetch_images(
                names,
                root / IMAGES / "train2014",
                image_url,
                workers=workers,
                progress=progress,
                timeout=timeout,
                attempts=attempts,
                pause=pause,
            )
            fetched, kept, size = fetched + done.fetched, kept + done.kept, size + done.size
    return Report(
        name=name,
        folder=root,
        splits=splits,
        fetched=fetched,
        kept=kept,
        size=size,
        unverified=unverified,
        missing=missing,
    )


def fetch_images(
    file_names: Sequence[str],
    folder: str | Path,
    base_url: str = COCO_IMAGES,
    *,
    workers: int = 8,
    progress: bool = True,
    timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> Report:
    """Fetch the listed JPEGs and no others; those that are there and whole are kept.

    An image that cannot be had does not keep the others from coming; what failed is said at the end. Where the server
    cannot be reached at all, that is said at once.

    Args:
        file_names: Names such as `COCO_train2014_000000123456.jpg`.
        folder: Where they go.
        base_url: The address of the folder that holds them.
        workers: How many are fetched at a time.
        progress: Show a bar, where stderr is a terminal.
        timeout: As for `fetch`.
        attempts: As for `fetch`.
        pause: As for `fetch`.

    Raises:
        DownloadError: Images are missing in the end, or one cannot be stored.
        DataError: A name is no plain file name.
    """
    folder, names = Path(folder), list(dict.fromkeys(file_names))
    for name in names:
        if not _is_plain(name):
            raise DataError(f"{name!r} is no file name of an image; the annotations that name it are malformed")
    _check_url(base_url)
    _check_workers(workers)
    line = _Line(_Patience(timeout, attempts, pause))
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    sizes: list[int] = []
    failures: list[str] = []
    pool = ThreadPoolExecutor(workers)
    try:
        futures = {pool.submit(_image, line, _join(base_url, name), folder / name): name for name in names}
        with tqdm(total=len(names), desc=folder.name, unit="image", disable=None if progress else True) as bar:
            for future in as_completed(futures):
                try:
                    sizes.append(future.result())
                    bar.update()
                except _UnreachableError as error:
                    raise DownloadError(
                        f"{base_url} cannot be reached: {error}; run it again to go on, "
                        f"or fetch the images by other means and put them into {folder}"
                    ) from None
                except _RefusalError as error:
                    failures.append(f"{futures[future]}: {error}")
                    if len(failures) >= MOST_FAILURES:
                        break
    finally:
        line.stop.set()
        pool.shutdown(cancel_futures=True)
    if failures:
        gave_up = " before the rest was given up" if len(failures) + len(sizes) < len(names) else ""
        raise DownloadError(
            f"{len(failures)} of {len(names)} images could not be fetched from {base_url}{gave_up}, the first is "
            f"{failures[0]}; run it again to go on, or put them into {folder} by other means"
        )
    fetched = [size for size in sizes if size]
    return Report(
        name=folder.name, folder=folder, fetched=len(fetched), kept=len(sizes) - len(fetched), size=sum(fetched)
    )


def unpack(
    archive: str | Path,
    folder: str | Path,
    *,
    top: str = "",
    largest: int = LARGEST_UNPACKED,
    most: int = MOST_UNPACKED,
) -> int:
    """Unpack an untrusted archive and return the number of its files; they come into place when all are unpacked.

    Nothing is written outside the folder, and nothing but files and folders is made. A file that lies in the folder
    already is never overwritten by a different one.

    Args:
        archive: A .zip, .tar, .tar.gz or .tgz.
        folder: Where its content goes.
        top: Folders that are taken off when they alone stand at the top of the archive: with `a/b`, `a`, `b` and `a/b`.
        largest: How many bytes may come out of it.
        most: How many files and folders may come out of it.

    Raises:
        DataError: The archive is broken or hostile, or it cannot be written what it holds.
    """
    archive, folder = Path(archive), Path(folder)
    # On the disk where the files will lie, which a linked folder may have moved elsewhere.
    temporary = (folder if folder.is_dir() else folder.parent) / f".{archive.name}.unpacking"
    try:
        if temporary.exists():  # of a run that was killed
            shutil.rmtree(temporary)
        content = temporary / "content"
        content.mkdir(parents=True)
        count = _write_all(archive, content, largest, most)
        content = _below_top(content, PurePosixPath(top).parts)
        if folder.is_dir():
            _merge(content, folder, archive)
        else:
            content.replace(folder)
        return count
    except RefsegError:
        raise
    except OSError as error:
        if not isinstance(error, gzip.BadGzipFile):
            remedy = "free some space and run it again" if _is_full(error) else "choose another folder"
            raise DataError(f"{archive}: cannot be unpacked into {folder}: {_reason(error)}; {remedy}") from None
        raise DataError(_broken(archive)) from None
    # Three parsers meet an untrusted bytes here, and each raises whatever it stumbles over.
    except Exception:
        raise DataError(_broken(archive)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


# ── names and arguments ──


def _kind(name: str) -> str:
    return next((kind for kind in ARCHIVE_KINDS if name.lower().endswith(kind)), "")


def _is_of_images(source: Source) -> bool:
    return PurePosixPath(source.unpack_to).parts[:1] == (IMAGES,)


def _is_there(path: Path) -> bool:
    return path.is_file() or (path.is_dir() and any(path.iterdir()))


def _join(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{quote(name)}"


def _check_workers(workers: int) -> None:
    if workers < 1:
        raise ConfigError(f"workers has to be 1 or more, not {workers}")


def _all_images(instances: Path) -> list[str]:
    """Read the names of all images from a file of annotations."""
    try:
        content = json.loads(instances.read_bytes())
        return [str(image["file_name"]) for image in content["images"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise DataError(f"{instances}: names no images; remove its folder and run again") from None


# ── the network ──


class _RefusalError(Exception):
    """An address does not give what is wanted, and would not the next time."""


class _UnreachableError(_RefusalError):
    """Nobody answers at an address."""


class _TransientError(Exception):
    """It may work the next time, after a pause if the server asks for one."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _RangeError(Exception):
    """The server has no such part of the file."""


@dataclass(frozen=True)
class _Patience:
    """How long to wait, and how often to try."""

    timeout: float
    attempts: int
    pause: float

    def __post_init__(self) -> None:
        if not (self.timeout > 0 and self.attempts >= 1 and self.pause >= 0):
            raise ConfigError("timeout has to be above 0, attempts 1 or more, and pause not below 0")


class _Connection(http.client.HTTPConnection):
    """Gives up soon where nobody answers, and waits longer for one who did."""

    def connect(self) -> None:
        patience = self.timeout
        self.timeout = CONNECT_TIMEOUT if patience is None else min(patience, CONNECT_TIMEOUT)
        super().connect()
        self.sock.settimeout(patience)


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """The same with TLS."""


class _Plain(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Secure(urllib.request.HTTPSHandler):
    @cached_property
    def trust(self) -> ssl.SSLContext:
        """Whom to trust; it is a long file that is read, so once for all connections."""
        return ssl.create_default_context()

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req, context=self.trust)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only, and never from https back to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        allowed = ("https",) if urlsplit(req.full_url).scheme == "https" else ("http", "https")
        if urlsplit(newurl).scheme not in allowed:
            fp.close()
            raise _RefusalError(f"redirects to {_printable(newurl)}, where one does not follow")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Build an opener for http and https alone: urllib's own would read local files and speak ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Plain(),
        _Secure(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(frozen=True)
class _Line:
    """The way to a server: asks, and asks again."""

    patience: _Patience
    opener: urllib.request.OpenerDirector = field(default_factory=_opener)
    stop: threading.Event = field(default_factory=threading.Event)
    reached: threading.Event = field(default_factory=threading.Event)

    def open(self, url: str, headers: Mapping[str, str] = MappingProxyType({})) -> http.client.HTTPResponse:
        """Ask for a file, and return the answer if it is one."""
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "refseg", **headers})  # noqa: S310
            response: http.client.HTTPResponse = self.opener.open(request, timeout=self.patience.timeout)
        except urllib.error.HTTPError as error:
            self.reached.set()
            with error:
                reason = f"the server answers {error.code} {_printable(str(error.reason))}".rstrip()
                if error.code in BUSY:
                    raise _TransientError(reason, _retry_after(error.headers.get("Retry-After"))) from None
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
                    raise _RangeError from None
            raise _RefusalError(reason) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise _RefusalError(_reason(error)) from None
            # Where somebody has answered before, the network is there, and this may pass.
            if self.reached.is_set():
                raise _TransientError(_reason(error)) from None
            raise _UnreachableError(_reason(error)) from None
        except TimeoutError:
            raise _TransientError(f"no answer within {self.patience.timeout:g} s") from None
        except (http.client.InvalidURL, ValueError) as error:
            raise _RefusalError(_reason(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise _TransientError(_reason(error)) from None
        self.reached.set()
        return response

    def read(self, response: http.client.HTTPResponse, size: int) -> bytes:
        """Read up to so many bytes of an answer; fewer come only at its end."""
        if self.stop.is_set():
            raise _RefusalError("it was stopped")
        try:
            return response.read(size)
        except TimeoutError:
            raise _TransientError(f"nothing more came within {self.patience.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _TransientError(f"the transfer broke off ({_reason(error)})") from None

    def persist(self, action: Callable[[], T], far: Callable[[], int] = lambda: 0) -> T:
        """Try until it works; as long as `far` grows, without an end."""
        failed, furthest = 0, far()
        while True:
            try:
                return action()
            except _TransientError as error:
                moved = far() >= furthest + PROGRESS_MADE
                failed, furthest = 1 if moved else failed + 1, max(furthest, far())
                if error.wait > LONGEST_PAUSE:
                    raise _RefusalError(f"{error}, and asks for a pause of {error.wait:.0f} s") from None
                if failed >= self.patience.attempts:
                    raise _RefusalError(str(error)) from None
                wait = max(error.wait, min(self.patience.pause * 2 ** (failed - 1), LONGEST_PAUSE))
            if self.stop.wait(wait):
                raise _RefusalError("it was stopped")


def _retry_after(value: str | None) -> float:
    """Return the seconds that a server asks to wait; it may name them or a moment."""
    if value is None:
        return 0.0
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _reason(error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
    return _printable(getattr(reason, "strerror", None) or str(reason)) or type(error).__name__


def _printable(text: str) -> str:
    """Make one short line of what a stranger says, without what moves a terminal's cursor."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]


# ── one file ──


@dataclass(frozen=True)
class _Obtained:
    path: Path
    size: int
    """Of what was fetched; 0 where the file was there."""
    checked: bool
    """Whether there was a checksum to compare with."""


@dataclass(frozen=True)
class _Expected:
    """The checksum that a file has to have, and who says so."""

    sha256: str | None
    origin: str = ""


def _obtain(
    source: Source, root: Path, sha256: str | None, progress: bool, mirrors: Sequence[str], patience: _Patience
) -> _Obtained:
    folder = root / ARCHIVES if _kind(source.name) else root / source.unpack_to
    path, part = folder / source.name, folder / f"{source.name}.part"
    urls = list(dict.fromkeys([*(_join(mirror, source.name) for mirror in mirrors), *source.urls]))
    for url in urls:
        _check_url(url)
    lock = _read_lock(root)
    expected = _expected(source, sha256, lock, root)
    checked = expected.sha256 is not None
    with _storing(path):
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            try:
                digest = _verify(source, path, expected)
            except _RefusalError as error:
                raise DownloadError(f"{path}: {error}; remove it and run it again") from None
            if lock.get(source.name, {}).get("sha256") != digest:
                _record(root, source.name, None, digest, path.stat().st_size)
            return _Obtained(path, 0, checked)
    begun = (_read_note(part) or {}).get("url")
    rejections = []
    for url in sorted(urls, key=lambda url: url != begun):  # what was begun is gone on with
        line = _Line(patience)
        try:
            line.persist(partial(_transfer, line, source, url, part, progress), partial(_size, part))
            with _storing(part):
                try:
                    digest = _verify(source, part, expected)
                except _RefusalError:
                    _discard(part)
                    raise
                size = part.stat().st_size
                # In this order: a run that is killed in between finds what it recorded.
                _record(root, source.name, url, digest, size)
                part.replace(path)
                _discard(part)
        except _RefusalError as error:
            rejections.append(f"{url}: {error}")
            continue
        return _Obtained(path, size, checked)
    raise DownloadError(
        f"{source.name} was not fetched: {'; '.join(rejections) or 'no address of it is known'}; "
        f"run it again to go on, or fetch it by other means and put it at {path}"
    )


def _expected(source: Source, sha256: str | None, lock: Mapping[str, Mapping[str, Any]], root: Path) -> _Expected:
    if sha256 is not None:
        return _Expected(_check_sha256(sha256), "as was asked for")
    if source.sha256 is not None:
        return _Expected(source.sha256.lower(), "as is known of it")
    if source.name in lock:
        origin = f"as {root / LOCK_FILE} recorded at the first download; remove its entry there if the change is meant"
        return _Expected(str(lock[source.name]["sha256"]), origin)
    return _Expected(None)


def _transfer(line: _Line, source: Source, url: str, part: Path, progress: bool) -> None:
    """Bring a part to its whole length, from where it is if it was begun at this address."""
    note = _read_note(part)
    start = _size(part) if note and note["url"] == url else 0
    if not note or not start:
        note, start = None, 0
    headers = {}
    if note:
        if note["total"] == start:
            return
        headers["Range"] = f"bytes={start}-"
        if same := note["etag"] or note["modified"]:
            headers["If-Range"] = same
    again = partial(_transfer, line, source, url, part, progress)
    try:
        response = line.open(url, headers)
    except _RangeError:
        with _storing(part):
            _discard(part)
        again()
        return
    with response:
        if note and response.status == http.HTTPStatus.PARTIAL_CONTENT:
            if not _goes_on(response, note, start):
                with _storing(part):
                    _discard(part)
                again()
                return
            total = note["total"]
        elif response.status == http.HTTPStatus.OK:
            start, total = 0, response.length
        else:
            raise _RefusalError(f"the server answers {response.status}, which is no whole file")
        if source.size is not None and total is not None and total != source.size:
            raise _RefusalError(f"has {total} bytes, but {source.size} are expected")
        chunk = line.read(response, CHUNK)
        if not start:
            # Before a part is touched: what comes may be the page of somebody in between.
            _check_head(source.name, chunk[:HEAD])
        limit = LARGEST_FILE if source.size is None else source.size
        with (
            _storing(part),
            part.open("ab" if start else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                desc=source.name,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=None if progress else True,
            ) as bar,
        ):
            if not start:
                _write_note(part, url, response, total)  # now that nothing older is in the part
            while chunk:
                file.write(chunk)
                start += len(chunk)
                bar.update(len(chunk))
                if start > limit:
                    break
                chunk = line.read(response, CHUNK)
    if start > limit:
        with _storing(part):
            _discard(part)
        raise _RefusalError(f"sends more than {limit} bytes")
    if total is not None and start < total:
        raise _TransientError(f"the transfer broke off after {start} of {total} bytes")


def _goes_on(response: http.client.HTTPResponse, note: Mapping[str, Any], start: int) -> bool:
    """Return whether an answer is the rest of what the part is the beginning of."""
    place = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if not place or (int(place[1]), int(place[2])) != (start, note["total"]):
        return False
    # Not every server looks at If-Range.
    etag, modified = _identity(response)
    return etag in (None, note["etag"]) and modified in (None, note["modified"])


def _identity(response: http.client.HTTPResponse) -> tuple[str | None, str | None]:
    etag = response.headers.get("ETag")
    # A weak tag says that two files mean the same, not that they are the same.
    return None if etag is None or etag.startswith("W/") else etag, response.headers.get("Last-Modified")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _write_note(part: Path, url: str, response: http.client.HTTPResponse, total: int | None) -> None:
    etag, modified = _identity(response)
    _note(part).write_text(json.dumps({"url": url, "etag": etag, "modified": modified, "total": total}) + "\n")


def _read_note(part: Path) -> dict[str, Any] | None:
    """Read what a part is the beginning of; a part of which that is not known is begun anew."""
    try:
        note = json.loads(_note(part).read_bytes())
    except (OSError, ValueError):
        return None
    kinds = {"url": str, "etag": str | None, "modified": str | None, "total": int}
    if not isinstance(note, dict) or not all(isinstance(note.get(key), kind) for key, kind in kinds.items()):
        return None
    return note


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_head(name: str, head: bytes) -> None:
    """Refuse what cannot be the file, from its first bytes."""
    kind = _kind(name)
    page = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html"))
    if kind == ".zip":
        right = head.startswith(b"PK\x03\x04")
    elif kind == ".tar":
        right = head[257:262] == b"ustar"
    elif kind:
        right = head.startswith(b"\x1f\x8b")
    else:
        right = not page or name.lower().endswith((".html", ".htm"))
    if not right:
        raise _RefusalError(f"holds {'a web page' if page else 'something else'}, where {name} is expected")


def _verify(source: Source, path: Path, expected: _Expected) -> str:
    """Check a file as far as anything is known of it, and return its checksum."""
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        raise _RefusalError(f"has {size} bytes, but {source.size} are expected")
    with path.open("rb") as file:
        _check_head(source.name, file.read(HEAD))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected.sha256 is not None and digest != expected.sha256:
        raise _RefusalError(f"has the sha256 {digest}, but {expected.sha256} is expected, {expected.origin}")
    if _kind(source.name) == ".zip" and not zipfile.is_zipfile(path):
        raise _RefusalError("holds a zip archive that has no end")
    return digest


def _read_lock(root: Path) -> dict[str, dict[str, Any]]:
    path = root / LOCK_FILE
    try:
        lock = json.loads(path.read_bytes())
        for entry in lock.values():
            _check_sha256(entry["sha256"])
    except FileNotFoundError:
        return {}
    except NotADirectoryError:
        return {}  # that the root is none is said when it is to be made
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {_reason(error)}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise DataError(f"{path}: is no list of downloads; repair it, or remove it to trust what comes next") from None
    return dict(lock)


def _record(root: Path, name: str, url: str | None, digest: str, size: int) -> None:
    """Write to the lock file what a file was; without an address where it was put there by hand."""
    entry = {"url": url, "sha256": digest, "size": size, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    path = root / LOCK_FILE
    new = path.with_name(f"{LOCK_FILE}.new")
    new.write_text(json.dumps(_read_lock(root) | {name: entry}, indent=2) + "\n")
    new.replace(path)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    """Say in one line why something could not be stored."""
    try:
        yield
    except OSError as error:
        if isinstance(error, RefsegError):
            raise
        if _is_full(error):
            raise DownloadError(f"{path}: the disk is full; free some space and run it again to go on") from None
        raise DownloadError(
            f"{path}: cannot be stored: {_reason(error)}; choose a folder that can be written"
        ) from None


def _is_full(error: OSError) -> bool:
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))


# ── images ──


def _image(line: _Line, url: str, path: Path) -> int:
    """Fetch an image, unless it is there and whole, and return its size; 0 where it is there."""
    with _storing(path):
        if path.is_file():
            with path.open("rb") as file:
                if _is_whole_jpeg(file):
                    return 0
    content = line.persist(partial(_image_content, line, url))
    if not _is_whole_jpeg(io.BytesIO(content)):
        raise _RefusalError("what came is no whole JPEG")
    part = path.with_name(f"{path.name}.part")
    with _storing(path):
        part.write_bytes(content)
        part.replace(path)
    return len(content)


def _image_content(line: _Line, url: str) -> bytes:
    with line.open(url) as response:
        total = response.length
        content = line.read(response, LARGEST_IMAGE + 1)
    if len(content) > LARGEST_IMAGE:
        raise _RefusalError(f"sends more than {LARGEST_IMAGE} bytes")
    if total is not None and len(content) < total:
        raise _TransientError(f"the transfer broke off after {len(content)} of {total} bytes")
    return content


def _is_whole_jpeg(file: io.BufferedReader | io.BytesIO) -> bool:
    if file.read(3) != b"\xff\xd8\xff":
        return False
    file.seek(-2, os.SEEK_END)
    if file.read(2) == b"\xff\xd9":
        return True
    # Something may follow a JPEG's end. Decoding tells, but takes too long to do it with all.
    file.seek(0)
    try:
        with Image.open(file, formats=["JPEG"]) as image:
            image.load()
    except Exception:  # Pillow raises whatever it stumbles over
        return False
    return True


# ── archives ──


def _write_all(archive: Path, folder: Path, largest: int, most: int) -> int:
    """Write all files of an archive into an empty folder."""
    count = written = 0
    members = _zip_members(archive) if _kind(archive.name) == ".zip" else _tar_members(archive)
    for number, (name, size, content) in enumerate(members, 1):
        if number > most:
            raise DataError(f"{archive}: holds more than {most} files; that is too many to be a data set")
        if written + size > largest:
            raise DataError(_too_much(archive, largest))
        path = folder / _safe_path(name, archive)
        if {"__MACOSX", ".DS_Store"} & set(path.parts):  # what macOS puts into its archives
            continue
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("xb")
        except FileExistsError:
            raise DataError(f"{archive}: holds {name!r} twice") from None
        with file:
            while chunk := content.read(CHUNK):
                # What archives say of their sizes need not be true.
                written += len(chunk)
                if written > largest:
                    raise DataError(_too_much(archive, largest))
                file.write(chunk)
        count += 1
    return count


def _zip_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield names, sizes and contents; folders have none."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DataError(_no_file(archive, member.filename))
            if member.flag_bits & 1:
                raise DataError(f"{archive}: {member.filename!r} is encrypted")
            if member.is_dir():
                yield member.filename, 0, None
            else:
                with opened.open(member) as content:
                    yield member.filename, member.file_size, content


def _tar_members(archive: Path) -> Iterator[tuple[str, int, IO[bytes] | None]]:
    """Yield names, sizes and contents; folders have none."""
    with (
        archive.open("rb") if _kind(archive.name) == ".tar" else gzip.open(archive) as stream,
        tarfile.open(fileobj=stream, mode="r:") as opened,
    ):
        for member in opened:
            if member.isdir():
                yield member.name, 0, None
            elif member.isreg() and (content := opened.extractfile(member)) is not None:
                with content:
                    yield member.name, member.size, content
            else:
                raise DataError(_no_file(archive, member.name))
        # gzip's checksum stands behind the end of the tar.
        while stream.read(CHUNK):
            pass


def _no_file(archive: Path, name: str) -> str:
    return f"{archive}: {name!r} is a link or a device, which no data set needs; nothing of it was unpacked"


def _too_much(archive: Path, largest: int) -> str:
    return f"{archive}: holds more than {largest} bytes; that is too much to be a data set"


def _broken(archive: Path) -> str:
    return f"{archive}: a broken archive; {_remove('run it again')}"


def _remove(then: str) -> str:
    return f"remove it and its entry in {LOCK_FILE}, and {then}"


def _safe_path(name: str, archive: Path) -> PurePosixPath:
    """Return a member's path if it stays within the folder, on any system."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not all(_is_plain(part) for part in path.parts):
        raise DataError(f"{archive}: {name!r} would lie outside its folder; nothing of it was unpacked")
    return path


def _below_top(folder: Path, names: Sequence[str]) -> Path:
    while len(inside := list(folder.iterdir())) == 1 and inside[0].is_dir() and inside[0].name in names:
        folder = inside[0]
    return folder


def _merge(content: Path, folder: Path, archive: Path) -> None:
    """Move files into a folder that is there, and overwrite nothing that is different."""
    files = sorted(path.relative_to(content) for path in content.rglob("*") if path.is_file())
    for file in files:
        if (folder / file).exists() and not (
            (folder / file).is_file() and filecmp.cmp(content / file, folder / file, shallow=False)
        ):
            raise DataError(
                f"{folder / file} is there already and is not what {archive.name} holds; move it away and run it again"
            )
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (content / file).replace(folder / file)
