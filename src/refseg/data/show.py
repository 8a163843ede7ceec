"""Shows samples with their masks and expressions, as one image or one HTML page."""

from __future__ import annotations

import base64
import io
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from refseg.data.dataset import DataSet, ImageData
from refseg.errors import ConfigError, DataError, OutputError, RefsegError
from refseg.files import write_bytes
from refseg.values import Sample
from refseg.writers import html
from refseg.writers.overlay import overlay

__all__ = ["KINDS", "beyond_font", "check_kind", "choose", "named", "page", "save", "sheet"]

KINDS = (".png", ".jpg", ".jpeg", ".html")
"""Endings of the files that can be written."""
TILE = 320
"""Largest width and height of an image in the sheet, pixels."""
GAP = 12
FONT, LINE = 14, 18
MOST_LINES = 10
LONGEST = 400
"""Characters of an expression that are shown."""
TALLEST = 65_000
"""Largest height of a sheet, pixels; JPEG cannot store more."""
STYLE = """
main { max-width: none; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(320px, 1fr)); gap: 1.5rem; }
figure { margin: 0; }
img { max-width: 100%; height: auto; }
small { color: var(--soft); }
ul { margin: .25rem 0; padding-left: 1.2rem; }
.wrong { color: var(--gap); }
"""


def choose(data: ImageData, n: int, seed: int = 0) -> list[Sample]:
    """Return n samples drawn at random from as many different images as possible, in their order in the data.

    Raises:
        ConfigError: n or the seed is out of range.
    """
    if n < 1:
        raise ConfigError(f"at least 1 sample can be shown, not {n}")
    if seed < 0:
        raise ConfigError(f"a seed cannot be negative, but is {seed}")
    order = np.random.default_rng(seed).permutation(data.num_images).tolist()
    chosen: dict[tuple[int, int], Sample] = {}
    turn, left = 0, order
    while left and len(chosen) < n:  # one sample of each image, then another of each that has more
        more = []
        for image in left[: n - len(chosen)]:
            samples = data.samples_of(image)
            member = int(np.random.default_rng((seed, image)).permutation(len(samples))[turn])
            chosen[image, member] = samples[member]
            if len(samples) > turn + 1:
                more.append(image)
        turn, left = turn + 1, more
    return [chosen[place] for place in sorted(chosen)]


def named(data: DataSet, ids: Sequence[str]) -> list[Sample]:
    """Return the samples of some ids, in the order of the ids.

    Raises:
        DataError: the split has no such reference.
    """
    wanted, found = set(ids), {}
    for image in range(data.num_images):
        for sample in data.samples_of(image):
            if sample.id in wanted:
                found[sample.id] = sample
        if len(found) == len(wanted):
            break
    for id in ids:
        if id not in found:
            raise DataError(
                f"{data.name}:{data.split} has no reference {id!r}; `refseg data show` without ids shows some"
            )
    return [found[id] for id in ids]


def check_kind(path: Path) -> str:
    """Return the ending of a path, one of `KINDS`.

    Raises:
        OutputError: it is another one.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise OutputError(f"{path}: must end with one of {', '.join(KINDS)}")
    return kind


def save(samples: Sequence[Sample], path: Path, *, title: str, columns: int = 4) -> None:
    """Write samples as one file, completely or not at all.

    Args:
        samples: at least one.
        path: ends with one of `KINDS`.
        title: of the page.
        columns: images in a row of the sheet.

    Raises:
        ConfigError: columns is out of range.
        DataError: none of the images can be shown.
        OutputError: the path has another ending, or cannot be written.
    """
    kind = check_kind(path)
    if kind == ".html":
        content = page(samples, title).encode()
    else:
        buffer = io.BytesIO()
        sheet(samples, columns=columns).save(buffer, "PNG" if kind == ".png" else "JPEG", quality=90)
        content = buffer.getvalue()
    write_bytes(path, content)


def sheet(samples: Sequence[Sample], *, columns: int = 4) -> Image.Image:
    """Return one image of samples in a grid, each with its id and its expressions beneath.

    Characters that the font of Pillow lacks are shown as boxes; an HTML page (`page`) shows all.

    Args:
        samples: at least one.
        columns: images in a row.

    Raises:
        ConfigError: columns is out of range.
        DataError: none of the images can be shown.
        OutputError: the sheet would be taller than image formats allow.
    """
    if not 1 <= columns <= 20:
        raise ConfigError(f"a sheet has 1 to 20 columns, not {columns}")
    font = ImageFont.load_default(size=FONT)
    tiles = [(image, _caption(sample, font, wrong)) for sample, image, wrong in _drawn(samples)]
    columns = min(columns, len(tiles))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(image.height + LINE * len(lines) for image, lines in row) + 2 * GAP for row in rows]
    height = sum(heights) + GAP
    if height > TALLEST:
        raise OutputError(f"{len(tiles)} samples are too many for one image; show fewer, or write .html")
    drawing = Image.new("RGB", (columns * (TILE + GAP) + GAP, height), "white")
    draw = ImageDraw.Draw(drawing)
    top = GAP
    for row, high in zip(rows, heights, strict=True):
        for column, (image, lines) in enumerate(row):
            left = GAP + column * (TILE + GAP)
            drawing.paste(image, (left, top))
            for number, (line, colour) in enumerate(lines):
                draw.text((left, top + image.height + 4 + LINE * number), line, fill=colour, font=font)
        top += high
    return drawing


def page(samples: Sequence[Sample], title: str) -> str:
    """Return an HTML page of samples that needs no other file.

    Raises:
        DataError: none of the images can be shown.
    """
    figures = []
    for sample, image, wrong in _drawn(samples):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=88)
        source = base64.b64encode(buffer.getvalue()).decode("ascii")
        expressions = "".join(
            f'<li dir="auto">{html.escaped(_plain(expression.text))}</li>' for expression in sample.expressions
        )
        message = f'<p class="wrong">{html.escaped(_plain(wrong))}</p>' if wrong else ""
        figures.append(
            f'<figure><img src="data:image/jpeg;base64,{source}" width="{image.width}" height="{image.height}" '
            f'alt=""><figcaption><small>{html.escaped(_plain(_heading(sample)))}</small><ul>{expressions}</ul>{message}</figcaption>'
            "</figure>"
        )
    return html.page(title, ['<div class="samples">', *figures, "</div>"], style=STYLE)


def beyond_font(samples: Iterable[Sample]) -> bool:
    """Return whether a sheet cannot show all expressions: its font has few letters that are not Latin."""
    return any(character > "\u024f" for sample in samples for one in sample.expressions for character in one.text)


def _drawn(samples: Sequence[Sample]) -> Iterator[tuple[Sample, Image.Image, str]]:
    """Yield each sample with its image, scaled to a tile, and an error message where it cannot be drawn."""
    failures = 0
    for sample in samples:
        try:
            image, wrong = _draw(sample), ""
        except RefsegError as error:
            failures += 1
            if failures == len(samples):
                raise DataError(str(error)) from None
            image, wrong = Image.new("RGB", (TILE, TILE * 3 // 4), "#ddd"), str(error)
        yield sample, image, wrong


def _draw(sample: Sample) -> Image.Image:
    image = sample.load_image()
    mask = None if sample.load_mask is None else sample.load_mask()
    scale = min(TILE / image.width, TILE / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    small = image.resize(size, Image.Resampling.LANCZOS)
    if mask is None:
        return small
    if mask.shape != (image.height, image.width):
        raise DataError(
            f"the mask of {sample.id} is {mask.shape[1]} x {mask.shape[0]}, its image {image.width} x {image.height}"
        )
    # A pixel that covers any of the mask is shown as part of it, so that the smallest mask is visible.
    covered = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    return overlay(small, np.asarray(covered) > 0)


def _heading(sample: Sample) -> str:
    return f"{sample.id} ({sample.split})" + (", nothing fits" if sample.load_mask is None else "")


def _caption(sample: Sample, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, wrong: str) -> list[tuple[str, str]]:
    """Return the lines beneath an image with their colours."""
    texts = [(_heading(sample), "#666"), *((one.text, "black") for one in sample.expressions), (wrong, "#a00")]
    lines = [(line, colour) for text, colour in texts for line in _wrapped(_plain(text), font)]
    return lines if len(lines) <= MOST_LINES else [*lines[: MOST_LINES - 1], ("...", "#666")]


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Iterator[str]:
    """Yield a text in lines no wider than a tile; words that are wider are broken."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}".lstrip()
        if line and font.getlength(longer) > TILE:
            yield line
            longer = word
        while font.getlength(longer) > TILE:
            fits = max(1, bisect_right(range(1, len(longer)), TILE, key=lambda end: int(font.getlength(longer[:end]))))
            yield longer[:fits]
            longer = longer[fits:]
        line = longer
    if line:
        yield line


def _plain(text: str) -> str:
    """Return a text as one line of printable characters, shortened."""
    line = " ".join(text.split())
    cut = line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."
    return "".join(character if character.isprintable() else "\ufffd" for character in cut)
