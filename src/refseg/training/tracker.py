"""What a run tells: one JSON line an event always, TensorBoard where it is installed, a progress bar on a terminal."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from refseg.errors import ConfigError

__all__ = ["Tracker"]


class Tracker:
    """Writes `log.jsonl` and shows progress. A resumed run adds to its log; lines it repeats carry the same step.

    Args:
        folder: of the run.
        steps: of the whole run.
        step: where it goes on.
        show: whether to show a progress bar.
        images: in a step, to tell the speed.
        wandb: the project of Weights & Biases that the run is sent to, if any.

    Raises:
        ConfigError: Weights & Biases is asked for and not installed.
    """

    def __init__(
        self, folder: Path, steps: int, step: int, *, show: bool, images: int = 1, wandb: str | None = None
    ) -> None:
        self._wandb = _start_wandb(wandb, folder) if wandb is not None else None
        self._file = (folder / "log.jsonl").open("a", encoding="utf-8")
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=not show, file=sys.stderr, dynamic_ncols=True)
        self._started = time.monotonic()
        self._first, self._images = step, images
        self._shown: dict[str, str] = {}
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
        if self._wandb is not None:
            self._wandb.finish(exit_code=0 if error is None else 1)

    def advance(self, step: int, loss: float | None = None) -> None:
        """Move the bar to a step, with the loss where it is known."""
        if loss is not None:
            self._shown["loss"] = f"{loss:.4f}"
        self._shown["images/s"] = f"{self.speed(step):.1f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def speed(self, step: int) -> float:
        """Return images a second since the run went on."""
        return (step - self._first) * self._images / max(time.monotonic() - self._started, 1e-9)

    def log(self, step: int, **values: float) -> None:
        """Write an event: numbers by name, at a step."""
        seconds = round(time.monotonic() - self._started, 1)
        self._file.write(json.dumps({"step": step, "seconds": seconds, **values}) + "\n")
        self._file.flush()
        if "mean_iou" in values:
            self._shown["IoU"] = f"{values['mean_iou']:.3f}"
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def image(self, step: int, image: Image.Image) -> None:
        """Show what the model answers at a step, where images can be shown."""
        if self._board is not None:
            self._board.add_image("validation", np.asarray(image), step, dataformats="HWC")

    def note(self, text: str) -> None:
        """Show a line above the bar, where there is one."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)


def _start_wandb(project: str, folder: Path) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise ConfigError("Weights & Biases is not installed; run: pip install wandb") from None
    return wandb.init(project=project, name=folder.name, dir=os.fspath(folder), resume="allow")
