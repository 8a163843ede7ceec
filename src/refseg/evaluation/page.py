"""The look of an HTML report: one file that needs nothing else. All words are taken for untrusted and escaped."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from html import escape

from refseg.evaluation.gallery import Panel
from refseg.evaluation.published import Source
from refseg.evaluation.tables import Cell, Table, percent

__all__ = ["clean", "page", "panel", "paragraph", "table", "words"]

LONGEST = 300
"""Characters of an expression that are shown."""
STYLE = """
:root { color-scheme: light dark; --ink: #1c1d21; --soft: #5b5f6a; --paper: #ffffff; --line: #d5d8de; --band: #f1f3f7;
  --mark: #2160c4; --gap: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e9ed; --soft: #a4a9b6; --paper: #16171b; --line: #3a3d46; --band: #22242b; --mark: #82b1ff;
    --gap: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .25rem; }
p { max-width: 48rem; margin: .5rem 0; }
a { color: var(--mark); }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { text-align: left; vertical-align: top; padding: .3rem .7rem; border-bottom: 1px solid var(--line);
  overflow-wrap: break-word; min-width: 4rem; max-width: 26rem; }
thead th { color: var(--soft); font-weight: 600; }
tbody th { font-weight: 400; min-width: 9rem; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.ours > * { background: var(--band); font-weight: 700; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); gap: 1rem; }
.chart { margin: 0; max-width: 36rem; }
.chart figcaption { font-weight: 600; }
svg { width: 100%; height: auto; display: block; }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--line); }
.guide { stroke: var(--soft); stroke-dasharray: 5 4; }
.gap { stroke: var(--gap); stroke-width: 1.5; }
.line { fill: none; stroke: var(--mark); stroke-width: 2; }
.mark { fill: var(--mark); }
.panel { margin: 1rem 0; padding: .75rem; background: var(--band); border-radius: .4rem; }
.panel:target { outline: 2px solid var(--mark); }
.num_images { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 14rem), 1fr)); gap: .75rem; }
.num_images img { display: block; max-width: 100%; height: auto; }
.num_images span, .small { color: var(--soft); font-size: .85rem; }
.expression { font-weight: 600; overflow-wrap: anywhere; }
""".strip()
# Nothing is fetched and nothing runs, even if words of the data should get past the escaping.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def clean(text: str) -> str:
    """Return a text in one line, without characters that no page may hold: controls, and halves of characters."""
    line = " ".join(text.split())
    return "".join("\N{REPLACEMENT CHARACTER}" if _unfit(letter) else letter for letter in line)


def _unfit(letter: str) -> bool:
    code = ord(letter)
    return code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE


def words(text: str) -> str:
    """Return a text as HTML, also for attributes."""
    return escape(clean(text), quote=True)


def page(title: str, body: Iterable[str]) -> str:
    """Return a whole page; the title is words, the body HTML."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{words(title)}</title>",
            f"<style>\n{STYLE}\n</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{words(title)}</h1>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )


def paragraph(text: str) -> str:
    """Return words as a paragraph."""
    return f"<p>{words(text)}</p>"


def table(content: Table) -> str:
    """Return a table; wide ones scroll by themselves."""
    heads = "".join(
        f'<th scope="col"{_side(content, column)}>{words(name)}</th>' for column, name in enumerate(content.columns)
    )
    rows = [_row(content, number) for number in range(len(content.rows))]
    return "\n".join(
        [
            f'<div class="scroll" tabindex="0" role="region" aria-label="{words(content.caption)}">',
            f"<table><caption>{words(content.caption)}</caption>",
            f"<thead><tr>{heads}</tr></thead>",
            "<tbody>",
            *rows,
            "</tbody></table></div>",
        ]
    )


def _row(content: Table, number: int) -> str:
    head, *cells = content.rows[number]
    ours = ' class="ours"' if number == content.ours else ""
    rest = "".join(f"<td{_side(content, column)}>{_cell(cell)}</td>" for column, cell in enumerate(cells, 1))
    return f'<tr{ours}><th scope="row">{_cell(head)}</th>{rest}</tr>'


def _side(content: Table, column: int) -> str:
    return ' class="number"' if column in content.right else ""


def _cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return f"<bdi>{words(cell)}</bdi>"
    return "; ".join(_link(source) for source in cell)


def _link(source: Source) -> str:
    return f'<a href="{words(source.url)}">{words(source.name)}</a>' if source.url else words(source.name)


def panel(content: Panel, name: str) -> str:
    """Return an expression with its images; `name` is what links lead to."""
    one = content.outcome
    short = one.expression[:LONGEST] + ("..." if len(one.expression) > LONGEST else "")
    images = [
        f'<div><img width="{shown.width}" height="{shown.height}" alt="{words(f"{shown.alt}: {short}")}" '
        f'src="data:image/jpeg;base64,{b64encode(shown.jpeg).decode()}"><span>{words(shown.label)}</span></div>'
        for shown in content.images
    ]
    known = ", ".join(f"{key} {value}" for key, value in one.attributes.items())
    iou = f"IoU {percent(one.iou)} %, " if one.present else ""
    about = [f"{iou}score {one.score:.2f}", f"expression {one.id}", f"image {one.image}", *([known] if known else [])]
    return "\n".join(
        [
            f'<figure class="panel" id="{words(name)}">',
            f'<div class="images">{"".join(images)}</div>',
            f'<figcaption><bdi class="expression">{words(short)}</bdi>'
            f'<div class="small"><bdi>{words("; ".join(about)[: 2 * LONGEST])}</bdi></div>',
            *(f'<div class="small">{words(remark)}</div>' for remark in content.remarks),
            "</figcaption></figure>",
        ]
    )
