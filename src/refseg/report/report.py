"""A stored result as a report to read: Markdown, or one HTML file with charts and images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from refseg.data.dataset import DataSet
from refseg.errors import DataError, counted
from refseg.evaluation.about import About, about
from refseg.evaluation.metrics import Outcome, ratios
from refseg.evaluation.predictions import Predictions
from refseg.evaluation.protocols import Protocol
from refseg.evaluation.reliability import Reliability, measure_reliability
from refseg.evaluation.result import Result
from refseg.report.charts import histogram, histogram_counts, precision_curve, precision_curve_values, reliability
from refseg.report.gallery import Gallery, Group, groups
from refseg.report.page import page, panel, table
from refseg.report.sections import Section, sections
from refseg.writers import table as tables
from refseg.writers.html import escaped, paragraph
from refseg.writers.table import Table, markdown_text, percent

__all__ = ["LIMIT", "html", "markdown"]

LIMIT = 3_000_000
"""Bytes of an HTML report; images beyond it are left out."""


def markdown(result: Result) -> str:
    """Return a report in Markdown: the metrics, published numbers of the same data, and breakdowns.

    Raises:
        DataError: the result is broken.
    """
    parts = [f"# {markdown_text(_title(about(result)))}"]
    for section in sections(result):
        parts.append(f"## {section.title}")
        parts.extend(map(markdown_text, section.sentences))
        parts.extend(map(tables.markdown, section.tables))
    return "\n\n".join(parts) + "\n"


def _title(of: About) -> str:
    return f"{of.made_by} on {of.data}:{of.split}"


# ── HTML ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def html(
    result: Result,
    *,
    data: DataSet | None = None,
    predictions: Predictions | None = None,
    other: Predictions | None = None,
    limit: int = LIMIT,
) -> str:
    """Return a report as one HTML file that needs no other file: tables, charts and images.

    Args:
        result: of an evaluation.
        data: of the result, for the images; None leaves the images out.
        predictions: the masks that were scored.
        other: a second model's masks of the same expressions.
        limit: bytes of the whole file; images beyond it are left out.

    Raises:
        DataError: the result is broken, it is not of the data, the predictions are of another model or file than the
            result, or an expression is missing from the data or from the predictions.
    """
    of = about(result)
    if data is not None and data.digest() != of.digest:
        raise DataError(f"{data.name}:{data.split} is not the data that was scored: the digests differ")
    body = [part for section in sections(result) for part in _section(section)]
    body += _charts(result.outcomes, of.protocol)
    if data is None:
        body.append("<h2>Images</h2>")
        body.append(paragraph("Left out: images need the data and the stored predictions."))
    else:
        if predictions is not None:
            _check_scored(of, predictions)
        gallery = Gallery(data=data, protocol=of.protocol, model=of.made_by, predictions=predictions, other=other)
        chosen = groups(result.outcomes, gallery)
        room = limit - len(page(_title(of), [*body, *_arrange(chosen, {})]).encode())
        body += _arrange(chosen, _draw(chosen, gallery, room))
    return page(_title(of), body)


def _check_scored(of: About, predictions: Predictions) -> None:
    """Check that predictions are of the model, or in the file, that was scored.

    Raises:
        DataError: they are not.
    """
    remedy = "those of a second model are --other-predictions"
    if of.predictions not in (None, predictions.sha256):
        raise DataError(f"{predictions.path}: is not the file that was scored, or has changed since; {remedy}")
    if of.fingerprint is None or of.fingerprint == predictions.fingerprint:
        return
    if predictions.fingerprint is None:
        problem = "does not say of each mask that the model of the result made it"
    else:
        problem = f"its masks are of another model ({predictions.model}) than the result ({of.made_by})"
    raise DataError(f"{predictions.path}: {problem}; give the file that --save wrote; {remedy}")


def _section(section: Section) -> list[str]:
    title = f"<h2>{escaped(section.title)}</h2>"
    return [title, *map(paragraph, section.sentences), *map(table, section.tables)]


def _charts(outcomes: Sequence[Outcome], protocol: Protocol) -> Iterator[str]:
    present = np.array([one.present for one in outcomes], dtype=bool)
    ious, scores = _ious(outcomes, protocol), np.array([one.score for one in outcomes], dtype=float)
    if not present.any():
        return
    reached = np.where(_nothing_fits(outcomes, protocol), 0.0, ious) if protocol.name == "gres" else ious
    yield "<h2>Distribution of the IoU</h2>"
    yield '<div class="charts">'
    yield _chart("IoU of the expressions", histogram(ious[present]), _histogram_table(ious[present]))
    curve = precision_curve(reached[present], protocol.thresholds, strict=protocol.strict)
    yield _chart("Precision at every threshold", curve, _precision_table(reached[present], protocol.strict))
    yield "</div>"
    yield "<h2>Calibration of the score</h2>"
    found = measure_reliability(scores[present], ious[present])
    yield from map(paragraph, _about_calibration(found, measure_reliability(scores, ious), scores))
    yield '<div class="charts">'
    yield _chart("Calibration of the score", reliability(found), _calibration_table(found))
    yield "</div>"


def _ious(outcomes: Sequence[Outcome], protocol: Protocol) -> Float[ndarray, "N"]:
    """Return IoUs by a protocol's rule, 0 for expressions that fit nothing."""
    return ratios(outcomes, protocol)["mean_iou"][0]


def _nothing_fits(outcomes: Sequence[Outcome], protocol: Protocol) -> ndarray:
    """Return where the answer is that nothing fits; ReLA's precision counts those as IoU 0 whatever their mask."""
    return np.array([one.empty or one.predicted_pixels < protocol.min_pixels for one in outcomes], dtype=bool)


def _chart(title: str, drawing: str, numbers: Table) -> str:
    return (
        f'<figure class="chart"><figcaption>{escaped(title)}</figcaption>\n{drawing}\n'
        f"<details><summary>Numbers</summary>{table(numbers)}</details></figure>"
    )


def _histogram_table(ious: Float[ndarray, "N"]) -> Table:
    counts = histogram_counts(ious).tolist()
    rows = tuple((f"{i / len(counts):.2f} to {(i + 1) / len(counts):.2f}", f"{n:,}") for i, n in enumerate(counts))
    return Table(caption="Expressions by IoU", columns=("IoU", "expressions"), rows=rows, right=frozenset({1}))


def _precision_table(ious: Float[ndarray, "N"], strict: bool) -> Table:
    thresholds = np.arange(11) / 10
    shares = precision_curve_values(ious, thresholds, strict=strict)
    return Table(
        caption="Share of expressions, in percent",
        columns=(f"IoU {'>' if strict else '≥'}", "share"),
        rows=tuple((f"{x:.1f}", percent(y)) for x, y in zip(thresholds.tolist(), shares.tolist(), strict=True)),
        right=frozenset({1}),
    )


def _calibration_table(calibration: Reliability) -> Table:
    rows = tuple(
        (f"{one.low:.1f} to {one.high:.1f}", f"{one.n:,}", _decimal(one.score), _decimal(one.iou))
        for one in calibration.bins
    )
    return Table(
        caption="Bins of the score",
        columns=("score", "n", "mean score", "mean IoU"),
        rows=rows,
        right=frozenset({1, 2, 3}),
    )


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _about_calibration(present: Reliability, every: Reliability, scores: Float[ndarray, "N"]) -> Iterator[str]:
    yield (
        f"Expected calibration error {present.error:.3f} over {counted(present.n, 'expression')} with a target: the "
        "mean distance between the mean score and the mean IoU of ten bins of the score, weighted by their size. The "
        "score is the IoU to expect; above the diagonal the model is underconfident, below it overconfident."
    )
    if every.n > present.n:
        yield f"Over all {every.n:,} expressions, with an IoU of 0 where nothing fits, it is {every.error:.3f}."
    if np.isin(scores, (0.0, 1.0)).all():
        yield "Every score is 0 or 1, as for stored masks without scores; then this says nothing about a model."


LEGEND = (
    "Masks are tinted pink and outlined, the rest is darkened. The kinds of failure below are assigned by the rule "
    "under each title; they are hints, not diagnoses, and one expression can be of several kinds or of none."
)
LINK = 600
"""Bytes reserved for a link to an expression that is shown in another group."""


def _draw(chosen: Sequence[Group], gallery: Gallery, room: int) -> dict[str, str]:
    """Return the panels that fit into `room` bytes, by expression: the first of every group, then the second..."""
    room -= LINK * sum(len(group.chosen) for group in chosen)
    panels: dict[str, str] = {}
    for one in _in_turn(chosen):
        if one.id not in panels:
            shown = panel(gallery.panel(one), _name(len(panels)))
            if len(shown.encode()) < room:
                room -= len(shown.encode())
                panels[one.id] = shown
    return panels


def _in_turn(chosen: Sequence[Group]) -> Iterator[Outcome]:
    for rank in range(max((len(group.chosen) for group in chosen), default=0)):
        for group in chosen:
            if rank < len(group.chosen):
                yield group.chosen[rank]


def _name(number: int) -> str:
    return f"panel-{number + 1}"


def _arrange(chosen: Sequence[Group], panels: dict[str, str]) -> Iterator[str]:
    """Yield the groups with their panels; an expression of several groups is shown once and linked from the others."""
    yield "<h2>Images</h2>"
    yield paragraph(LEGEND)
    names = {id: _name(number) for number, id in enumerate(panels)}
    done: set[str] = set()
    for group in chosen:
        yield f"<h3>{escaped(group.title)}</h3>"
        yield paragraph(f"{group.rule} {group.size}".strip())
        for one in group.chosen:
            if one.id in panels and one.id not in done:
                yield panels[one.id]
                done.add(one.id)
            elif one.id in panels:
                link = f'<a href="#{names[one.id]}"><bdi>{escaped(one.expression[:80])}</bdi></a>'
                yield f"<p>Also of this kind, shown above: {link}.</p>"
        left_out = sum(one.id not in panels for one in group.chosen)
        if left_out:
            yield paragraph(f"{left_out} more left out to keep this file small.")
