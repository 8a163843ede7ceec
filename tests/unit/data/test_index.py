"""The index of a data set: made once, made anew when it must be, never half made, and safe to hand around."""

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

import pytest

from refseg.data import index as module
from refseg.data.formats.folder import folder
from refseg.data.formats.record import Record, Source
from refseg.data.index import Index, build, cache_folder, open_index
from refseg.errors import DataError, OutputError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "index"


@pytest.fixture
def own(made, tmp_path):
    """A folder of three references on two images, and how often it has been read."""

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


def test_what_is_in_it(own):
    index = open_index(own()[0])
    assert index.ask("SELECT * FROM image ORDER BY number") == [
        (0, "a.jpg", "a.jpg", None, None),
        (1, "b.jpg", "b.jpg", None, None),
    ]
    assert index.ask("SELECT * FROM reference ORDER BY number") == [
        (0, "x", 0, "all", '["left cup"]', '["x/0"]', '[{"file": "masks/1.png"}]', "{}", "line 2"),
        (1, "y", 1, "all", '["unicorn"]', '["y/0"]', "[]", "{}", "line 3"),
        (2, "z", 0, "all", '["dog"]', '["z/0"]', '[{"file": "masks/2.png"}]', "{}", "line 4"),
    ]


def test_a_set_is_read_once(own, cache):
    source, reads = own()
    for _ in range(3):
        assert ids(open_index(source)) == ["x", "y", "z"]
    assert len(reads) == 1
    assert len(list(cache.iterdir())) == 1


def test_each_way_to_read_a_set_has_an_index_of_its_own(own, cache):
    source, reads = own()
    for options in ("sent", "raw", "sent", "raw"):
        open_index(source, options=options)
    open_index(replace(source, format="other"))
    assert len(reads) == 3
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("change", ["content", "time", "another file"])
def test_a_set_is_read_again_when_a_file_changes(own, tmp_path, change):
    source, reads = own()
    open_index(source)
    path = source.files[0]
    if change == "content":
        source, more = own("image,mask,text,id\na.jpg,1.png,left cup,w\n")
        assert ids(open_index(source)) == ["w"]
        assert len(more) == 1
        return
    if change == "time":
        os.utime(path, ns=(1, 1))
    else:
        (tmp_path / "own" / "more").touch()
        source = replace(source, files=(path, tmp_path / "own" / "more"))
    open_index(source)
    assert len(reads) == 2
    open_index(source)
    assert len(reads) == 2


def test_an_index_of_another_version_is_made_anew(own, monkeypatch):
    source, reads = own()
    open_index(source)
    monkeypatch.setattr(module, "VERSION", module.VERSION + 1)
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


def test_a_file_of_the_set_that_is_gone_is_named(own):
    source, _ = own()
    open_index(source)
    source.files[0].unlink()
    with pytest.raises(DataError, match=r"data\.csv: cannot be read: No such file"):
        open_index(source)


# ── where it lies ──


def test_where_indices_are_kept(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("REFSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "refseg"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "refseg"


def test_a_cache_that_cannot_be_written_is_told_with_the_remedy(own, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match=r"file.index: the index cannot be written there .*; set REFSEG_CACHE"):
        open_index(own()[0])


def test_a_full_disk_is_told_and_leaves_nothing(own, monkeypatch, cache):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match="No space left on device"):
        open_index(own()[0])
    assert list(cache.iterdir()) == []


def test_odd_names_of_folders_do_not_matter(own, monkeypatch, tmp_path):
    monkeypatch.setenv("REFSEG_CACHE", str(tmp_path / "a ?#%25 é"))
    source, reads = own()
    assert ids(open_index(source)) == ids(open_index(source)) == ["x", "y", "z"]
    assert len(reads) == 1


# ── never half made ──


def test_a_wrong_row_leaves_no_index(own, cache):
    source, _ = own("image,mask,text\na.jpg,1.png,cup\n../x,1.png,cup\n")
    with pytest.raises(DataError, match=r"data\.csv: line 3: file name '\.\./x' leads out"):
        open_index(source)
    assert list(cache.iterdir()) == []


def test_a_stop_leaves_the_old_index_as_it_was(own, cache):
    source, _ = own()
    open_index(source)
    (path,) = cache.iterdir()
    before = path.read_bytes()
    os.utime(source.files[0], ns=(1, 1))

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


def test_what_was_left_behind_is_removed_when_it_is_old(own, cache):
    cache.mkdir(parents=True)
    old, young = cache / "a.sqlite.1.2.part", cache / "b.sqlite.1.2.part"
    for path in (old, young):
        path.touch()
    day = time.time() - 2 * 24 * 60 * 60
    os.utime(old, (day, day))
    open_index(own()[0])
    assert not old.exists()
    assert young.exists()


# ── rows that are wrong only together ──


def test_two_rows_of_the_same_id_are_refused(own, tmp_path):
    source, _ = own("image,mask,text,id\na.jpg,1.png,cup,7\nb.jpg,1.png,dog,8\nc.jpg,1.png,cat,7\n")
    with pytest.raises(DataError) as caught:
        open_index(source)
    assert str(caught.value) == f"{tmp_path / 'own' / 'data.csv'}: line 4: the id '7' is that of line 2 too"


def test_the_file_of_the_second_row_is_named(tmp_path):
    records = records_of({"id": "1"}, {"id": "1", "table": "val.json"})
    with pytest.raises(DataError, match=r"^val\.json: row 2: the id '1' is that of row 1 too$"):
        open_index(source_of(tmp_path, records))


def test_a_image_of_two_sizes_is_refused(tmp_path):
    records = records_of({"size": (3, 4)}, {"size": (3, 4)}, {"size": (4, 3)})
    with pytest.raises(DataError, match="table: row 3: says that a is of another size than an earlier row says"):
        open_index(source_of(tmp_path, records))


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
def test_half_a_character_is_refused(tmp_path, change):
    with pytest.raises(DataError, match=r"table: row 2: holds half a character"):
        open_index(source_of(tmp_path, records_of({}, change)))


def test_whole_characters_of_any_kind_are_kept(tmp_path):
    text = "é 猫 😀 \0 \n \" '"
    index = open_index(source_of(tmp_path, records_of({"id": text, "split": text})))
    assert index.ask("SELECT id, split FROM reference") == [(text, text)]


def test_no_rows_are_no_data_set(tmp_path, own):
    with pytest.raises(DataError, match="table: holds no references"):
        open_index(source_of(tmp_path, []))
    with pytest.raises(DataError, match=r"data\.csv: holds no references"):
        open_index(own("image,mask,text\n")[0])


def test_wrong_rows_may_be_left_out(tmp_path):
    records = records_of({}, {"id": "1"}, {"size": (1, 2)}, {"expressions": ("\ud800",)}, {"file": "b", "size": (1, 2)})
    found = []
    build(source_of(tmp_path, records), tmp_path / "index.sqlite", report=found.append)
    assert [(problem.row, problem.kind) for problem in found] == [
        ("row 2", "duplicate"),
        ("row 3", "image"),
        ("row 4", "row"),
    ]
    index = Index(tmp_path / "index.sqlite")
    assert ids(index) == ["1", "5"]
    assert index.ask("SELECT file, height, width FROM image") == [("a", None, None), ("b", 1, 2)]


# ── handed around ──


def test_an_index_travels_to_other_processes(own):
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


def test_who_comes_later_to_another_index_is_told(own):
    """A worker would take the new numbers for the old ones."""
    old, _ = own()
    travelling = pickle.dumps(open_index(old))
    open_index(own("image,mask,text,id\na.jpg,1.png,left cup,w\n")[0])
    with pytest.raises(DataError, match="changed while they were in use; open them again"):
        ids(pickle.loads(travelling))


def test_an_index_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no such index"):
        Index(tmp_path / "missing.sqlite")
