"""Pickles of plain values are read; code in a pickle is an error and not run."""

from __future__ import annotations

import collections
import datetime
import fractions
import os
import pickle
import struct

import pytest

from refseg.data.formats.plain import read_pickle
from refseg.errors import DataError

PLAIN = [{"ref_id": 3, "split": "val", "sentences": [{"sent": "a cup", "tokens": ["a", "cup"]}]}, None, 2.5, True, -1]


def write(folder, content):
    path = folder / "refs(unc).p"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_of_every_protocol(tmp_path, protocol):
    values = [*PLAIN, "é", (1, 2), 10**30]
    if protocol >= 4:  # older ones write these as calls
        values += [b"bytes", {1, 2}]
    assert read_pickle(write(tmp_path, pickle.dumps(values, protocol=protocol))) == values


@pytest.mark.parametrize("protocol", [0, 2])
def test_byte_strings_of_python_2_are_texts(made, tmp_path, protocol):
    value = [{b"sent": b"the 'left\\", b"raw": "naïve ☂", b"ref_id": 7, b"list": [b"x" * 300, -2, []]}]
    assert read_pickle(write(tmp_path, made.python_2_pickle(value, protocol))) == [
        {"sent": "the 'left\\", "raw": "naïve ☂", "ref_id": 7, "list": ["x" * 300, -2, []]}
    ]


@pytest.mark.parametrize("protocol", [0, 2])
@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("the café sign".encode(), "the café sign"),
        ("左のカップ 🙂".encode(), "左のカップ 🙂"),
        ("the café sign".encode("latin-1"), "the café sign"),
        ("señor Ü".encode("latin-1"), "señor Ü"),
        (b"\xff\xfe", "ÿþ"),
        (b"cut off \xc3", "cut off Ã"),
        (b"", ""),
    ],
)
def test_byte_strings_of_python_2_are_utf_8_or_else_latin_1(made, tmp_path, protocol, written, text):
    value = [written, {written: [written]}]
    assert read_pickle(write(tmp_path, made.python_2_pickle(value, protocol))) == [text, {text: [text]}]


@pytest.mark.parametrize("protocol", [0, 2])
def test_texts_of_python_3_stay_as_they_are(tmp_path, protocol):
    text = "the café sign".encode().decode("latin-1")  # looks like UTF-8 that was decoded wrongly, and is text
    assert read_pickle(write(tmp_path, pickle.dumps([text], protocol=protocol))) == [text]


def calls(marker):
    """Pickles that make a file when they are loaded."""
    name = str(marker)

    class Open:
        def __reduce__(self):
            return open, (name, "w")

    class Mkdir:
        def __reduce__(self):
            return os.mkdir, (name,)

    text = struct.pack("<I", len(name)) + name.encode()
    return {
        "protocol 0": pickle.dumps([Open()], protocol=0),
        "protocol 2": pickle.dumps({"a": Open()}, protocol=2),
        "protocol 5": pickle.dumps([1, Mkdir()], protocol=5),
        "inst": b"(S'" + name.encode() + b"'\nS'w'\nio\nopen\n.".replace(b"io\n", b"iio\n"),
        "obj": b"\x80\x02(cio\nopen\nX" + text + b"X\x01\x00\x00\x00wo.",
        "stack global": b"\x80\x04\x8c\x02io\x8c\x04open\x93X" + text + b"X\x01\x00\x00\x00w\x86R.",
    }


@pytest.mark.parametrize("kind", list(calls("x")))
def test_a_call_is_an_error_before_it_is_made(tmp_path, kind):
    marker = tmp_path / "marker"
    path = write(tmp_path, calls(marker)[kind])
    with pytest.raises(DataError) as caught:
        read_pickle(path)
    assert not marker.exists()
    assert str(caught.value).startswith(f"{path}: holds code (")
    assert str(caught.value).endswith("which plain references do not need; it was not run")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", list(calls("x")))
def test_the_calls_above_would_have_been_made(tmp_path, kind):
    """Without this the test above would show nothing."""
    marker = tmp_path / "marker"
    result = pickle.loads(calls(marker)[kind])
    assert marker.exists()
    del result


@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict(a=1),
        datetime.date(2020, 1, 1),
        fractions.Fraction(1, 2),
        print,
        collections.Counter,
        ValueError("x"),
        frozenset,
    ],
)
def test_even_harmless_code_is_an_error(tmp_path, value):
    for protocol in (0, 2, 4):
        with pytest.raises(DataError, match="holds code"):
            read_pickle(write(tmp_path, pickle.dumps([value], protocol=protocol)))


@pytest.mark.parametrize("content", [b"Pname\n.", b"\x80\x02X\x01\x00\x00\x00aQ.", b"\x80\x02\x82\x01."])
def test_references_to_objects_outside_are_errors(tmp_path, content):
    with pytest.raises(DataError, match=r"refers to objects outside|not a complete pickle"):
        read_pickle(write(tmp_path, content))


def test_every_cut_is_an_error(tmp_path):
    whole = pickle.dumps(PLAIN, protocol=2)
    for end in range(len(whole)):
        with pytest.raises(DataError, match=r"refs\(unc\)\.p: not a complete pickle .*; fetch it again"):
            read_pickle(write(tmp_path, whole[:end]))


@pytest.mark.parametrize(
    "content", [b"<html>not found</html>", b"[1, 2]", b"PK\x03\x04", b"\x80\xff.", b".", b"\x80\x02K\x01R.", b"(\n" * 9]
)
def test_other_files_are_errors_in_one_line(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        read_pickle(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_cycle_is_a_value_like_any_other(tmp_path):
    cyclic: list = [1]
    cyclic.append(cyclic)
    found = read_pickle(write(tmp_path, pickle.dumps(cyclic)))
    assert found[1] is found


def test_a_missing_file_and_a_folder_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_pickle(tmp_path / "missing.p")
    with pytest.raises(DataError, match="cannot be read"):
        read_pickle(tmp_path)
