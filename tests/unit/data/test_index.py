"""The index of a data set: made once, made anew when the data change, never incomplete, safe to share."""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from refseg.data import index as module
from refseg.data.formats.folder import folder
from refseg.data.formats.record import Problem, Record, Source
from refseg.data.index import Index, open_index
from refseg.errors import DataError, OutputError
from refseg.files import user_cache


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def own(made, tmp_path):
    """A folder of three references on two images, and a list with an entry for each time it was read."""

    def written(text="image,mask,text,id\na.jpg,1.png,left cup,x\nb.jpg,,unicorn,y\na.jpg,2.png,dog,z\n"):
        made.write(tmp_path / "own" / "data.csv", text.encode())
        source = folder(tmp_path / "own")
        reads = []

        def counted(report):
            reads.append(1)
            return source.read(report)

        return replace(source, read=counted), reads

    return written


def records_of(*changes):
    common = {"image_id": "1", "file": "a", "split": "x", "expressions": ("a",), "expression_ids": ("1",), "parts": ()}
    return [Record(**common | {"id": str(n), "row": f"row {n}"} | change) for n, change in enumerate(changes, 1)]


def source_of(tmp_path, records):
    file = tmp_path / "table"
    file.touch()
    return Source(format="test", folder=tmp_path, files=(file,), read=lambda report: iter(records))


IDS = "SELECT id FROM reference ORDER BY number"


def ids(index):
    return [row[0] for row in index.ask(IDS)]


# ── made once ──


def test_an_index_holds_images_and_references(own, tmp_path):
    index, file = open_index(own()[0]), str(tmp_path / "own" / "data.csv")
    assert index.ask("SELECT * FROM image ORDER BY number") == [
        (0, "a.jpg", "a.jpg", None, None, ""),
        (1, "b.jpg", "b.jpg", None, None, ""),
    ]
    assert index.ask("SELECT * FROM reference ORDER BY number") == [
        (0, "x", 0, "all", '["left cup"]', '["x/0"]', "[]", '[{"file": "1.png"}]', None, "{}", file, "line 2", 0),
        (1, "y", 1, "all", '["unicorn"]', '["y/0"]', "[]", "[]", None, "{}", file, "line 3", 0),
        (2, "z", 0, "all", '["dog"]', '["z/0"]', "[]", '[{"file": "2.png"}]', None, "{}", file, "line 4", 0),
    ]


def test_a_set_is_read_once(own, cache):
    source, reads = own()
    for _ in range(3):
        assert ids(open_index(source)) == ["x", "y", "z"]
    assert len(reads) == 1
    assert len(list(cache.iterdir())) == 1


def test_each_way_of_reading_a_set_has_its_own_index(own, cache):
    source, reads = own()
    for options in ("sent", "raw", "sent", "raw"):
        open_index(source, options=options)
    open_index(replace(source, format="other"))
    assert len(reads) == 3
    assert len(list(cache.iterdir())) == 3


def test_a_set_is_read_again_when_a_file_changes(own):
    open_index(own()[0])
    source, reads = own("image,mask,text,id\na.jpg,1.png,left cup,w\n")
    assert ids(open_index(source)) == ["w"]
    assert len(reads) == 1


def test_a_set_is_read_again_when_a_file_is_added(own, tmp_path):
    source, reads = own()
    open_index(source)
    (tmp_path / "own" / "more").touch()
    source = replace(source, files=(*source.files, tmp_path / "own" / "more"))
    for _ in range(2):
        open_index(source)
    assert len(reads) == 2


@pytest.mark.parametrize("small", [module.SMALL, 0], ids=["small file", "large file"])
@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_set_is_read_again_when_a_file_changes_but_not_its_size_and_time(own, tmp_path, monkeypatch, small, how):
    monkeypatch.setattr(module, "SMALL", small)
    source, _ = own()
    (file,) = source.files
    os.utime(file, (0, 0))
    before = file.stat()
    assert ids(open_index(source)) == ["x", "y", "z"]
    if not small:  # the clock that files are stamped with is coarse
        time.sleep(0.02)
    other = file if how == "written" else tmp_path / "other"
    other.write_bytes(file.read_bytes().replace(b",y\n", b",w\n"))
    other.replace(file)
    os.utime(file, (0, 0))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert ids(open_index(folder(source.folder))) == ["x", "w", "z"]


def test_a_small_file_with_another_time_is_not_read_again(own):
    source, reads = own()
    open_index(source)
    os.utime(source.files[0], (0, 0))
    open_index(source)
    assert len(reads) == 1


def test_an_index_of_another_version_is_made_anew(own, monkeypatch):
    source, reads = own()
    open_index(source)
    monkeypatch.setattr(module, "VERSION", f"{module.VERSION}+")
    assert ids(open_index(source)) == ["x", "y", "z"]
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["empty", "noise", "cut", "no tables", "other tables", "text"])
def test_a_broken_index_is_made_anew(own, cache, damage):
    source, reads = own()
    open_index(source).close()
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.unlink()
    if damage in ("no tables", "other tables"):
        database = sqlite3.connect(path)
        database.execute("CREATE TABLE about (a, b, c)" if damage == "other tables" else "CREATE TABLE x (a)")
        database.commit()
        database.close()
    else:
        content = {"empty": b"", "noise": os.urandom(5000), "cut": whole[: len(whole) // 2], "text": b"not an index"}
        path.write_bytes(content[damage])
    assert ids(open_index(source)) == ["x", "y", "z"]
    assert ids(open_index(source)) == ["x", "y", "z"]
    assert len(reads) == 2


def test_a_missing_file_of_the_set_is_named(own):
    source, _ = own()
    open_index(source)
    source.files[0].unlink()
    with pytest.raises(DataError, match=r"data\.csv: cannot be read: No such file"):
        open_index(source)


# ── the folder of indices ──


def test_the_cache_folder(monkeypatch, tmp_path):
    assert user_cache("index", "a") == tmp_path / "cache" / "index" / "a"
    monkeypatch.delenv("REFSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert user_cache() == tmp_path / "xdg" / "refseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert user_cache() == tmp_path / "home" / ".cache" / "refseg"


def test_without_a_home_folder_the_remedy_is_named(own, monkeypatch):
    def unknown():
        raise RuntimeError("Could not determine home directory.")

    for name in ("REFSEG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", unknown)
    with pytest.raises(OutputError, match="REFSEG_CACHE"):
        open_index(own()[0])


def test_for_a_cache_that_cannot_be_written_the_remedy_is_named(own, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="REFSEG_CACHE"):
        open_index(own()[0])


def test_a_full_disk_leaves_no_file(own, monkeypatch, cache):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        open_index(own()[0])
    assert list(cache.iterdir()) == []


def test_folders_may_have_special_characters(own, monkeypatch, tmp_path):
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "a ?#%25 é"))
    source, reads = own()
    assert ids(open_index(source)) == ids(open_index(source)) == ["x", "y", "z"]
    assert len(reads) == 1


# ── never incomplete ──


def test_a_file_that_cannot_be_read_leaves_no_index(own, cache):
    source, _ = own("image,text\na.jpg,cup\n")
    with pytest.raises(DataError, match=r"data\.csv"):
        open_index(source)
    assert list(cache.iterdir()) == []


def test_an_interruption_leaves_the_old_index_as_it_was(own, cache):
    source, _ = own()
    open_index(source)
    (path,) = cache.iterdir()
    before = path.read_bytes()
    source, _ = own("image,mask,text,id\na.jpg,1.png,left cup,w\n")

    def stopped(report):
        yield next(source.read(report))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_index(replace(source, read=stopped))
    assert list(cache.iterdir()) == [path]
    assert path.read_bytes() == before


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from refseg.data.formats.folder import folder
from refseg.data.index import open_index
source = folder(Path(sys.argv[1]))
def killed(report):
    yield from source.read(report)
    os.kill(os.getpid(), signal.SIGKILL)
open_index(replace(source, read=killed))
"""


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_index(own, cache):
    source, reads = own()
    done = subprocess.run([sys.executable, "-c", KILLED, str(source.folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert left.suffix == ".part"
    assert ids(open_index(source)) == ["x", "y", "z"]
    assert ids(open_index(source)) == ["x", "y", "z"]
    assert len(reads) == 1


def test_abandoned_files_are_removed_when_they_are_old(own, cache):
    cache.mkdir(parents=True)
    old, young = cache / "a.sqlite.1.2.part", cache / "b.sqlite.1.2.part"
    for path in (old, young):
        path.touch()
    day = time.time() - 2 * 24 * 60 * 60
    os.utime(old, (day, day))
    open_index(own()[0])
    assert not old.exists()
    assert young.exists()


# ── rows that cannot be used ──


PROBLEMS = "SELECT row, kind, split FROM problem ORDER BY number"


def test_problems_of_the_reader_are_stored_beside_the_references(tmp_path):
    def read(report):
        report(Problem(file="a", row="row 1", kind="row", message="is wrong", split="y"))
        yield from records_of({})
        report(Problem(file="a", row="row 9", kind="row", message="is wrong"))

    index = open_index(replace(source_of(tmp_path, []), read=read))
    assert ids(index) == ["1"]
    assert index.ask(PROBLEMS) == [("row 1", "row", "y"), ("row 9", "row", "")]


def test_the_second_row_of_an_id_is_a_problem(tmp_path):
    records = records_of({"id": "1"}, {"id": "1", "table": "val.json"})
    index = open_index(source_of(tmp_path, records))
    assert ids(index) == ["1"]
    ((file, message),) = index.ask("SELECT file, message FROM problem WHERE kind = 'duplicate'")
    assert file == "val.json"
    assert "row 1" in message


def test_a_second_size_of_an_image_is_a_problem(tmp_path):
    records = records_of({"size": (3, 4)}, {"size": (3, 4)}, {"size": (4, 3)}, {"file": "b", "size": (4, 3)})
    index = open_index(source_of(tmp_path, records))
    assert ids(index) == ["1", "2", "4"]
    assert index.ask(PROBLEMS) == [("row 3", "image", "x")]
    assert index.ask("SELECT file, height, width FROM image ORDER BY number") == [("a", 3, 4), ("b", 4, 3)]


def test_rows_of_different_splits_do_not_contradict_each_other(tmp_path):
    same = {"id": "1", "size": (3, 4)}
    records = records_of(same, same | {"split": "y", "size": (4, 3)}, {"split": "y", "size": (4, 3)})
    index = open_index(source_of(tmp_path, records))
    assert index.ask("SELECT id, split, repeated FROM reference ORDER BY number") == [
        ("1", "x", 1),
        ("1", "y", 1),
        ("3", "y", 0),
    ]
    assert index.ask(PROBLEMS) == []


@pytest.mark.parametrize(
    "change",
    [
        {"id": "\ud800"},
        {"file": "\ud800"},
        {"image_id": "\ud800"},
        {"split": "\ud800"},
        {"expressions": ("\ud800",)},
        {"expression_ids": ("\udfff",)},
        {"attributes": {"a": "\ud800"}},
    ],
)
def test_half_a_character_is_a_problem(tmp_path, change):
    index = open_index(source_of(tmp_path, records_of({}, change)))
    assert ids(index) == ["1"]
    assert [row[:2] for row in index.ask(PROBLEMS)] == [("row 2", "row")]


def test_half_a_character_in_a_problem_can_be_stored(tmp_path):
    def read(report):
        report(Problem(file="\ud800", row="\ud800", kind="row", message="\ud800", split="\ud800"))
        yield from records_of({})

    index = open_index(replace(source_of(tmp_path, []), read=read))
    assert index.ask("SELECT COUNT(*) FROM problem") == [(1,)]


def test_without_a_row_that_can_be_used_the_first_problem_is_named(own, cache):
    source, _ = own("image,mask,text\n../x,1.png,cup\n../y,1.png,cup\n")
    with pytest.raises(DataError, match="line 2"):
        open_index(source)
    assert list(cache.iterdir()) == []


def test_whole_characters_of_any_kind_are_kept(tmp_path):
    text = "é 猫 😀 \0 \n \" '"
    index = open_index(source_of(tmp_path, records_of({"id": text, "split": text})))
    assert index.ask("SELECT id, split FROM reference") == [(text, text)]


def test_a_set_without_rows_is_an_error(tmp_path, own):
    with pytest.raises(DataError, match="no references"):
        open_index(source_of(tmp_path, []))
    with pytest.raises(DataError, match="no references"):
        open_index(own("image,mask,text\n")[0])


# ── shared ──


def test_an_index_can_be_sent_to_other_processes(own):
    index = open_index(own()[0])
    assert ids(pickle.loads(pickle.dumps(index))) == ["x", "y", "z"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="a fork beside threads is a warning")
def test_an_index_answers_after_a_fork(own):
    index = open_index(own()[0])
    assert ids(index) == ["x", "y", "z"]
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.write(write, ",".join(ids(index)).encode())
        os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    assert os.read(read, 100) == b"x,y,z"
    os.close(read)
    assert ids(index) == ["x", "y", "z"]


def test_an_index_answers_every_thread(own):
    index = open_index(own()[0])
    found = []
    threads = [threading.Thread(target=lambda: found.append(ids(index))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["x", "y", "z"]] * 8


def test_an_index_cannot_be_written_through(own):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        open_index(own()[0]).ask("DELETE FROM reference")


def test_a_closed_index_opens_itself_again(own):
    index = open_index(own()[0])
    index.close()
    index.close()
    assert ids(index) == ["x", "y", "z"]


def test_a_worker_that_finds_a_newer_index_is_an_error(own):
    """It would take the new numbers for the old ones."""
    old, _ = own()
    sent = pickle.dumps(open_index(old))
    open_index(own("image,mask,text,id\na.jpg,1.png,left cup,w\n")[0])
    with pytest.raises(DataError, match="open them again"):
        ids(pickle.loads(sent))


def test_a_missing_index_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such index"):
        Index(tmp_path / "missing.sqlite")
