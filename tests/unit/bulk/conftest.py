"""Three images, and what is asked about them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image


def png(number):
    pixels = np.full((64, 64, 3), 90, np.uint8)
    pixels[10 : 20 + number, 10:30] = (220, 30, 30)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    """Three images, one of them in a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        (folder / name).write_bytes(png(number))
    return folder


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("the red square\nthe green one\n")
    return path
