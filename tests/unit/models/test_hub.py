"""Model folders by name, and the Hugging Face Hub, which is replaced by this machine."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import GatedRepoError

from refseg.cli.main import main
from refseg.download import Retries, check_sha256, download
from refseg.errors import ConfigError, DownloadError, OutputError, UnknownNameError, WeightsError
from refseg.models import hub as hub_module
from refseg.models.cris.convert import to_reference
from refseg.models.families import MODELS, HubFile
from refseg.models.folder import load_model, read_folder
from refseg.models.hub import cached_files, download_files, push_to_hub, resolve


@pytest.fixture
def folder(model_folder, tmp_path):
    return Path(shutil.copytree(model_folder, tmp_path / "model"))


# ── names and paths ──


def test_a_folder(folder, monkeypatch):
    assert resolve(folder) == folder
    assert resolve(str(folder)) == folder
    monkeypatch.chdir(folder.parent)
    assert resolve("model") == Path("model")


def test_a_name_takes_precedence_over_a_folder(monkeypatch, tmp_path):
    bundled = tmp_path / "bundled"
    bundled.mkdir()
    monkeypatch.setitem(MODELS, "shapes", replace(MODELS["shapes"], weights=bundled))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes").mkdir()
    assert resolve("shapes") == bundled
    assert resolve("./shapes") == Path("shapes")
    assert resolve(Path("shapes")) == Path("shapes")
    bundled.rmdir()
    with pytest.raises(WeightsError, match="missing"):
        resolve("shapes")


def test_a_name_without_weights_is_an_error():
    with pytest.raises(WeightsError, match="refseg convert"):
        resolve("cris-r50")


def test_an_empty_name_is_not_the_working_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UnknownNameError):
        resolve("")


def test_an_unknown_name_is_an_error():
    with pytest.raises(UnknownNameError) as caught:
        resolve("cris-r5")
    assert (caught.value.name, caught.value.known) == ("cris-r5", sorted(MODELS))


@pytest.mark.parametrize("path", ["./none", "/none", "~/none-at-all", "../a/b", "a/b/c", "official.pth", Path("x")])
def test_a_path_that_does_not_exist_is_an_error(path):
    with pytest.raises(WeightsError, match="no such folder"):
        resolve(path)


def test_a_file_is_an_error(tmp_path):
    (tmp_path / "official.pth").touch()
    with pytest.raises(WeightsError, match=r"refseg convert .*official\.pth"):
        resolve(tmp_path / "official.pth")


# ── the Hub ──


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The client's settings; its Hub is a port of this machine, and its cache is empty."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield constants


def check_not_downloaded(match, **options):
    with pytest.raises(DownloadError, match=match) as caught:
        resolve("user/name", **options)
    assert "'user/name'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_host(hub, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINT", "https://refseg.invalid")
    check_not_downloaded("refseg.invalid cannot be reached")


def test_a_closed_port(hub, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINT", "http://127.0.0.1:9")
    check_not_downloaded("refused")


def test_a_slow_look_up_of_the_name_is_cut_off(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "TIMEOUT", 0.05)
    finished = threading.Event()

    def connect(*_, **__):
        finished.wait(10)
        raise OSError

    monkeypatch.setattr(socket, "create_connection", connect)
    check_not_downloaded(r"no answer in 0\.05 seconds")
    finished.set()


@pytest.mark.parametrize("address", ["http://localhost:port", "http://[::1"])
def test_a_broken_address(hub, monkeypatch, address):
    monkeypatch.setattr(hub, "ENDPOINT", address)
    check_not_downloaded("address")


def test_a_broken_proxy_does_not_reveal_its_password(hub, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://me:secret@proxy:port")
    with pytest.raises(DownloadError, match="proxy") as caught:
        resolve("user/name")
    assert "secret" not in str(caught.value)


def test_offline(hub, monkeypatch):
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    check_not_downloaded("HF_HUB_OFFLINE")
    check_not_downloaded("not allowed", allow_download=False)


def test_a_proxy_is_connected_to_instead(hub, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINT", "https://refseg.invalid")
    addresses = []

    def connect(address, timeout):
        addresses.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "create_connection", connect)
    for proxy in ("http://proxy:3128", "proxy:3128"):
        monkeypatch.setenv("https_proxy", proxy)
        check_not_downloaded("proxy cannot be reached")
    monkeypatch.delenv("https_proxy")
    monkeypatch.setenv("all_proxy", "socks5://proxy")
    check_not_downloaded("proxy")
    monkeypatch.setenv("no_proxy", "refseg.invalid")
    check_not_downloaded("refseg.invalid")
    assert addresses == [("proxy", 3128), ("proxy", 3128), ("proxy", 1080), ("refseg.invalid", 443)]


def test_a_download(hub, folder, monkeypatch):
    calls = []

    def snapshot(repo_id, *, revision, allow_patterns, local_files_only):
        assert revision is None
        calls.append((repo_id, tuple(allow_patterns), local_files_only))
        if local_files_only:
            raise FileNotFoundError
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert resolve("user/name") == folder
    files = ("config.json", "model.safetensors")
    assert calls == [("user/name", files, True), ("user/name", files, False)]


def test_a_cached_model_needs_no_network(hub, folder, monkeypatch):
    monkeypatch.setattr(hub, "ENDPOINT", "https://refseg.invalid")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(folder))
    assert resolve("user/name", allow_download=False) == folder


def test_another_kind_of_repository_is_an_error(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(DownloadError, match=r"config\.json"):
        resolve("user/name")


def test_an_error_of_the_client(hub, monkeypatch):
    def fail(*_, local_files_only, **__):
        raise FileNotFoundError if local_files_only else RuntimeError("401:\nwho are you?")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    check_not_downloaded(r"401: who are you\?$")


def test_a_repository_for_admitted_users_says_where_to_ask(hub, monkeypatch):
    def fail(*_, **__):
        raise GatedRepoError("403\nnot you", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(DownloadError, match=r"huggingface\.co/user/name"):
        download_files("user/name", ["config.json"], revision="abc")


def test_a_pinned_revision_is_what_is_looked_up_and_downloaded(hub, folder, monkeypatch):
    calls = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **named: calls.append(named) or str(folder))
    assert cached_files("user/name", ["config.json"], revision="abc") == folder
    assert cached_files("user/name", ["other.json"], revision="abc") is None
    assert download_files("user/name", ["config.json"], revision="abc") == folder
    assert {call["revision"] for call in calls} == {"abc"}
    assert [call["local_files_only"] for call in calls] == [True, True, False]


# ── published weights of a named model ──


@pytest.fixture
def published(hub, site, make_tiny, monkeypatch, tmp_path):
    """The address of the weights of `clipseg`, which are here those of a tiny CRIS of the authors' code."""
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "refseg"))
    monkeypatch.setattr(hub, "ENDPOINT", site.address)
    torch.save({"state_dict": to_reference(make_tiny().state_dict())}, tmp_path / "weights.bin")
    content = (tmp_path / "weights.bin").read_bytes()
    file = HubFile(
        repository="them/name",
        revision="0123abcd",
        name="weights.bin",
        sha256=hashlib.sha256(content).hexdigest(),
        megabytes=4,
    )
    monkeypatch.setitem(MODELS, "clipseg", replace(MODELS["clipseg"], hub=file))
    return site.put("/them/name/resolve/0123abcd/weights.bin", content)


def test_published_weights_are_downloaded_and_converted_once(published, site, photo, tmp_path, caplog):
    assert main(["predict", str(photo), "the dog", "--model", "clipseg", "--out", str(tmp_path / "out")]) == 0
    (said,) = (record.getMessage() for record in caplog.records if record.name == hub_module.__name__)
    assert all(word in said for word in ("4 MB", f"{site.address}/them/name", "0123abcd", MODELS["clipseg"].licence))
    folder = resolve("clipseg", allow_download=False)
    assert read_folder(folder).domain == "photos"
    assert read_folder(folder).about["revision"] == "0123abcd"
    assert len(site.requests) == 1
    left = [path.name for path in (tmp_path / "refseg").rglob("*") if path.is_file()]
    assert sorted(left) == ["config.json", "model.safetensors"]


def test_an_interrupted_download_of_published_weights_is_resumed(published, site, monkeypatch):
    monkeypatch.setattr(hub_module, "download", partial(download, retries=Retries(attempts=1)))
    site.behaviour["/them/name/resolve/0123abcd/weights.bin"] = iter(["breaks"])
    with pytest.raises(DownloadError, match="resume"):
        resolve("clipseg")
    assert load_model(resolve("clipseg"))
    first, second = site.ranges
    assert first is None
    assert int(re.fullmatch(r"bytes=(\d+)-", second)[1]) > 0


def test_published_weights_that_were_changed_are_an_error(published, site, tmp_path):
    site.files["/them/name/resolve/0123abcd/weights.bin"] = b"PK\x03\x04 others"
    with pytest.raises(DownloadError, match="sha256"):
        resolve("clipseg")
    assert not [path for path in (tmp_path / "refseg").rglob("*") if path.is_file()]


def test_published_weights_without_the_network(published, site, hub, monkeypatch):
    with pytest.raises(DownloadError, match="not allowed"):
        resolve("clipseg", allow_download=False)
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        resolve("clipseg")
    assert site.requests == []


def test_the_file_of_every_published_model_is_pinned():
    files = [entry.hub for entry in MODELS.values() if entry.hub is not None]
    assert files
    for file in files:
        assert re.fullmatch("[0-9a-f]{40}", file.revision)
        assert check_sha256(file.sha256) == file.sha256


# ── uploads ──


@pytest.fixture
def calls(monkeypatch):
    """The calls of the client."""
    calls = []

    class Api:
        def create_repo(self, repo_id, **options):
            calls.append((repo_id, options))
            return f"https://hub/{repo_id}"

        def upload_folder(self, **options):
            calls.append(options)

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return calls


def test_an_upload(hub, folder, calls):
    assert push_to_hub(folder, "user/name", private=True) == "https://hub/user/name"
    assert calls[0] == ("user/name", {"private": True, "exist_ok": True})
    assert calls[1]["allow_patterns"] == ["config.json", "model.safetensors", "README.md"]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: refseg\n")
    assert 'refseg.load("user/name")' in card
    assert load_model(folder)


def test_an_upload_keeps_the_model_card(hub, folder, calls):
    (folder / "README.md").write_text("my own")
    push_to_hub(folder, "user/name")
    assert (folder / "README.md").read_text() == "my own"


def test_other_folders_are_not_uploaded(hub, folder, calls, tmp_path):
    with pytest.raises(WeightsError):
        push_to_hub(tmp_path / "none", "user/name")
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        push_to_hub(folder, "user/name")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError):
        push_to_hub(folder, "user/name")
    assert calls == []


@pytest.mark.parametrize("address", ["https://refseg.invalid", "http://localhost:port"])
def test_an_upload_without_a_connection(hub, folder, calls, monkeypatch, address):
    monkeypatch.setattr(hub, "ENDPOINT", address)
    with pytest.raises(OutputError, match="user/name"):
        push_to_hub(folder, "user/name")
    assert calls == []


@pytest.mark.parametrize("name", ["create_repo", "upload_folder"])
def test_an_upload_that_the_hub_refuses(hub, folder, calls, monkeypatch, name):
    import huggingface_hub

    def fail(*_, **__):
        raise RuntimeError("403:\nno rights")

    monkeypatch.setattr(huggingface_hub.HfApi, name, fail)
    with pytest.raises(OutputError, match=r"user/name.*403: no rights$"):
        push_to_hub(folder, "user/name")


def test_an_invalid_name_is_not_uploaded_to(hub, folder):
    with pytest.raises(OutputError, match="no name/at/all"):
        push_to_hub(folder, "no name/at/all")


def test_a_model_card_that_cannot_be_written(hub, folder, calls, monkeypatch):
    monkeypatch.setattr(hub_module, "write_text", _disk_full)
    with pytest.raises(OutputError, match="disk full"):
        push_to_hub(folder, "user/name")
    assert calls == []


def _disk_full(path, text):
    raise OutputError(f"{path}: disk full")
