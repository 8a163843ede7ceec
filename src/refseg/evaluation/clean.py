"""Metrics of a result without the images that the model was trained on, and of those images alone."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from refseg.data.dataset import DataSet
from refseg.errors import DataError
from refseg.evaluation.metrics import intervals, summarise
from refseg.evaluation.protocols import Protocol, protocol
from refseg.evaluation.result import Result

__all__ = ["check_same_data", "protocol_of", "score_parts"]


def protocol_of(result: Result) -> Protocol:
    """Return the protocol by which a result was counted.

    Raises:
        UnknownNameError: its protocol is not known.
        DataError: it names none.
    """
    try:
        return protocol(result.figures["protocol"]["name"])
    except (KeyError, TypeError):
        raise DataError("the result does not name the protocol by which it was counted; score it again") from None


def check_same_data(result: Result, data: DataSet) -> None:
    """Check that a result is of a split.

    Raises:
        DataError: it is of another split, or the split has changed since.
    """
    about = result.figures.get("data", {})
    if (about.get("name"), about.get("split")) != (data.name, data.split):
        scored = f"{about.get('name')}:{about.get('split')}"
        raise DataError(f"the result is of {scored}, not of {data.name}:{data.split}; name that data set")
    if about.get("digest") != data.digest():
        raise DataError(f"{data.name}:{data.split} is not the data that was scored: it has changed; score it again")


def score_parts(result: Result, leaked: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the metrics, the intervals and the number of images of `all`, of `clean` and of `leaked` images.

    Args:
        result: of the whole split.
        leaked: images, by `image_id`.
    """
    rules = protocol_of(result)
    parts = {
        "all": result.outcomes,
        "clean": tuple(one for one in result.outcomes if one.image not in leaked),
        "leaked": tuple(one for one in result.outcomes if one.image in leaked),
    }
    return {
        name: {
            "images": len({one.image for one in outcomes}),
            **summarise(outcomes, rules),
            "intervals": intervals(outcomes, rules),
        }
        for name, outcomes in parts.items()
    }
