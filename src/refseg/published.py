"""Published scores on the RefCOCO family, read from `published.csv`: a row is a row of a paper's table.

Overall IoU (oIoU), which many papers call cIoU, and mean IoU (mIoU) are different metrics and never share a row. The
columns `DATA:SPLIT` hold percentages. `sources` names where the numbers were read, `NAME <URL>` joined by semicolons;
`note` says where the kind of IoU, or a number, was inferred.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Literal, TypeAlias

__all__ = [
    "METRIC_NAMES",
    "Metric",
    "Published",
    "Source",
    "all_published",
    "catalogue_name",
    "published",
    "published_scores",
]

Metric: TypeAlias = Literal["mIoU", "oIoU"]
TRAINED_ON = ("per set", "mixed", "zero-shot")
"""On the training split of the one set; on several sets or other data too; or on none of them."""
METRIC_NAMES = {"mIoU": "mean IoU", "oIoU": "overall IoU"}
OTHER_NAMES: MappingProxyType[str, str] = MappingProxyType(
    {
        "cris/refcoco": "refcoco",
        "cris/refcoco+": "refcoco+",
        "cris/refcocog_u": "refcocog-umd",
        "cris/refcocog_g": "refcocog-google",
    }
)
"""The names of the sets in files that were prepared for the reference CRIS."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a number was read."""

    name: str
    url: str = ""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published number."""

    system: str
    backbone: str
    """Empty if it is not known."""
    metric: Metric
    data: str
    """The name of a data set in `refseg.data.catalogue.DATA_SETS`."""
    split: str
    value: float
    """Percent."""
    trained_on: str
    """One of `TRAINED_ON`."""
    sources: tuple[Source, ...]
    counted_by: str | None
    """The protocol of `refseg.evaluation.protocols` that its code follows; None if that is not known."""
    note: str


@cache
def all_published() -> tuple[Published, ...]:
    """Return every published number, in the order of the file."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as file:
        return tuple(number for row in csv.DictReader(file) for number in _numbers(row))


def _numbers(row: dict[str, str]) -> Iterator[Published]:
    for column, value in row.items():
        data, colon, split = column.partition(":")
        if colon and value:
            yield Published(
                system=row["system"],
                backbone=row["backbone"],
                metric="mIoU" if row["metric"] == "mIoU" else "oIoU",
                data=data,
                split=split,
                value=float(value),
                trained_on=row["trained_on"],
                sources=tuple(_source(text) for text in row["sources"].split("; ")),
                counted_by=row["counted_by"] or None,
                note=row["note"],
            )


def _source(text: str) -> Source:
    name, _, url = text.partition(" <")
    return Source(name=name, url=url.removesuffix(">"))


def catalogue_name(data: str) -> str:
    """Return the catalogue's name of a data set; files prepared for the reference CRIS call it otherwise."""
    return OTHER_NAMES.get(data, data)


def published(data: str, split: str, metric: Metric) -> tuple[Published, ...]:
    """Return the numbers of one split and metric, grouped by `trained_on` in the order of `TRAINED_ON`, best first."""
    wanted = (catalogue_name(data), split, metric)
    found = [row for row in all_published() if (row.data, row.split, row.metric) == wanted]
    return tuple(sorted(found, key=lambda row: (TRAINED_ON.index(row.trained_on), -row.value, row.system)))


def published_scores(system: str, backbone: str, metric: Metric = "mIoU") -> str:
    """Return the numbers of one system in one line, such as `mean IoU: refcoco 69.52/72.72/64.70, refcoco+ ...`.

    Args:
        system: as in the file.
        backbone: as in the file.
        metric: the kind of IoU.

    Raises:
        LookupError: the file has no such row.
    """
    found = [row for row in all_published() if (row.system, row.backbone, row.metric) == (system, backbone, metric)]
    if not found:
        raise LookupError(f"no published {metric} of {system} on {backbone}")
    sets = groupby(found, key=lambda row: row.data)
    texts = (f"{data} {'/'.join(f'{row.value:.2f}' for row in rows)}" for data, rows in sets)
    return f"{METRIC_NAMES[metric]}: {', '.join(texts)}"
