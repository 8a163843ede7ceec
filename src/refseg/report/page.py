"""The parts of an HTML report: tables and panels of images."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable

from refseg.published import Source
from refseg.report import charts
from refseg.report.gallery import Panel
from refseg.writers import html
from refseg.writers.table import Cell, Table, percent

__all__ = ["page", "panel", "table"]

MAX_TEXT = 300
"""Characters of an expression that are shown."""
STYLE = """
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; min-width: 4rem; max-width: 26rem; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; min-width: 9rem; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.highlighted > * { background: var(--band); font-weight: 700; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem; }
.chart { margin: 0; max-width: 36rem; }
.chart figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; }
.panel { margin: 1rem 0; padding: .75rem; background: var(--band); border-radius: .4rem; }
.panel:target { outline: 2px solid var(--mark); }
.images { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .75rem; }
.images img { display: block; max-width: 100%; height: auto; }
.images span, .small { color: var(--soft); font-size: .85rem; }
.expression { font-weight: 600; overflow-wrap: anywhere; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole report; the title is a text, the body HTML."""
    return html.page(title, body, style=f"{STYLE}\n{charts.STYLE}")


def table(content: Table) -> str:
    """Return a table that scrolls by itself if it is wide."""
    heads = "".join(
        f'<th scope="col"{_side(content, column)}>{html.escaped(name)}</th>'
        for column, name in enumerate(content.columns)
    )
    rows = [_row(content, number) for number in range(len(content.rows))]
    return "\n".join(
        [
            f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escaped(content.caption)}">',
            f"<table><caption>{html.escaped(content.caption)}</caption>",
            f"<thead><tr>{heads}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody></table></div>",
        ]
    )


def _row(content: Table, number: int) -> str:
    head, *cells = content.rows[number]
    highlighted = ' class="highlighted"' if number == content.highlighted else ""
    rest = "".join(f"<td{_side(content, column)}>{_cell(cell)}</td>" for column, cell in enumerate(cells, 1))
    return f'<tr{highlighted}><th scope="row">{_cell(head)}</th>{rest}</tr>'


def _side(content: Table, column: int) -> str:
    return ' class="number"' if column in content.right else ""


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<bdi>{html.escaped(cell)}</bdi>"
    return "; ".join(_link(source) for source in cell)


def _link(source: Source) -> str:
    name = html.escaped(source.name)
    return f'<a href="{html.escaped(source.url)}">{name}</a>' if source.url else name


def panel(content: Panel, name: str) -> str:
    """Return an expression with its images; `name` is the target of links."""
    one = content.outcome
    short = one.expression[:MAX_TEXT] + ("..." if len(one.expression) > MAX_TEXT else "")
    images = [
        f'<div><img width="{shown.width}" height="{shown.height}" alt="{html.escaped(f"{shown.alt}: {short}")}" '
        f'src="data:image/jpeg;base64,{b64encode(shown.jpeg).decode()}"><span>{html.escaped(shown.label)}</span></div>'
        for shown in content.images
    ]
    attributes = ", ".join(f"{key} {value}" for key, value in one.attributes.items())
    iou = f"IoU {percent(one.iou)} %, " if one.present else ""
    facts = [f"{iou}score {one.score:.2f}", f"expression {one.id}", f"image {one.image}", attributes]
    about = "; ".join(fact for fact in facts if fact)[: 2 * MAX_TEXT]
    return "\n".join(
        [
            f'<figure class="panel" id="{html.escaped(name)}">',
            f'<div class="images">{"".join(images)}</div>',
            f'<figcaption><bdi class="expression">{html.escaped(short)}</bdi>'
            f'<div class="small"><bdi>{html.escaped(about)}</bdi></div>',
            *(f'<div class="small">{html.escaped(remark)}</div>' for remark in content.remarks),
            "</figcaption></figure>",
        ]
    )
