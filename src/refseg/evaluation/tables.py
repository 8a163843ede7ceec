"""What a report says, as tables and sentences without a look: Markdown and HTML are made of the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from refseg.evaluation.figures import About, about, interval, number
from refseg.evaluation.metrics import LENGTHS, SIZES, Outcome
from refseg.evaluation.published import Metric, Published, Source, published
from refseg.evaluation.result import Result

__all__ = ["MOST_GROUPS", "ORDER", "Cell", "Section", "Table", "percent", "sections"]

Cell: TypeAlias = str | tuple[Source, ...]
"""Words, or sources to link to."""
MOST_GROUPS = 40
"""Rows of a breakdown's table; data of one's own may have any number of groups."""
NAMES = {
    "mean_iou": "mean IoU",
    "overall_iou": "overall IoU",
    "mean_iou_by_reference": "mean IoU, each reference counted once",
    "pointing": "points at the meant object",
}
ABSENT_NAMES = {
    "n_acc": "N-acc: of those that fit nothing, answered so",
    "t_acc": "T-acc: of those that mean something, answered so",
    "giou": "gIoU, over all expressions",
    "ciou": "cIoU, over all expressions",
}
RULES = {
    "refseg": "masks are compared at each image's own size, and the threshold is that which the model was saved with",
    "cris": "CRIS' code: each image's own size, probability above 0.35, precision counts IoUs above its threshold",
    "lavt": "LAVT's code: masks are resized to 480 x 480, raw sentences, overlapping polygons are background",
    "gres": "ReLA's code: masks are resized to 480 x 480, fewer than 50 pixels say that nothing fits",
}
BREAKDOWN_NAMES = {
    "size": "size of what is meant",
    "words": "length of the expression",
    "location_words": "a word of place",
    "distractors": "others of the same kind",
    "style": "what the expression speaks of",
    "form": "form of the expression",
    "held_out": "held out of training",
    "targets": "things meant",
}
ORDER = {name: place for names in (SIZES, LENGTHS) for place, (_, name) in enumerate(names)}
"""Of groups that have one; the others come in that of their letters."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose first column heads its rows."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[int] = frozenset()
    """The columns of numbers."""
    ours: int | None = None
    """The row that stands out."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def sections(result: Result) -> tuple[Section, ...]:
    """Return the parts of a report that are words and numbers.

    Raises:
        DataError: the result is broken (see `figures.about`).
    """
    of = about(result)
    return (
        Section(title="What was measured", sentences=(_rule(of),), tables=(_facts(of),)),
        Section(title="Numbers", sentences=tuple(_remarks(of)), tables=(_ours(result.figures, of, result.outcomes),)),
        Section(
            title="Beside published numbers",
            sentences=tuple(_cautions(of)),
            tables=tuple(_beside(result.figures, of)),
        ),
        Section(
            title="Broken down", sentences=(BROKEN_DOWN,) if of.n else (), tables=tuple(_breakdowns(result.figures))
        ),
    )


BROKEN_DOWN = "Only expressions that mean something. A group of few expressions says little."


def percent(value: float | None) -> str:
    """Return a fraction in percent, or a dash where it is not known."""
    return "-" if value is None else f"{100 * value:.2f}"


def _rule(of: About) -> str:
    rule = RULES.get(of.protocol.name)
    return f"Counted by the protocol {of.protocol.name}" + (f": {rule}." if rule else ".")


def _facts(of: About) -> Table:
    rows = (
        ("model or predictions", of.made_by),
        ("data", f"{of.data}, split {of.split}"),
        ("scored", "the whole split" if of.whole else "a part of the split"),
        ("images", f"{of.num_images:,}"),
        ("references", f"{of.references:,}"),
        ("expressions", f"{of.expressions:,}"),
        ("cut off, being longer than the model reads", f"{of.truncated:,}"),
        ("protocol", of.protocol.name),
        ("digest of the data", of.digest[:16]),
        ("refseg", of.refseg),
    )
    return Table(caption="The data and the model", columns=("what", "value"), rows=rows)


def _remarks(of: About) -> Iterator[str]:
    yield (
        "Intervals are of 95 % confidence, from a bootstrap over images. Mean IoU is the mean over expressions; "
        "overall IoU is the sum of intersections over the sum of unions, which favours large objects."
    )
    if of.n_absent:
        yield (
            f"{of.n_absent:,} expressions fit nothing in their image. They count in N-acc, gIoU and cIoU, and in "
            "nothing else."
        )


def _ours(figures: dict[str, Any], of: About, outcomes: Sequence[Outcome]) -> Table:
    sign = ">" if of.protocol.strict else "≥"
    precisions = {f"precision@{one:.1f}": f"precision: IoU {sign} {one:.1f}" for one in of.protocol.thresholds}
    names = NAMES | precisions | (ABSENT_NAMES if of.n_absent else {})
    counts = {
        "n_acc": of.n_absent,
        "giou": of.n + of.n_absent,
        "ciou": of.n + of.n_absent,
        "mean_iou_by_reference": len({one.reference for one in outcomes if one.present}),
        "pointing": sum(one.present and one.pointed is not None for one in outcomes),
    }
    rows = []
    for name, words in names.items():
        value, edges = number(figures, name), interval(figures, name)
        if value is None:
            continue
        shown = "-" if edges is None else f"{percent(edges[0])} to {percent(edges[1])}"
        rows.append((words, percent(value), shown, f"{counts.get(name, of.n):,}"))
    return Table(
        caption="This result, in percent",
        columns=("metric", "value", "95 % interval", "n"),
        rows=tuple(rows),
        right=frozenset({1, 2, 3}),
    )


def _cautions(of: About) -> Iterator[str]:
    """Yield what stands against comparing with published numbers, or between them."""
    if not (published(of.data, of.split, "mIoU") or published(of.data, of.split, "oIoU")):
        yield f"No published numbers of {of.data}:{of.split} are known here."
        return
    if not of.whole:
        yield f"Not comparable: only a part of the split was scored ({of.num_images:,} images)."
    expected = of.published_references
    if expected not in (None, of.references):
        yield (
            f"Not comparable: {of.data}:{of.split} as published has {expected:,} references, "
            f"here were {of.references:,}."
        )
    yield (
        f"Counted by {of.protocol.name}. Published numbers were counted as their own code does, which is named where "
        "it is known; between such conventions scores differ by a few tenths of a point. Systems trained per set saw "
        "the training split of this set only; only like compares with like. Mean IoU and overall IoU are two "
        "metrics: neither table says anything about the other."
    )


def _beside(figures: dict[str, Any], of: About) -> Iterator[Table]:
    kinds: tuple[tuple[Metric, str], ...] = (("mIoU", "mean_iou"), ("oIoU", "overall_iou"))
    for metric, name in kinds:
        rows = published(of.data, of.split, metric)
        value = number(figures, name)
        if rows and value is not None:
            ours: tuple[Cell, ...] = (of.made_by, "", "this result", percent(value), "", of.protocol.name, "", "")
            yield Table(
                caption=f"{NAMES[name]} in percent, beside published {metric} of {of.data}:{of.split}",
                columns=(
                    *("system", "backbone", "training", metric, "this result minus it", "counted by", "source"),
                    "note",
                ),
                rows=(ours, *(_published_row(row, value if of.comparable else None) for row in rows)),
                right=frozenset({3, 4}),
                ours=0,
            )


def _published_row(row: Published, ours: float | None) -> tuple[Cell, ...]:
    return (
        row.system,
        row.backbone or "-",
        row.trained_on,
        f"{row.value:.2f}",
        "-" if ours is None else f"{100 * ours - row.value:+.2f}",
        row.counted_by or "not known",
        row.sources,
        row.note,
    )


def _breakdowns(figures: dict[str, Any]) -> Iterator[Table]:
    for name, groups in figures["by"].items():
        shown = sorted(groups.items(), key=lambda pair: (ORDER.get(pair[0], 0), pair[0]))
        if len(shown) > MOST_GROUPS:
            shown = sorted(shown, key=lambda pair: (-pair[1]["n"], pair[0]))[:MOST_GROUPS]
        title = BREAKDOWN_NAMES.get(name, name)
        more = f"; the {MOST_GROUPS} largest of {len(groups):,} groups" if len(groups) > MOST_GROUPS else ""
        pointing = any(number(brief, "pointing") is not None for _, brief in shown)
        metrics = ("mean_iou", "overall_iou", *(("pointing",) if pointing else ()))
        yield Table(
            caption=f"By {title}{more}, in percent",
            columns=(title, "n", *(NAMES[metric] for metric in metrics)),
            rows=tuple(
                (key, f"{brief['n']:,}", *(percent(number(brief, metric)) for metric in metrics))
                for key, brief in shown
            ),
            right=frozenset(range(1, 2 + len(metrics))),
        )
