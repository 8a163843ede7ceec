"""Checks of the files that a command writes, before it computes anything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from refseg.errors import OutputError

__all__ = ["check_outputs", "result_files"]


def check_outputs(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None] | None = None) -> None:
    """Check that files can be written, and that none replaces another one of the same command.

    Args:
        outputs: the files by their role, such as `--out`; None is always valid.
        inputs: the files that the command reads, by their role.

    Raises:
        OutputError: the folder of an output does not exist, an output is a folder itself, or two files are the same.
    """
    written = {role: path for role, path in outputs.items() if path is not None}
    read = {role: path for role, path in (inputs or {}).items() if path is not None}
    for path in written.values():
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.parent}")
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; name a file in it")
    pairs = [*combinations(written.items(), 2), *((one, other) for one in written.items() for other in read.items())]
    for (role, path), (other_role, other) in pairs:
        if path.resolve() == other.resolve():
            raise OutputError(f"{path}: is both {role} and {other_role}; name two files")


def result_files(role: str, path: Path | None) -> dict[str, Path]:
    """Return the two files of a stored result by their roles: the metrics, and the outcomes; of None, no files."""
    from refseg.evaluation.result import outcomes_path

    return {} if path is None else {role: path, f"the outcomes beside {role}": outcomes_path(path)}
