"""Converts frozen dataclasses to JSON and back; unknown fields and values of a wrong type are errors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import types
import typing
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from refseg.errors import ConfigError, did_you_mean
from refseg.files import write_text

__all__ = ["field_docs", "from_dict", "load_json", "replace", "save_json", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config dataclass as plain JSON values: tuples become lists, nested configs become objects."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config), allow_nan=False))
    return plain


def from_dict(kind: type[T], values: Any, *, where: str = "config") -> T:
    """Build a config from JSON values: lists become tuples, objects nested configs, and integers floats where needed.

    Args:
        kind: the dataclass.
        values: a JSON object with its fields.
        where: the name of the object in error messages.

    Raises:
        ConfigError: a field is unknown or missing, or a value has a wrong type; the message names the field.
    """
    assert dataclasses.is_dataclass(kind)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: expected an object with the fields of {kind.__name__}, got {_shown(values)}")
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for key in values:
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise ConfigError(f"{where}: unknown field {key!r}{did_you_mean(str(key), fields)}; known are: {known}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: field {name!r} is missing")
    hints = typing.get_type_hints(kind)
    return kind(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in values.items()})


def field_docs(kind: type[Any]) -> dict[str, str]:
    """Return the docstrings below the fields of a dataclass, each as one line; fields of its bases are left out.

    Python does not keep them, so that they are read from the source.
    """
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        node.target.id: " ".join(text.split())
        for node, below in pairwise(definition.body)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        if isinstance(text := below.value.value, str)
    }


def replace(config: T, **changes: Any) -> T:
    """Return a copy of a config with some fields changed; the values are checked as by `from_dict`.

    Raises:
        ConfigError: a field is unknown, or a value has a wrong type.
    """
    return from_dict(type(config), {**to_dict(config), **{key: _plain(value) for key, value in changes.items()}})


def save_json(values: Any, path: Path) -> None:
    """Write JSON values, indented, with a newline at the end; the file is written completely or not at all.

    Raises:
        OutputError: the file cannot be written.
        ValueError: a number is not finite.
    """
    write_text(path, json.dumps(values, indent=2, allow_nan=False) + "\n")


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file is missing, unreadable, not JSON, or not an object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {_shown(values)}")
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    return list(value) if isinstance(value, tuple) else value


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast("type[Any]", hint), value, where=where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        inner = [argument for argument in arguments if argument is not type(None)]
        return _convert(_fitting(inner, value), value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {_shown(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
        hints = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(hints) != len(value):
            raise ConfigError(f"{where}: expected {len(hints)} values, got {len(value)}")
        return tuple(
            _convert(inner, item, f"{where}[{i}]") for i, (inner, item) in enumerate(zip(hints, value, strict=True))
        )
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"{where}: expected {hint.__name__}, got {_shown(value)}")
    return value


def _fitting(kinds: list[Any], value: Any) -> Any:
    """Return the type of a union for a value: the first dataclass that has all fields of the value, else the first."""
    given = set(value) if isinstance(value, dict) else set()
    for kind in kinds:
        if dataclasses.is_dataclass(kind) and given <= {field.name for field in dataclasses.fields(kind)}:
            return kind
    return kinds[0]


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"
