"""Archives that are well formed, broken, or made to do harm."""

from __future__ import annotations

import errno
import io
import os
import random
import stat
import tarfile
import zipfile

import pytest

from refseg import archives as module
from refseg.archives import archive_type, is_file_name, magic_number, unpack
from refseg.errors import DataError

TYPES = pytest.mark.parametrize("name", ["set.zip", "set.tar", "set.tar.gz"])
UNSAFE = ["../x", "/x", "a/../../x", "..", "C:/x", "..\\x", "a\\..\\..\\x", "C:\\x", "a\nb"]


def zipped(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, members):
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in members:
            member = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def packed(path, files):
    """Write an archive of the type of its name."""
    return zipped(path, files) if path.suffix == ".zip" else tarred(path, files.items())


def error_of(call, *parts):
    """Call a function that has to raise a DataError with these parts in its message, which is one line."""
    with pytest.raises(DataError) as caught:
        call()
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@TYPES
def test_types_and_magic_numbers(tmp_path, name):
    path = packed(tmp_path / name, {"a": b"1"})
    offset, magic = magic_number(f"x.{name}".upper())
    assert path.read_bytes()[offset:].startswith(magic)
    assert name.endswith(archive_type(name))
    assert archive_type("set.json") is magic_number("set.json") is None


@TYPES
@pytest.mark.parametrize("top", ["", "refcoco/", "a/refcoco/", "./refcoco/"])
def test_folders_at_the_top_are_removed(tmp_path, name, top):
    files = {
        f"{top}instances.json": b"{}",
        f"{top}deep/refs(unc).p": b"12",
        "__MACOSX/._x": b"",
        f"{top}.DS_Store": b"",
    }
    archive, folder = packed(tmp_path / name, files), tmp_path / "a" / "refcoco"
    assert unpack(archive, folder, top="a/refcoco") == 2
    assert (folder / "instances.json").read_bytes() == b"{}"
    assert (folder / "deep" / "refs(unc).p").read_bytes() == b"12"
    assert sorted(os.listdir(folder)) == ["deep", "instances.json"]
    assert sorted(os.listdir(tmp_path)) == ["a", name]
    assert os.listdir(tmp_path / "a") == ["refcoco"]
    assert stat.S_IMODE(folder.stat().st_mode) == stat.S_IMODE((tmp_path / "a").stat().st_mode)


def test_without_a_top_no_folder_is_removed(tmp_path):
    unpack(packed(tmp_path / "set.zip", {"a/x": b"1"}), tmp_path / "a")
    assert (tmp_path / "a" / "a" / "x").is_file()


@TYPES
@pytest.mark.parametrize("unsafe", UNSAFE)
def test_nothing_leaves_the_folder(tmp_path, name, unsafe):
    base = tmp_path / "base"
    base.mkdir()
    archive = packed(base / name, {"good": b"1", unsafe: b"2"})
    error_of(lambda: unpack(archive, base / "set"), "outside its folder")
    assert os.listdir(base) == [name]
    assert os.listdir(tmp_path) == ["base"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\\b", "C:x", "a\n", "a\0", "x" * 241])
def test_file_names(name):
    assert not is_file_name(name)
    assert is_file_name("refs(unc).p")


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc"),
        (tarfile.SYMTYPE, "good"),
        (tarfile.LNKTYPE, "good"),
        (tarfile.FIFOTYPE, ""),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
    ],
    ids=["link outside", "link", "hard link", "pipe", "character device", "block device"],
)
def test_links_and_devices_in_a_tar_are_errors(tmp_path, kind, target):
    member = tarfile.TarInfo("x")
    member.type, member.linkname = kind, target
    archive = tarred(tmp_path / "set.tar", [("good", b"1"), ("x", member)])
    error_of(lambda: unpack(archive, tmp_path / "set"), "'x' is a link or a device")
    assert os.listdir(tmp_path) == ["set.tar"]


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_in_a_zip_are_errors(tmp_path, kind):
    member = zipfile.ZipInfo("x")
    member.external_attr = (kind | 0o777) << 16
    archive = zipped(tmp_path / "set.zip", {"good": b"1", member: b"/etc"})
    error_of(lambda: unpack(archive, tmp_path / "set"), "'x' is a link or a device")
    assert os.listdir(tmp_path) == ["set.zip"]


@TYPES
def test_size_and_number_of_files_are_limited(tmp_path, name):
    archive = packed(tmp_path / name, {"one": bytes(60_000), "two": bytes(60_000)})
    error_of(lambda: unpack(archive, tmp_path / "set", largest=119_999), "119999 bytes")
    error_of(lambda: unpack(archive, tmp_path / "set", most=1), "1 files")
    assert os.listdir(tmp_path) == [name]
    assert unpack(archive, tmp_path / "set", largest=120_000, most=2) == 2


def test_a_wrong_size_is_noticed(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(100_000))
        archive.filelist[0].file_size = 10
    error_of(lambda: unpack(tmp_path / "set.zip", tmp_path / "set", largest=50), "broken archive")
    assert os.listdir(tmp_path) == ["set.zip"]


def test_a_stated_size_beyond_the_limit_is_an_error_before_reading(tmp_path):
    member = tarfile.TarInfo("bomb")
    member.size = 10**12
    (tmp_path / "set.tar").write_bytes(member.tobuf() + bytes(20_000))
    error_of(lambda: unpack(tmp_path / "set.tar", tmp_path / "set"), "too much")


def test_bytes_are_counted_whatever_size_is_stated(tmp_path, monkeypatch):
    archive = packed(tmp_path / "set.zip", {"x": b"1"})
    content = io.BytesIO(bytes(10 * module.CHUNK))
    monkeypatch.setattr(module, "_zip_members", lambda _: iter([("x", 1, content.read)]))
    error_of(lambda: unpack(archive, tmp_path / "set", largest=999), "more than 999 bytes")
    assert content.tell() == module.CHUNK


def test_two_files_of_one_name_are_errors(tmp_path):
    archive = tarred(tmp_path / "set.tar", [("x", b"1"), ("./x", b"2")])
    error_of(lambda: unpack(archive, tmp_path / "set"), "twice")


def test_an_encrypted_archive_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("x", b"1")
        archive.filelist[0].flag_bits |= 1
    error_of(lambda: unpack(tmp_path / "set.zip", tmp_path / "set"), "encrypted")


@TYPES
@pytest.mark.parametrize("fault", ["cut", "changed", "empty"])
def test_a_broken_archive_is_an_error_with_the_remedy(tmp_path, name, fault):
    archive = packed(tmp_path / name, {"x": random.Random(0).randbytes(20_000)})
    content = archive.read_bytes()
    if fault == "changed":
        place = 300 if name == "set.tar" else 10_000  # a tar has checksums of its headers only
        content = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    archive.write_bytes({"cut": content[:15_000], "changed": content, "empty": b""}[fault])
    error_of(lambda: unpack(archive, tmp_path / "set", remedy="ask for another"), "broken", "ask for another")
    assert os.listdir(tmp_path) == [name]


def test_a_zip_whose_parts_are_elsewhere_is_broken(tmp_path):
    content = zipped(tmp_path / "set.zip", {"x": random.Random(0).randbytes(3000)}).read_bytes()
    (tmp_path / "set.zip").write_bytes(content[:100] + content[101:])
    error_of(lambda: unpack(tmp_path / "set.zip", tmp_path / "set"), "broken archive")
    assert os.listdir(tmp_path) == ["set.zip"]


def test_an_archive_that_cannot_be_read(tmp_path):
    error_of(lambda: unpack(tmp_path / "set.zip", tmp_path / "set"), "set.zip: cannot be read")
    assert os.listdir(tmp_path) == []


def test_existing_files_are_not_overwritten(tmp_path):
    archive = packed(tmp_path / "set.zip", {"same": b"1", "deep/new": b"2"})
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "same").write_bytes(b"1")
    (folder / "mine").write_bytes(b"3")
    assert unpack(archive, folder) == unpack(archive, folder) == 2
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        "same": b"1",
        "mine": b"3",
        "deep/new": b"2",
    }
    (folder / "same").write_bytes(b"x")
    (folder / "deep" / "new").unlink()
    error_of(lambda: unpack(archive, folder), str(folder / "same"))
    assert (folder / "same").read_bytes() == b"x"
    assert not (folder / "deep" / "new").exists()
    assert sorted(os.listdir(folder)) == ["deep", "mine", "same"]


def test_the_remains_of_a_killed_run_are_removed(tmp_path):
    archive = packed(tmp_path / "set.zip", {"x": b"1"})
    (tmp_path / ".set.zip.unpacking" / "content").mkdir(parents=True)
    (tmp_path / ".set.zip.unpacking" / "content" / "y").touch()
    assert unpack(archive, tmp_path / "set") == 1
    assert os.listdir(tmp_path / "set") == ["x"]
    assert sorted(os.listdir(tmp_path)) == ["set", "set.zip"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    archive = packed(tmp_path / "set.zip", {"x": b"1"})

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "_write_members", full)
    error_of(lambda: unpack(archive, tmp_path / "set"), "No space left", "free some space")
    assert os.listdir(tmp_path) == ["set.zip"]
