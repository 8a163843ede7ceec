"""Downloads over http and https that are resumed, repeated and verified.

A file gets its name only when it is complete and its checksum is right. Until then it is `NAME.part`, beside
`NAME.part.json`, which records its address and version; the next call resumes it.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import os
import re
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from tqdm import tqdm

from refseg.errors import ConfigError, DownloadError, RefsegError

if sys.platform != "win32":
    import fcntl

__all__ = [
    "AddressError",
    "Client",
    "Download",
    "Expected",
    "Retries",
    "UnreachableError",
    "check_sha256",
    "check_url",
    "download",
    "exclusive",
    "is_disk_full",
    "join_url",
    "reason",
    "storing",
]

CONNECT_TIMEOUT = 5.0
LONGEST_PAUSE = 120.0
PROGRESS = 2**20
"""Bytes beyond the furthest point so far after which a transfer has all its attempts again."""
CHUNK = 2**16
LARGEST_FILE = 64 * 2**30
HEAD = 512
RETRIED = (408, 425, 429, 500, 502, 503, 504)
"""HTTP statuses after which another attempt may succeed."""

T = TypeVar("T")


class AddressError(Exception):
    """An address does not serve the file, and another attempt would not help."""


class UnreachableError(AddressError):
    """No server answers at an address."""


class _TransientError(Exception):
    """A failure after which another attempt may succeed, after a pause if the server asks for one."""

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


class _RangeError(Exception):
    """The server does not have the requested range of the file."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Time limits and number of attempts."""

    timeout: float = 30.0
    """Seconds without data after which a transfer has failed."""
    attempts: int = 4
    """How many times in a row one address may fail."""
    pause: float = 1.0
    """Seconds before the second attempt; doubled before each further one. A server's Retry-After is respected."""

    def __post_init__(self) -> None:
        if not (self.timeout > 0 and self.attempts >= 1 and self.pause >= 0):
            raise ConfigError("timeout has to be above 0, attempts 1 or more, and pause not below 0")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What is known about a file before it is downloaded."""

    sha256: str | None = None
    """Its checksum; not compared if None."""
    origin: str = ""
    """Where the checksum comes from, for the error message."""
    size: int | None = None
    """Its number of bytes; not compared if None."""
    limit: int = LARGEST_FILE
    """The number of bytes after which a transfer of unknown size is stopped."""
    magic: tuple[int, bytes] | None = None
    """Offset and content of its format's magic number; without one, any file but a web page is accepted."""


@dataclass(frozen=True)
class Download:
    """A file that has been downloaded and verified."""

    path: Path
    size: int
    """The number of bytes downloaded; 0 if the file was already present."""


def check_url(url: str) -> None:
    """Check that an address can be downloaded from and may be recorded.

    Raises:
        DownloadError: It is not an http or https address, or contains a user name.
    """
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        raise DownloadError(f"{url!r} is not a supported address; it has to start with http:// or https://")
    if parts.username is not None:  # addresses are recorded and printed
        raise DownloadError(f"the address at {parts.hostname} contains a user name; give one without")


def check_sha256(value: str) -> str:
    """Return a SHA-256 in lower case.

    Raises:
        ConfigError: It is not one.
    """
    if not re.fullmatch("[0-9a-fA-F]{64}", value):
        raise ConfigError(f"{value!r} is not a SHA-256, which has 64 hexadecimal digits")
    return value.lower()


def join_url(folder: str, name: str) -> str:
    """Return the address of a file in a folder."""
    return f"{folder.rstrip('/')}/{quote(name)}"


def download(
    urls: Sequence[str],
    path: Path,
    expected: Expected = Expected(),
    *,
    accept: Callable[[Path, str, str | None], None] | None = None,
    retries: Retries = Retries(),
    progress: bool = True,
) -> Download:
    """Download one file, unless it is already present; an existing file is verified like a downloaded one.

    An interrupted transfer is resumed, in this call or in the next one.

    Args:
        urls: The addresses of the file, in order of preference. One whose transfer was interrupted is tried first.
        path: Where the file is stored. Its folder is created.
        expected: What is known about the file.
        accept: Called with a verified file, its SHA-256 and its address (None if it was already present), before the
            file gets its name. Raises AddressError to reject it.
        retries: Time limits and number of attempts.
        progress: Show a progress bar if stderr is a terminal.

    Raises:
        DownloadError: No address serves the expected file, it cannot be stored, or the existing file is not the
            expected one.
    """
    for url in urls:
        check_url(url)
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(path.parent):
        return _download(list(dict.fromkeys(urls)), path, expected, accept, retries, progress)


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Wait until no other process holds this for a folder, for example one of the same distributed training."""
    if sys.platform == "win32":
        yield
        return
    with storing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _download(
    urls: list[str],
    path: Path,
    expected: Expected,
    accept: Callable[[Path, str, str | None], None] | None,
    retries: Retries,
    progress: bool,
) -> Download:
    part = path.with_name(f"{path.name}.part")

    def verify(file: Path, url: str | None) -> None:
        digest = _verify(file, expected)
        if accept is not None:
            accept(file, digest, url)

    with storing(path):
        if path.is_file():
            try:
                verify(path, None)
            except AddressError as error:
                raise DownloadError(f"{path}: {error}; remove it and run it again") from None
            return Download(path, 0)
    begun = (_read_note(part) or {}).get("url")
    failures = []
    for url in sorted(urls, key=lambda url: url != begun):
        client = Client(retries)
        try:
            client.repeat(partial(_transfer, client, url, part, expected, progress), partial(_size, part))
            with storing(part):
                try:
                    verify(part, url)
                except AddressError:
                    _discard(part)
                    raise
                size = part.stat().st_size
                part.replace(path)
                _discard(part)
        except AddressError as error:
            failures.append(f"{url}: {error}")
            continue
        return Download(path, size)
    raise DownloadError(
        f"{path.name} was not downloaded: {'; '.join(failures) or 'no address of it is known'}; "
        f"run it again to resume, or download it by other means and put it at {path}"
    )


# ── requests ──


class _Connection(http.client.HTTPConnection):
    """A connection with a shorter time limit for being established than for being used."""

    def connect(self) -> None:
        timeout = self.timeout
        self.timeout = CONNECT_TIMEOUT if timeout is None else min(timeout, CONNECT_TIMEOUT)
        super().connect()
        self.sock.settimeout(timeout)


class _SecureConnection(_Connection, http.client.HTTPSConnection):
    """The same with TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    @cached_property
    def context(self) -> ssl.SSLContext:
        """The trusted certificates; their file is long, so that it is read once for all connections."""
        return ssl.create_default_context()

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req, context=self.context)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to http and https only, and never from https to http."""

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
            raise AddressError(f"redirects to {_printable(newurl)}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    """Return an opener for http and https only: urllib's default one reads local files and speaks ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _Http(),
        _Https(),
        _Redirects(),
    ):
        opener.add_handler(handler)
    return opener


@dataclass(frozen=True)
class Client:
    """Sends requests, and repeats those that failed. Can be used by several threads."""

    retries: Retries
    stop: threading.Event = field(default_factory=threading.Event)
    """Set to end all transfers and pauses."""
    _opener: urllib.request.OpenerDirector = field(default_factory=_opener)
    _reached: threading.Event = field(default_factory=threading.Event)

    def get(self, url: str, limit: int) -> bytes:
        """Return the content of a file of at most `limit` bytes.

        Raises:
            AddressError: The address does not serve it.
        """
        return self.repeat(partial(self._content, url, limit))

    def repeat(self, action: Callable[[], T], position: Callable[[], int] = lambda: 0) -> T:
        """Call an action until it succeeds; attempts are counted anew whenever its position has advanced.

        Raises:
            AddressError: It failed too often, or the server asks for too long a pause.
        """
        failed, furthest = 0, position()
        while True:
            try:
                return action()
            except _TransientError as error:
                advanced = position() >= furthest + PROGRESS
                failed, furthest = 1 if advanced else failed + 1, max(furthest, position())
                if error.pause > LONGEST_PAUSE:
                    raise AddressError(f"{error}, and asks for a pause of {error.pause:.0f} s") from None
                if failed >= self.retries.attempts:
                    raise AddressError(str(error)) from None
                pause = max(error.pause, min(self.retries.pause * 2 ** (failed - 1), LONGEST_PAUSE))
            if self.stop.wait(pause):
                raise AddressError("it was stopped")

    def open(self, url: str, headers: Mapping[str, str] = MappingProxyType({})) -> http.client.HTTPResponse:
        """Send a request and return a successful response."""
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "refseg", **headers})  # noqa: S310
            response: http.client.HTTPResponse = self._opener.open(request, timeout=self.retries.timeout)
        except urllib.error.HTTPError as error:
            self._reached.set()
            with error:
                message = f"the server answers {error.code} {_printable(str(error.reason))}".rstrip()
                if error.code in RETRIED:
                    raise _TransientError(message, _retry_after(error.headers.get("Retry-After"))) from None
                if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
                    raise _RangeError from None
            raise AddressError(message) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise AddressError(reason(error)) from None
            # After an earlier response the network is known to work, so that this may be temporary.
            if self._reached.is_set():
                raise _TransientError(reason(error)) from None
            raise UnreachableError(reason(error)) from None
        except TimeoutError:
            raise _TransientError(f"no answer within {self.retries.timeout:g} s") from None
        except (http.client.InvalidURL, ValueError) as error:
            raise AddressError(reason(error)) from None
        except (OSError, http.client.HTTPException) as error:
            raise _TransientError(reason(error)) from None
        self._reached.set()
        return response

    def read(self, response: http.client.HTTPResponse, size: int) -> bytes:
        """Return the next `size` bytes of a response; fewer only at its end."""
        if self.stop.is_set():
            raise AddressError("it was stopped")
        try:
            return response.read(size)
        except TimeoutError:
            raise _TransientError(f"nothing more was received within {self.retries.timeout:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            raise _TransientError(f"the transfer broke off ({reason(error)})") from None

    def _content(self, url: str, limit: int) -> bytes:
        with self.open(url) as response:
            total = response.length
            content = self.read(response, limit + 1)
        if len(content) > limit:
            raise AddressError(f"sends more than {limit} bytes")
        if total is not None and len(content) < total:
            raise _TransientError(f"the transfer broke off after {len(content)} of {total} bytes")
        return content


def _retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for; it holds seconds or a date."""
    if value is None:
        return 0.0
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


# ── a file ──


def _transfer(client: Client, url: str, part: Path, expected: Expected, progress: bool) -> None:
    """Download to a part, from its end if it was begun at this address and the file is still the same."""
    note = _read_note(part)
    start = _size(part) if note and note["url"] == url else 0
    if not note or not start:
        note, start = None, 0
    headers = {}
    if note:
        if note["total"] == start:
            return
        headers["Range"] = f"bytes={start}-"
        if version := note["etag"] or note["modified"]:
            headers["If-Range"] = version
    restart = partial(_transfer, client, url, part, expected, progress)
    try:
        response = client.open(url, headers)
    except _RangeError:
        with storing(part):
            _discard(part)
        restart()
        return
    with response:
        if note and response.status == http.HTTPStatus.PARTIAL_CONTENT:
            if not _continues(response, note, start):
                with storing(part):
                    _discard(part)
                restart()
                return
            total = note["total"]
        elif response.status == http.HTTPStatus.OK:
            start, total = 0, response.length
        else:
            raise AddressError(f"the server answers {response.status}, which is not a complete file")
        if expected.size is not None and total is not None and total != expected.size:
            raise AddressError(f"has {total} bytes, but {expected.size} are expected")
        chunk = client.read(response, CHUNK)
        if not start:
            # Checked before the part is overwritten: a proxy's log-in page must not replace half a file.
            _check_head(part.stem, chunk[:HEAD], expected)
        limit = expected.limit if expected.size is None else expected.size
        with (
            storing(part),
            part.open("ab" if start else "wb") as file,
            tqdm(
                total=total,
                initial=start,
                desc=part.stem,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=None if progress else True,
            ) as bar,
        ):
            if not start:
                _write_note(part, url, response, total)  # after truncation: it never describes older content
            while chunk:
                file.write(chunk)
                start += len(chunk)
                bar.update(len(chunk))
                if start > limit:
                    break
                chunk = client.read(response, CHUNK)
    if start > limit:
        with storing(part):
            _discard(part)
        raise AddressError(f"sends more than {limit} bytes")
    if total is not None and start < total:
        raise _TransientError(f"the transfer broke off after {start} of {total} bytes")


def _continues(response: http.client.HTTPResponse, note: Mapping[str, Any], start: int) -> bool:
    """Return whether a response is the rest of the file that a part is the beginning of."""
    content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
    if not content_range or (int(content_range[1]), int(content_range[2])) != (start, note["total"]):
        return False
    # Not every server respects If-Range.
    etag, modified = _version(response)
    return etag in (None, note["etag"]) and modified in (None, note["modified"])


def _version(response: http.client.HTTPResponse) -> tuple[str | None, str | None]:
    """Return ETag and Last-Modified; a weak ETag identifies a meaning and not the bytes, and is left out."""
    etag = response.headers.get("ETag")
    return None if etag is None or etag.startswith("W/") else etag, response.headers.get("Last-Modified")


def _note(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _write_note(part: Path, url: str, response: http.client.HTTPResponse, total: int | None) -> None:
    etag, modified = _version(response)
    _note(part).write_text(json.dumps({"url": url, "etag": etag, "modified": modified, "total": total}) + "\n")


def _read_note(part: Path) -> dict[str, Any] | None:
    """Return the address, version and size that a part belongs to; None if they are not recorded."""
    try:
        note = json.loads(_note(part).read_bytes())
    except (OSError, ValueError):
        return None
    types = {"url": str, "etag": str | None, "modified": str | None, "total": int}
    if not isinstance(note, dict) or not all(isinstance(note.get(key), kind) for key, kind in types.items()):
        return None
    return note


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_head(name: str, head: bytes, expected: Expected) -> None:
    """Check the first bytes of a file.

    Raises:
        AddressError: They cannot be those of the expected file.
    """
    page = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:9].lower().startswith((b"<!doctype", b"<html"))
    if expected.magic is None:
        valid = not page or name.lower().endswith((".html", ".htm"))
    else:
        offset, magic = expected.magic
        valid = head[offset : offset + len(magic)] == magic
    if not valid:
        raise AddressError(f"holds {'a web page' if page else 'another kind of file'}, where {name} is expected")


def _verify(path: Path, expected: Expected) -> str:
    """Check a complete file against what is known about it, and return its SHA-256.

    Raises:
        AddressError: It is not the expected file.
    """
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        raise AddressError(f"has {size} bytes, but {expected.size} are expected")
    with path.open("rb") as file:
        _check_head(path.name.removesuffix(".part"), file.read(HEAD), expected)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if expected.sha256 is not None and digest != expected.sha256.lower():
        origin = f", {expected.origin}" if expected.origin else ""
        raise AddressError(f"has the sha256 {digest}, but {expected.sha256} is expected{origin}")
    return digest


# ── error messages ──


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn an OSError of reading or writing files into a DownloadError of one line."""
    try:
        yield
    except OSError as error:
        if isinstance(error, RefsegError):
            raise
        if is_disk_full(error):
            raise DownloadError(f"{path}: the disk is full; free some space and run it again to resume") from None
        raise DownloadError(f"{path}: cannot be stored: {reason(error)}; choose a folder that can be written") from None


def is_disk_full(error: OSError) -> bool:
    """Return whether an error means that there is no space left."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))


def reason(error: BaseException) -> str:
    """Return the message of an error in one short, printable line."""
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
    return _printable(getattr(text, "strerror", None) or str(text)) or type(error).__name__


def _printable(text: str) -> str:
    """Return untrusted text as one short line without control characters."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())[:200]
