"""Downloads from servers that break off, send something else, are busy, or redirect."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from http.client import HTTPMessage

import pytest

from refseg import download as module
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
)
from refseg.errors import ConfigError, DownloadError

FOREVER = itertools.repeat
QUICK = Retries(timeout=5.0, attempts=3, pause=0.01)
ONCE = Retries(timeout=5.0, attempts=1, pause=0.01)
CONTENT, OTHER = random.Random(0).randbytes(300_000), random.Random(1).randbytes(300_000)
HALF = len(CONTENT) // 2


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def error_of(call, *parts, error=DownloadError):
    """Call a function that has to raise this error with these parts in its message, which is one line."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


def unused():
    """A socket that does not accept connections, and its address."""
    holder = socket.socket()
    holder.bind(("127.0.0.1", 0))
    return holder, f"http://127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture
def url(site):
    return site.put("/file.bin", CONTENT)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "file.bin"


@pytest.fixture
def part(path):
    return path.with_name("file.bin.part")


@pytest.fixture
def run(url, path):
    """Downloads the file with one attempt: `run(expected)`."""
    return partial(download, [url], path, retries=ONCE, progress=False)


# ── one file ──


def test_a_file_is_downloaded_once(site, url, path):
    result = download([url], path, retries=QUICK, progress=False)
    assert (result.path, result.size, path.read_bytes()) == (path, len(CONTENT), CONTENT)
    assert os.listdir(path.parent) == ["file.bin"]
    assert download([url], path, retries=QUICK, progress=False).size == 0
    assert site.requests == [("/file.bin", None, None)]


def test_one_of_several_processes_downloads_a_file(site, url, path):
    # A lock of files: threads with files of their own are as separate as processes.
    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(download, [url], path, retries=QUICK, progress=False) for _ in range(4)]
    assert sorted(result.result().size for result in results) == [0, 0, 0, len(CONTENT)]
    assert len(site.requests) == 1
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["file.bin"]


def test_addresses_are_tried_in_order_and_a_404_is_not_repeated(site, url, path):
    name = "a+b (1).bin"
    folders = [f"{site.address}/one/", f"{site.address}/two"]
    download([*(join_url(folder, name) for folder in folders), url, url], path, retries=QUICK, progress=False)
    assert site.paths == [f"/one/{name}", f"/two/{name}", "/file.bin"]
    assert path.read_bytes() == CONTENT


def test_redirects_are_followed(site, url, path):
    moved = site.put("/moved", b"", [f"redirect {url}"])
    download([moved], path, retries=QUICK, progress=False)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(("progress", "disabled"), [(True, None), (False, True)])
def test_the_progress_bar_is_optional(url, path, monkeypatch, progress, disabled):
    seen = []
    real = module.tqdm
    monkeypatch.setattr(module, "tqdm", lambda **options: seen.append(options["disable"]) or real(**options))
    download([url], path, retries=QUICK, progress=progress)
    assert seen == [disabled]


def test_a_file_is_accepted_before_it_gets_its_name(url, path, part):
    calls = []

    def accept(file, digest, address):
        calls.append((file, digest, address, path.exists()))

    download([url], path, accept=accept, retries=QUICK, progress=False)
    download([url], path, accept=accept, retries=QUICK, progress=False)
    assert calls == [(part, sha256(CONTENT), url, False), (path, sha256(CONTENT), None, True)]


def test_a_file_that_is_not_accepted_is_removed_and_the_next_address_tried(site, url, path):
    other = site.put("/other.bin", OTHER)

    def accept(file, digest, address):
        if digest == sha256(OTHER):
            raise AddressError("not this one")

    download([other, url], path, accept=accept, retries=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    path.unlink()
    error_of(lambda: download([other], path, accept=accept, retries=QUICK, progress=False), "not this one")
    assert os.listdir(path.parent) == []


# ── retries ──


class Pauses(threading.Event):
    """A stop event that records the pauses and does not wait."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return False


def test_pauses_grow(site):
    url = site.put("/file.bin", CONTENT, ["503", "429", "503"])
    pauses = Pauses()
    assert Client(Retries(attempts=4, pause=3.0), stop=pauses).get(url, len(CONTENT)) == CONTENT
    assert pauses.seconds == [3, 6, 12]


def test_pauses_are_limited_and_follow_retry_after(site):
    pauses = Pauses()
    url = site.put("/file.bin", CONTENT, ["503 1", "503 7", "503"])
    Client(Retries(attempts=4, pause=3.0), stop=pauses).get(url, len(CONTENT))
    url = site.put("/file.bin", CONTENT, ["503"])
    Client(Retries(attempts=4, pause=1e9), stop=pauses).get(url, len(CONTENT))
    assert pauses.seconds == [3, 7, 12, module.LONGEST_PAUSE]


def test_a_busy_server_is_given_up_after_the_attempts(site, path):
    url = site.put("/file.bin", CONTENT, FOREVER("503"))
    error_of(lambda: download([url], path, retries=QUICK, progress=False), "503", str(path))
    assert len(site.requests) == QUICK.attempts


def test_too_long_a_pause_is_not_made(site, url, path):
    busy = site.put("/busy.bin", CONTENT, FOREVER("429 3600"))
    download([busy, url], path, retries=QUICK, progress=False)
    assert site.paths == ["/busy.bin", "/file.bin"]
    path.unlink()
    error_of(lambda: download([busy], path, retries=QUICK, progress=False), "3600 s")


def test_retry_after_may_be_a_date():
    date = datetime.now(UTC) + timedelta(hours=5)
    assert 4 * 3600 < module._retry_after(format_datetime(date, usegmt=True)) <= 5 * 3600
    assert module._retry_after(format_datetime(date - timedelta(days=1), usegmt=True)) == 0
    assert module._retry_after(" 7 ") == 7
    assert module._retry_after("soon") == module._retry_after(None) == 0


@pytest.mark.parametrize("values", [{"attempts": 0}, {"timeout": 0.0}, {"pause": -1.0}])
def test_invalid_retries(values):
    with pytest.raises(ConfigError):
        Retries(**values)


def test_a_client_limits_the_size_of_a_response(site, url):
    client = Client(QUICK)
    assert client.get(url, len(CONTENT)) == CONTENT
    with pytest.raises(AddressError, match="more than"):
        client.get(url, len(CONTENT) - 1)


def test_a_stopped_client_reads_nothing(url):
    client = Client(QUICK)
    client.stop.set()
    with pytest.raises(AddressError, match="stopped"):
        client.get(url, len(CONTENT))


# ── interrupted transfers ──


def test_a_transfer_is_resumed_in_the_same_call(site, path):
    url = site.put("/file.bin", CONTENT, ["breaks"])
    download([url], path, retries=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    assert site.ranges == [None, f"bytes={HALF}-"]
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_transfer_is_resumed_in_the_next_call(site, run, path, part):
    site.put("/file.bin", CONTENT, ["breaks"])
    error_of(run, f"after {HALF} of {len(CONTENT)} bytes", "run it again")
    assert part.read_bytes() == CONTENT[:HALF]
    assert not path.exists()
    assert run(Expected(sha256=sha256(CONTENT))).size == len(CONTENT)
    assert path.read_bytes() == CONTENT
    assert site.ranges == [None, f"bytes={HALF}-"]


def test_a_transfer_is_resumed_at_the_address_where_it_began(site, url, path):
    mirror = site.put("/mirror.bin", CONTENT, ["404"])
    site.put("/file.bin", CONTENT, ["breaks"])
    again = partial(download, [mirror, url], path, retries=ONCE, progress=False)
    error_of(again, mirror, url)
    again()
    assert site.paths == ["/mirror.bin", "/file.bin", "/file.bin"]
    assert site.ranges[-1] == f"bytes={HALF}-"
    assert path.read_bytes() == CONTENT


def test_progress_renews_the_attempts(site, path, part, monkeypatch):
    again = partial(download, [site.address + "/file.bin"], path, retries=Retries(attempts=2, pause=0.01))
    site.put("/file.bin", CONTENT, ["breaks"] * 5)
    error_of(again, "broke off")
    part.unlink()
    site.put("/file.bin", CONTENT, ["breaks"] * 5)
    monkeypatch.setattr(module, "PROGRESS", 100)
    again()
    assert path.read_bytes() == CONTENT


def test_a_server_without_ranges_sends_the_whole_file(site, path):
    url = site.put("/file.bin", CONTENT, ["breaks", "rangeless"])
    download([url], path, retries=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    assert site.ranges[1] is not None


@pytest.mark.parametrize(("how", "requests"), [("correct", 2), ("ignores-if-range", 3)])
def test_a_file_that_has_changed_is_downloaded_anew(site, run, path, how, requests):
    site.put("/file.bin", CONTENT, ["breaks"])
    error_of(run, "broke off")
    site.put("/file.bin", OTHER, [how])
    run()
    assert path.read_bytes() == OTHER
    assert site.requests[1][2] == f'"{sha256(CONTENT)[:12]}"'
    assert len(site.requests) == requests


def test_without_etags_the_length_identifies_a_file(site, run, path):
    site.put("/file.bin", CONTENT, ["untagged"])
    error_of(run, "broke off")
    run()
    assert path.read_bytes() == CONTENT
    assert site.requests[1][1:] == (f"bytes={HALF}-", None)
    path.unlink()
    site.put("/file.bin", CONTENT, ["untagged"])
    error_of(run, "broke off")
    site.put("/file.bin", OTHER + b"longer")
    run()
    assert path.read_bytes() == OTHER + b"longer"


@pytest.mark.parametrize("note", [None, "", "[]", '{"url": 1}'])
def test_a_part_of_unknown_origin_is_discarded(site, run, path, part, note):
    part.parent.mkdir()
    part.write_bytes(OTHER[:1000])
    if note is not None:
        part.with_name("file.bin.part.json").write_text(note)
    run()
    assert path.read_bytes() == CONTENT
    assert site.ranges == [None]


@pytest.mark.parametrize(("more", "requests"), [(b"", 1), (b"more", 3)])
def test_a_part_that_is_complete_or_too_long(site, run, path, part, more, requests):
    site.put("/file.bin", CONTENT, ["breaks"])
    error_of(run, "broke off")
    part.write_bytes(CONTENT + more)
    run()
    assert path.read_bytes() == CONTENT
    assert len(site.requests) == requests


def test_an_interrupted_process_leaves_a_part_that_is_resumed(site, run, path, part, monkeypatch):
    reads, read = itertools.count(), Client.read

    def interrupted(*arguments):
        if next(reads) == 3:
            raise KeyboardInterrupt
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    received = part.stat().st_size
    assert received == 3 * module.CHUNK
    run()
    assert site.ranges == [None, f"bytes={received}-"]
    assert path.read_bytes() == CONTENT


SCRIPT = """
import sys
from pathlib import Path
from refseg.download import download
download([sys.argv[1]], Path(sys.argv[2]), progress=False)
"""


def test_a_killed_process_leaves_a_part_that_is_resumed(site, url, run, path, part):
    site.put("/file.bin", CONTENT, ["stalls"])
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, url, str(path)])
    try:
        while not (part.exists() and part.stat().st_size > 100_000):
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    received = part.stat().st_size
    assert 0 < received < len(CONTENT)
    assert not path.exists()
    run()
    assert site.ranges == [None, f"bytes={received}-"]
    assert path.read_bytes() == CONTENT


# ── servers that do not answer ──


def test_a_stalled_transfer_is_repeated(site, path):
    url = site.put("/file.bin", CONTENT, ["stalls"])
    download([url], path, retries=Retries(timeout=0.3, attempts=8, pause=0.01), progress=False)
    assert path.read_bytes() == CONTENT
    assert site.stalled == 1  # the first response has not ended
    assert site.ranges[1] is not None


def test_a_silent_server_is_given_up(path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file.bin"
        retries = Retries(timeout=0.1, attempts=2, pause=0.01)
        error_of(lambda: download([url], path, retries=retries, progress=False), "no answer within 0.1 s")


def test_an_unreachable_server_is_not_asked_again(site, path):
    holder, address = unused()
    with holder:
        error_of(lambda: download([f"{address}/file.bin"], path, progress=False), "refused", f"put it at {path}")
        client = Client(Retries(attempts=2), stop=Pauses())
        with pytest.raises(UnreachableError):
            client.get(address, 1)
        assert client.stop.seconds == []
        # After a response from another address the failure may be temporary.
        client.get(site.put("/file.bin", b"1"), 1)
        with pytest.raises(AddressError) as caught:
            client.get(address, 1)
        assert type(caught.value) is AddressError
        assert client.stop.seconds == [1]


def test_a_server_without_a_certificate_is_an_error(site, url, path):
    error_of(lambda: download([url.replace("http:", "https:")], path, retries=QUICK, progress=False), "SSL")
    assert os.listdir(path.parent) == []


# ── another file than expected ──


def test_a_wrong_checksum_leads_to_the_next_address(site, url, path):
    corrupt = site.put("/corrupt.bin", CONTENT, FOREVER("corrupt"))
    download([corrupt, url], path, Expected(sha256=sha256(CONTENT).upper()), retries=QUICK, progress=False)
    assert path.read_bytes() == CONTENT
    assert site.paths == ["/corrupt.bin", "/file.bin"]


def test_a_file_with_a_wrong_checksum_is_removed(site, run, url, path):
    expected = Expected(sha256=sha256(OTHER), origin="as the authors say")
    error_of(lambda: run(expected), sha256(CONTENT), sha256(OTHER), url, "as the authors say")
    assert os.listdir(path.parent) == []
    assert len(site.requests) == 1


@pytest.mark.parametrize("how", ["correct", "lengthless"])
@pytest.mark.parametrize("more", [-1, 1])
def test_a_wrong_size_is_an_error(site, path, how, more):
    url = site.put("/file.bin", CONTENT, FOREVER(how))
    expected = Expected(size=len(CONTENT) + more)
    error_of(lambda: download([url], path, expected, retries=QUICK, progress=False), str(expected.size))
    assert os.listdir(path.parent) == []
    assert len(site.requests) == 1


@pytest.mark.parametrize("how", ["correct", "lengthless"])
def test_a_file_beyond_the_limit_is_an_error(site, path, how):
    url = site.put("/file.bin", CONTENT, FOREVER(how))
    error_of(lambda: download([url], path, Expected(limit=100_000), retries=QUICK, progress=False), "100000 bytes")
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("content", [OTHER, b""])
def test_an_existing_file_that_is_another_one_is_left(site, run, path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    error_of(lambda: run(Expected(sha256=sha256(CONTENT))), str(path), "remove it")
    assert path.read_bytes() == content
    assert not site.requests


def test_a_web_page_does_not_replace_a_part(site, run, path, part):
    site.put("/file.bin", CONTENT, ["breaks"])
    error_of(run, "broke off")
    site.put("/file.bin", CONTENT, ["html"])
    error_of(run, "web page")
    assert part.read_bytes() == CONTENT[:HALF]
    run()
    assert path.read_bytes() == CONTENT
    assert site.ranges[-1] is not None


def test_a_web_page_may_be_the_expected_file(site, tmp_path):
    url = site.put("/page", b"", FOREVER("html"))
    assert download([url], tmp_path / "a.html", retries=QUICK).size == len(site.page)


def test_another_magic_number_is_an_error(site, run, path):
    error_of(lambda: run(Expected(magic=(0, CONTENT[1:5]))), "another kind of file")
    error_of(lambda: run(Expected(magic=(HALF, b"x"))), "another kind of file")
    assert os.listdir(path.parent) == []
    run(Expected(magic=(257, CONTENT[257:262])))
    assert path.read_bytes() == CONTENT


# ── addresses ──


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://127.0.0.1/a", "data:,x", "a.zip", "http://", "http://["]
)
def test_only_http_is_supported(tmp_path, path, url):
    error_of(lambda: check_url(url), "http://")
    error_of(lambda: download([url], path, retries=QUICK), "http://")
    assert os.listdir(tmp_path) == []


def test_a_password_is_not_repeated_in_the_error():
    message = error_of(lambda: check_url("https://me:secret@example.org/set.zip"), "example.org")
    assert "secret" not in message


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/set.zip", "data:text/plain,hello"])
def test_redirects_to_other_schemes_are_errors(site, path, target):
    url = site.put("/file.bin", CONTENT, FOREVER(f"redirect {target}"))
    error_of(lambda: download([url], path, retries=QUICK, progress=False), target)
    assert len(site.requests) == 1
    assert os.listdir(path.parent) == []


def test_redirects_from_https_to_http_are_errors():
    def follow(target):
        request = urllib.request.Request("https://example.org/set.zip")
        return module._Redirects().redirect_request(request, io.BytesIO(), 302, "Found", HTTPMessage(), target)

    assert follow("https://example.org/other.zip").full_url == "https://example.org/other.zip"
    with pytest.raises(AddressError):
        follow("http://example.org/other.zip")


def test_without_an_address_the_path_for_the_file_is_named(path):
    error_of(lambda: download([], path), "no address", str(path))


def test_checksums_are_hexadecimal():
    assert check_sha256("A" * 64) == "a" * 64
    for value in ("abc", "g" * 64, "a" * 65, ""):
        with pytest.raises(ConfigError):
            check_sha256(value)


# ── storage ──


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk(run, part):
    part.parent.mkdir()
    part.symlink_to("/dev/full")
    error_of(run, str(part), "disk is full")


def test_a_folder_that_cannot_be_created(site, url, tmp_path):
    (tmp_path / "file").touch()
    error_of(lambda: download([url], tmp_path / "file" / "a", retries=QUICK), "cannot be stored")
    assert not site.requests
