"""HTML pages that need no other file. All texts are untrusted and escaped."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

__all__ = ["clean", "escaped", "page", "paragraph"]

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
""".strip()
# Nothing is fetched and nothing is executed, even if a text of the data should get past the escaping.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def clean(text: str) -> str:
    """Return a text in one line, without characters that a page cannot hold: controls and lone surrogates."""
    line = " ".join(text.split())
    return "".join("\N{REPLACEMENT CHARACTER}" if _unfit(letter) else letter for letter in line)


def _unfit(letter: str) -> bool:
    code = ord(letter)
    return code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000 or code & 0xFFFE == 0xFFFE


def escaped(text: str) -> str:
    """Return a text as HTML, also for the value of an attribute."""
    return escape(clean(text), quote=True)


def paragraph(text: str) -> str:
    """Return a text as an HTML paragraph."""
    return f"<p>{escaped(text)}</p>"


def page(title: str, body: Iterable[str], *, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: a text.
        body: HTML.
        style: CSS that is added to that of all pages.
    """
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escaped(title)}</title>",
            f"<style>\n{STYLE}\n{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            f"<h1>{escaped(title)}</h1>",
            *body,
            "</main>",
            "</body>",
            "</html>",
            "",
        ]
    )
