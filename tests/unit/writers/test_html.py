"""HTML pages: whole, self-contained, and with escaped texts."""

from __future__ import annotations

from html.parser import HTMLParser

from refseg.writers.html import clean, escaped, page, paragraph


def test_a_page_needs_no_other_file_and_escapes_its_title():
    tags = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag, attrs):
            tags.append((tag, dict(attrs)))

    text = page("<b>title</b>", [paragraph("a & b")], style=".x { color: red; }")
    Tags().feed(text)
    names = [name for name, _ in tags]
    assert names == ["html", "head", "meta", "meta", "meta", "title", "style", "body", "main", "h1", "p"]
    assert "default-src 'none'" in tags[3][1]["content"]
    assert ".x { color: red; }" in text
    assert "<p>a &amp; b</p>" in text


def test_texts_are_escaped_also_in_attributes():
    assert escaped("\"><img onerror='x'>") == "&quot;&gt;&lt;img onerror=&#x27;x&#x27;&gt;"


def test_characters_that_no_page_can_hold_are_replaced():
    assert clean("a\n b\x00\x85\ud800\ufffe") == "a b\ufffd \ufffd\ufffd"
    clean("\ud800").encode()
