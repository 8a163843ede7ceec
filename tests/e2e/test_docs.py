"""What the pages show is run: `console` blocks of `$ refseg` lines, and `python` blocks under `<!-- test -->`.

The commands of the README, with their placeholders for files, are not run: their arguments have to be understood.
Output that a page shows has to be what the command prints, but for white space; where it shows none, it has to succeed.
Run as a program, this file writes the command line's page anew.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
from pathlib import Path

import pytest

from refseg.cli.main import VERBS, main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
CLI_PAGE = ROOT / "docs" / "cli.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^<!-- test -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
FILE = re.compile(r"`((?:src|tests|docs|benchmarks|scripts)/[\w./-]+)`")


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(pattern: re.Pattern[str], pages: list[Path] = PAGES) -> list[object]:
    found = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for match in pattern.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(pytest.param(match[1], id=f"{named(page)}:{line}"))
    return found


def commands(block: str) -> list[tuple[str, str]]:
    """Return each command of a block with the output that is shown under it."""
    first, *parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    assert not first, f"a console block starts with a command, not with {first!r}"
    return [(part.partition("\n")[0], part.partition("\n")[2]) for part in parts]


def output_of(command: str) -> str:
    words = shlex.split(command, comments=True)
    assert words[0] == "refseg", f"only refseg is run here, not {words[0]}"
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            code = main(words[1:])
        except SystemExit as leaving:  # argparse, after --help
            code = leaving.code
    assert not code, f"{command} exits with {code}"
    return printed.getvalue()


@pytest.fixture
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work where the source is and nothing else is."""
    (tmp_path / "src").symlink_to(ROOT / "src", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.mark.parametrize("block", blocks(CONSOLE))
def test_commands_do_what_the_pages_show(block: str, somewhere: None) -> None:
    for command, shown in commands(block):
        printed = output_of(command)
        if shown.strip():
            assert printed.split() == shown.split(), f"{command}; `python tests/e2e/test_docs.py` mends docs/cli.md"


@pytest.mark.parametrize("block", blocks(PYTHON))
def test_python_runs(block: str, somewhere: None) -> None:
    exec(compile(block, "<page>", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("block", blocks(CONSOLE, [README]))
def test_commands_of_the_readme_are_understood(block: str) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command, _ in commands(block):
        program, *words = shlex.split(command, comments=True)
        if program == "make":
            assert set(words) <= set(targets), command
        elif program == "refseg":
            verb, *rest = words
            assert verb in VERBS, command
            parser = argparse.ArgumentParser(exit_on_error=False)
            module = importlib.import_module(f"refseg.cli.{verb}")
            module.add_arguments(parser)
            getattr(module, "parse", argparse.ArgumentParser.parse_intermixed_args)(parser, rest)


@pytest.mark.parametrize("page", [README, *PAGES], ids=named)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [page.parent / target for target in LINK.findall(text)]
    files = [ROOT / target for target in FILE.findall(text)]
    missing = [str(path) for path in links + files if not path.exists()]
    assert not missing


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
