import json
from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg.config import field_docs, from_dict, load_json, replace, save_json, to_dict
from refseg.errors import ConfigError, RefsegError


@dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)
    pair: tuple[int, str] = (1, "a")


@dataclass(frozen=True, kw_only=True)
class Outer:
    width: int
    """The width
    in pixels."""
    rate: float = 0.5
    """The rate."""
    kind: Literal["small", "large"] = "small"
    name: str | None = None
    deep: bool = False
    inner: Inner = Inner()


outers = st.builds(
    Outer,
    width=st.integers(),
    rate=st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["small", "large"]),
    name=st.none() | st.text(),
    deep=st.booleans(),
    inner=st.builds(Inner, sizes=st.lists(st.integers()).map(tuple), pair=st.tuples(st.integers(), st.text())),
)


@given(outers)
def test_there_and_back(config):
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "config: field 'width' is missing"),
        ({"width": 1, "widht": 2}, "unknown field 'widht', did you mean 'width'"),
        ({"width": "1"}, "config.width: expected int, got '1' (str)"),
        ({"width": True}, "config.width: expected int"),
        ({"width": 1.0}, "config.width: expected int"),
        ({"width": 1, "deep": 1}, "config.deep: expected bool"),
        ({"width": 1, "kind": "middle"}, "config.kind: expected one of 'small', 'large'"),
        ({"width": 1, "name": 3}, "config.name: expected str"),
        ({"width": 1, "inner": []}, "config.inner: expected an object"),
        ({"width": 1, "inner": {"size": 1}}, "config.inner: unknown field 'size', did you mean 'sizes'"),
        ({"width": 1, "inner": {"sizes": 1}}, "config.inner.sizes: expected a list"),
        ({"width": 1, "inner": {"sizes": [1, "2"]}}, "config.inner.sizes[1]: expected int"),
        ({"width": 1, "inner": {"pair": [1]}}, "config.inner.pair: expected 2 values, got 1"),
        ([], "config: expected an object"),
        (None, "config: expected an object"),
    ],
)
def test_what_is_an_error(values, said):
    with pytest.raises(ConfigError) as caught:
        from_dict(Outer, values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_numbers_are_floats_too():
    config = from_dict(Outer, {"width": 1, "rate": 1})
    assert isinstance(config.rate, float)


def test_replace():
    config = Outer(width=1)
    assert replace(config, width=2, inner=Inner(sizes=(3,))) == Outer(width=2, inner=Inner(sizes=(3,)))
    with pytest.raises(ConfigError, match="did you mean 'width'"):
        replace(config, wdth=2)


def test_files(tmp_path):
    path = tmp_path / "config.json"
    save_json({"a": [1, None, "ä"]}, path)
    assert load_json(path) == {"a": [1, None, "ä"]}
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 100_000],
    ids=["empty", "open", "list", "number", "bytes", "deep"],
)
def test_broken_files(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_json(path)


def test_missing_files(tmp_path):
    with pytest.raises(RefsegError, match="no such file"):
        load_json(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_json(tmp_path)


def test_what_is_not_a_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        save_json({"a": float("nan")}, tmp_path / "a.json")


def test_the_docstrings_of_fields_are_read_each_as_one_line():
    assert field_docs(Outer) == {"width": "The width in pixels.", "rate": "The rate."}
    assert field_docs(Inner) == {}
