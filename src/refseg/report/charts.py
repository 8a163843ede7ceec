"""Charts as SVG; they take their colours from the page and need no script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from jaxtyping import Float, Int64
from numpy import ndarray

from refseg.errors import counted
from refseg.evaluation.reliability import Reliability

__all__ = [
    "STYLE",
    "as_image",
    "histogram",
    "histogram_counts",
    "learning_curves",
    "precision_curve",
    "precision_curve_values",
    "reliability",
    "throughput_curves",
]

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
BARS = 20
STYLE = """
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); }
.guide { stroke: var(--soft); stroke-dasharray: 5 4; }
.gap { stroke: var(--gap); stroke-width: 1.5; }
.line { fill: none; stroke: var(--mark); stroke-width: 2; }
.band { opacity: .15; }
.mark { fill: var(--mark); }
""".strip()
"""CSS of the charts, with the colours of a page."""
IMAGE_STYLE = "svg { --soft: #5b5f6a; --line: #d5d8de; --mark: #2160c4; --gap: #b3261e; background: #ffffff; }"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Of several lines, which people with any colour vision can tell apart (Okabe and Ito)."""
LABEL_HEIGHT, LETTER_WIDTH = 14, 7.2
"""Least distance of the names of two lines, and the width of a letter, at most but for a few wide ones; pixels."""


def histogram_counts(ious: Float[ndarray, "N"]) -> Int64[ndarray, "20"]:
    """Return how many IoUs lie in each twentieth of 0..1; the last one includes 1."""
    places = np.minimum((ious * BARS).astype(np.int64), BARS - 1)
    return np.bincount(places, minlength=BARS).astype(np.int64)


def histogram(ious: Float[ndarray, "N"]) -> str:
    """Return a histogram of IoUs, in twenty bars."""
    counts = histogram_counts(ious)
    top = _round_up(int(counts.max()) if len(ious) else 1)
    bars = [
        f'<rect class="mark" x="{_x(i / BARS) + 1:.1f}" y="{_y(count / top):.1f}" '
        f'width="{INNER_WIDTH / BARS - 2:.1f}" height="{INNER_HEIGHT * count / top:.1f}"/>'
        for i, count in enumerate(counts.tolist())
    ]
    return _frame(
        "IoU of the expressions",
        f"Histogram of {len(ious)} IoUs in twenty bars; the numbers are in the table below.",
        ("IoU", "expressions"),
        bars,
        [(share, f"{share * top:g}") for share in (0, 0.5, 1)],
    )


def precision_curve_values(
    ious: Float[ndarray, "N"], thresholds: Float[ndarray, "T"], *, strict: bool
) -> Float[ndarray, "T"]:
    """Return the share of IoUs that are at least each threshold, or that exceed it if `strict`."""
    ordered = np.sort(ious)
    below = np.searchsorted(ordered, thresholds, side="right" if strict else "left")
    return 1 - below / max(len(ious), 1)


def precision_curve(ious: Float[ndarray, "N"], marked: Sequence[float], *, strict: bool) -> str:
    """Return a curve of the share of expressions with an IoU of each threshold or more, with some thresholds marked."""
    thresholds = np.linspace(0, 1, 201)
    line = precision_curve_values(ious, thresholds, strict=strict)
    points = " ".join(f"{_x(x):.1f},{_y(y):.1f}" for x, y in zip(thresholds, line, strict=True))
    at = np.array(marked, dtype=float)
    dots = [
        f'<circle class="mark" cx="{_x(x):.1f}" cy="{_y(y):.1f}" r="3.5"/>'
        for x, y in zip(at, precision_curve_values(ious, at, strict=strict), strict=True)
        if 0 <= x <= 1
    ]
    return _frame(
        "Precision at every threshold",
        f"The share of {counted(len(ious), 'expression')} whose IoU {'exceeds' if strict else 'reaches'} a threshold; "
        "the numbers are in the table below.",
        ("threshold of the IoU", "share of expressions"),
        [f'<polyline class="line" points="{points}"/>', *dots],
        _SHARES,
    )


def reliability(calibration: Reliability) -> str:
    """Return a reliability diagram: mean IoU over mean score of each bin; larger dots have more expressions."""
    most = max(one.n for one in calibration.bins)
    shown = [(one.score, one.iou, one.n) for one in calibration.bins if one.score is not None and one.iou is not None]
    diagonal = f'<line class="guide" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>'
    gaps = [
        f'<line class="gap" x1="{_x(x):.1f}" x2="{_x(x):.1f}" y1="{_y(x):.1f}" y2="{_y(y):.1f}"/>' for x, y, _ in shown
    ]
    dots = [
        f'<circle class="mark" cx="{_x(x):.1f}" cy="{_y(y):.1f}" r="{3 + 6 * (n / most) ** 0.5:.1f}"/>'
        for x, y, n in shown
    ]
    return _frame(
        "Calibration of the score",
        f"Mean IoU over mean score, for ten bins of the score; expected calibration error {calibration.error:.3f}. On "
        "the dashed diagonal the score equals the IoU; below it the model is overconfident.",
        ("mean score", "mean IoU"),
        [diagonal, *gaps, *dots],
        _SHARES,
    )


def throughput_curves(expressions: Sequence[int], series: Mapping[str, Sequence[float]]) -> str:
    """Return a curve of what is answered a second, for each name, over the number of expressions in a call."""
    top = _round_up(math.ceil(max(max(values) for values in series.values())))
    places = np.linspace(0, 0.8, len(expressions)).tolist()  # the names are at the right
    marks = []
    for name, values in series.items():
        points = [(_x(place), _y(value / top)) for place, value in zip(places, values, strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        x, y = points[-1]
        marks += [
            f'<polyline class="line" points="{line}"/>',
            *(f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>' for x, y in points),
            f'<text x="{x + 6:.1f}" y="{y + 4:.1f}">{escape(name)}</text>',
        ]
    return _frame(
        "Throughput",
        "Expressions answered a second, with the encoding of an image, over the expressions in a call; the numbers are "
        "in the table.",
        ("expressions in a call", "expressions a second"),
        marks,
        [(share, f"{share * top:g}") for share in (0, 0.5, 1)],
        [(place, f"{count}") for place, count in zip(places, expressions, strict=True)],
    )


def learning_curves(series: Mapping[str, Sequence[Sequence[tuple[int, float]]]]) -> str:
    """Return the validations of each row during training: the mean over its runs, and a band around all of them.

    Args:
        series: step and mean IoU (0..1) of each validation, for each run of each row; runs of a row have equal steps.
    """
    last = max(curve[-1][0] for runs in series.values() for curve in runs)
    longest = LETTER_WIDTH * max(map(len, series))
    end = min(0.8, 1 - (longest + 6 - RIGHT) / INNER_WIDTH)  # the names are at the right
    marks, ends = [], []
    for number, (name, runs) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [_x(end * step / last) for step, _ in runs[0]]
        values = np.array([[iou for _, iou in curve] for curve in runs])
        low, high, mean = (
            [f"{x:.1f},{_y(y):.1f}" for x, y in zip(places, line.tolist(), strict=True)]
            for line in (values.min(axis=0), values.max(axis=0), values.mean(axis=0))
        )
        marks.append(f'<polygon class="band" fill="{colour}" points="{" ".join([*low, *reversed(high)])}"/>')
        marks.append(f'<polyline class="line" style="stroke: {colour}" points="{" ".join(mean)}"/>')
        ends.append((_y(float(values.mean(axis=0)[-1])), name, colour))
    lowest = -math.inf
    for y, name, colour in sorted(ends):
        lowest = max(y + 4, lowest + LABEL_HEIGHT)
        marks.append(f'<text x="{_x(end) + 6:.1f}" y="{lowest:.1f}" style="fill: {colour}">{escape(name)}</text>')
    return _frame(
        "Learning curves",
        "Mean IoU of the validation images over the steps of the training: the mean over the runs of each row, and a "
        "band around all of them.",
        ("step", "mean IoU"),
        marks,
        _SHARES,
        [(end * share / 4, f"{last * share / 4:,.0f}") for share in range(5)],
    )


def as_image(chart: str) -> str:
    """Return a chart as an SVG file of its own."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" height="{2 * HEIGHT}"'
    opened, rest = chart.removeprefix("<svg").split(">", 1)
    return f"{head}{opened}>\n<style>{IMAGE_STYLE}\n{STYLE}</style>{rest}\n"


_SHARES = [(share / 4, f"{share / 4:g}") for share in range(5)]
_FIFTHS = [(share / 5, f"{share / 5:g}") for share in range(6)]


def _x(value: float) -> float:
    return LEFT + INNER_WIDTH * value


def _y(value: float) -> float:
    return TOP + INNER_HEIGHT * (1 - value)


def _round_up(count: int) -> int:
    """Return a round even number that is not below a count."""
    step = 2 * int(10 ** max(len(str(count)) - 2, 0))
    return max(1, -(-count // step)) * step


def _frame(
    title: str,
    description: str,
    axes: tuple[str, str],
    marks: Iterable[str],
    ticks: Iterable[tuple[float, str]],
    columns: Iterable[tuple[float, str]] = _FIFTHS,
) -> str:
    """Return a chart: marks over a grid. Both axes run from 0 to 1; `ticks` and `columns` label them."""
    name = "".join(letter for letter in title.lower() if letter.isalpha())
    grid = [
        f'<line class="grid" x1="{_x(0)}" x2="{_x(1)}" y1="{_y(place):.1f}" y2="{_y(place):.1f}"/>'
        f'<text x="{LEFT - 8}" y="{_y(place) + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        for place, label in ticks
    ]
    below = [
        f'<text x="{_x(place):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{escape(label)}</text>'
        for place, label in columns
    ]
    middle = TOP + INNER_HEIGHT / 2
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{name}-title {name}-text">',
            f'<title id="{name}-title">{escape(title)}</title>',
            f'<desc id="{name}-text">{escape(description)}</desc>',
            *grid,
            *below,
            *marks,
            f'<text x="{_x(0.5)}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axes[0])}</text>',
            f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">'
            f"{escape(axes[1])}</text>",
            "</svg>",
        ]
    )
