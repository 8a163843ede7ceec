"""Public data sets: what is downloaded, recorded, unpacked and kept."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import random
import socket
import zipfile
from datetime import datetime
from functools import partial

import pytest
from PIL import Image

from refseg.data import prepare as module
from refseg.data.prepare import Report, fetch, fetch_images, prepare
from refseg.data.sources import CATALOGUE, Source
from refseg.download import Client, Retries
from refseg.errors import ConfigError, DataError, DownloadError, UnknownNameError

FOREVER = itertools.repeat
QUICK = {"progress": False, "retries": Retries(attempts=3, pause=0.01, timeout=5.0)}


def noise(size, seed=0):
    return random.Random(seed).randbytes(size)


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


CONTENT = zipped({"noise": noise(3000)})
OTHER = zipped({"noise": noise(3000, seed=1)})


@pytest.fixture
def source(site):
    return Source(name="set.zip", urls=(site.put("/set.zip", CONTENT),))


@pytest.fixture
def archive(tmp_path):
    """The path of the downloaded archive."""
    return tmp_path / "downloads" / "set.zip"


def lock(root):
    return json.loads((root / "downloads.json").read_text())


def error_of(call, *parts, error=DownloadError):
    """Call a function that has to raise this error with these parts in its message, which is one line."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message
    return message


# ── one file ──


def test_a_file_is_downloaded_once_and_recorded(site, source, archive, tmp_path):
    assert fetch(source, tmp_path, **QUICK) == (archive, len(CONTENT), False)
    assert archive.read_bytes() == CONTENT
    entry = lock(tmp_path)["set.zip"]
    assert (entry["url"], entry["sha256"], entry["size"]) == (source.urls[0], sha256(CONTENT), len(CONTENT))
    assert datetime.fromisoformat(entry["date"]).tzinfo is not None
    assert fetch(source, tmp_path, **QUICK) == (archive, 0, True)
    assert site.paths == ["/set.zip"]
    assert sorted(os.listdir(tmp_path)) == ["downloads", "downloads.json"]


def test_files_that_are_no_archives_are_stored_in_their_folder(site, tmp_path):
    source = Source(name="list.json", urls=(site.put("/list.json", b"{}"),), unpack_to="a/b")
    assert fetch(source, str(tmp_path), **QUICK).path == tmp_path / "a" / "b" / "list.json"
    assert (tmp_path / "a" / "b" / "list.json").read_bytes() == b"{}"


def test_mirrors_are_tried_first(site, tmp_path):
    source = Source(name="a+b (1).zip", urls=(site.put("/last.zip", CONTENT),))
    path = fetch(source, tmp_path, mirrors=[f"{site.address}/one/", f"{site.address}/two"], **QUICK).path
    assert site.paths == ["/one/a+b (1).zip", "/two/a+b (1).zip", "/last.zip"]
    assert path.read_bytes() == CONTENT


def test_an_interruption_between_record_and_rename_is_recovered(site, source, archive, tmp_path, monkeypatch):
    real = module._record

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(source, tmp_path, **QUICK)
    assert not archive.exists()
    assert fetch(source, tmp_path, **QUICK).verified
    assert archive.read_bytes() == CONTENT
    assert site.paths == ["/set.zip"]


# ── checksums ──


def test_a_known_checksum_has_precedence(site, source, archive, tmp_path):
    site.put("/corrupt/set.zip", OTHER)
    mirrors = [f"{site.address}/corrupt"]
    assert fetch(source, tmp_path, sha256=sha256(CONTENT).upper(), mirrors=mirrors, **QUICK).verified
    assert archive.read_bytes() == CONTENT
    assert lock(tmp_path)["set.zip"]["url"] == source.urls[0]


def test_the_checksum_and_size_of_a_source_are_checked(site, archive, tmp_path):
    url = site.put("/set.zip", CONTENT)
    for values in ({"sha256": sha256(OTHER)}, {"size": len(CONTENT) + 1}):
        source = Source(name="set.zip", urls=(url,), **values)
        error_of(lambda source=source: fetch(source, tmp_path, **QUICK), url)
        assert os.listdir(archive.parent) == []
        assert not (tmp_path / "downloads.json").exists()
    assert fetch(Source(name="set.zip", urls=(url,), sha256=sha256(CONTENT)), tmp_path, **QUICK).verified


def test_a_later_download_has_to_match_the_first(site, source, archive, tmp_path):
    fetch(source, tmp_path, **QUICK)
    archive.unlink()
    site.put("/set.zip", OTHER)
    parts = (sha256(CONTENT), sha256(OTHER), str(tmp_path / "downloads.json"))
    error_of(lambda: fetch(source, tmp_path, **QUICK), *parts)
    assert os.listdir(archive.parent) == []
    assert lock(tmp_path)["set.zip"]["sha256"] == sha256(CONTENT)
    fetch(source, tmp_path, sha256=sha256(OTHER), **QUICK)
    assert archive.read_bytes() == OTHER
    assert lock(tmp_path)["set.zip"]["sha256"] == sha256(OTHER)


def test_other_records_are_kept(site, source, tmp_path):
    fetch(source, tmp_path, **QUICK)
    fetch(Source(name="more.zip", urls=(site.put("/more.zip", OTHER),)), tmp_path, **QUICK)
    assert {name: entry["sha256"] for name, entry in lock(tmp_path).items()} == {
        "set.zip": sha256(CONTENT),
        "more.zip": sha256(OTHER),
    }


@pytest.mark.parametrize("content", ["", "[]", '{"set.zip": 1}', '{"set.zip": {"sha256": "abc"}}', '{"set.zip": {}}'])
def test_broken_records_are_an_error(site, source, tmp_path, content):
    (tmp_path / "downloads.json").write_text(content)
    error_of(lambda: fetch(source, tmp_path, **QUICK), str(tmp_path / "downloads.json"), error=DataError)
    assert not site.requests


def test_an_archive_that_the_user_provides_is_recorded(source, archive, tmp_path, site):
    archive.parent.mkdir()
    archive.write_bytes(CONTENT)
    assert fetch(source, tmp_path, **QUICK) == (archive, 0, False)
    assert not site.requests
    assert (lock(tmp_path)["set.zip"]["sha256"], lock(tmp_path)["set.zip"]["url"]) == (sha256(CONTENT), None)


def test_another_file_that_the_user_provides_is_an_error(source, archive, tmp_path, site):
    archive.parent.mkdir()
    archive.write_bytes(site.page)
    error_of(lambda: fetch(source, tmp_path, **QUICK), str(archive), "web page", "remove it")
    assert archive.read_bytes() == site.page
    assert not site.requests


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tgz", "set.tar", "set.json"])
def test_web_pages_are_errors(site, tmp_path, name):
    source = Source(name=name, urls=(site.put("/page", b"", FOREVER("html")),))
    error_of(lambda: fetch(source, tmp_path, **QUICK), "web page")


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "set.tar"])
def test_files_that_are_no_archives_are_errors(site, tmp_path, name):
    source = Source(name=name, urls=(site.put("/noise", noise(5000)),))
    error_of(lambda: fetch(source, tmp_path, **QUICK), "another kind of file")


def test_a_zip_without_its_end_is_not_recorded(site, tmp_path):
    # Without a length, only the archive itself shows that the transfer broke off.
    source = Source(name="set.zip", urls=(site.put("/set.zip", CONTENT[:-100], FOREVER("lengthless")),))
    error_of(lambda: fetch(source, tmp_path, **QUICK), "without an end")
    assert not (tmp_path / "downloads.json").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"name": "../set.zip"},
        {"name": ""},
        {"name": "set.zip", "unpack_to": "/etc"},
        {"name": "set.zip", "unpack_to": "a/../.."},
        {"name": "set.zip", "holds": ("../x",)},
        {"name": "set.zip", "sha256": "abc"},
        {"name": "set.zip", "size": -1},
    ],
)
def test_invalid_sources(values):
    error_of(lambda: Source(**values), error=ConfigError)


def test_only_http_is_supported(tmp_path):
    error_of(lambda: Source(name="set.zip", urls=("file:///etc/hostname",)), "http://")
    error_of(lambda: fetch(Source(name="set.zip"), tmp_path, mirrors=["ftp://127.0.0.1"], **QUICK), "http://")
    error_of(lambda: fetch_images([], tmp_path, "data:,x", **QUICK), "http://")
    assert os.listdir(tmp_path) == []


# ── images ──


def jpeg(seed):
    buffer = io.BytesIO()
    Image.frombytes("RGB", (24, 16), noise(24 * 16 * 3, seed)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def photos(site):
    names = {f"COCO_train2014_{number:012}.jpg": jpeg(number) for number in range(6)}
    for name, content in names.items():
        site.put(f"/train2014/{name}", content)
    return names


@pytest.fixture
def get(site, tmp_path):
    return partial(fetch_images, folder=tmp_path / "train2014", base_url=f"{site.address}/train2014/", **QUICK)


def test_only_the_named_images_are_downloaded_and_only_once(site, photos, get, tmp_path):
    wanted = list(photos)[:4]
    report = get([*wanted, wanted[0]])
    size = sum(len(photos[name]) for name in wanted)
    folder = tmp_path / "train2014"
    assert report == Report(name="train2014", folder=folder, fetched=4, kept=0, size=size)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: photos[name] for name in wanted}
    assert sorted(site.paths) == [f"/train2014/{name}" for name in wanted]
    site.requests.clear()
    report = get(list(photos))
    assert (report.fetched, report.kept) == (2, 4)
    assert sorted(site.paths) == [f"/train2014/{name}" for name in list(photos)[4:]]


def test_incomplete_images_are_downloaded_again(site, photos, get, tmp_path):
    cut, empty, page, longer, complete, _ = photos
    folder = tmp_path / "train2014"
    folder.mkdir()
    (folder / cut).write_bytes(photos[cut][:-40])
    (folder / empty).touch()
    (folder / page).write_bytes(site.page)
    (folder / longer).write_bytes(photos[longer] + b"trailing bytes")
    (folder / complete).write_bytes(photos[complete])
    report = get([cut, empty, page, longer, complete])
    assert (report.fetched, report.kept) == (3, 2)
    assert sorted(site.paths) == [f"/train2014/{name}" for name in (cut, empty, page)]
    assert all((folder / name).read_bytes() == photos[name] for name in (cut, empty, page))


@pytest.mark.parametrize("how", ["503", "429 0", "breaks"])
def test_a_temporary_failure_is_repeated(site, photos, get, tmp_path, how):
    name = next(iter(photos))
    site.put(f"/train2014/{name}", photos[name], [how])
    assert get([name]).fetched == 1
    assert (tmp_path / "train2014" / name).read_bytes() == photos[name]
    assert len(site.requests) == 2


def test_images_that_fail_do_not_stop_the_others(site, photos, get, tmp_path):
    gone, page, cut, *others = photos
    site.put(f"/train2014/{gone}", b"", FOREVER("404"))
    site.put(f"/train2014/{page}", b"", FOREVER("html"))
    site.put(f"/train2014/{cut}", photos[cut][:-40])
    message = error_of(lambda: get(list(photos)), "3 of 6 images", "run it again", str(tmp_path / "train2014"))
    assert any(part in message for part in ("answers 404", "not a complete JPEG"))
    assert sorted(os.listdir(tmp_path / "train2014")) == others
    for name in (gone, page, cut):
        site.put(f"/train2014/{name}", photos[name])
    site.requests.clear()
    assert get(list(photos)).fetched == len(site.requests) == 3


def test_a_wrong_address_is_given_up_early(site, get):
    names = [f"{number}.jpg" for number in range(1000)]
    error_of(lambda: get(names, workers=2), f"{module.MOST_FAILURES} of 1000 images", "given up", "answers 404")
    assert len(site.requests) < 500


def test_an_unreachable_server_is_reported_once(tmp_path, monkeypatch):
    tried = []
    real = Client.open
    monkeypatch.setattr(Client, "open", lambda *arguments: tried.append(arguments) or real(*arguments))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{holder.getsockname()[1]}"
        names = [f"{number}.jpg" for number in range(300)]
        call = partial(fetch_images, names, tmp_path / "train2014", address, progress=False)
        error_of(call, "cannot be reached", str(tmp_path / "train2014"))
    assert len(tried) < 300


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "a/b.jpg", "", "..", "a\\b.jpg", "a\n.jpg"])
def test_unsafe_names_of_images_are_errors(site, get, photos, tmp_path, name):
    error_of(lambda: get([*photos, name]), repr(name), error=DataError)
    assert not site.requests
    assert os.listdir(tmp_path) == []


def test_an_interruption_leaves_complete_images_only(site, photos, get, tmp_path, monkeypatch):
    names, real = list(photos), module._fetch_image

    def interrupted(client, url, path):
        if path.name == names[3]:
            raise KeyboardInterrupt
        return real(client, url, path)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_fetch_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get(names, workers=1)
    present = os.listdir(tmp_path / "train2014")
    assert set(names[:3]) <= set(present) < set(names)
    report = get(names)
    assert (report.kept, report.fetched) == (len(present), 6 - len(present))


def test_a_folder_that_cannot_be_created(site, photos, tmp_path):
    (tmp_path / "file").touch()
    error_of(lambda: fetch_images(list(photos), tmp_path / "file", site.address, **QUICK), "cannot be stored")
    assert not site.requests


def test_at_least_one_worker_is_needed(get):
    error_of(lambda: get([], workers=0), error=ConfigError)


# ── data sets ──


def annotations(name, images, references="refs(unc).p"):
    instances = {"images": [{"id": number, "file_name": image} for number, image in enumerate(images)]}
    return zipped({f"{name}/instances.json": json.dumps(instances), f"{name}/{references}": b"(lp0\n."})


@pytest.fixture
def refcoco(site, photos):
    site.put("/mirror/refcoco.zip", annotations("refcoco", photos))
    return {"mirrors": [f"{site.address}/mirror"], "image_url": f"{site.address}/train2014", **QUICK}


def test_the_catalogue():
    assert set(CATALOGUE) == {"refcoco", "refcoco+", "refcocog", "refclef"}
    for name, sources in CATALOGUE.items():
        assert (sources[0].name, sources[0].unpack_to) == (f"{name}.zip", name)
        assert f"{name}/instances.json" in sources[0].holds
        assert [source.is_images for source in sources] == [False, True][: len(sources)]
        for source in sources:
            assert all(url.startswith("https://web.archive.org/web/2022") for url in source.urls)
            assert all(url.endswith(f"/{source.name}") for url in source.urls)
    with pytest.raises(TypeError):
        CATALOGUE["mine"] = ()


def test_a_prepared_data_set_needs_no_network(site, photos, refcoco, tmp_path):
    report = prepare("refcoco", tmp_path, **refcoco)
    assert sorted(os.listdir(tmp_path)) == ["downloads", "downloads.json", "images", "refcoco"]
    assert sorted(os.listdir(tmp_path / "refcoco")) == ["instances.json", "refs(unc).p"]
    assert sorted(os.listdir(tmp_path / "images" / "train2014")) == list(photos)
    size = len(site.files["/mirror/refcoco.zip"]) + sum(map(len, photos.values()))
    assert (report.name, report.folder) == ("refcoco", tmp_path)
    assert (report.fetched, report.kept, report.size) == (7, 0, size)
    assert (report.unverified, report.missing) == (("refcoco.zip",), ())
    (tmp_path / "downloads" / "refcoco.zip").unlink()
    site.requests.clear()
    report = prepare("refcoco", tmp_path, **refcoco)
    assert (report.fetched, report.kept, report.size, report.unverified) == (0, 7, 0, ())
    assert not site.requests


def test_only_the_needed_images_are_downloaded(photos, refcoco, tmp_path):
    wanted = list(photos)[1:3]

    def needed(root):
        assert (root / "refcoco" / "instances.json").is_file()
        return wanted

    report = prepare("refcoco", tmp_path, splits=("val",), needed=needed, **refcoco)
    assert report.splits == ("val",)
    assert sorted(os.listdir(tmp_path / "images" / "train2014")) == wanted


def test_annotations_without_images(site, refcoco, tmp_path):
    assert prepare("refcoco", tmp_path, images=False, **refcoco).fetched == 1
    assert site.paths == ["/mirror/refcoco.zip"]
    assert not (tmp_path / "images").exists()


def test_a_given_checksum_is_checked(site, refcoco, tmp_path, monkeypatch):
    content = site.files["/mirror/refcoco.zip"]
    run = partial(prepare, "refcoco", tmp_path, images=False, **refcoco)
    monkeypatch.setattr(module, "CATALOGUE", {"refcoco": (Source(name="refcoco.zip", unpack_to="refcoco"),)})
    site.files["/mirror/refcoco.zip"] = OTHER
    error_of(lambda: run(sha256={"refcoco.zip": sha256(content)}), sha256(content), sha256(OTHER))
    error_of(lambda: run(sha256={"refcoco.zip": "abc"}), "SHA-256", error=ConfigError)
    error_of(lambda: run(sha256={"other.zip": sha256(content)}), "other.zip", error=ConfigError)
    assert not (tmp_path / "refcoco").exists()
    site.files["/mirror/refcoco.zip"] = content
    assert run(sha256={"refcoco.zip": sha256(content)}).unverified == ()


def test_images_of_an_archive_are_checked(site, photos, tmp_path):
    one, two, *_ = photos
    site.put("/refclef.zip", annotations("refclef", [one, two]))
    site.put("/saiapr_tc-12.zip", zipped({f"saiapr_tc-12/{one}": photos[one]}))
    run = partial(prepare, "refclef", tmp_path, mirrors=[site.address], image_url=f"{site.address}/train2014", **QUICK)
    run(images=False)
    assert site.paths == ["/refclef.zip"]
    report = run()
    assert site.paths == ["/refclef.zip", "/saiapr_tc-12.zip"]
    assert os.listdir(tmp_path / "images" / "saiapr_tc-12") == [one]
    assert (report.fetched, report.kept, report.missing) == (1, 1, (two,))


def test_an_unknown_data_set(tmp_path):
    error_of(lambda: prepare("refcok", tmp_path), "'refcoco'", error=UnknownNameError)


def test_splits_need_the_names_of_their_images(site, refcoco, tmp_path):
    error_of(lambda: prepare("refcoco", tmp_path, splits=("val",), **refcoco), "split", error=ConfigError)
    assert not site.requests
    assert prepare("refcoco", tmp_path, splits=("val",), images=False, **refcoco).fetched == 1


@pytest.mark.parametrize("content", [CONTENT, CONTENT[:100] + CONTENT[101:]])
def test_an_archive_of_something_else_or_a_broken_one(site, refcoco, tmp_path, content):
    site.put("/mirror/refcoco.zip", content)
    error_of(lambda: prepare("refcoco", tmp_path, **refcoco), "refcoco.zip", "downloads.json", error=DataError)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": [{}]}', '{"images": 3}'])
def test_annotations_without_a_list_of_images(site, refcoco, tmp_path, content):
    site.put("/mirror/refcoco.zip", zipped({"refcoco/instances.json": content, "refcoco/refs(unc).p": b""}))
    error_of(lambda: prepare("refcoco", tmp_path, **refcoco), "instances.json", "no list of images", error=DataError)
