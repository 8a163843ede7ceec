"""JSON read in pieces gives the same values and errors as JSON read at once, wherever a piece ends."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg.data.formats import pieces
from refseg.data.formats.pieces import read_list, read_lists
from refseg.errors import DataError

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(pieces, "CHUNK", 1)


def write(folder, text):
    path = folder / "data.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@settings(max_examples=30, derandomize=True, deadline=None)
@given(elements=st.lists(values, max_size=6), chunk=st.integers(1, 40), indent=st.sampled_from([None, 2]))
def test_a_list_equals_that_of_json(tmp_path_factory, elements, chunk, indent):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "CHUNK", chunk)
        path = write(tmp_path_factory.getbasetemp(), json.dumps(elements, indent=indent))
        assert list(read_list(path, "numbers")) == elements


@settings(max_examples=30, derandomize=True, deadline=None)
@given(one=st.lists(values, max_size=4), other=st.lists(values, max_size=4), rest=values, chunk=st.integers(1, 40))
def test_fields_equal_those_of_json(tmp_path_factory, one, other, rest, chunk):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "CHUNK", chunk)
        text = json.dumps({"before": rest, "one": one, "between": rest, "other": other, "after": rest})
        path = write(tmp_path_factory.getbasetemp(), text)
        found = list(read_lists(path, ("one",), optional=("other", "missing")))
    assert found == [
        *(("one", number, value) for number, value in enumerate(one, 1)),
        *(("other", number, value) for number, value in enumerate(other, 1)),
    ]


@pytest.mark.parametrize(
    "text", ["[12, 3.5e-2, -7, true, null]", "[1e5]", " [ 1 ,2\n,\t3 ] \n", "[]", " [ ] ", "[-1.25E+3]"]
)
def test_numbers_are_complete_wherever_a_chunk_ends(tmp_path, small_chunks, text):
    assert list(read_list(write(tmp_path, text), "numbers")) == json.loads(text)


def test_a_byte_order_mark_does_not_matter(tmp_path):
    assert list(read_list(write(tmp_path, b"\xef\xbb\xbf[1]"), "numbers")) == [1]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}", "expected a list of numbers, got an object"),
        ("", "expected a list of numbers, got an empty file"),
        ("  \n", "got an empty file"),
        ("null", "got null"),
        ("3", "got a number"),
        ('"a"', "got a text"),
        ("<html>not found</html>", "got something that is not JSON"),
        ("[1, 2", "not valid JSON, perhaps cut off: expected , or ], at character 6"),
        ('[{"a": 1}, {"a": ', "not valid JSON, perhaps cut off: Expecting value, at character 12"),
        ('[{"a": 1}, {"b', "Unterminated string"),
        ("[1 2]", "expected , or ], at character 4"),
        ("[1,]", "Expecting value, at character 4"),
        ("[1] [2]", "something follows its end, at character 5"),
        ("[1]]", "something follows its end"),
        (b'["\xff"]', "not UTF-8"),
        ("[" * 100_000, "nested too deeply, at character 2"),
        ("[" + "1" * 5000 + "]", "not valid JSON"),
    ],
)
@pytest.mark.parametrize("chunk", [3, 1 << 20])
def test_an_incomplete_or_other_file_is_an_error(tmp_path, monkeypatch, text, says, chunk):
    monkeypatch.setattr(pieces, "CHUNK", chunk)
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        list(read_list(path, "numbers"))
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "expected an object with one and two, got a list"),
        ('{"one": []}', "has no field 'two'"),
        ("{}", "has no field 'one'"),
        ('{"one": {}, "two": []}', "field 'one' must be a list, got an object"),
        ('{"one": null, "two": []}', "field 'one' must be a list, got null"),
        ('{"two": [], "one": "a"}', "field 'one' must be a list, got a text"),
        ('{"one": [1', "perhaps cut off: expected , or ]"),
        ('{"one": [1], "two"', "perhaps cut off: expected :"),
        ('{"one": [1], "tw', "Unterminated string"),
        ('{"one": [1], ', "perhaps cut off: expected a name"),
        ('{"one": [1], "two": [] ', "expected , or }"),
        ("{1: 2}", "expected a name, at character 2"),
        ('{"one": [], "two": []}{', "something follows its end"),
    ],
)
def test_an_object_without_its_lists_is_an_error(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        list(read_lists(path, ("one", "two")))
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        list(read_list(tmp_path / "missing.json", "numbers"))
    with pytest.raises(DataError, match="cannot be read"):
        list(read_lists(tmp_path, ("one",)))


def test_a_large_file_takes_little_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "CHUNK", 1 << 12)
    path = write(tmp_path, json.dumps({"one": [[[0.5 + n for n in range(50)]]] * 400}))
    assert path.stat().st_size > 100_000
    tracemalloc.start()
    count = sum(1 for _ in read_lists(path, ("one",)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 400
    assert peak < 80_000  # all of it at once takes a megabyte
