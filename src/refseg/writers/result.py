"""The files of `refseg predict`: for each prediction a mask, an overlay to look at, and JSON."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from refseg.errors import OutputError
from refseg.values import Prediction
from refseg.writers.overlay import overlay

__all__ = ["describe", "write_result"]


def describe(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as JSON values: expression, score, box, and the mask as COCO's run lengths."""
    return {
        "expression": prediction.expression,
        "score": round(prediction.score, 6),
        "empty": prediction.empty,
        "box": None if prediction.box is None else list(prediction.box),
        "segmentation": prediction.rle,
        "threshold": prediction.threshold,
        "truncated": prediction.truncated,
    }


def write_result(folder: Path, stem: str, image: Image.Image, prediction: Prediction, about: dict[str, Any]) -> None:
    """Write `STEM.png` (the mask, 0 or 255), `STEM_overlay.png` and `STEM.json`: all three completely, or none.

    Args:
        folder: where to write; it exists.
        stem: the name of the files without their endings.
        image: RGB, (H, W).
        prediction: of that image.
        about: the content of the JSON file.

    Raises:
        OutputError: a file cannot be written.
    """
    mask = prediction.mask
    # File names may hold half characters (lone surrogates), which UTF-8 cannot: they become JSON's escapes.
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
    try:
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder) as draft:
            Image.fromarray(mask.astype(np.uint8) * 255).save(Path(draft, f"{stem}.png"))
            overlay(image, mask).save(Path(draft, f"{stem}_overlay.png"), compress_level=1)
            Path(draft, f"{stem}.json").write_bytes(text)
            for written in sorted(Path(draft).iterdir()):
                written.replace(folder / written.name)
    except OSError as error:
        raise OutputError(f"{folder / stem}.png: cannot be written: {error.strerror or error}") from None
