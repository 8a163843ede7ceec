"""The text and the tables of a report; Markdown and HTML are made from the same ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from refseg.errors import counted
from refseg.evaluation.about import About, about, interval, number
from refseg.evaluation.metrics import Outcome, sorted_groups
from refseg.evaluation.result import Result
from refseg.published import Metric, Published, published
from refseg.writers.table import Cell, Table, percent, shortened

__all__ = ["Section", "sections", "summary"]

MAX_GROUPS = 40
"""Rows of a breakdown's table; data sets may have any number of groups."""
NAMES = {
    "mean_iou": "mean IoU",
    "overall_iou": "overall IoU",
    "mean_iou_by_reference": "mean IoU, each reference counted once",
    "pointing": "pointing: overlaps the target most",
    "box_accuracy": "detected boxes with IoU ≥ 0.5",
}
ABSENT_NAMES = {
    "n_acc": "N-acc: no-target expressions answered so",
    "t_acc": "T-acc: expressions with a target answered so",
    "giou": "gIoU, over all expressions",
    "ciou": "cIoU, over all expressions",
}
RULES = {
    "refseg": "masks are compared at each image's own size, by the model's own thresholds",
    "cris": "as the code of CRIS: each image's own size, probability above 0.35, precision counts IoUs above X",
    "lavt": "as the code of LAVT: masks are resized to 480 x 480, raw sentences, overlapping polygons are background",
    "gres": "as the code of ReLA: masks are resized to 480 x 480, fewer than 50 pixels mean that nothing fits",
}
BREAKDOWN_NAMES = {
    "size": "size of the target",
    "words": "length of the expression",
    "location_words": "location words",
    "distractors": "distractors of the same category",
    "style": "style of the expression",
    "form": "form of the expression",
    "held_out": "held out of training",
    "targets": "number of targets",
}


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of a report: sentences, then tables."""

    title: str
    sentences: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


def sections(result: Result) -> tuple[Section, ...]:
    """Return the parts of a report that are text and numbers.

    Raises:
        DataError: the result is broken (see `evaluation.about`).
    """
    of = about(result)
    return (
        Section(title="Data and model", sentences=(_rule(of),), tables=(_facts(of),)),
        Section(
            title="Metrics", sentences=tuple(_remarks(of)), tables=(_metrics(result.figures, of, result.outcomes),)
        ),
        Section(
            title="Published numbers",
            sentences=tuple(_cautions(of)),
            tables=tuple(_beside(result.figures, of)),
        ),
        Section(title="Breakdown", sentences=(BROKEN_DOWN,) if of.n else (), tables=tuple(_breakdowns(result.figures))),
    )


def summary(result: Result) -> tuple[str, Table]:
    """Return what a result is of in one line, and its metrics.

    Raises:
        DataError: the result is broken (see `evaluation.about`).
    """
    of = about(result)
    part = "" if of.whole else ", a part of the split"
    counts = f"{counted(of.num_images, 'image')}, {counted(of.expressions, 'expression')}{part}"
    title = f"{shortened(of.made_by)} on {of.data}:{of.split}: {counts}; protocol {of.protocol.name}, in percent"
    return title, _metrics(result.figures, of, result.outcomes)


BROKEN_DOWN = "Only expressions with a target. A group of few expressions says little."


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
        ("truncated expressions", f"{of.truncated:,}"),
        ("rows of the data that could not be read", f"{of.skipped:,}"),
        ("protocol", of.protocol.name),
        ("digest of the data", of.digest[:16]),
        ("refseg", of.refseg),
    )
    return Table(caption="The data and the model", columns=("fact", "value"), rows=rows)


def _remarks(of: About) -> Iterator[str]:
    yield (
        "Intervals are of 95 % confidence, from a bootstrap over images. Mean IoU is the mean over expressions; "
        "overall IoU is the sum of intersections over the sum of unions, which gives large objects more weight."
    )
    if of.n_absent:
        fit = counted(of.n_absent, "expression fits nothing in its", "expressions fit nothing in their")
        yield f"{fit} image. This counts only in N-acc, gIoU and cIoU."


def _metrics(figures: dict[str, Any], of: About, outcomes: Sequence[Outcome]) -> Table:
    sign = ">" if of.protocol.strict else "≥"
    precisions = {f"precision@{one:.1f}": f"precision: IoU {sign} {one:.1f}" for one in of.protocol.thresholds}
    names = NAMES | precisions | (ABSENT_NAMES if of.n_absent else {})
    counts = {
        "n_acc": of.n_absent,
        "giou": of.n + of.n_absent,
        "ciou": of.n + of.n_absent,
        "mean_iou_by_reference": len({one.reference for one in outcomes if one.present}),
        "pointing": sum(one.present and one.points_at_target is not None for one in outcomes),
        "box_accuracy": sum(one.box_iou is not None for one in outcomes),
    }
    rows = []
    for name, title in names.items():
        value, edges = number(figures, name), interval(figures, name)
        if value is None:
            continue
        shown = "-" if edges is None else f"{percent(edges[0])} to {percent(edges[1])}"
        rows.append((title, percent(value), shown, f"{counts.get(name, of.n):,}"))
    return Table(
        caption="This result, in percent",
        columns=("metric", "value", "95 % interval", "n"),
        rows=tuple(rows),
        right=frozenset({1, 2, 3}),
    )


def _cautions(of: About) -> Iterator[str]:
    """Yield the limits of a comparison with the published numbers."""
    if not (published(of.data, of.split, "mIoU") or published(of.data, of.split, "oIoU")):
        yield f"No published numbers of {of.data}:{of.split} are known."
        return
    if not of.whole:
        yield f"Not comparable: only a part of the split was scored ({counted(of.num_images, 'image')})."
    expected = of.published_references
    if expected not in (None, of.references):
        yield (
            f"Not comparable: {of.data}:{of.split} as published has {expected:,} references, "
            f"scored were {of.references:,}."
        )
    yield (
        f"Counted by {of.protocol.name}. Published numbers were counted by the code of their authors; its protocol is "
        "named where it is known. Between protocols scores differ by a few tenths of a point. Systems trained per set "
        "used the training split of this set only; compare only systems with the same training. Mean IoU and overall "
        "IoU are different metrics and must not be compared with each other."
    )


def _beside(figures: dict[str, Any], of: About) -> Iterator[Table]:
    kinds: tuple[tuple[Metric, str], ...] = (("mIoU", "mean_iou"), ("oIoU", "overall_iou"))
    for metric, name in kinds:
        rows = published(of.data, of.split, metric)
        value = number(figures, name)
        if rows and value is not None:
            ours: tuple[Cell, ...] = (of.made_by, "", "this result", percent(value), "", of.protocol.name, "", "")
            yield Table(
                caption=f"{NAMES[name]} in percent, and published {metric} of {of.data}:{of.split}",
                columns=(
                    *("system", "backbone", "training", metric, "difference of this result", "counted by", "source"),
                    "note",
                ),
                rows=(ours, *(_published_row(row, value if of.comparable else None) for row in rows)),
                right=frozenset({3, 4}),
                highlighted=0,
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
        shown = [(key, groups[key]) for key in sorted_groups(groups)]
        if len(shown) > MAX_GROUPS:
            shown = sorted(shown, key=lambda pair: (-pair[1]["n"], pair[0]))[:MAX_GROUPS]
        title = BREAKDOWN_NAMES.get(name, name)
        more = f"; the {MAX_GROUPS} largest of {len(groups):,} groups" if len(groups) > MAX_GROUPS else ""
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
