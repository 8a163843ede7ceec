"""Make photos with several objects of a name: cut-outs of annotated photos pasted into another, or photos side by side.

    python scripts/compose_photos.py PHOTOS OUT --count 4000

PHOTOS is a folder of photos with masks and names (docs/photos.md), of which those for training are used. OUT becomes
such a folder too, so that `data=PHOTOS:train,OUT:train` trains on both. Few photos show several objects of a name, and
only these teach what "the left one" and "the second from the right" mean.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy import ndarray
from PIL import Image, ImageFilter
from tqdm import trange

from refseg.data.describe.names import labelled_names, lookup, nouns
from refseg.data.describe.photo import Thing, things_of
from refseg.data.formats.photos import series_splits, split_in
from refseg.files import new_folder
from refseg.inputs.read import read_image
from refseg.masks import decode_rle, encode_rle

AREA = (0.02, 0.35)
"""Fraction of its photo's pixels that an object to be cut out covers."""
HEIGHT = (0.2, 0.6)
"""Of a pasted object, as a fraction of the photo's."""
SIDE = 384
"""Of photos side by side, pixels."""
COVERED = 0.3
"""An object of which more than this fraction is covered is no single object afterwards."""
TRIES = 12
NAMES = 0.7
"""A name is chosen in proportion to the number of its objects, to this power."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """An object or region: its name, kind and mask."""

    name: str
    kind: str
    mask: Bool[ndarray, "H W"]


@dataclass(frozen=True, kw_only=True)
class Annotated:
    """A photo of the folder."""

    folder: Path
    row: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.row["height"], self.row["width"]

    @cached_property
    def labelled(self) -> frozenset[str]:
        """The names that are annotated wherever they occur."""
        given = self.row.get("labelled", [])
        return labelled_names(given) if isinstance(given, str) else frozenset(given)

    def things(self) -> tuple[Thing, ...]:
        """Return its objects and regions."""
        return things_of(
            [(one["category"], one.get("kind", "instance"), one["rle"]) for one in self.row["instances"]], self.size
        )

    def parts(self) -> list[Part]:
        """Return its objects and regions; what is certainly one object has the kind `instance`."""
        return [Part(name=one.name, kind=_kind(one), mask=one.mask) for one in self.things()]

    def void(self) -> Bool[ndarray, "H W"]:
        """Return the ignored pixels."""
        void = self.row.get("void")
        return np.zeros(self.size, bool) if void is None else decode_rle(void, size=self.size)

    def pixels(self) -> UInt8[ndarray, "H W 3"]:
        """Return the photo."""
        return np.asarray(read_image(self.folder / self.row["image"]))


def _kind(thing: Thing) -> str:
    if thing.single:
        return "instance"
    return "merged" if thing.kind == "instance" else thing.kind


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A photo that was made."""

    pixels: UInt8[ndarray, "H W 3"]
    parts: list[Part]
    void: Bool[ndarray, "H W"]
    labelled: frozenset[str]


# ── cut-outs ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def paste(photo: Annotated, donors: Sequence[tuple[Annotated, int]], rng: np.random.Generator) -> Composed | None:
    """Return a photo with objects of other photos in free places; None if there is no room for them."""
    pixels, void, parts = photo.pixels().copy(), photo.void(), photo.parts()
    taken = np.logical_or.reduce([part.mask for part in parts], initial=False) | np.zeros(photo.size, bool)
    pasted = 0
    for donor, index in donors:
        thing = donor.things()[index]
        place = _free_place(taken, thing, rng)
        if place is None:
            continue
        mask, colours = _cut_out(donor, thing, place, photo.size, flip=rng.random() < 0.5)
        soft = (
            np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.7)))[..., None]
            / 255
        )
        pixels = np.round(pixels * (1 - soft) + colours * soft).astype(np.uint8)
        parts = [one for part in parts if (one := _covered(part, mask))]
        parts.append(Part(name=thing.name, kind="instance", mask=mask))
        taken, void = taken | mask, void & ~mask
        pasted += 1
    if not pasted:
        return None
    return Composed(pixels=pixels, parts=parts, void=void, labelled=photo.labelled)


def _free_place(
    taken: Bool[ndarray, "H W"], thing: Thing, rng: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """Return the box of a place where an object covers little of what is there."""
    height, width = taken.shape
    x0, y0, x1, y1 = thing.box
    for _ in range(TRIES):
        tall = rng.uniform(*HEIGHT) * height
        wide = tall * (x1 - x0) / (y1 - y0)
        if wide > 0.6 * width or min(tall, wide) < 12:
            continue
        tall, wide = round(tall), round(wide)
        left = int(rng.integers(0, width - wide + 1))
        bottom = int(rng.integers(round(0.5 * height), height + 1))
        top = bottom - tall
        if top >= 0 and taken[top:bottom, left : left + wide].mean() < 0.08:
            return left, top, left + wide, bottom
    return None


def _cut_out(
    donor: Annotated, thing: Thing, place: tuple[int, int, int, int], size: tuple[int, int], *, flip: bool
) -> tuple[Bool[ndarray, "H W"], UInt8[ndarray, "H W 3"]]:
    """Return mask and colours of an object at its new place."""
    x0, y0, x1, y1 = thing.box
    left, top, right, bottom = place
    sides = slice(None, None, -1) if flip else slice(None)
    crop = Image.fromarray(np.ascontiguousarray(donor.pixels()[y0:y1, x0:x1][:, sides]))
    shape = Image.fromarray(np.ascontiguousarray(thing.crop[:, sides]).astype(np.uint8) * 255)
    mask, colours = np.zeros(size, bool), np.zeros((*size, 3), np.uint8)
    inside = slice(top, bottom), slice(left, right)
    extent = right - left, bottom - top
    mask[inside] = np.asarray(shape.resize(extent, Image.Resampling.BOX)) > 127
    colours[inside] = np.asarray(crop.resize(extent, Image.Resampling.BICUBIC))
    return mask, colours


def _covered(part: Part, mask: Bool[ndarray, "H W"]) -> Part | None:
    """Return a part without the pixels that are covered now; None if nothing is left."""
    left = part.mask & ~mask
    share = np.count_nonzero(left) / max(1, np.count_nonzero(part.mask))
    if not left.any():
        return None
    kind = "merged" if part.kind == "instance" and share < 1 - COVERED else part.kind
    return Part(name=part.name, kind=kind, mask=left)


# ── side by side ─────────────────────────────────────────────────────────────────────────────────────────────────────


def join(photos: Sequence[Annotated], rng: np.random.Generator) -> Composed:
    """Return photos beside or above each other, each with its middle part."""
    beside = rng.random() < 0.7
    count = len(photos)
    tile = (SIDE, SIDE // count) if beside else (SIDE // count, SIDE)
    pixels, void = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), bool)
    parts = []
    for number, photo in enumerate(photos):
        window = _window(photo, tile, rng)
        inside = (slice(None), slice(number * tile[1], (number + 1) * tile[1]))
        if not beside:
            inside = (slice(number * tile[0], (number + 1) * tile[0]), slice(None))
        pixels[: tile[0] * (1 if beside else count)][inside] = _scaled(photo.pixels()[window], tile)
        void[inside] = _scaled_mask(photo.void()[window], tile)
        for part in photo.parts():
            seen = np.count_nonzero(part.mask[window]) / np.count_nonzero(part.mask)
            if not seen:
                continue
            mask = np.zeros((SIDE, SIDE), bool)
            mask[inside] = _scaled_mask(part.mask[window], tile)
            kind = "merged" if part.kind == "instance" and seen < 1 - COVERED else part.kind
            if mask.any():
                parts.append(Part(name=part.name, kind=kind, mask=mask))
    labelled = frozenset.intersection(*(photo.labelled for photo in photos))
    return Composed(pixels=pixels, parts=parts, void=void, labelled=labelled)


def _window(photo: Annotated, tile: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Return the largest part of a photo of the shape of a tile, around one of its single objects."""
    height, width = photo.size
    scale = min(height / tile[0], width / tile[1])
    tall, wide = min(height, round(tile[0] * scale)), min(width, round(tile[1] * scale))
    single = [thing for thing in photo.things() if thing.single]
    thing = single[int(rng.integers(len(single)))]
    x, y = round(thing.x * width), round(thing.y * height)
    top, left = min(max(0, y - tall // 2), height - tall), min(max(0, x - wide // 2), width - wide)
    return slice(top, top + tall), slice(left, left + wide)


def _scaled(pixels: UInt8[ndarray, "H W 3"], tile: tuple[int, int]) -> UInt8[ndarray, "h w 3"]:
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(tile[::-1], Image.Resampling.BICUBIC))


def _scaled_mask(mask: Bool[ndarray, "H W"], tile: tuple[int, int]) -> Bool[ndarray, "h w"]:
    grey = Image.fromarray(np.ascontiguousarray(mask).astype(np.uint8) * 255)
    return np.asarray(grey.resize(tile[::-1], Image.Resampling.BOX)) > 127


# ── the folder ───────────────────────────────────────────────────────────────────────────────────────────────────────


def compose(photos: Sequence[Annotated], folder: Path, count: int, seed: int) -> None:
    """Write photos that were made into an empty folder."""
    rng = np.random.default_rng(seed)
    by_name: dict[str, list[tuple[Annotated, int]]] = defaultdict(list)
    for photo in photos:
        for index, thing in enumerate(photo.things()):
            if thing.single and AREA[0] < thing.area < AREA[1] and lookup(thing.name).counted and nouns(thing.name):
                by_name[thing.name].append((photo, index))
    names = sorted(name for name, donors in by_name.items() if len(donors) >= 8)
    weights = np.array([len(by_name[name]) for name in names]) ** NAMES
    (folder / "images").mkdir()
    with (folder / "annotations.jsonl").open("w") as lines:
        for number in trange(count):
            made = None
            while made is None:
                name = names[int(rng.choice(len(names), p=weights / weights.sum()))]
                made = _one(photos, by_name[name], name, rng)
            file = f"images/{number:05}.jpg"
            Image.fromarray(made.pixels).save(folder / file, quality=88)
            height, width = made.void.shape
            row = {
                "image": file,
                "width": width,
                "height": height,
                "split": "train",
                "labelled": sorted(made.labelled),
                "instances": [
                    {"category": part.name, "kind": part.kind, "rle": encode_rle(part.mask)} for part in made.parts
                ],
            }
            if made.void.any():
                row["void"] = encode_rle(made.void)
            lines.write(json.dumps(row) + "\n")


def _one(
    photos: Sequence[Annotated], donors: Sequence[tuple[Annotated, int]], name: str, rng: np.random.Generator
) -> Composed | None:
    chosen = [donors[place] for place in rng.permutation(len(donors))[: int(rng.integers(2, 5))].tolist()]
    if rng.random() < 0.35:
        different = {photo.row["image"]: photo for photo, _ in chosen[:3]}
        return join(list(different.values()), rng) if len(different) > 1 else None
    photo = photos[int(rng.integers(len(photos)))] if rng.random() < 0.5 else chosen.pop()[0]
    if name not in photo.labelled:  # there may be others that are not annotated
        return None
    return paste(photo, chosen, rng)


def make_folder(photos: Path, out: Path, count: int = 4000, seed: int = 0) -> None:
    """Compose photos of those of a folder that are for training; the folder `out` appears when it is complete."""
    rows = [json.loads(line) for line in (photos / "annotations.jsonl").read_text().splitlines()]
    splits = series_splits(rows)
    training = [Annotated(folder=photos, row=row) for row in rows if split_in(splits, row) == "train"]
    with new_folder(out) as draft:
        compose(training, draft, count, seed)


def main() -> None:
    """Make the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder with annotations.jsonl")
    parser.add_argument("out", type=Path, help="the new folder")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    make_folder(arguments.photos, arguments.out, arguments.count, arguments.seed)


if __name__ == "__main__":
    main()
