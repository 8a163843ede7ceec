"""The outputs of a running training: a JSON log, TensorBoard if it is installed, Weights & Biases, a progress bar."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
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
    """Writes `log.jsonl` and shows the progress. A resumed run appends to the log; repeated lines have the same step.

    Args:
        folder: of the run.
        steps: of the whole run.
        step: to start from.
        show: whether to show a progress bar.
        images_per_step: for the speed.
        wandb: the project of Weights & Biases that the run is sent to, if any.

    Raises:
        ConfigError: Weights & Biases is asked for and not installed.
    """

    def __init__(
        self, folder: Path, steps: int, step: int, *, show: bool, images_per_step: int = 1, wandb: str | None = None
    ) -> None:
        self._wandb = _start_wandb(wandb, folder) if wandb is not None else None
        self._file = (folder / "log.jsonl").open("a+b")
        _drop_partial_line(self._file)
        self._bar = tqdm(total=steps, initial=step, unit="step", disable=not show, file=sys.stderr, dynamic_ncols=True)
        self._started = time.monotonic()
        self._first, self._images_per_step = step, images_per_step
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
        """Move the bar to a step, and show the loss."""
        if loss is not None:
            self._shown["loss"] = f"{loss:.4f}"
        self._shown["images/s"] = f"{self.speed(step):.1f}"
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def speed(self, step: int) -> float:
        """Return the images per second since the start of this process."""
        return (step - self._first) * self._images_per_step / max(time.monotonic() - self._started, 1e-9)

    def log(self, step: int, **values: float) -> None:
        """Log numbers by name at a step; those that are not finite are null in the JSON log."""
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps({"step": step, "seconds": round(time.monotonic() - self._started, 1), **known})
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        if "mean_iou" in values:
            self._shown["IoU"] = f"{values['mean_iou']:.3f}"
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(values, step=step)

    def image(self, step: int, image: Image.Image) -> None:
        """Send an image of predictions to TensorBoard."""
        if self._board is not None:
            self._board.add_image("validation", np.asarray(image), step, dataformats="HWC")

    def note(self, text: str) -> None:
        """Show a line above the bar, if there is one."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)


def _drop_partial_line(file: Any) -> None:
    """Cut off what follows the last newline: the line of a process that was killed while it wrote."""
    file.seek(0)
    content = file.read()
    file.truncate(content.rfind(b"\n") + 1)


def _start_wandb(project: str, folder: Path) -> Any:
    try:
        wandb = importlib.import_module("wandb")
    except ImportError:
        raise ConfigError("Weights & Biases is not installed; run: pip install wandb") from None
    return wandb.init(project=project, name=folder.name, dir=os.fspath(folder), resume="allow")
