"""What a run tells: one JSON line an event always, TensorBoard where it is installed, a progress bar on a terminal."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

__all__ = ["Tracker"]


class Tracker:
    """Writes `log.jsonl` and shows progress. A resumed run adds to its log; lines it repeats carry the same step."""

    def __init__(self, folder: Path, steps: int, step: int, *, show: bool) -> None:
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=not show, file=sys.stderr, dynamic_ncols=True)
        self._started = time.monotonic()
        self._board: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard.writer import SummaryWriter

            self._board = SummaryWriter(os.fspath(folder / "tensorboard"))

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._file.close()
        if self._board is not None:
            self._board.close()

    def advance(self, loss: float) -> None:
        """Move the bar by a step."""
        self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        self._bar.update()

    def log(self, step: int, **values: float) -> None:
        """Write an event: numbers by name, at a step."""
        seconds = round(time.monotonic() - self._started, 1)
        self._file.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def note(self, text: str) -> None:
        """Show a line above the bar, where there is one."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)
