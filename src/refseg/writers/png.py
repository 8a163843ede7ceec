"""Masks as PNG files of 0 and 255, and a table of them in the format of a folder of one's own data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from refseg.files import write_text
from refseg.writers.labelled import LabelledImage
from refseg.writers.result import file_name, write_mask

__all__ = ["write_png"]

LONGEST_NAME = 100


def write_png(images: Sequence[LabelledImage], photos: Path, out: Path) -> None:
    """Write `masks/IMAGE/000-WORDS.png` for each region, and `data.jsonl`, which names image, mask and expression.

    Args:
        images: what is written.
        photos: the folder of the images.
        out: a folder.
    """
    lines = []
    for image in images:
        for number, region in enumerate(image.regions):
            name = f"{image.stem}/{number:03d}-{file_name(region.expression, LONGEST_NAME)}.png"
            (out / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
            write_mask(out / "masks" / name, region.mask)
            row = {
                "id": region.id,
                "image": image.file,
                "mask": name,
                "text": region.expression,
                "score": region.score,
            }
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(out / "data.jsonl", "".join(lines))
