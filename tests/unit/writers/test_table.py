"""Tables as plain text and as Markdown."""

from __future__ import annotations

from refseg.published import Source
from refseg.writers.table import Table, aligned, markdown, percent, shortened

TABLE = Table(
    caption="A | caption",
    columns=("name", "n", "source"),
    rows=(
        ("a_b", "5", (Source(name="here", url="https://example.org"), Source(name="there"))),
        ("longer", "1,000", ()),
    ),
    right=frozenset({1}),
    highlighted=1,
)


def test_plain_text_is_aligned():
    assert aligned(TABLE).splitlines() == [
        "name        n  source",
        "a_b         5  here; there",
        "longer  1,000",
    ]


def test_markdown_is_escaped():
    assert markdown(TABLE).splitlines() == [
        r"**A \| caption**",
        "",
        "| name | n | source |",
        "| --- | --: | --- |",
        r"| a_b | 5 | [here](https://example.org); there |",
        "| **longer** | **1,000** |  |",
    ]


def test_texts_are_shortened_to_what_a_terminal_shows():
    assert shortened("a\nb\x1b[31m\ud800") == "a b?[31m?"
    assert shortened("x" * 100) == "x" * 57 + "..."


def test_percent():
    assert (percent(0.12345), percent(None)) == ("12.35", "-")
