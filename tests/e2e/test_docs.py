"""What the README and the pages show is run, each page in a folder of its own with the files that it names.

A block of `sh`, `console` or `python` is run unless the line above it is `<!-- not run: REASON -->`; the commands of
such a block have to be understood. Output that a page shows has to be what the command prints, but for white space;
where it shows none, it has to succeed. Run as a program, this file writes the command line's page anew.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from refseg.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
CLI_PAGE = ROOT / "docs" / "cli.md"
BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- not run: (?P<reason>[^\n]+) -->\n(?P=indent))?```(?P<kind>sh|console|python)\n"
    r"(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
REASONS = ("needs ", "takes ", "downloads ", "does not end")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`((?:src|tests|docs|benchmarks|scripts)/[\w./-]+)`")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *, run: bool) -> Iterator[tuple[str, str]]:
    """Yield kind and text of the blocks of a page that are run, or of those that are not."""
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- not run:") == len([one for one in BLOCK.finditer(text) if one["reason"]]), named(page)
    for match in BLOCK.finditer(text):
        reason = match["reason"]
        assert reason is None or reason.startswith(REASONS), f"{named(page)}: a reason begins with {REASONS}"
        if (reason is None) == run:
            yield match["kind"], textwrap.dedent(match["text"])


def commands(kind: str, block: str) -> list[tuple[str, str]]:
    """Return each command of a block with the output that is shown under it."""
    block = block.replace("\\\n", " ")
    if kind == "sh":
        return [(line, "") for line in block.splitlines() if line.strip() and not line.startswith("#")]
    first, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    assert not first, f"a console block starts with a command, not with {first!r}"
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def output_of(command: str) -> str:
    words = shlex.split(command, comments=True)
    assert words[0] == "refseg", f"only refseg is run here, not {words[0]}: say above the block why it is not run"
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            code = main(words[1:])
        except SystemExit as leaving:  # argparse, after --help
            code = leaving.code
    assert not code, f"{command} exits with {code}: {said.getvalue()}"
    return printed.getvalue()


def run_blocks(page: Path) -> None:
    """Run the blocks of a page, one after the other."""
    for kind, block in blocks(page, run=True):
        if kind == "python":
            exec(compile(block, named(page), "exec"), {"__name__": "page"})
            continue
        for command, shown in commands(kind, block):
            printed = output_of(command)
            if shown.strip():
                assert printed.split() == shown.split(), f"{command}; `python tests/e2e/test_docs.py` mends docs/cli.md"


def understood(command: str) -> None:
    """Parse a command of refseg, whose files need not exist."""
    verb, *rest = shlex.split(command, comments=True)[1:]
    if verb.startswith("-"):
        return
    assert verb in VERBS, command
    parser = argparse.ArgumentParser(exit_on_error=False)
    module = importlib.import_module(f"refseg.cli.{verb}")
    module.add_arguments(parser)
    getattr(module, "parse", argparse.ArgumentParser.parse_intermixed_args)(parser, rest)


def with_marks(page: Path) -> object:
    slow = any(kind == "sh" for kind, _ in blocks(page, run=True))
    return pytest.param(page, id=named(page), marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize("page", [with_marks(page) for page in PAGES if [*blocks(page, run=True)]])
def test_what_a_page_shows_runs(page: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "src").symlink_to(ROOT / "src", target_is_directory=True)
    monkeypatch.setenv("COLUMNS", "80")
    run_blocks(page)


@pytest.mark.parametrize("page", [page for page in PAGES if page != CLI_PAGE], ids=named)
def test_commands_that_are_not_run_are_understood(page: Path) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for kind, block in blocks(page, run=False):
        for command, _ in commands(kind, block) if kind != "python" else ():
            program, *words = shlex.split(command, comments=True)
            if program == "make":
                assert set(words) <= set(targets), command
            elif program == "refseg":
                understood(command)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / target for target in LINK.findall(text)]
    files = [ROOT / target for target in FILE.findall(text)]
    missing = [str(path) for path in links + files if not path.exists()]
    assert not missing


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f'"{page.name}"' not in navigation] == []


def test_every_command_is_on_its_page() -> None:
    assert re.findall(r"^## (\w+)$", CLI_PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(VERBS)


def write_cli_page() -> None:
    """Replace what follows the introduction by each command's help."""
    os.environ["COLUMNS"] = "80"
    introduction = CLI_PAGE.read_text(encoding="utf-8").partition("\n## ")[0].rstrip()
    sections = []
    for verb in VERBS:
        below = getattr(importlib.import_module(f"refseg.cli.{verb}"), "VERBS", ())
        helps = [f"refseg {words} --help" for words in (verb, *(f"{verb} {one}" for one in below))]
        shown = "\n\n".join(f"$ {command}\n{output_of(command).rstrip()}" for command in helps)
        sections.append(f"## {verb}\n\n```console\n{shown}\n```\n")
    CLI_PAGE.write_text("\n".join([introduction + "\n", *sections]), encoding="utf-8")


if __name__ == "__main__":
    write_cli_page()
