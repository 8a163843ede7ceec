"""JSON as its standard defines it: Python's reader also accepts NaN and infinities."""

from __future__ import annotations

import json
from typing import Any, NoReturn

__all__ = ["loads"]


def loads(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: it is not valid JSON, or holds NaN or an infinity.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, parse_constant=_refuse)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number of JSON")
