"""Statistics of a data set by split: counts, lengths of expressions, areas of masks."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from refseg.data.dataset import DataSet
from refseg.data.words import has_location_word
from refseg.inputs.clip_bpe import WORD_LENGTH, Tokenizer
from refseg.values import Sample
from refseg.writers.table import Table
from refseg.writers.table import markdown as markdown_table

__all__ = ["markdown", "plot", "statistics"]

TOTAL = "total"
MOST_WORDS = 15
"""Longest bin of the histogram in words; longer expressions are counted together."""
AREAS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
"""Lower edges of the bins of the histogram of mask areas, as fractions of the image; about logarithmic."""


def statistics(
    data: DataSet, *, word_length: int = WORD_LENGTH, masks: bool = False, progress: bool = False
) -> dict[str, Any]:
    """Return the statistics of each split, and of all together where there are several, as JSON values.

    They are `name`, `word_length`, `skipped` (rows that cannot be used) and, for each of `splits`: `images`,
    `references`, `expressions`; `expressions_per_reference`; `words` of an expression (`min`, `mean`, `max`); the
    fractions of expressions with a location word (`location_words`) and with more tokens than `word_length`
    (`over_limit`); the fraction of references without a target (`no_target`); `distractors`, other objects of the
    target's kind, where their number is known (`known` references, `mean`, and the fraction with `any`); `mask_area`
    as a fraction of the image (`quartiles`, and the number of `masks`), if requested; and `histograms` of words and
    areas.

    Args:
        data: the data set.
        word_length: tokens that the model reads of an expression, start and end included.
        masks: whether to paint all masks, which takes about a millisecond for each.
        progress: whether to show a progress bar once it takes long.

    Raises:
        DataError: a mask cannot be read.
        ConfigError: word_length is out of range.
    """
    tokenizer = Tokenizer(word_length)
    total = _Split()
    splits: dict[str, _Split] = {}
    for image in tqdm(range(data.num_images), unit="image", delay=2, disable=not progress):
        for sample in data.samples_of(image):
            over = sum(tokenizer([one.text for one in sample.expressions]).truncated)
            area = float(sample.load_mask().mean()) if masks and sample.load_mask is not None else None
            for split in (splits.setdefault(sample.split, _Split()), total):
                split.add(sample, over, area)
    found = {name: splits[name].figures() for name in sorted(splits, key=_order)}
    if len(found) > 1:
        found[TOTAL] = total.figures()
    return {"name": data.name, "word_length": word_length, "skipped": data.skipped_count, "splits": found}


def _order(split: str) -> tuple[int, str]:
    known = ("train", "val", "test")
    return next((place for place, start in enumerate(known) if split.startswith(start)), len(known)), split


class _Split:
    """The counts of a split."""

    def __init__(self) -> None:
        self.images: set[str] = set()
        self.references = self.expressions = self.located = self.over = self.absent = 0
        self.words: Counter[int] = Counter()
        self.distractors: list[int] = []
        self.areas: list[float] = []

    def add(self, sample: Sample, over: int, area: float | None) -> None:
        self.images.add(sample.image_id)
        self.references += 1
        self.expressions += len(sample.expressions)
        self.over += over
        self.absent += sample.load_mask is None
        for expression in sample.expressions:
            self.words[len(expression.text.split())] += 1
            self.located += has_location_word(expression.text)
        distractors = sample.attributes.get("distractors")
        if isinstance(distractors, int) and sample.load_mask is not None:
            self.distractors.append(distractors)
        if area is not None:
            self.areas.append(area)

    def figures(self) -> dict[str, Any]:
        words = sum(length * count for length, count in self.words.items())
        lengths = [self.words[length] for length in range(1, MOST_WORDS + 1)]
        figures: dict[str, Any] = {
            "images": len(self.images),
            "references": self.references,
            "expressions": self.expressions,
            "expressions_per_reference": self.expressions / self.references,
            "words": {"min": min(self.words), "mean": words / self.expressions, "max": max(self.words)},
            "location_words": self.located / self.expressions,
            "over_limit": self.over / self.expressions,
            "no_target": self.absent / self.references,
            "distractors": None,
            "mask_area": None,
            "histograms": {"words": [*lengths, self.expressions - sum(lengths) - self.words[0]]},
        }
        if self.distractors:
            distractors = np.array(self.distractors)
            figures["distractors"] = {
                "known": len(distractors),
                "mean": float(distractors.mean()),
                "any": float((distractors > 0).mean()),
            }
        if self.areas:
            quartiles = np.percentile(self.areas, (25, 50, 75)).tolist()
            figures["mask_area"] = {"masks": len(self.areas), "quartiles": quartiles}
            figures["histograms"]["mask_area"] = np.histogram(self.areas, (*AREAS, 1.0))[0].tolist()
        return figures


def _distractors(figures: Mapping[str, Any]) -> str:
    distractors = figures["distractors"]
    return "-" if distractors is None else f"{distractors['mean']:.2f} ({distractors['any']:.1%} have any)"


def _area(figures: Mapping[str, Any]) -> str:
    area = figures["mask_area"]
    if area is None:
        return "-"
    low, middle, high = area["quartiles"]
    return f"{middle:.1%} ({low:.1%} to {high:.1%})"


ROWS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "images": lambda of: f"{of['images']:,}",
    "references": lambda of: f"{of['references']:,}",
    "expressions": lambda of: f"{of['expressions']:,}",
    "expressions a reference": lambda of: f"{of['expressions_per_reference']:.2f}",
    "words: mean (min to max)": lambda of: f"{of['words']['mean']:.2f} ({of['words']['min']} to {of['words']['max']})",
    "with a location word": lambda of: f"{of['location_words']:.1%}",
    "over {word_length} tokens": lambda of: f"{of['over_limit']:.2%}",
    "references without a target": lambda of: f"{of['no_target']:.1%}",
    "others of the target's kind": _distractors,
    "mask area: median (quartiles)": _area,
}


def markdown(figures: Mapping[str, Any]) -> str:
    """Return the result of `statistics` as a Markdown table with a column for each split."""
    splits = figures["splits"]
    table = Table(
        columns=(figures["name"], *splits),
        rows=tuple(
            (row.format(word_length=figures["word_length"]), *(show(splits[name]) for name in splits))
            for row, show in ROWS.items()
        ),
        right=frozenset(range(1, len(splits) + 1)),
    )
    return f"{markdown_table(table, padded=True)}\n"


# ── the plot ──

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999")
"""Okabe and Ito's colours, which can be told apart with impaired colour vision."""
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 760, 260, 48, 46, 44


def plot(figures: Mapping[str, Any]) -> str:
    """Return the histograms of `statistics` as an SVG: lengths of expressions and, if present, areas of masks."""
    splits = {name: split for name, split in figures["splits"].items() if name != TOTAL}
    lengths = [*map(str, range(1, MOST_WORDS + 1)), f"> {MOST_WORDS}"]
    panels = [_panel("Words of an expression", lengths, _shares(splits, "words"))]
    if areas := _shares(splits, "mask_area"):
        edges = [f"{100 * edge:g} %" for edge in AREAS]
        panels.append(_panel("Mask area as a fraction of the image, from ...", edges, areas))
    height = HEIGHT * len(panels) + 30
    legend = "".join(
        f'<rect x="{LEFT + 120 * i}" y="10" width="12" height="12" fill="{COLOURS[i % len(COLOURS)]}"/>'
        f'<text x="{LEFT + 120 * i + 17}" y="20">{html.escape(name[:14])}</text>'
        for i, name in enumerate(splits)
    )
    body = "".join(f'<g transform="translate(0 {30 + HEIGHT * i})">{panel}</g>' for i, panel in enumerate(panels))
    width = max(WIDTH, LEFT + 120 * len(splits))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'font-family="sans-serif" font-size="11"><title>{html.escape(figures["name"])}</title>'
        f'<rect width="100%" height="100%" fill="white"/>{legend}{body}</svg>\n'
    )


def _shares(splits: Mapping[str, Any], name: str) -> list[list[float]]:
    """Return the histogram of each split as fractions; an empty list where no split has one."""
    counts = [split["histograms"].get(name, []) for split in splits.values()]
    return [[one / sum(of) for one in of] for of in counts] if any(counts) else []


def _panel(title: str, labels: Sequence[str], series: Sequence[Sequence[float]]) -> str:
    """Return a group of bars for each label, one bar for each series."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - 16
    highest = max((share for shares in series for share in shares), default=0.0) or 1.0
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.25) if step * 5 >= highest or step == 0.25)
    scale = (bottom - TOP) / max(highest, step)
    parts = [f'<text x="{LEFT}" y="{TOP - 16}" font-size="13" font-weight="bold">{html.escape(title)}</text>']
    for number in range(int(highest / step) + 1):
        y = bottom - number * step * scale
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{100 * number * step:g} %</text>')
    group = (right - LEFT) / len(labels)
    bar = 0.8 * group / max(1, len(series))
    for place, label in enumerate(labels):
        x = LEFT + group * place
        middle = f'x="{x + group / 2:.1f}" y="{bottom + 16}" text-anchor="middle"'
        parts.append(f"<text {middle}>{html.escape(label)}</text>")
        for number, shares in enumerate(series):
            if place < len(shares) and shares[place]:
                high = shares[place] * scale
                parts.append(
                    f'<rect x="{x + 0.1 * group + bar * number:.1f}" y="{bottom - high:.1f}" width="{bar:.1f}" '
                    f'height="{high:.1f}" fill="{COLOURS[number % len(COLOURS)]}"/>'
                )
    return "".join(parts)
