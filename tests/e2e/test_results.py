"""The tables of the pages are those of the files of results."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "result_tables.py"))
PAGES = {page: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").glob("*.md"))}


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if "<!-- table:" in text], ids=Path.name.fget)
def test_tables_are_those_of_the_results(page):
    assert SCRIPT["with_tables"](PAGES[page]) == PAGES[page], "python scripts/result_tables.py writes them anew"


def test_every_table_is_shown():
    shown = "".join(PAGES.values())
    assert [name for name in SCRIPT["TABLES"] if f"<!-- table: {name} -->" not in shown] == []
