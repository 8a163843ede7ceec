"""The Dockerfile, without Docker: what it copies is there, and its health check tells whether the models are loaded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "").splitlines()


def test_what_is_copied_is_there_and_not_ignored():
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        name for line in LINES if (found := re.match(r"COPY (?!--from)(.*) \S+$", line)) for name in found[1].split()
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_it_is_not_run_by_root_and_its_versions_are_pinned():
    assert [line for line in LINES if line.startswith("USER")] == ["USER 1000:1000"]
    assert re.fullmatch(r"ARG PYTHON=\d+\.\d+\.\d+-slim-\w+", LINES[1])
    assert {line.split()[1] for line in LINES if line.startswith("FROM")} == {"python:${PYTHON}"}
    assert all("-c constraints.txt" in line for line in LINES if "pip install" in line)


def test_the_health_check(serve):
    server = serve()
    (line,) = [line for line in LINES if line.startswith("HEALTHCHECK")]
    _, flag, code = json.loads(line[line.index("[") :])
    port = server.address.rpartition(":")[2]

    def healthy() -> bool:
        command = [sys.executable, "-S", flag, code.replace("8000", port)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert healthy()
    server.config.app.state.service.engines.clear()  # as before they are loaded
    assert not healthy()
