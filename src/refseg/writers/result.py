"""The files of predictions: a mask as PNG, and the folder of one run of `refseg predict`."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from jaxtyping import Bool
from numpy import ndarray
from PIL import Image

from refseg.errors import OutputError
from refseg.files import append_line, json_line, replacing, unwritable
from refseg.writers.overlay import mask_image, overlay, shrunk

__all__ = ["DEFAULT_FOLDER", "LINES", "OVERLAY_SIDE", "ResultFolder", "file_name", "write_mask"]

DEFAULT_FOLDER = "predictions"
LINES = "results.jsonl"
"""The file of a run with one JSON object a line, one for each mask."""
OVERLAY_SIDE = 1600
"""The longer side of an overlay in pixels, at most: it is there to be looked at."""


def write_mask(path: Path, mask: Bool[ndarray, "H W"]) -> None:
    """Write a mask as a PNG of 0 and 255, completely or not at all.

    Raises:
        OutputError: it cannot be written, or the name does not end with `.png`.
    """
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: a mask is written as PNG, which loses nothing; end the name with .png")
    try:
        with replacing(path) as draft:
            mask_image(mask).save(draft, "PNG")
    except OSError as error:
        raise unwritable(path, error) from None


def file_name(text: str, longest: int) -> str:
    """Return the letters and digits of a text, joined by hyphens, in at most `longest` bytes of UTF-8; or `_`."""
    joined = "-".join(re.findall(r"\w+", text))
    return joined.encode()[:longest].decode(errors="ignore").strip("-") or "_"


class ResultFolder:
    """The folder of one run's results, which is created with the first of them, so that a failed run leaves none.

    Args:
        folder: a folder that is empty or does not exist, so that no run mixes with another. None takes the first of
            `predictions`, `predictions-2` and so on that does not exist.

    Raises:
        OutputError: the folder has files already, or is a file.
    """

    def __init__(self, folder: Path | None) -> None:
        self._wanted = folder
        self._folder: Path | None = None
        try:
            if folder is not None and folder.exists() and any(folder.iterdir()):
                raise OutputError(f"{folder}: has files already, and no run mixes with another; name a new folder")
        except OSError as error:
            raise unwritable(folder, error) from None

    @property
    def folder(self) -> Path:
        """The folder, which exists.

        Raises:
            OutputError: it cannot be created.
        """
        if self._folder is None:
            self._folder = self._create()
        return self._folder

    def _create(self) -> Path:
        folder = self._wanted
        try:
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
                return folder
            for number in itertools.count(1):
                folder = Path(DEFAULT_FOLDER if number == 1 else f"{DEFAULT_FOLDER}-{number}")
                if not os.path.lexists(folder):
                    folder.mkdir()
                    break
        except OSError as error:
            raise unwritable(folder, error) from None
        assert folder is not None
        return folder

    def add(
        self, name: str, mask: Bool[ndarray, "H W"], shown: Image.Image | None, about: dict[str, Any]
    ) -> dict[str, Any]:
        """Write `NAME.png` (the mask, 0 or 255), `NAME_overlay.jpg`, and a line in `results.jsonl`: all, or none.

        Args:
            name: of the files without their endings, not used before.
            mask: at the size of its image.
            shown: the image under the overlay, of any size; None: no overlay is written.
            about: JSON values.

        Returns:
            `about` with the names of the files, as in the line.

        Raises:
            OutputError: a file cannot be written.
        """
        overlay_name = None if shown is None else f"{name}_overlay.jpg"
        about = about | {"mask": f"{name}.png", "overlay": overlay_name}
        line = json_line(about)
        folder = self.folder
        try:
            with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as draft:
                mask_image(mask).save(Path(draft, f"{name}.png"))
                if shown is not None:
                    overlay(shown, shrunk(mask, shown.size)).save(Path(draft, f"{name}_overlay.jpg"), quality=90)
                written = [file.replace(folder / file.name) for file in sorted(Path(draft).iterdir())]
            try:
                append_line(folder / LINES, line)
            except OSError:
                for file in written:
                    file.unlink()
                raise
        except OSError as error:
            if not any(folder.iterdir()):
                folder.rmdir()
            raise unwritable(folder / name, error) from None
        return about
