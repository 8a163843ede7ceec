"""What a person has decided on the answers of a run of `refseg label`: a file in its folder that only grows.

Each line of `verdicts.jsonl` is a verdict, or takes the last one back that is not taken back yet: so a crash loses
nothing, and a second start goes on where the first one stopped, its undo included.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg.errors import DataError, OutputError
from refseg.files import append_line, json_line, unwritable, whole_lines
from refseg.masks import check_rle

__all__ = ["VERDICTS", "Correction", "Verdict", "Verdicts"]

VERDICTS = "verdicts.jsonl"
KEEP, DROP, UNDO = "keep", "drop", {"undo": True}


@dataclass(frozen=True, kw_only=True)
class Correction:
    """What replaces an answer: that to other words, or the mask of another threshold."""

    text: str
    score: float
    rle: dict[str, Any] | None
    """None: nothing fits."""
    threshold: float | None
    """That a person chose; None: the model's own."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A decision on the answer to an expression about a photo."""

    image: str
    """The photo's file."""
    text: str
    """The expression that the model was asked by the run."""
    kept: bool
    """False: there is no label of it."""
    correction: Correction | None = None
    """None: the answer is right as it is."""


class Verdicts:
    """The verdicts on a run; each is on the disk before it counts.

    Args:
        folder: of the run.

    Raises:
        DataError: the file of verdicts is broken.
        OutputError: it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / VERDICTS
        self._made: list[Verdict] = []  # and not taken back, in order
        self._of: dict[tuple[str, str], list[Verdict]] = {}
        try:
            lines = whole_lines(self._path) if self._path.exists() else []
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be read: {error.strerror}") from None
        for number, line in enumerate(lines, 1):
            try:
                values = json.loads(line)
                if values == UNDO:
                    self._take_back()
                else:
                    self._note(_verdict(values))
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise DataError(f"{self._path}: line {number}: is no verdict ({error}); remove the line") from None

    def __len__(self) -> int:
        return len(self._made)

    def of(self, image: str, text: str) -> Verdict | None:
        """Return the last verdict on an answer; None: there is none."""
        made = self._of.get((image, text))
        return made[-1] if made else None

    def add(self, verdict: Verdict) -> None:
        """Add a verdict, which replaces an earlier one on the same answer.

        Raises:
            OutputError: it cannot be written; nothing is changed.
        """
        values: dict[str, Any] = {"image": verdict.image, "text": verdict.text}
        values["verdict"] = KEEP if verdict.kept else DROP
        if verdict.correction is not None:
            values["correction"] = vars(verdict.correction)
        self._append(values)
        self._note(verdict)

    def undo(self) -> Verdict | None:
        """Take the last verdict back, and return it; None: there is none.

        Raises:
            OutputError: it cannot be written; nothing is changed.
        """
        if not self._made:
            return None
        self._append(UNDO)
        return self._take_back()

    def _append(self, values: dict[str, Any]) -> None:
        try:
            append_line(self._path, json_line(values), sync=True)
        except OSError as error:
            raise unwritable(self._path, error) from None

    def _note(self, verdict: Verdict) -> None:
        self._made.append(verdict)
        self._of.setdefault((verdict.image, verdict.text), []).append(verdict)

    def _take_back(self) -> Verdict:
        verdict = self._made.pop()
        self._of[verdict.image, verdict.text].pop()
        return verdict


def _verdict(values: dict[str, Any]) -> Verdict:
    correction = values.get("correction")
    if correction is not None:
        rle, threshold = correction["rle"], correction["threshold"]
        correction = Correction(
            text=str(correction["text"]),
            score=float(correction["score"]),
            rle=None if rle is None else check_rle(rle),
            threshold=None if threshold is None else float(threshold),
        )
    if values["verdict"] not in (KEEP, DROP):
        raise ValueError(f"expected {KEEP} or {DROP}, got {values['verdict']!r}")
    return Verdict(
        image=str(values["image"]),
        text=str(values["text"]),
        kept=values["verdict"] == KEEP,
        correction=correction,
    )
