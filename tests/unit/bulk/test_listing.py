"""A source of any kind is listed as shards, whose rows have the same ids in every run."""

from __future__ import annotations

import io
import json
import pickle
import tarfile

import pyarrow as pa
import pytest
from pyarrow import parquet

from refseg.bulk.listing import list_source
from refseg.bulk.rows import Failed, Row
from refseg.errors import ConfigError, DataError

NAMES = ("a.png", "b.png", "sub/c.png")
EXPRESSIONS = ("the red square", "the green one")
KINDS = (
    "folder",
    "lines",
    "lines of one expression",
    "table of bytes",
    "table of names",
    "tables of datasets",
    "tar",
    "compressed tars",
)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_table(path, rows, group=2):
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def make_source(photos, tmp_path):
    """Writes the images as a source of a kind, with their expressions where that is possible."""

    def make(kind):
        contents = [(photos / name).read_bytes() for name in NAMES]
        asked = list(EXPRESSIONS)
        if kind == "folder":
            return photos
        if kind == "lines":
            return write_lines(photos / "asked.jsonl", [{"image": name, "expression": asked} for name in NAMES])
        if kind == "lines of one expression":
            rows = [{"image": name, "expression": text} for name in NAMES for text in asked]
            return write_lines(photos / "asked.jsonl", rows)
        if kind == "table of bytes":
            return write_table(tmp_path / "t.parquet", [{"image": one, "expression": asked} for one in contents])
        if kind == "table of names":
            return write_table(photos / "t.parquet", [{"image": name, "expression": asked} for name in NAMES])
        if kind == "tables of datasets":
            (tmp_path / "tables").mkdir()
            for number, (name, one) in enumerate(zip(NAMES, contents, strict=True)):
                row = {"image": {"bytes": one, "path": name}, "expression": asked, "other": 1}
                write_table(tmp_path / "tables" / f"{number}.parquet", [row])
            return tmp_path / "tables"
        files = [(f"{n}.{e}", c) for n, one in enumerate(contents) for e, c in (("png", one), ("json", _json(asked)))]
        if kind == "tar":
            return write_tar(tmp_path / "t.tar", files)
        assert kind == "compressed tars"
        (tmp_path / "tars").mkdir()
        write_tar(tmp_path / "tars" / "0.tar.gz", files[:2], "w:gz")
        write_tar(tmp_path / "tars" / "1.tgz", files[2:], "w:gz")
        return tmp_path / "tars"

    return make


def _json(asked):
    return json.dumps({"expression": asked}).encode()


def rows_of(listing):
    # A shard is sent to another process before it is read.
    return [row for shard in listing.shards for row in pickle.loads(pickle.dumps(shard)).read(listing.asked)]


def asked(rows):
    return [(one.id, one.expression) for row in rows for one in row.questions]


def content(row):
    return row.content if isinstance(row.content, bytes) else row.content.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_the_same_images_and_expressions(kind, make_source, photos, words):
    source = make_source(kind)
    listing = list_source(source, words if kind == "folder" else None, None, 2)
    assert len(listing.shards) == {"tar": 1, "tables of datasets": 3, "lines of one expression": 3}.get(kind, 2)
    rows = rows_of(listing)
    assert [content(row) for row in rows] == [(photos / name).read_bytes() for name in NAMES]
    assert [[one.expression for one in row.questions] for row in rows] == [list(EXPRESSIONS)] * 3
    ids = [id for id, _ in asked(rows)]
    assert len(set(ids)) == 6
    again = list_source(source, words if kind == "folder" else None, None, 100)
    assert asked(rows_of(again)) == asked(rows)  # shards of another size
    given = rows_of(list_source(source, words, None, 2))
    assert [text for _, text in asked(given)] == list(EXPRESSIONS) * (6 if "one" in kind else 3)


def test_an_id_is_of_the_place_in_the_source_and_of_the_expression(photos, words):
    (first, *_) = rows_of(list_source(photos, words, None, 2))
    assert first.image == "a.png"
    assert first.questions[0].id == "c571c367872e0696e912c8c82123a2e8"


def test_a_table_says_what_is_asked_of_each_image_of_a_folder(photos, tmp_path):
    table = tmp_path / "asked.csv"
    table.write_text("image,expression\nsub/c.png,the red one\na.png,the red one\na.png,a square\ngone.png,it\n")
    first, second, failed = rows_of(list_source(photos, table, None, 100))
    assert [(row.image, len(row.questions)) for row in (first, second)] == [("sub/c.png", 1), ("a.png", 2)]
    assert (failed.image, "gone.png" in failed.reason) == ("asked.csv: line 5", True)


def test_another_source_or_question_has_another_fingerprint(photos, words, tmp_path):
    def fingerprint(size=2):
        return list_source(photos, words, None, size).fingerprint

    found = [fingerprint(), fingerprint(size=3)]
    (photos / "other.txt").write_text("not read")
    assert fingerprint() == found[0]
    words.write_text("the red square\n")
    found.append(fingerprint())
    (photos / "a.png").write_bytes(b"shorter")
    found.append(fingerprint())
    (photos / "b.png").unlink()
    found.append(fingerprint())
    lines = write_lines(tmp_path / "a.jsonl", [{"image": "a", "expression": "b"}])
    found.append(list_source(lines, None, None, 2).fingerprint)
    write_lines(lines, [{"image": "a", "expression": "c"}])
    found.append(list_source(lines, None, None, 2).fingerprint)
    assert len(set(found)) == len(found)


LINES = {
    "no json": ("{", "is not JSON"),
    "no object": ("[]", "expected an object"),
    "nested": ("[" * 100_000, "is not JSON"),
    "no image": ('{"expression": "a"}', "'image'"),
    "outside": ('{"image": "../a.png", "expression": "a"}', "leads out"),
    "absolute": ('{"image": "/a.png", "expression": "a"}', "leads out"),
    "no expression": ('{"image": "a.png"}', "'expression'"),
    "blank": ('{"image": "a.png", "expression": " "}', "expression"),
    "numbers": ('{"image": "a.png", "expression": [1]}', "expression"),
}


def test_lines_that_cannot_be_used_fail_with_the_reason(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(["", *(line for line, _ in LINES.values()), '{"image": "a.png", "expression": "it"}']))
    *failed, last = rows_of(list_source(path, None, None, 4))
    assert isinstance(last, Row)
    assert len({one.id for one in failed}) == len(LINES)
    for (name, (_, reason)), one in zip(LINES.items(), failed, strict=True):
        assert reason in one.reason, name


def test_rows_of_tables_that_cannot_be_used_fail_with_the_reason(tmp_path):
    rows = [
        {"image": {"bytes": None, "path": None}, "expression": "it"},
        {"image": {"bytes": None, "path": "/etc/passwd"}, "expression": "it"},
        {"image": {"bytes": b"x", "path": "a.png"}, "expression": None},
        {"image": {"bytes": b"x", "path": "a.png"}, "expression": "it"},
    ]
    folder = tmp_path / "tables"
    folder.mkdir()
    whole = write_table(folder / "b.parquet", rows, group=3)
    (folder / "a.parquet").write_bytes(b"no table")
    broken, *failed, last = rows_of(list_source(folder, None, None, 1))
    assert (broken.image, "not a complete table" in broken.reason) == ("a.parquet", True)
    assert [reason in one.reason for one, reason in zip(failed, ("nothing", "leads out", "expression"), strict=True)]
    assert isinstance(last, Row)
    listing = list_source(whole, None, None, 1)
    damaged = bytearray(whole.read_bytes())
    damaged[4:60] = bytes(56)  # in the first group; the footer stays
    whole.write_bytes(damaged)
    found = rows_of(listing)
    assert len(found) == 4
    assert isinstance(found[0], Failed)


def test_samples_of_tars_that_cannot_be_used_fail_with_the_reason(tmp_path):
    files = [
        ("1.txt", b"it"),
        ("2.png", b"x"),
        ("2.jpg", b"y"),
        ("2.txt", b"it"),
        ("3.png", b"x"),
        ("4.png", b"x"),
        ("4.json", b"{"),
        ("dir/5.png", b"x"),
        ("dir/5.txt", b" it\n"),
        ("4.png", b"x"),
        ("._5.png", b"x"),
        ("6.depth.png", b"x"),
        ("6.txt", b"it"),
    ]
    path = write_tar(tmp_path / "a.tar", files)
    rows = rows_of(list_source(path, None, None, 1))
    reasons = [row.reason if isinstance(row, Failed) else row.image for row in rows]
    assert [part in reason for part, reason in zip(
        ("0 images", "2 images", "no .json", "broken", "a.tar/dir/5.png", "several places", "a.tar/6.depth.png"),
        reasons, strict=True)] == [True] * 7  # fmt: skip
    whole = path.read_bytes()
    for length in (9_000, 9_216, 9_480, 13_312, 13_824):  # in a file, between two, in a header, and in the end mark
        path.write_bytes(whole[:length])
        *_, last = rows_of(list_source(path, None, None, 1))
        assert "the tar is broken after" in last.reason
    path.write_bytes(b"no tar")
    (only,) = rows_of(list_source(path, None, None, 1))
    assert (only.image, "after 0 samples" in only.reason) == ("a.tar", True)


def test_a_large_file_in_a_tar_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("refseg.bulk.tars.LARGEST_FILE", 10)
    path = write_tar(tmp_path / "a.tar", [("1.png", bytes(11)), ("1.txt", b"it")])
    (row,) = rows_of(list_source(path, None, None, 1))
    assert "larger than" in row.reason


def test_what_cannot_be_listed_is_an_error(photos, words, tmp_path):
    (tmp_path / "empty").mkdir()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    write_tar(mixed / "a.tar", [])
    write_table(mixed / "a.parquet", [{"image": "a"}])
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text("")
    long = tmp_path / "long.jsonl"
    long.write_text(" " * 2**21)
    table = tmp_path / "asked.csv"
    table.write_text("image,expression\n")
    other = write_table(tmp_path / "other.parquet", [{"photo": "a"}])
    for source, expressions, size, error in (
        (photos, None, 2, ConfigError),
        (photos, words, 0, ConfigError),
        (mixed / "a.tar", table, 2, ConfigError),
        (tmp_path / "empty", words, 2, DataError),
        (tmp_path / "gone", words, 2, DataError),
        (words, words, 2, DataError),
        (mixed, words, 2, DataError),
        (mixed / "a.parquet", None, 2, DataError),
        (other, words, 2, DataError),
        (nothing, words, 2, DataError),
        (long, words, 2, DataError),
    ):
        with pytest.raises(error) as raised:
            list_source(source, expressions, None, size)
        assert "\n" not in str(raised.value)


def test_names_of_images_are_relative_to_a_given_folder(photos, tmp_path):
    lines = write_lines(tmp_path / "a.jsonl", [json.loads('{"image": "sub/c.png", "expression": "it"}')])
    (row,) = rows_of(list_source(lines, None, photos, 2))
    assert row.content == photos / "sub" / "c.png"
