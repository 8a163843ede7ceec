"""The downloads of OpenAI's archives; `tests/unit/test_download.py` has the faults of servers."""

from __future__ import annotations

import os
import random
import re
from hashlib import sha256

import pytest

from refseg.download import Retries
from refseg.encoders import clip_download as module
from refseg.encoders.clip_download import archive_name, clip_folder, download_clip
from refseg.encoders.clip_sizes import CLIP_SIZES
from refseg.errors import DownloadError, UnknownNameError

CONTENT = random.Random(0).randbytes(100_000)
CHECKSUM = sha256(CONTENT).hexdigest()
QUICK = Retries(timeout=5.0, attempts=2, pause=0.01)


@pytest.fixture
def address(site, monkeypatch):
    monkeypatch.setitem(module.CHECKSUMS, "RN50", CHECKSUM)
    site.put(f"/models/{CHECKSUM}/RN50.pt", CONTENT)
    return f"{site.address}/models"


def test_the_checksums_are_those_of_openais_addresses():
    assert set(module.CHECKSUMS) == set(CLIP_SIZES)
    assert all(re.fullmatch("[0-9a-f]{64}", checksum) for checksum in module.CHECKSUMS.values())
    assert module.ADDRESS == "https://openaipublic.azureedge.net/clip/models"


@pytest.mark.parametrize(
    ("name", "file"),
    [("RN50x4", "RN50x4.pt"), ("ViT-B/32", "ViT-B-32.pt"), ("ViT-L/14@336px", "ViT-L-14-336px.pt")],
)
def test_file_names(site, address, tmp_path, monkeypatch, name, file):
    assert archive_name(name) == file
    monkeypatch.setitem(module.CHECKSUMS, name, CHECKSUM)
    site.put(f"/models/{CHECKSUM}/{file}", CONTENT)
    assert download_clip(name, tmp_path, address=address) == tmp_path / file
    assert os.listdir(tmp_path) == [file]


def test_an_archive_is_downloaded_once_into_the_cache(site, address, tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    path = download_clip("RN50", address=address)
    assert path == clip_folder() / "RN50.pt" == tmp_path / "cache" / "clip" / "RN50.pt"
    assert path.read_bytes() == CONTENT
    assert download_clip("RN50", address=address) == path
    assert len(site.requests) == 1


def test_an_interrupted_download_is_resumed(site, address, tmp_path):
    site.put(f"/models/{CHECKSUM}/RN50.pt", CONTENT, ["breaks"])
    once = Retries(attempts=1)
    with pytest.raises(DownloadError, match=r"RN50\.pt was not downloaded.*broke off"):
        download_clip("RN50", tmp_path, address=address, retries=once)
    assert download_clip("RN50", tmp_path, address=address, retries=once).read_bytes() == CONTENT
    assert site.ranges == [None, f"bytes={len(CONTENT) // 2}-"]


def test_another_file_is_an_error(site, address, tmp_path):
    site.put(f"/models/{CHECKSUM}/RN50.pt", bytes(100_000))
    with pytest.raises(DownloadError, match="sha256"):
        download_clip("RN50", tmp_path, address=address, retries=QUICK)
    assert os.listdir(tmp_path) == []
    (tmp_path / "RN50.pt").write_bytes(b"another file")
    with pytest.raises(DownloadError, match="remove it"):
        download_clip("RN50", tmp_path, address=address, retries=QUICK)


def test_the_size_is_limited(address, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LARGEST_ARCHIVE", 10_000)
    with pytest.raises(DownloadError, match="more than 10000 bytes"):
        download_clip("RN50", tmp_path, address=address, retries=QUICK)


def test_an_unknown_name(tmp_path):
    with pytest.raises(UnknownNameError):
        download_clip("ViT-H/14", tmp_path)
