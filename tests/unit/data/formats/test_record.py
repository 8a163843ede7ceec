"""Fields of rows are read with checks of types, sizes and file names; problems are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg.data.formats.record import (
    LARGEST,
    Problem,
    Record,
    Source,
    build_records,
    numbered,
    read_files,
    read_json,
    safe_name,
    shown,
    split_of,
    take,
    take_size,
    texts,
)
from refseg.errors import DataError


def test_a_field_is_taken_if_it_is_of_the_type():
    row = {"name": "x", "number": 3, "list": [1]}
    assert take(row, "name", str) == "x"
    assert take(row, "number", (int, str)) == 3
    assert take(row, "missing", str, "instead") == "instead"
    assert take(row, "missing", str, None) is None


@pytest.mark.parametrize(
    ("row", "kind", "says"),
    [
        ({"a": True}, int, "field 'a' must be int, got True"),
        ({"a": False}, (int, str), "must be int or str, got False"),
        ({"a": None}, int, "got nothing"),
        ({"a": 1.0}, int, "got 1.0"),
        ({"a": "3"}, int, "got '3'"),
        ({"a": [1]}, int, "got a list"),
        ({"a": {}}, (list, type(None)), "must be list or nothing, got an object"),
        ({"b": 1}, int, "has no field 'a'"),
        ([1], int, "expected an object with a field 'a', got a list"),
        (None, int, "got nothing"),
        ({"a": LARGEST + 1}, int, "too large"),
        ({"a": -(10**5000)}, int, "too large"),
    ],
)
def test_a_field_of_another_type_is_an_error(row, kind, says):
    with pytest.raises(DataError, match=says):
        take(row, "a", kind)


def test_a_boolean_is_taken_where_it_is_asked_for():
    assert take({"a": True}, "a", bool) is True
    assert take({"a": LARGEST}, "a", int) == LARGEST


def test_sizes_are_those_that_images_can_have():
    assert take_size({"height": 3, "width": 4}) == (3, 4)
    for height, width in ((0, 4), (3, -4), (10**5, 10**5), (10**20, 1)):
        with pytest.raises(DataError, match=r"no image|too large"):
            take_size({"height": height, "width": width})
    with pytest.raises(DataError, match=r"'width' must be int, got 4\.0"):
        take_size({"height": 3, "width": 4.0})


def test_texts_are_one_or_several():
    assert texts("a cup", "text") == ("a cup",)
    assert texts(["a", "b"], "text") == ("a", "b")
    with pytest.raises(DataError, match="field 'text' is empty"):
        texts([], "text")
    for wrong in (None, 3, ["a", None], {"a": 1}):
        with pytest.raises(DataError, match="field 'text' must be a text or a list of texts"):
            texts(wrong, "text")
    assert texts(["a", ""], "text") == ("a", "")  # blank ones are left out later, and reported


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.jpg", "a.jpg"),
        ("b/a.jpg", "b/a.jpg"),
        ("b\\a.jpg", "b/a.jpg"),
        ("./b//a.jpg", "b/a.jpg"),
        ("a..b.jpg", "a..b.jpg"),
        (".hidden/été.jpg", ".hidden/été.jpg"),
        ("a b.jpg", "a b.jpg"),
        ("2024-05-03T12:30:11.png", "2024-05-03T12:30:11.png"),
        ("day/12:30.png", "day/12:30.png"),
        ("12:30/a.png", "12:30/a.png"),
        ("ab:c.png", "ab:c.png"),
        (":a.png", ":a.png"),
        ("a/C:/b.png", "a/C:/b.png"),
    ],
)
def test_names_of_files_are_kept(name, safe):
    assert safe_name(name) == safe


def test_names_that_lead_out_of_the_folder_are_errors(made):
    for name in (*made.LEADING_OUT, "c:x", "./C:\\x", "Z:"):
        with pytest.raises(DataError, match=r"leads out of the data's folder"):
            safe_name(name)


def test_what_is_no_name_is_an_error(made):
    for name in (*made.NO_NAMES, None, 3, ["a"]):
        with pytest.raises(DataError, match=r"expected a file name|too long"):
            safe_name(name)


def test_what_is_shown_is_short():
    cyclic: list = []
    cyclic.append(cyclic)
    values = (None, "x" * 1000, 10**6000, -3, 2.5, True, [1] * 1000, {"a": 1}, (1, 2), cyclic, object(), b"x")
    assert [shown(value) for value in values] == [
        *("nothing", repr("x" * 37 + "..."), "a number that is too large", "-3", "2.5", "True"),
        *("a list", "an object", "a list", "a list", "object", "bytes"),
    ]


def test_a_problem_is_one_line(made):
    problem = Problem(file="a\nb.csv", row="line 3", kind="row", message="has\r\nno text")
    assert str(problem) == "a b.csv: line 3: has no text"
    assert str(Problem(file="a.csv", row="", kind="row", message="is empty")) == "a.csv: is empty"
    with pytest.raises(DataError, match=r"^a b\.csv: line 3: has no text$"):
        made.raise_problem(problem)


def test_blank_expressions_are_left_out_of_their_record():
    """As the tokenizer sees them: it resolves HTML entities and drops invisible characters."""
    blanks = ("", " \n", "&nbsp;", "\u3000", "\x07")
    expressions, found = ("a cup", *blanks, "23", "R&B", "カップ", "a\nb"), []
    given = Record(
        id="1",
        image_id="1",
        file="a",
        split="x",
        expressions=expressions,
        expression_ids=tuple(map(str, range(len(expressions)))),
        parts=(),
    )
    (kept,) = build_records(Path("t"), [("row 1", given)], lambda row: row, found.append, split="x")
    assert kept.expressions == ("a cup", "23", "R&B", "カップ", "a\nb")
    assert kept.expression_ids == ("0", "6", "7", "8", "9")
    assert [(one.kind, one.row, one.split) for one in found] == [("blank", "row 1", "x")] * len(blanks)


def test_a_file_that_cannot_be_read_is_reported_and_the_next_is_read():
    def read(split, file):
        yield record(split)
        if split == "train":
            raise DataError(f"{file}: cut off")

    found = []
    files = [("train", Path("t")), ("val", Path("v"))]
    assert [one.id for one in read_files(files, read, found.append)] == ["train", "val"]
    assert [(one.file, one.kind, one.split, one.message) for one in found] == [("t", "file", "train", "cut off")]


def record(id):
    return Record(id=id, image_id="1", file="a", split="x", expressions=("a",), expression_ids=("1",), parts=())


@pytest.mark.parametrize(("split", "known"), [("val", ["val", "val"]), (split_of, ["b", ""])])
def test_each_row_becomes_a_record_or_a_problem(tmp_path, split, known):
    def build(row):
        return record(str(take(row, "id", int)))

    found = []
    rows = numbered([{"id": 7, "split": "a"}, {"split": "b"}, {"id": 9}, 3], "line")
    built = list(build_records(tmp_path, rows, build, found.append, split=split))
    assert [(one.id, one.row) for one in built] == [("7", "line 1"), ("9", "line 3")]
    assert {one.table for one in built} == {str(tmp_path)}
    assert [(one.file, one.row, one.kind) for one in found] == [
        (str(tmp_path), "line 2", "row"),
        (str(tmp_path), "line 4", "row"),
    ]
    assert [one.split for one in found] == known
    assert "has no field 'id'" in found[0].message


def test_the_split_of_a_row_is_known_where_it_is_a_text():
    assert split_of({"split": "val"}) == split_of({"split": "val"}, "all") == "val"
    assert split_of({}) == ""
    assert split_of({}, "all") == "all"
    for broken in ({"split": 3}, {"split": None}, None, [], "val"):
        assert split_of(broken, "all") == ""


def test_json_is_read_or_an_error(tmp_path):
    path = made_file(tmp_path, json.dumps({"a": [1]}))
    assert read_json(path) == {"a": [1]}
    for content in ('{"a": [1', "", "[" * 100_000, "\ud800".encode("utf-8", "surrogatepass") + b"\xff", "1" * 5000):
        path = made_file(tmp_path, content)
        with pytest.raises(DataError, match=r"data\.json: not valid JSON, perhaps cut off"):
            read_json(path)
    with pytest.raises(DataError, match="no such file"):
        read_json(tmp_path / "missing.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_json(tmp_path)


def made_file(folder, content):
    path = folder / "data.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_source_takes_splits_by_name(tmp_path):
    source = Source(format="x", folder=tmp_path, files=(), read=lambda report: iter(()))
    assert source.in_split("val", "val")
    assert not source.in_split("val", "train")
